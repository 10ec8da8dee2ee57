//! Table `usage_daily`: a user's usage, summed up in groups.

use std::sync::LazyLock;

use postgres::Row;
use time::Date;

use super::columns::{self, comma_separated, read_units};
use crate::db::{Error, Executor};
use crate::money::Cost;
use crate::units::Units;

/// What usage is grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// The day (UTC), as `2026-11-22`.
    Day,
    /// The month (UTC), as `2026-11`.
    Month,
    /// The model.
    Model,
    /// The id of the API key; empty for none.
    Key,
    /// The path of the route.
    Route,
}

/// A user's usage in one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// What the group has in common.
    pub name: String,
    /// The number of charges.
    pub events: i64,
    /// How many of them rest on an estimate.
    pub estimated: i64,
    /// What they cost.
    pub cost: Cost,
    /// What was used.
    pub units: Units,
}

static SUMS: LazyLock<String> = LazyLock::new(|| {
    let units = comma_separated(columns::units().map(|column| format!("sum({column})::bigint")));
    format!(
        "SELECT CASE $4 WHEN 'day' THEN to_char(day, 'YYYY-MM-DD') WHEN 'month' THEN to_char(day, 'YYYY-MM')
                WHEN 'model' THEN model WHEN 'key' THEN key_id ELSE route END COLLATE \"C\" AS name,
            sum(events)::bigint, sum(estimated)::bigint, sum(cost_micros)::bigint, sum(cost_picos)::bigint, {units}
        FROM usage_daily WHERE user_id = $1 AND day BETWEEN $2 AND $3 GROUP BY name ORDER BY name LIMIT $5"
    )
});

/// A user's usage from the first day to the last, both included: at most `limit` groups, ordered by name.
///
/// # Errors
/// See [`Error`].
pub fn sums(
    db: &mut impl Executor,
    user_id: &str,
    days: (Date, Date),
    by: GroupBy,
    limit: i64,
) -> Result<Vec<Sum>, Error> {
    let by = match by {
        GroupBy::Day => "day",
        GroupBy::Month => "month",
        GroupBy::Model => "model",
        GroupBy::Key => "key",
        GroupBy::Route => "route",
    };
    let sum = |row: &Row| {
        Ok(Sum {
            name: row.try_get(0)?,
            events: row.try_get(1)?,
            estimated: row.try_get(2)?,
            cost: Cost::new(row.try_get(3)?, row.try_get(4)?),
            units: read_units(row, 5)?,
        })
    };
    db.query_list(&SUMS, &[&user_id, &days.0, &days.1, &by, &limit])?.iter().map(sum).collect()
}
