//! Table `prices`: what a model costs.

use std::sync::LazyLock;

use postgres::Row;
use time::OffsetDateTime;

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

/// A price and when it begins to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatedPrice {
    /// The model's name, or [`DEFAULT`].
    pub model: String,
    /// From when on it applies, until the next one of the model does.
    pub valid_from: OffsetDateTime,
    /// The price.
    pub price: Price,
}

fn columns() -> String {
    comma_separated(|unit| unit.price_column().to_owned())
}

/// A piece of SQL for the price of each unit.
fn comma_separated(piece: impl Fn(Unit) -> String) -> String {
    Unit::ALL.map(piece).join(", ")
}

/// The first parameter that is a price in the statement of [`set`].
const FIRST_PRICE_PARAMETER: usize = 3;

fn from_row(row: &Row) -> Result<DatedPrice, Error> {
    let price = ByUnit::try_from_fn(|unit| row.try_get(2 + unit as usize))?;
    Ok(DatedPrice { model: row.try_get(0)?, valid_from: row.try_get(1)?, price: Price(price) })
}

static ALL: LazyLock<String> =
    LazyLock::new(|| format!("SELECT model, valid_from, {} FROM prices ORDER BY model, valid_from", columns()));

/// All prices, past and future ones too, ordered by model and time.
///
/// # Errors
/// See [`Error`].
pub fn all(db: &mut impl Executor) -> Result<Vec<DatedPrice>, Error> {
    db.query(&ALL, &[])?.iter().map(from_row).collect()
}

static SET: LazyLock<String> = LazyLock::new(|| {
    let columns = columns();
    let earlier_price = |column: &str| format!("coalesce(p.{column}, d.{column}, 0)");
    let parameter = |unit: Unit| FIRST_PRICE_PARAMETER + unit as usize;
    // A price that was that of the unit it falls back to goes on following it.
    let follows = |unit: Unit, fallback: Unit| {
        let (own, followed) = (earlier_price(unit.price_column()), earlier_price(fallback.price_column()));
        format!("CASE WHEN {own} = {followed} THEN ${} END, ", parameter(fallback))
    };
    let given_or_earlier = comma_separated(|unit| {
        let follows = unit.price_fallback().map(|fallback| follows(unit, fallback)).unwrap_or_default();
        format!("coalesce(${}, {follows}{})", parameter(unit), earlier_price(unit.price_column()))
    });
    let changes = comma_separated(|unit| format!("{0} = excluded.{0}", unit.price_column()));
    let earlier = |model: &str| {
        format!(
            "(SELECT * FROM prices WHERE model = {model} AND valid_from <= t.valid_from
              ORDER BY valid_from DESC LIMIT 1)"
        )
    };
    let (of_model, of_default) = (earlier("$1"), earlier(&format!("'{DEFAULT}'")));
    format!(
        "INSERT INTO prices (model, valid_from, {columns})
        SELECT $1, t.valid_from, {given_or_earlier}
        FROM (SELECT greatest($2, clock_timestamp()) AS valid_from) AS t
        LEFT JOIN LATERAL {of_model} AS p ON true LEFT JOIN LATERAL {of_default} AS d ON true
        ON CONFLICT (model, valid_from) DO UPDATE SET {changes}, updated = now()
        RETURNING model, valid_from, {columns}"
    )
});

/// Sets a model's price from a time on: the one that applies then, with these changes. A time in the past, or none, means
/// from now on, as what was charged is never charged anew. Returns the price.
///
/// # Errors
/// See [`Error`].
pub fn set(
    db: &mut impl Executor,
    model: &str,
    change: &PriceChange,
    valid_from: Option<OffsetDateTime>,
) -> Result<DatedPrice, Error> {
    let mut params: Vec<&dyn Param> = vec![&model, &valid_from];
    params.extend(change.values().iter().map(|price| price as &dyn Param));
    from_row(&db.query_one(&SET, &params)?)
}
