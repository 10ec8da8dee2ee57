//! Tables `usage_events` and `usage_daily`: rows that pages and downloads list.

use std::sync::LazyLock;

use postgres::Row;
use time::{Date, OffsetDateTime};

use super::columns::{self, comma_separated, read_units};
use crate::db::{Error, Executor, Param};
use crate::money::Cost;
use crate::units::Units;

/// A row of the ledger: a call that was charged.
#[derive(Clone, Debug)]
pub struct ChargedCall {
    /// When it was charged.
    pub created: OffsetDateTime,
    /// The server that did the work.
    pub server: String,
    /// The route that was called.
    pub route: String,
    /// The model that did the work.
    pub model: String,
    /// The id of the API key that was used; empty for none.
    pub key_id: String,
    /// Whether that rests on an estimate, since the model server gave no numbers.
    pub estimated: bool,
    /// What it cost.
    pub cost: Cost,
    /// What was used.
    pub units: Units,
}

static NEWEST: LazyLock<String> = LazyLock::new(|| {
    let units = comma_separated(columns::units());
    format!(
        "SELECT created, server, route, model, coalesce(key_id, ''), estimated, cost_micros, cost_picos, {units}
        FROM usage_events WHERE user_id = $1 AND ($2 = '' OR server = $2) ORDER BY created DESC LIMIT $3"
    )
});

/// A user's last charged calls, the newest first: those to one server, or to all where `server` is empty.
///
/// # Errors
/// See [`Error`].
pub fn newest(db: &mut impl Executor, user_id: &str, server: &str, limit: i64) -> Result<Vec<ChargedCall>, Error> {
    let call = |row: &Row| {
        Ok(ChargedCall {
            created: row.try_get(0)?,
            server: row.try_get(1)?,
            route: row.try_get(2)?,
            model: row.try_get(3)?,
            key_id: row.try_get(4)?,
            estimated: row.try_get(5)?,
            cost: Cost::new(row.try_get(6)?, row.try_get(7)?),
            units: read_units(row, 8)?,
        })
    };
    db.query_list(&NEWEST, &[&user_id, &server, &limit])?.iter().map(call).collect()
}

/// A row of the daily totals: what a user used on one day, of one model, with one key, on one route.
#[derive(Clone, Debug)]
pub struct DailyUsage {
    /// The day (UTC).
    pub day: Date,
    /// The server that did the work.
    pub server: String,
    /// The route that was called.
    pub route: String,
    /// The model that did the work.
    pub model: String,
    /// The id of the API key that was used; empty for none.
    pub key_id: String,
    /// How many of the calls rest on an estimate.
    pub estimated: i64,
    /// What it cost.
    pub cost: Cost,
    /// What was used.
    pub units: Units,
}

static DAILY: LazyLock<String> = LazyLock::new(|| {
    let units = comma_separated(columns::units());
    format!(
        "SELECT day, server, route, model, key_id, estimated, cost_micros, cost_picos, {units}
        FROM usage_daily WHERE user_id = $1 AND (day, server, route, model, key_id) > ($2, $3, $4, $5, $6) AND day <= $7
        ORDER BY day, server, route, model, key_id LIMIT $8"
    )
});

/// A user's daily totals from the first day to the last, both included: at most `limit` rows, those after another one.
///
/// # Errors
/// See [`Error`].
pub fn daily(
    db: &mut impl Executor,
    user_id: &str,
    days: (Date, Date),
    after: Option<&DailyUsage>,
    limit: i64,
) -> Result<Vec<DailyUsage>, Error> {
    let usage = |row: &Row| {
        Ok(DailyUsage {
            day: row.try_get(0)?,
            server: row.try_get(1)?,
            route: row.try_get(2)?,
            model: row.try_get(3)?,
            key_id: row.try_get(4)?,
            estimated: row.try_get(5)?,
            cost: Cost::new(row.try_get(6)?, row.try_get(7)?),
            units: read_units(row, 8)?,
        })
    };
    // No server has an empty name, so all of the first day comes after that.
    let (day, [server, route, model, key]) = match after {
        Some(DailyUsage { day, server, route, model, key_id, .. }) => {
            (*day, [server, route, model, key_id].map(String::as_str))
        }
        None => (days.0, [""; 4]),
    };
    let params: [&dyn Param; 8] = [&user_id, &day, &server, &route, &model, &key, &days.1, &limit];
    db.query_list(&DAILY, &params)?.iter().map(usage).collect()
}
