//! What of an outbox was not sent.

use postgres::Row;
use time::OffsetDateTime;

use crate::db::Error;

/// The rows of an outbox that were not sent.
#[derive(Clone, Copy, Debug)]
pub struct Unsent {
    /// How many wait.
    pub waiting: i64,
    /// The time of the oldest of them.
    pub oldest: Option<OffsetDateTime>,
    /// How many were put aside, and are kept.
    pub put_aside: i64,
}

impl Unsent {
    /// From a row with these columns, in this order.
    pub(super) fn from_row(row: &Row) -> Result<Unsent, Error> {
        Ok(Unsent { waiting: row.try_get(0)?, oldest: row.try_get(1)?, put_aside: row.try_get(2)? })
    }
}
