//! Sending rows of the outbox.

use time::OffsetDateTime;

use crate::db::{Error, Executor};
use crate::store::row::{Record, record};
use crate::store::unsent::Unsent;

record! {
    /// A row that is about to be sent.
    #[derive(Clone, Debug)]
    pub struct Due {
        /// The event's identifier.
        pub id: String = "o.id",
        /// The customer.
        pub customer: String = "o.customer",
        /// The event name of the meter.
        pub meter: String = "o.meter",
        /// In micro-dollars.
        pub amount_micros: i64 = "o.amount_micros",
        /// The event's time.
        pub used_at: OffsetDateTime = "o.used_at",
        /// How often it was tried, this time included.
        pub attempts: i32 = "o.attempts",
        /// How many `Idempotency-Key`s were used up.
        pub key_number: i32 = "o.key_number",
        /// Whether it is not known what became of an earlier attempt.
        pub is_unknown: bool = "due.unknown_since IS NOT NULL",
        /// If that was so long ago that Stripe may not remember the attempt: what the customer's other rows in the same
        /// minute add up to, which were sent.
        pub sent_beside: Option<i64> = "CASE WHEN due.unknown_since < now() - interval '23 hours' THEN (
            SELECT coalesce(sum(s.amount_micros), 0)::bigint FROM stripe_outbox s
            WHERE s.customer = o.customer AND s.meter = o.meter AND s.sent IS NOT NULL
                AND s.used_at >= date_trunc('minute', o.used_at)
                AND s.used_at < date_trunc('minute', o.used_at) + interval '1 minute') END",
    }
}

impl Due {
    /// The `Idempotency-Key` of this attempt.
    pub fn idempotency_key(&self) -> String {
        match self.key_number {
            0 => self.id.clone(),
            number => format!("{}-{number}", self.id),
        }
    }
}

/// Takes rows that are due to be sent with one of these meters: the oldest of each customer and meter, at most 200. Until
/// something else is recorded, it is not known what becomes of them.
///
/// # Errors
/// See [`Error`].
pub fn take(db: &mut impl Executor, meters: &[&str]) -> Result<Vec<Due>, Error> {
    const SQL: &str = concat!(
        "WITH first AS (
            SELECT DISTINCT ON (customer, meter) id, next_at, unknown_since FROM stripe_outbox
            WHERE sent IS NULL AND put_aside IS NULL AND meter = ANY($1) ORDER BY customer, meter, place),
        due AS (
            SELECT id, unknown_since FROM stripe_outbox
            WHERE id IN (SELECT id FROM first WHERE next_at <= now() LIMIT 200) ORDER BY id FOR UPDATE SKIP LOCKED)
        UPDATE stripe_outbox o SET attempts = o.attempts + 1, unknown_since = coalesce(o.unknown_since, now())
        FROM due WHERE o.id = due.id RETURNING ",
        columns!()
    );
    db.query(SQL, &[&meters.to_vec()])?.iter().map(Due::from_row).collect()
}

/// Stripe has counted a row.
///
/// # Errors
/// See [`Error`].
pub fn sent(db: &mut impl Executor, id: &str) -> Result<(), Error> {
    const SQL: &str = "UPDATE stripe_outbox SET sent = now(), unknown_since = NULL, put_aside = NULL, problem = NULL
        WHERE id = $1 AND sent IS NULL";
    db.execute(SQL, &[&id]).map(drop)
}

/// A row is not sent as it is: Stripe refuses it, or nobody can tell whether it was counted. `is_unknown`: it is not known
/// what became of an earlier attempt.
///
/// # Errors
/// See [`Error`].
pub fn put_aside(db: &mut impl Executor, id: &str, problem: &str, is_unknown: bool) -> Result<(), Error> {
    const SQL: &str = "UPDATE stripe_outbox
        SET put_aside = now(), unknown_since = CASE WHEN $3 THEN unknown_since END, problem = $2
        WHERE id = $1 AND sent IS NULL";
    db.execute(SQL, &[&id, &problem, &is_unknown]).map(drop)
}

/// What is known of the attempts to send a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// None of them was carried out.
    NotSent,
    /// It is not known whether the latest was carried out; the others were not.
    LatestUnknown,
    /// It is not known of the first, or of a later one.
    Unknown,
}

/// A row is to be tried again.
#[derive(Clone, Copy, Debug)]
pub struct Again<'a> {
    /// After how many milliseconds.
    pub pause_millis: i64,
    /// Whether the next attempt needs another `Idempotency-Key`.
    pub new_key: bool,
    /// What is known of the attempts so far.
    pub knowledge: Knowledge,
    /// What the last one failed with.
    pub problem: &'a str,
}

/// A row is to be tried again.
///
/// # Errors
/// See [`Error`].
pub fn try_again(db: &mut impl Executor, id: &str, again: Again<'_>) -> Result<(), Error> {
    const SQL: &str = "UPDATE stripe_outbox SET next_at = now() + $2 * interval '1 millisecond', problem = $3,
            key_number = key_number + CASE WHEN $4 THEN 1 ELSE 0 END,
            unknown_since = CASE WHEN $5 THEN NULL WHEN $6 THEN now() ELSE unknown_since END
        WHERE id = $1 AND sent IS NULL";
    let Again { pause_millis, new_key, knowledge, problem } = again;
    let (is_known, restarts) = (knowledge == Knowledge::NotSent, knowledge == Knowledge::LatestUnknown);
    db.execute(SQL, &[&id, &pause_millis, &problem, &new_key, &is_known, &restarts]).map(drop)
}

/// How many rows there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Neither sent nor put aside.
    pub waiting: i64,
    /// Sent.
    pub sent: i64,
    /// Put aside.
    pub put_aside: i64,
}

/// Counts all rows.
///
/// # Errors
/// See [`Error`].
pub fn count(db: &mut impl Executor) -> Result<Counts, Error> {
    const SQL: &str = "SELECT count(*) FILTER (WHERE sent IS NULL AND put_aside IS NULL),
        count(*) FILTER (WHERE sent IS NOT NULL), count(*) FILTER (WHERE put_aside IS NOT NULL) FROM stripe_outbox";
    let row = db.query_one(SQL, &[])?;
    Ok(Counts { waiting: row.try_get(0)?, sent: row.try_get(1)?, put_aside: row.try_get(2)? })
}

/// Counts the rows that were not sent.
///
/// # Errors
/// See [`Error`].
pub fn unsent(db: &mut impl Executor) -> Result<Unsent, Error> {
    const SQL: &str = "SELECT count(*), min(used_at),
            (SELECT count(*) FROM stripe_outbox WHERE put_aside IS NOT NULL)
        FROM stripe_outbox WHERE sent IS NULL AND put_aside IS NULL";
    Unsent::from_row(&db.query_one(SQL, &[])?)
}

/// Whether rows of a customer wait to be sent.
///
/// # Errors
/// See [`Error`].
pub fn has_unsent(db: &mut impl Executor, customer: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM stripe_outbox
        WHERE customer = $1 AND sent IS NULL AND put_aside IS NULL)";
    Ok(db.query_one(SQL, &[&customer])?.try_get(0)?)
}
