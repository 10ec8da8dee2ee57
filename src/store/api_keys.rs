//! Table `api_keys`: the secrets that programs send.

use postgres::Row;
use serde::Serialize;
use time::OffsetDateTime;

use super::users::{self, User, columns};
use crate::db::{Error, Executor};

/// A key as its owner sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKey {
    /// Names it; opens nothing.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// The part of the secret that may be seen.
    pub prefix: String,
    /// Whether it is the one whose prefix the user object shows.
    pub is_default: bool,
    /// When it was made.
    #[serde(serialize_with = "super::timestamp::serialize_zulu")]
    pub created: OffsetDateTime,
    /// When it was last used, to the minute.
    #[serde(serialize_with = "super::timestamp::serialize_zulu_option")]
    pub last_used: Option<OffsetDateTime>,
    /// When it stops working.
    #[serde(serialize_with = "super::timestamp::serialize_zulu_option")]
    pub expires: Option<OffsetDateTime>,
    /// The key that a rotation made of it, while it still works beside that.
    pub replaced_by: Option<String>,
}

/// What a valid secret stands for.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose it is.
    pub user: User,
    /// The key's id.
    pub id: String,
    /// When it stops working.
    pub expires: Option<OffsetDateTime>,
}

/// A key to be made.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// Names it.
    pub id: &'a str,
    /// Whose it is.
    pub user_id: &'a str,
    /// What its owner calls it.
    pub name: &'a str,
    /// The part of the secret that may be seen.
    pub prefix: &'a str,
    /// The digest of the secret.
    pub digest: &'a [u8],
    /// When it stops working.
    pub expires: Option<OffsetDateTime>,
    /// Whether it becomes the one whose prefix the user object shows.
    pub is_default: bool,
}

fn from_row(row: &Row) -> Result<ApiKey, Error> {
    Ok(ApiKey {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        prefix: row.try_get(2)?,
        is_default: row.try_get(3)?,
        created: row.try_get(4)?,
        last_used: row.try_get(5)?,
        expires: row.try_get(6)?,
        replaced_by: row.try_get(7)?,
    })
}

/// Makes a key.
///
/// # Errors
/// [`Error::ForeignKey`] when the account is gone.
pub fn insert(db: &mut impl Executor, new: New<'_>) -> Result<ApiKey, Error> {
    const SQL: &str = "INSERT INTO api_keys (id, user_id, name, prefix, digest, expires, is_default) \
        VALUES ($1, $2, $3, $4, $5, $6, $7) \
        RETURNING id, name, prefix, is_default, created, last_used, expires, replaced_by";
    let New { id, user_id, name, prefix, digest, expires, is_default } = &new;
    from_row(&db.query_one(SQL, &[id, user_id, name, prefix, digest, expires, is_default])?)
}

/// The key whose secret has this digest, unless it was revoked or has expired.
///
/// # Errors
/// See [`Error`].
pub fn by_digest(db: &mut impl Executor, digest: &[u8]) -> Result<Option<Found>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        ", k.id, k.expires FROM api_keys k JOIN users u ON u.id = k.user_id \
         WHERE k.digest = $1 AND k.revoked IS NULL AND (k.expires IS NULL OR k.expires > now()) \
         AND u.suspended IS NULL"
    );
    let found = |row: Row| {
        let user = users::from_row(&row)?;
        Ok(Found { user, id: row.try_get(users::COLUMNS)?, expires: row.try_get(users::COLUMNS + 1)? })
    };
    db.query_opt(SQL, &[&digest])?.map(found).transpose()
}

/// A person's keys that work, newest first.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str) -> Result<Vec<ApiKey>, Error> {
    const SQL: &str = "SELECT id, name, prefix, is_default, created, last_used, expires, replaced_by FROM api_keys \
        WHERE user_id = $1 AND revoked IS NULL AND (expires IS NULL OR expires > now()) ORDER BY created DESC, id";
    db.query(SQL, &[&user_id])?.iter().map(from_row).collect()
}

/// How many keys of a person work.
///
/// # Errors
/// See [`Error`].
pub fn count(db: &mut impl Executor, user_id: &str) -> Result<i64, Error> {
    const SQL: &str = "SELECT count(*) FROM api_keys \
        WHERE user_id = $1 AND revoked IS NULL AND (expires IS NULL OR expires > now())";
    Ok(db.query_one(SQL, &[&user_id])?.try_get(0)?)
}

/// A person's key, locked until the transaction ends, if it works and was not rotated yet.
///
/// # Errors
/// See [`Error`].
pub fn lock_current(db: &mut impl Executor, user_id: &str, id: &str) -> Result<Option<ApiKey>, Error> {
    const SQL: &str = "SELECT id, name, prefix, is_default, created, last_used, expires, replaced_by FROM api_keys \
        WHERE user_id = $1 AND id = $2 AND revoked IS NULL AND replaced_by IS NULL \
        AND (expires IS NULL OR expires > now()) FOR UPDATE";
    db.query_opt(SQL, &[&user_id, &id])?.as_ref().map(from_row).transpose()
}

/// The id of a person's default key, if it works.
///
/// # Errors
/// See [`Error`].
pub fn default_of(db: &mut impl Executor, user_id: &str) -> Result<Option<String>, Error> {
    const SQL: &str = "SELECT id FROM api_keys WHERE user_id = $1 AND is_default AND revoked IS NULL \
        AND replaced_by IS NULL AND (expires IS NULL OR expires > now()) ORDER BY created DESC LIMIT 1";
    db.query_opt(SQL, &[&user_id])?.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Marks a key as rotated into another: it works for `grace_seconds` more, or until it would have expired anyway.
///
/// # Errors
/// See [`Error`].
pub fn replace(db: &mut impl Executor, id: &str, by: &str, grace_seconds: i64) -> Result<(), Error> {
    const SQL: &str = "UPDATE api_keys SET replaced_by = $2, is_default = false,
            expires = least(expires, now() + $3 * interval '1 second'),
            revoked = CASE WHEN $3 = 0 THEN now() END
        WHERE id = $1";
    db.execute(SQL, &[&id, &by, &grace_seconds]).map(drop)
}

/// Calls a person's key something else. Whether there is such a key that works.
///
/// # Errors
/// See [`Error`].
pub fn rename(db: &mut impl Executor, user_id: &str, id: &str, name: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE api_keys SET name = $3 WHERE user_id = $1 AND id = $2 AND revoked IS NULL \
        AND (expires IS NULL OR expires > now())";
    Ok(db.execute(SQL, &[&user_id, &id, &name])? == 1)
}

/// Revokes a person's key. Whether it was the default one; `None` when there is no such key that works.
///
/// # Errors
/// See [`Error`].
pub fn revoke(db: &mut impl Executor, user_id: &str, id: &str) -> Result<Option<bool>, Error> {
    const SQL: &str = "UPDATE api_keys SET revoked = now() WHERE user_id = $1 AND id = $2 AND revoked IS NULL \
        RETURNING is_default";
    db.query_opt(SQL, &[&user_id, &id])?.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Records that keys were used, each once a minute however many processes say so. Who is about to change or delete a
/// key is not waited for: the next use tells it again, and nobody ever waits for this in a circle.
///
/// # Errors
/// See [`Error`].
pub fn touch(db: &mut impl Executor, ids: &Vec<String>, times: &Vec<OffsetDateTime>) -> Result<u64, Error> {
    const SQL: &str = "WITH used AS (
            SELECT k.id, t.seen FROM unnest($1, $2) AS t(id, seen) JOIN api_keys k ON k.id = t.id
            WHERE k.last_used IS NULL OR k.last_used < date_trunc('minute', t.seen)
            ORDER BY k.id FOR UPDATE OF k SKIP LOCKED)
        UPDATE api_keys k SET last_used = used.seen FROM used WHERE k.id = used.id";
    db.execute(SQL, &[ids, times])
}

/// The names of a person's keys by their ids, those that work no longer among them.
///
/// # Errors
/// See [`Error`].
pub fn names(db: &mut impl Executor, user_id: &str) -> Result<Vec<(String, String)>, Error> {
    let rows = db.query("SELECT id, name FROM api_keys WHERE user_id = $1", &[&user_id])?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
