//! Table `prices`: what a model costs.

use std::sync::LazyLock;

use postgres::Row;

use crate::db::{Error, Executor, Param};
use crate::units::{ByUnit, Unit};

/// The row whose price applies to every model without one of its own.
pub const DEFAULT: &str = "default";

/// The highest price, in micro-dollars: the constraints of the table.
pub const HIGHEST: i64 = 1_000_000_000_000;

/// The price of a model: for each unit, whole micro-dollars per [`Unit::price_divisor`] of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price(pub ByUnit<i64>);

/// What to change in a price. What is `None` stays, or for a new model is the default's.
pub type PriceChange = ByUnit<Option<i64>>;

fn columns() -> [&'static str; Unit::COUNT] {
    Unit::ALL.map(Unit::price_column)
}

fn from_row(row: &Row) -> Result<(String, Price), Error> {
    let price = ByUnit::try_from_fn(|unit| row.try_get(1 + unit as usize))?;
    Ok((row.try_get(0)?, Price(price)))
}

static ALL: LazyLock<String> =
    LazyLock::new(|| format!("SELECT model, {} FROM prices ORDER BY model", columns().join(", ")));

/// All prices with their models' names, ordered by name.
///
/// # Errors
/// See [`Error`].
pub fn all(db: &mut impl Executor) -> Result<Vec<(String, Price)>, Error> {
    db.query(&ALL, &[])?.iter().map(from_row).collect()
}

static SET: LazyLock<String> = LazyLock::new(|| {
    let each = |piece: &dyn Fn(&str, usize) -> String| {
        let pieces: Vec<String> = columns().into_iter().zip(2..).map(|(column, n)| piece(column, n)).collect();
        pieces.join(", ")
    };
    let columns = columns().join(", ");
    let given_or_default = each(&|column, n| format!("coalesce(${n}, d.{column}, 0)"));
    let changes = each(&|column, n| format!("{column} = coalesce(${n}, p.{column})"));
    format!(
        "INSERT INTO prices AS p (model, {columns})
        SELECT $1, {given_or_default}
        FROM (SELECT '{DEFAULT}' AS model) AS fallback LEFT JOIN prices d USING (model)
        ON CONFLICT (model) DO UPDATE SET {changes}, updated = now()
        RETURNING model, {columns}"
    )
});

/// Changes a model's price, or adds the model. Returns its price after the change.
///
/// # Errors
/// See [`Error`].
pub fn set(db: &mut impl Executor, model: &str, change: &PriceChange) -> Result<Price, Error> {
    let mut params: Vec<&dyn Param> = vec![&model];
    params.extend(change.values().iter().map(|price| price as &dyn Param));
    from_row(&db.query_one(&SET, &params)?).map(|(_, price)| price)
}
