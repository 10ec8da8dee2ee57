//! Table `usage_days`: what everybody together was charged on each day.

use std::time::Duration;

use postgres::Row;
use time::{Date, OffsetDateTime};

use super::charges::{self, Event};
use crate::db::{Error, Executor, Session};

/// What everybody together was charged on a day.
#[derive(Clone, Debug)]
pub struct Day {
    /// The day (UTC), as `2026-11-22`.
    pub day: String,
    /// Micro-dollars.
    pub cost_micros: i64,
    /// How many people were charged.
    pub people: i64,
}

/// The totals of some days.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Those with a charge, in their order.
    pub days: Vec<Day>,
    /// What was charged before then is in them; `None` where no total was computed yet.
    pub as_of: Option<OffsetDateTime>,
}

/// The totals from one day to another, both included.
///
/// # Errors
/// See [`Error`].
pub fn between(db: &mut impl Executor, days: (Date, Date)) -> Result<Totals, Error> {
    const SQL: &str = "SELECT to_char(day, 'YYYY-MM-DD'), cost_micros, people, events > 0, computed
        FROM usage_days WHERE day BETWEEN $1 AND $2 ORDER BY usage_days.day";
    let rows = db.query(SQL, &[&days.0, &days.1])?;
    // The newest day is the first whose total is computed.
    let as_of = rows.last().map(|row| row.try_get(4)).transpose()?;
    let day = |row: &Row| {
        let day = Day { day: row.try_get(0)?, cost_micros: row.try_get(1)?, people: row.try_get(2)? };
        Ok(row.try_get::<_, bool>(3)?.then_some(day))
    };
    let days = rows.iter().filter_map(|row| day(row).transpose()).collect::<Result<_, Error>>()?;
    Ok(Totals { days, as_of })
}

/// Computes the totals that are due, for about a second. After what time to come again; `None` where every charge that
/// was committed before is in the totals.
///
/// # Errors
/// See [`Error`]; [`Error::Unavailable`] also where a late charge takes longer than two seconds.
pub fn compute(db: &mut impl Executor) -> Result<Option<Duration>, Error> {
    const SQL: &str = "SELECT ceil(1000 * extract(epoch FROM textgen_total_days()))::bigint";
    let millis: Option<i64> = db.query_one(SQL, &[])?.try_get(0)?;
    Ok(millis.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))))
}

/// [`charges::charge`] for a day whose total may be final: that is deleted, and computed anew by the next [`compute`]. One
/// transaction: until it ends, the lock that deleting takes keeps every total from being computed without these charges.
///
/// # Errors
/// As [`charges::charge`]; [`Error::Value`] where the ledger of that month was dropped and one of the events has an id
/// that was made for it: nobody can tell whether it was charged.
pub fn charge_late(session: &mut Session, day: Date, events: &[&Event]) -> Result<Vec<String>, Error> {
    const IS_DROPPED: &str = "SELECT coalesce(ledger_begins > $1, false) FROM installation FOR SHARE";
    let mut transaction = session.transaction()?;
    let is_dropped: bool = transaction.query_one(IS_DROPPED, &[&day])?.try_get(0)?;
    if is_dropped && events.iter().any(|event| !event.may_repeat) {
        return Err(Error::Value(format!("the ledger of {day} was dropped, it may have been charged")));
    }
    transaction.execute("DELETE FROM usage_days WHERE day = $1", &[&day])?;
    let made = charges::charge(&mut transaction, day, events)?;
    transaction.commit()?;
    Ok(made)
}
