//! Tables `events` and `event_deliveries`: what accounts' owners and operators may want to be told of, and what senders
//! have done with it. Triggers make the rows, in the transaction that causes them.

use time::OffsetDateTime;

use super::row::{Columns, Record, record};
use crate::db::{Error, Executor};

/// Who tells people of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// By e-mail.
    Mail,
    /// By calling the operator's web-hook.
    Webhook,
}

impl Sender {
    const fn name(self) -> &'static str {
        match self {
            Sender::Mail => "mail",
            Sender::Webhook => "webhook",
        }
    }
}

record! {
    /// Something that has happened.
    #[derive(Clone, Debug)]
    pub struct Event {
        /// Ascending.
        pub id: i64 = "e.id",
        /// Such as `budget.threshold`; `accounts::webhooks` lists them.
        pub kind: String = "e.kind",
        /// The account, which may have been deleted.
        pub user_id: String = "e.user_id",
        /// The key whose budget it is; `None` for the account's.
        pub key_id: Option<String> = "e.key_id",
        /// Which threshold was reached, in percent of the limit or of the credit that there was when it was last added.
        pub percent: i32 = "e.percent",
        /// The details, as JSON.
        pub payload: String = "e.payload::text",
        /// When it happened.
        pub created: OffsetDateTime = "e.created",
    }
}

/// An event to be delivered.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// How often it was tried, this time included.
    pub attempts: i32,
}

/// The newest events of an account.
///
/// # Errors
/// See [`Error`].
pub fn newest(db: &mut impl Executor, user_id: &str, limit: i64) -> Result<Vec<Event>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM events e WHERE e.user_id = $1 ORDER BY e.id DESC LIMIT $2");
    db.query(SQL, &[&user_id, &limit])?.iter().map(Event::from_row).collect()
}

/// Takes events that a sender has to deliver, the oldest first. No other process gets them for so many seconds; if they
/// are not [`delivered`] by then, they are due again, which the caller may [`delay`].
///
/// # Errors
/// See [`Error`].
pub fn take(db: &mut impl Executor, sender: Sender, limit: i64, seconds: i32) -> Result<Vec<Delivery>, Error> {
    const SQL: &str = concat!(
        "WITH due AS (
            SELECT d.event_id FROM event_deliveries d
            WHERE d.sender = $1 AND d.delivered IS NULL AND d.next_at <= now()
            ORDER BY d.next_at, d.event_id LIMIT $2 FOR UPDATE SKIP LOCKED),
        taken AS (
            UPDATE event_deliveries d SET attempts = d.attempts + 1, next_at = now() + $3 * interval '1 second'
            FROM due WHERE d.sender = $1 AND d.event_id = due.event_id RETURNING d.event_id, d.attempts)
        SELECT t.attempts, ",
        columns!(),
        " FROM taken t JOIN events e ON e.id = t.event_id ORDER BY e.id"
    );
    let rows = db.query(SQL, &[&sender.name(), &limit, &seconds])?;
    let delivery = |row: &postgres::Row| {
        let mut columns = Columns::of(row);
        let attempts = columns.next()?;
        Ok(Delivery { event: Event::from_columns(&mut columns)?, attempts })
    };
    rows.iter().map(delivery).collect()
}

/// A sender has delivered an event, or has given up.
///
/// # Errors
/// See [`Error`].
pub fn delivered(db: &mut impl Executor, sender: Sender, event_id: i64) -> Result<(), Error> {
    const SQL: &str = "UPDATE event_deliveries SET delivered = now() WHERE event_id = $1 AND sender = $2";
    db.execute(SQL, &[&event_id, &sender.name()]).map(drop)
}

/// A sender tries again in so many seconds.
///
/// # Errors
/// See [`Error`].
pub fn delay(db: &mut impl Executor, sender: Sender, event_id: i64, seconds: i32) -> Result<(), Error> {
    const SQL: &str = "UPDATE event_deliveries SET next_at = now() + $3 * interval '1 second'
        WHERE event_id = $1 AND sender = $2";
    db.execute(SQL, &[&event_id, &sender.name(), &seconds]).map(drop)
}

/// Forgets events of more than 30 days ago, delivered or not, at most 10,000 at once. Returns how many.
///
/// # Errors
/// See [`Error`].
pub fn forget_old(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM events WHERE id IN (
        SELECT id FROM events WHERE created < now() - interval '30 days' ORDER BY created LIMIT 10000)";
    db.execute(SQL, &[])
}
