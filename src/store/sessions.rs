//! Table `sessions`: browsers that are signed in.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::row::{Columns, Record, record};
use super::users::{self, User};
use crate::db::{Error, Executor};

record! {
    /// A session as its owner sees it.
    #[derive(Clone, Debug, Serialize, JsonSchema)]
    #[schemars(rename = "Session")]
    pub struct BrowserSession {
        /// Identifies the session; not secret.
        pub id: String = "id",
        /// When the user signed in.
        #[serde(serialize_with = "super::timestamp::serialize_zulu")]
        #[schemars(with = "String", extend("format" = "date-time"))]
        pub created: OffsetDateTime = "created",
        /// When the session was last used, to the minute.
        #[serde(serialize_with = "super::timestamp::serialize_zulu")]
        #[schemars(with = "String", extend("format" = "date-time"))]
        pub last_seen: OffsetDateTime = "last_seen",
        /// When it ends unless it is used.
        #[serde(serialize_with = "super::timestamp::serialize_zulu")]
        #[schemars(with = "String", extend("format" = "date-time"))]
        pub expires: OffsetDateTime = "expires",
        /// IP address at sign-in.
        pub address: String = "address",
        /// `User-Agent` at sign-in.
        pub user_agent: String = "user_agent",
    }
}

/// The session and the account that a valid cookie belongs to.
#[derive(Clone, Debug)]
pub struct SessionMatch {
    /// The account.
    pub user: User,
    /// The session's id.
    pub id: String,
    /// When the user signed in.
    pub created: OffsetDateTime,
    /// When the session ends unless it is used.
    pub expires: OffsetDateTime,
    /// When the cookie was last sent to the browser.
    pub renewed: OffsetDateTime,
}

/// A session to insert.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// Identifies the session.
    pub id: &'a str,
    /// The account's id.
    pub user_id: &'a str,
    /// SHA-256 of the token.
    pub digest: &'a [u8],
    /// When the session ends unless it is used.
    pub expires: OffsetDateTime,
    /// IP address of the browser.
    pub address: &'a str,
    /// `User-Agent` of the browser.
    pub user_agent: &'a str,
}

/// Inserts a session.
///
/// # Errors
/// [`Error::ForeignKey`] if the account does not exist.
pub fn insert(db: &mut impl Executor, new: &NewSession<'_>) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO sessions (id, user_id, digest, expires, address, user_agent) \
        VALUES ($1, $2, $3, $4, $5, $6)";
    let NewSession { id, user_id, digest, expires, address, user_agent } = new;
    db.execute(SQL, &[id, user_id, digest, expires, address, user_agent]).map(drop)
}

/// The current session whose token has this digest, if its account is not suspended.
///
/// # Errors
/// See [`Error`].
pub fn by_digest(db: &mut impl Executor, digest: &[u8]) -> Result<Option<SessionMatch>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        users::columns!(),
        ", s.id, s.created, s.expires, s.renewed FROM sessions s JOIN users u ON u.id = s.user_id \
         WHERE s.digest = $1 AND s.expires > now() AND u.suspended IS NULL"
    );
    let Some(row) = db.query_opt(SQL, &[&digest])? else { return Ok(None) };
    let mut columns = Columns::of(&row);
    Ok(Some(SessionMatch {
        user: User::from_columns(&mut columns)?,
        id: columns.next()?,
        created: columns.next()?,
        expires: columns.next()?,
        renewed: columns.next()?,
    }))
}

/// The user's current sessions, newest first, at most 1000.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str) -> Result<Vec<BrowserSession>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM sessions WHERE user_id = $1 AND expires > now() ORDER BY created DESC, id LIMIT 1000"
    );
    db.query_list(SQL, &[&user_id])?.iter().map(BrowserSession::from_row).collect()
}

/// Ends one of the user's sessions, and returns whether it existed.
///
/// # Errors
/// See [`Error`].
pub fn delete(db: &mut impl Executor, user_id: &str, id: &str) -> Result<bool, Error> {
    Ok(db.execute("DELETE FROM sessions WHERE user_id = $1 AND id = $2", &[&user_id, &id])? == 1)
}

/// Ends the user's sessions beyond `most`, and returns how many: those that have not been used for longest, but not `new`.
/// To be called in a transaction that has locked the account.
///
/// # Errors
/// See [`Error`].
pub fn delete_beyond(db: &mut impl Executor, user_id: &str, new: &str, most: i64) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM sessions WHERE id IN (
        SELECT id FROM sessions WHERE user_id = $1 AND id <> $2 AND expires > now()
        ORDER BY last_seen DESC, created DESC, id OFFSET $3)";
    db.execute(SQL, &[&user_id, &new, &(most - 1)])
}

/// Gives one of the user's sessions another token.
///
/// # Errors
/// See [`Error`].
pub fn replace_token(db: &mut impl Executor, user_id: &str, id: &str, digest: &[u8]) -> Result<(), Error> {
    const SQL: &str = "UPDATE sessions SET digest = $3, renewed = now() WHERE user_id = $1 AND id = $2";
    db.execute(SQL, &[&user_id, &id, &digest]).map(drop)
}

/// Ends the session whose token has this digest, and returns the id of its user if it existed.
///
/// # Errors
/// See [`Error`].
pub fn delete_by_digest(db: &mut impl Executor, digest: &[u8]) -> Result<Option<String>, Error> {
    let row = db.query_opt("DELETE FROM sessions WHERE digest = $1 RETURNING user_id", &[&digest])?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Ends all of the user's sessions except `kept` (an empty id keeps none), and returns how many.
///
/// # Errors
/// See [`Error`].
pub fn delete_others(db: &mut impl Executor, user_id: &str, kept: &str) -> Result<u64, Error> {
    db.execute("DELETE FROM sessions WHERE user_id = $1 AND id <> $2", &[&user_id, &kept])
}

/// Records when sessions were last used, at most once a minute per session even if many processes do so, and extends
/// them to `lifetime_seconds` after that use. `renewed` lists the sessions whose cookie was sent again. Skips sessions
/// that another transaction has locked, so that it cannot take part in a deadlock.
///
/// # Errors
/// See [`Error`].
pub fn touch(
    db: &mut impl Executor,
    ids: &Vec<String>,
    times: &Vec<OffsetDateTime>,
    renewed: &Vec<String>,
    lifetime_seconds: i64,
) -> Result<u64, Error> {
    const SQL: &str = "WITH used AS (
            SELECT s.id, t.seen FROM unnest($1, $2) AS t(id, seen) JOIN sessions s ON s.id = t.id
            WHERE s.expires > now() AND (s.last_seen < date_trunc('minute', t.seen) OR s.id = ANY($3))
            ORDER BY s.id FOR UPDATE OF s SKIP LOCKED)
        UPDATE sessions s SET last_seen = greatest(s.last_seen, used.seen),
            expires = greatest(s.expires, used.seen + $4 * interval '1 second'),
            renewed = CASE WHEN s.id = ANY($3) THEN used.seen ELSE s.renewed END
        FROM used WHERE s.id = used.id";
    db.execute(SQL, &[ids, times, renewed, &lifetime_seconds])
}

/// Deletes sessions that ended more than 30 days ago, and returns how many.
///
/// # Errors
/// See [`Error`].
pub fn delete_expired(db: &mut impl Executor) -> Result<u64, Error> {
    db.execute("DELETE FROM sessions WHERE expires < now() - interval '30 days'", &[])
}
