//! Table `sessions`: browsers that are signed in.

use postgres::Row;
use serde::Serialize;
use time::OffsetDateTime;

use super::users::{self, User, columns};
use crate::db::{Error, Executor};

/// A session as its owner sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// Names it; opens nothing.
    pub id: String,
    /// When the person signed in.
    #[serde(serialize_with = "super::timestamp::serialize_zulu")]
    pub created: OffsetDateTime,
    /// When it was last used, to the minute.
    #[serde(serialize_with = "super::timestamp::serialize_zulu")]
    pub last_seen: OffsetDateTime,
    /// When it ends if it is not used.
    #[serde(serialize_with = "super::timestamp::serialize_zulu")]
    pub expires: OffsetDateTime,
    /// The address it began from.
    pub address: String,
    /// The browser it began in.
    pub user_agent: String,
}

/// What a valid session cookie stands for.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose it is.
    pub user: User,
    /// The session's id.
    pub id: String,
    /// When the person signed in.
    pub created: OffsetDateTime,
    /// When it ends if it is not used.
    pub expires: OffsetDateTime,
    /// When the browser was last given the cookie.
    pub renewed: OffsetDateTime,
}

/// A session to be made.
#[derive(Debug)]
pub struct New<'a> {
    /// Names it.
    pub id: &'a str,
    /// Whose it is.
    pub user_id: &'a str,
    /// The digest of its token.
    pub digest: &'a [u8],
    /// When it ends if it is not used.
    pub expires: OffsetDateTime,
    /// The address it begins from.
    pub address: &'a str,
    /// The browser it begins in.
    pub user_agent: &'a str,
}

/// Makes a session.
///
/// # Errors
/// [`Error::ForeignKey`] when the account is gone.
pub fn insert(db: &mut impl Executor, new: &New<'_>) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO sessions (id, user_id, digest, expires, address, user_agent) \
        VALUES ($1, $2, $3, $4, $5, $6)";
    let New { id, user_id, digest, expires, address, user_agent } = new;
    db.execute(SQL, &[id, user_id, digest, expires, address, user_agent]).map(drop)
}

/// The session whose token has this digest, unless it has ended.
///
/// # Errors
/// See [`Error`].
pub fn by_digest(db: &mut impl Executor, digest: &[u8]) -> Result<Option<Found>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        ", s.id, s.created, s.expires, s.renewed FROM sessions s JOIN users u ON u.id = s.user_id \
         WHERE s.digest = $1 AND s.expires > now() AND u.suspended IS NULL"
    );
    let found = |row: Row| {
        Ok(Found {
            user: users::from_row(&row)?,
            id: row.try_get(users::COLUMNS)?,
            created: row.try_get(users::COLUMNS + 1)?,
            expires: row.try_get(users::COLUMNS + 2)?,
            renewed: row.try_get(users::COLUMNS + 3)?,
        })
    };
    db.query_opt(SQL, &[&digest])?.map(found).transpose()
}

/// A person's sessions, newest first.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str) -> Result<Vec<Session>, Error> {
    const SQL: &str = "SELECT id, created, last_seen, expires, address, user_agent FROM sessions \
        WHERE user_id = $1 AND expires > now() ORDER BY created DESC, id LIMIT 1000";
    let session = |row: &Row| {
        Ok(Session {
            id: row.try_get(0)?,
            created: row.try_get(1)?,
            last_seen: row.try_get(2)?,
            expires: row.try_get(3)?,
            address: row.try_get(4)?,
            user_agent: row.try_get(5)?,
        })
    };
    db.query(SQL, &[&user_id])?.iter().map(session).collect()
}

/// Ends one session of a person. Whether there was one.
///
/// # Errors
/// See [`Error`].
pub fn delete(db: &mut impl Executor, user_id: &str, id: &str) -> Result<bool, Error> {
    Ok(db.execute("DELETE FROM sessions WHERE user_id = $1 AND id = $2", &[&user_id, &id])? == 1)
}

/// Ends the session with this digest. Whose it was, if there was one.
///
/// # Errors
/// See [`Error`].
pub fn delete_by_digest(db: &mut impl Executor, digest: &[u8]) -> Result<Option<String>, Error> {
    let row = db.query_opt("DELETE FROM sessions WHERE digest = $1 RETURNING user_id", &[&digest])?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Ends a person's sessions but one (none is kept when `kept` is empty). How many.
///
/// # Errors
/// See [`Error`].
pub fn delete_others(db: &mut impl Executor, user_id: &str, kept: &str) -> Result<u64, Error> {
    db.execute("DELETE FROM sessions WHERE user_id = $1 AND id <> $2", &[&user_id, &kept])
}

/// Records that sessions were used, each once a minute however many processes say so, and lets them live on for
/// `lifetime_seconds`, unless they were ended meanwhile; `renewed` are those whose cookie was sent anew. Who is about to
/// end a session is not waited for, so that nobody ever waits for this in a circle.
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

/// Deletes sessions that ended more than 30 days ago: until then their addresses count as known. How many.
///
/// # Errors
/// See [`Error`].
pub fn delete_expired(db: &mut impl Executor) -> Result<u64, Error> {
    db.execute("DELETE FROM sessions WHERE expires < now() - interval '30 days'", &[])
}
