//! Table `usage_days`: what all users together were charged on each day.

use std::time::Duration;

use postgres::Row;
use time::{Date, OffsetDateTime};

use super::charges::{self, Event};
use crate::db::{Error, Executor, Transaction};

/// What all users together were charged on a day.
#[derive(Clone, Debug)]
pub struct DayTotal {
    /// The day (UTC), as `2026-11-22`.
    pub day: String,
    /// Charges.
    pub events: i64,
    /// In micro-dollars.
    pub cost_micros: i64,
    /// How many users were charged.
    pub people: i64,
    /// How many charges rest on an estimate.
    pub estimated: i64,
}

/// The totals of several days.
#[derive(Clone, Debug)]
pub struct DayTotals {
    /// The days with a charge, in order.
    pub days: Vec<DayTotal>,
    /// Everything charged before this time is included; `None` if no total was computed yet.
    pub as_of: Option<OffsetDateTime>,
}

/// The totals from the first day to the last, both included.
///
/// # Errors
/// See [`Error`].
pub fn between(db: &mut impl Executor, days: (Date, Date)) -> Result<DayTotals, Error> {
    const SQL: &str = "SELECT to_char(day, 'YYYY-MM-DD'), cost_micros, people, estimated, events, computed
        FROM usage_days WHERE day BETWEEN $1 AND $2 ORDER BY usage_days.day";
    let rows = db.query(SQL, &[&days.0, &days.1])?;
    // The newest day's total is computed before those of earlier days.
    let as_of = rows.last().map(|row| row.try_get(5)).transpose()?;
    let day = |row: &Row| {
        let (cost_micros, people, estimated) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        let events = row.try_get(4)?;
        let day = DayTotal { day: row.try_get(0)?, events, cost_micros, people, estimated };
        Ok((events > 0).then_some(day))
    };
    let days = rows.iter().filter_map(|row| day(row).transpose()).collect::<Result<_, Error>>()?;
    Ok(DayTotals { days, as_of })
}

/// Computes the totals that are due, for about a second. Returns after what time to call it again; `None` if the totals
/// include every charge that was committed before the call.
///
/// # Errors
/// See [`Error`]; [`Error::Unavailable`] also if a late charge holds its lock for longer than two seconds.
pub fn compute(db: &mut impl Executor) -> Result<Option<Duration>, Error> {
    const SQL: &str = "SELECT ceil(1000 * extract(epoch FROM textgen_total_days()))::bigint";
    let millis: Option<i64> = db.query_one(SQL, &[])?.try_get(0)?;
    Ok(millis.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))))
}

/// [`charges::charge`] for a day whose total may be final already: the total is deleted, and computed again by the next
/// [`compute`]. Call it in a transaction: until that ends, the lock taken by the deletion keeps totals from being
/// computed without these charges.
///
/// # Errors
/// As [`charges::charge`]; [`Error::Value`] if the ledger of that month was dropped and one of the events has a
/// generated id, so that it can no longer be known whether it was charged.
pub fn charge_late(transaction: &mut Transaction<'_>, day: Date, events: &[&Event]) -> Result<Vec<String>, Error> {
    const IS_DROPPED: &str = "SELECT coalesce(ledger_begins > $1, false) FROM installation FOR SHARE";
    let is_dropped: bool = transaction.query_one(IS_DROPPED, &[&day])?.try_get(0)?;
    if is_dropped && events.iter().any(|event| !event.client_supplied) {
        return Err(Error::Value(format!(
            "the ledger of {day} was dropped, so it is unknown whether this was charged"
        )));
    }
    transaction.execute("DELETE FROM usage_days WHERE day = $1", &[&day])?;
    charges::charge(transaction, day, events)
}
