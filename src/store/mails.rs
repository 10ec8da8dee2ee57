//! Table `mails`: what is to be sent. A row says what a mail is about; its text and its link are made when it is sent.

use time::OffsetDateTime;

use super::row::{Record, record};
use super::unsent::Unsent;
use crate::db::{Error, Executor};

record! {
    /// A mail that is about to be sent.
    #[derive(Clone, Debug)]
    pub struct Due {
        /// Its id, which is part of its Message-ID.
        pub id: String = "m.id",
        /// What it is about.
        pub kind: String = "m.kind",
        /// The account; empty for that of whoever has the address.
        pub user_id: String = "m.user_id",
        /// The address that it is sent to.
        pub recipient: String = "m.recipient",
        /// The details, as JSON.
        pub details: String = "m.details::text",
        /// When it was made.
        pub created: OffsetDateTime = "m.created",
        /// How often it was tried, this time included.
        pub attempts: i32 = "m.attempts",
    }
}

/// A mail to be sent.
#[derive(Clone, Copy, Debug)]
pub struct NewMail<'a> {
    /// Its id.
    pub id: &'a str,
    /// What it is about.
    pub kind: &'static str,
    /// The account; empty for that of whoever has the address when it is sent.
    pub user_id: &'a str,
    /// The address that it is sent to.
    pub recipient: &'a str,
    /// The details, as JSON.
    pub details: &'a str,
    /// For how many seconds it is tried.
    pub lifetime_seconds: i64,
    /// The most mails of this kind that the address gets in an hour.
    pub most_an_hour: i64,
}

/// Adds a mail, unless the address got as many of its kind in the last hour as it may get. To be called in the transaction
/// that does what the mail tells of. Returns whether it was added.
///
/// # Errors
/// See [`Error`].
pub fn insert(db: &mut impl Executor, new: &NewMail<'_>) -> Result<bool, Error> {
    const SQL: &str = "INSERT INTO mails (id, kind, user_id, recipient, details, expires)
        SELECT $1, $2, $3, $4, $5::text::jsonb, now() + $6 * interval '1 second'
        WHERE (SELECT count(*) FROM (
            SELECT FROM mails WHERE recipient = $4 AND kind = $2 AND created > now() - interval '1 hour' LIMIT $7) AS lately) < $7";
    let NewMail { id, kind, user_id, recipient, details, lifetime_seconds, most_an_hour } = new;
    Ok(db.execute(SQL, &[id, kind, user_id, recipient, details, lifetime_seconds, most_an_hour])? == 1)
}

/// Takes the mail of these kinds that is due first, and locks its row until the end of the transaction. Once that is
/// committed, no other process gets it for `seconds`, or longer the more often it was tried.
///
/// # Errors
/// See [`Error`].
pub fn take(db: &mut impl Executor, kinds: &[&str], seconds: i32) -> Result<Option<Due>, Error> {
    const SQL: &str = concat!(
        "UPDATE mails m SET attempts = m.attempts + 1,
            next_at = clock_timestamp() + least(power(2, least(m.attempts, 20)) * interval '1 second', interval '1 hour')
                + $2 * interval '1 second'
        WHERE m.id = (
            SELECT d.id FROM mails d
            WHERE d.sent IS NULL AND d.put_aside IS NULL AND d.next_at <= clock_timestamp() AND d.expires > now()
                AND d.kind = ANY($1)
            ORDER BY d.next_at, d.id LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING ",
        columns!()
    );
    db.query_opt(SQL, &[&kinds.to_vec(), &seconds])?.as_ref().map(Due::from_row).transpose()
}

/// A mail was sent. Returns whether it had not been recorded before.
///
/// # Errors
/// See [`Error`].
pub fn sent(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE mails SET sent = now(), put_aside = NULL, problem = NULL, details = '{}' WHERE id = $1 AND sent IS NULL";
    Ok(db.execute(SQL, &[&id])? == 1)
}

/// A mail is tried again in so many milliseconds.
///
/// # Errors
/// See [`Error`].
pub fn try_again(db: &mut impl Executor, id: &str, millis: i64, problem: &str) -> Result<(), Error> {
    const SQL: &str = "UPDATE mails SET next_at = clock_timestamp() + $2 * interval '1 millisecond', problem = $3
        WHERE id = $1 AND sent IS NULL AND put_aside IS NULL";
    db.execute(SQL, &[&id, &millis, &problem]).map(drop)
}

/// A mail is not sent.
///
/// # Errors
/// See [`Error`].
pub fn put_aside(db: &mut impl Executor, id: &str, problem: &str) -> Result<(), Error> {
    const SQL: &str = "UPDATE mails SET put_aside = now(), problem = $2, details = '{}'
        WHERE id = $1 AND sent IS NULL AND put_aside IS NULL";
    db.execute(SQL, &[&id, &problem]).map(drop)
}

/// A mail has nobody to go to.
///
/// # Errors
/// See [`Error`].
pub fn delete(db: &mut impl Executor, id: &str) -> Result<(), Error> {
    db.execute("DELETE FROM mails WHERE id = $1", &[&id]).map(drop)
}

/// Mails of these kinds that were not sent yet to the account, or to one of its addresses, are not sent.
///
/// # Errors
/// See [`Error`].
pub fn cancel(db: &mut impl Executor, user_id: &str, email: &str, kinds: &[&str]) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM mails WHERE id IN (
        SELECT id FROM mails WHERE sent IS NULL AND put_aside IS NULL AND kind = ANY($3)
            AND (user_id = $1 OR user_id = '' AND recipient = $2)
        ORDER BY id FOR UPDATE)";
    db.execute(SQL, &[&user_id, &email, &kinds.to_vec()]).map(drop)
}

/// Puts aside mails that are too old, and beyond `most` those that wait for longest. Returns how many. Skips rows that are
/// locked.
///
/// # Errors
/// See [`Error`].
pub fn give_up(db: &mut impl Executor, most: i64) -> Result<u64, Error> {
    const AGED: &str = "UPDATE mails SET put_aside = now(), details = '{}',
            problem = 'too old' || coalesce(': ' || problem, '')
        WHERE id IN (
            SELECT id FROM mails WHERE sent IS NULL AND put_aside IS NULL AND expires <= now()
            ORDER BY id FOR UPDATE SKIP LOCKED)";
    const TOO_MANY: &str = "UPDATE mails SET put_aside = now(), details = '{}', problem = 'too many mails wait'
        WHERE id IN (
            SELECT id FROM mails WHERE id IN (
                SELECT id FROM mails WHERE sent IS NULL AND put_aside IS NULL ORDER BY created DESC, id DESC OFFSET $1)
            ORDER BY id FOR UPDATE SKIP LOCKED)";
    Ok(db.execute(AGED, &[])? + db.execute(TOO_MANY, &[&most])?)
}

/// Deletes rows of mails that were sent or put aside 30 days ago, at most 10,000 at once. Returns how many.
///
/// # Errors
/// See [`Error`].
pub fn forget_old(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM mails WHERE id IN (
        SELECT id FROM mails WHERE created < now() - interval '30 days' AND (sent IS NOT NULL OR put_aside IS NOT NULL)
        ORDER BY created LIMIT 10000)";
    db.execute(SQL, &[])
}

/// Counts the mails that were not sent.
///
/// # Errors
/// See [`Error`].
pub fn unsent(db: &mut impl Executor) -> Result<Unsent, Error> {
    const SQL: &str = "SELECT count(*), min(created), (SELECT count(*) FROM mails WHERE put_aside IS NOT NULL)
        FROM mails WHERE sent IS NULL AND put_aside IS NULL";
    Unsent::from_row(&db.query_one(SQL, &[])?)
}
