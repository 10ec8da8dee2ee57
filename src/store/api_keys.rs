//! Table `api_keys`: the secrets that programs send.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::row::{Columns, Record, record};
use super::users::{self, User};
use crate::db::{Error, Executor};

record! {
    /// A key as its owner sees it.
    #[derive(Clone, Debug, Serialize, JsonSchema)]
    pub struct ApiKey {
        /// Identifies the key; not secret.
        pub id: String = "id",
        /// Name given by the owner.
        pub name: String = "name",
        /// Visible prefix of the secret.
        pub prefix: String = "prefix",
        /// Whether this is the default key, whose prefix the user object shows.
        pub is_default: bool = "is_default",
        /// When the key was created.
        #[serde(serialize_with = "super::timestamp::serialize_zulu")]
        #[schemars(with = "String", extend("format" = "date-time"))]
        pub created: OffsetDateTime = "created",
        /// When it was last used, to the minute.
        #[serde(serialize_with = "super::timestamp::serialize_zulu_option")]
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        pub last_used: Option<OffsetDateTime> = "last_used",
        /// When it stops working.
        #[serde(serialize_with = "super::timestamp::serialize_zulu_option")]
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        pub expires: Option<OffsetDateTime> = "expires",
        /// Whether it does not work any more: it was revoked, or it has expired.
        pub disabled: bool = "(revoked IS NOT NULL OR coalesce(expires <= now(), false))",
        /// After a rotation, while this key still works: the id of the new key.
        pub replaced_by: Option<String> = "replaced_by",
        /// The id of its budget, which is shown instead.
        #[serde(skip)]
        pub budget_id: Option<String> = "budget_id",
        /// The id of its rate limits, which are shown instead.
        #[serde(skip)]
        pub rate_id: Option<String> = "rate_id",
        /// The models that it may call; null for all.
        pub models: Option<Vec<String>> = "models",
        /// What it may do: of `models`, `documents`, `account` and `admin`.
        pub permissions: Vec<String> = "coalesce(permissions, ARRAY['models', 'documents', 'account'])",
        /// The networks that it may be used from; null for all.
        pub addresses: Option<Vec<String>> = "addresses",
    }
}

/// What a key is limited to, as it is stored. `None` for no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyScope {
    /// The models that it may call.
    pub models: Option<Vec<String>>,
    /// What it may do.
    pub permissions: Option<Vec<String>>,
    /// The networks that it may be used from.
    pub addresses: Option<Vec<String>>,
}

/// The key and the account that a valid secret belongs to.
#[derive(Clone, Debug)]
pub struct KeyMatch {
    /// The account.
    pub user: User,
    /// The key's id.
    pub id: String,
    /// When the key stops working.
    pub expires: Option<OffsetDateTime>,
    /// The id of the key's budget, if it has one.
    pub budget_id: Option<String>,
    /// The id of the key's rate limits, if it has some.
    pub rate_id: Option<String>,
    /// What the key is limited to.
    pub scope: KeyScope,
}

/// A key to insert.
#[derive(Clone, Copy, Debug)]
pub struct NewKey<'a> {
    /// Identifies the key.
    pub id: &'a str,
    /// The account's id.
    pub user_id: &'a str,
    /// Name given by the owner.
    pub name: &'a str,
    /// Visible prefix of the secret.
    pub prefix: &'a str,
    /// SHA-256 of the secret.
    pub digest: &'a [u8],
    /// When the key stops working.
    pub expires: Option<OffsetDateTime>,
    /// Whether it becomes the default key.
    pub is_default: bool,
}

/// Inserts a key.
///
/// # Errors
/// [`Error::ForeignKey`] if the account does not exist.
pub fn insert(db: &mut impl Executor, new: NewKey<'_>) -> Result<ApiKey, Error> {
    const SQL: &str = concat!(
        "INSERT INTO api_keys (id, user_id, name, prefix, digest, expires, is_default) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING ",
        columns!()
    );
    let NewKey { id, user_id, name, prefix, digest, expires, is_default } = &new;
    ApiKey::from_row(&db.query_one(SQL, &[id, user_id, name, prefix, digest, expires, is_default])?)
}

/// The working key whose secret has this digest, if its account is not suspended.
///
/// # Errors
/// See [`Error`].
pub fn by_digest(db: &mut impl Executor, digest: &[u8]) -> Result<Option<KeyMatch>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        users::columns!(),
        ", k.id, k.expires, k.budget_id, k.rate_id, k.models, k.permissions, k.addresses FROM api_keys k JOIN users u ON u.id = k.user_id \
         WHERE k.digest = $1 AND k.revoked IS NULL AND (k.expires IS NULL OR k.expires > now()) \
         AND u.suspended IS NULL"
    );
    let Some(row) = db.query_opt(SQL, &[&digest])? else { return Ok(None) };
    let mut columns = Columns::of(&row);
    Ok(Some(KeyMatch {
        user: User::from_columns(&mut columns)?,
        id: columns.next()?,
        expires: columns.next()?,
        budget_id: columns.next()?,
        rate_id: columns.next()?,
        scope: KeyScope { models: columns.next()?, permissions: columns.next()?, addresses: columns.next()? },
    }))
}

/// The user's working keys, newest first.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str) -> Result<Vec<ApiKey>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM api_keys \
         WHERE user_id = $1 AND revoked IS NULL AND (expires IS NULL OR expires > now()) ORDER BY created DESC, id"
    );
    db.query_list(SQL, &[&user_id])?.iter().map(ApiKey::from_row).collect()
}

/// The number of the user's working keys.
///
/// # Errors
/// See [`Error`].
pub fn count(db: &mut impl Executor, user_id: &str) -> Result<i64, Error> {
    const SQL: &str = "SELECT count(*) FROM api_keys \
        WHERE user_id = $1 AND revoked IS NULL AND (expires IS NULL OR expires > now())";
    Ok(db.query_one(SQL, &[&user_id])?.try_get(0)?)
}

/// One of the user's working keys that has not been rotated, locked until the end of the transaction.
///
/// # Errors
/// See [`Error`].
pub fn lock_current(db: &mut impl Executor, user_id: &str, id: &str) -> Result<Option<ApiKey>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM api_keys WHERE user_id = $1 AND id = $2 AND revoked IS NULL AND replaced_by IS NULL \
         AND (expires IS NULL OR expires > now()) FOR UPDATE"
    );
    db.query_opt(SQL, &[&user_id, &id])?.as_ref().map(ApiKey::from_row).transpose()
}

/// One of the user's working keys, locked until the end of the transaction.
///
/// # Errors
/// See [`Error`].
pub fn lock_working(db: &mut impl Executor, user_id: &str, id: &str) -> Result<Option<ApiKey>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM api_keys WHERE user_id = $1 AND id = $2 AND revoked IS NULL \
         AND (expires IS NULL OR expires > now()) FOR UPDATE"
    );
    db.query_opt(SQL, &[&user_id, &id])?.as_ref().map(ApiKey::from_row).transpose()
}

/// Changes the name and the expiry of a key.
///
/// # Errors
/// See [`Error`].
pub fn update(db: &mut impl Executor, id: &str, name: &str, expires: Option<OffsetDateTime>) -> Result<(), Error> {
    db.execute("UPDATE api_keys SET name = $2, expires = $3 WHERE id = $1", &[&id, &name, &expires]).map(drop)
}

/// What a key is limited to.
///
/// # Errors
/// See [`Error`].
pub fn scope_of(db: &mut impl Executor, id: &str) -> Result<KeyScope, Error> {
    let row = db.query_one("SELECT models, permissions, addresses FROM api_keys WHERE id = $1", &[&id])?;
    Ok(KeyScope { models: row.try_get(0)?, permissions: row.try_get(1)?, addresses: row.try_get(2)? })
}

/// Limits a key. Returns it.
///
/// # Errors
/// See [`Error`].
pub fn set_scope(db: &mut impl Executor, id: &str, scope: &KeyScope) -> Result<ApiKey, Error> {
    const SQL: &str = concat!(
        "UPDATE api_keys SET models = $2, permissions = $3, addresses = $4 WHERE id = $1 RETURNING ",
        columns!()
    );
    let KeyScope { models, permissions, addresses } = scope;
    ApiKey::from_row(&db.query_one(SQL, &[&id, models, permissions, addresses])?)
}

/// Gives a key the limits and the budget of the one that it replaces. Returns it.
///
/// # Errors
/// See [`Error`].
pub fn inherit(db: &mut impl Executor, old_id: &str, id: &str) -> Result<ApiKey, Error> {
    const SQL: &str = concat!(
        "UPDATE api_keys SET (budget_id, rate_id, models, permissions, addresses) =
            (SELECT o.budget_id, o.rate_id, o.models, o.permissions, o.addresses FROM api_keys o WHERE o.id = $1)
         WHERE id = $2 RETURNING ",
        columns!()
    );
    ApiKey::from_row(&db.query_one(SQL, &[&old_id, &id])?)
}

/// The id of the user's default key, if it works.
///
/// # Errors
/// See [`Error`].
pub fn default_of(db: &mut impl Executor, user_id: &str) -> Result<Option<String>, Error> {
    const SQL: &str = "SELECT id FROM api_keys WHERE user_id = $1 AND is_default AND revoked IS NULL \
        AND replaced_by IS NULL AND (expires IS NULL OR expires > now()) ORDER BY created DESC LIMIT 1";
    db.query_opt(SQL, &[&user_id])?.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Marks a key as rotated into the key `new_id`. It works for another `grace_seconds`, but not beyond its own expiry.
///
/// # Errors
/// See [`Error`].
pub fn replace(db: &mut impl Executor, id: &str, new_id: &str, grace_seconds: i64) -> Result<(), Error> {
    const SQL: &str = "UPDATE api_keys SET replaced_by = $2, is_default = false,
            expires = least(expires, now() + $3 * interval '1 second'),
            revoked = CASE WHEN $3 = 0 THEN now() END
        WHERE id = $1";
    db.execute(SQL, &[&id, &new_id, &grace_seconds]).map(drop)
}

/// Renames one of the user's working keys, and returns whether it exists.
///
/// # Errors
/// See [`Error`].
pub fn rename(db: &mut impl Executor, user_id: &str, id: &str, name: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE api_keys SET name = $3 WHERE user_id = $1 AND id = $2 AND revoked IS NULL \
        AND (expires IS NULL OR expires > now())";
    Ok(db.execute(SQL, &[&user_id, &id, &name])? == 1)
}

/// Revokes one of the user's keys, and returns whether it was the default key; `None` if there is no such key that
/// works.
///
/// # Errors
/// See [`Error`].
pub fn revoke(db: &mut impl Executor, user_id: &str, id: &str) -> Result<Option<bool>, Error> {
    const SQL: &str = "UPDATE api_keys SET revoked = now() WHERE user_id = $1 AND id = $2 AND revoked IS NULL \
        RETURNING is_default";
    db.query_opt(SQL, &[&user_id, &id])?.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Revokes all of the user's keys, and returns how many. To be called in a transaction that has locked the account.
///
/// # Errors
/// See [`Error`].
pub fn revoke_all(db: &mut impl Executor, user_id: &str) -> Result<u64, Error> {
    const SQL: &str = "UPDATE api_keys SET revoked = now() WHERE id IN (
        SELECT id FROM api_keys WHERE user_id = $1 AND revoked IS NULL ORDER BY id FOR UPDATE)";
    db.execute(SQL, &[&user_id])
}

/// Records when keys were last used, at most once a minute per key even if many processes do so. Skips keys that
/// another transaction has locked, so that it cannot take part in a deadlock: the next use will record them.
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

/// Deletes some of the keys that were revoked or expired more than 30 days ago, and returns how many. Call it until there
/// are none; then [`budgets::delete_unused`](super::budgets::delete_unused). Pages then show their ids where they have shown
/// their names.
///
/// # Errors
/// See [`Error`].
pub fn delete_ended(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM api_keys WHERE id IN (
            SELECT id FROM api_keys WHERE (revoked IS NOT NULL OR expires IS NOT NULL)
                AND least(revoked, expires) < now() - interval '30 days'
            ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED)";
    db.execute(SQL, &[])
}

/// Deletes the user's ended keys beyond `most`, those first that ended first. To be called in a transaction that has locked
/// the account.
///
/// # Errors
/// See [`Error`].
pub fn delete_ended_beyond(db: &mut impl Executor, user_id: &str, most: i64) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM api_keys WHERE id IN (
            SELECT id FROM api_keys WHERE user_id = $1 AND least(revoked, expires) <= now()
            ORDER BY least(revoked, expires) DESC, id OFFSET $2)";
    db.execute(SQL, &[&user_id, &most])
}

/// The ids and names of all of the user's keys, including those that no longer work.
///
/// # Errors
/// See [`Error`].
pub fn names(db: &mut impl Executor, user_id: &str) -> Result<Vec<(String, String)>, Error> {
    let rows = db.query_list("SELECT id, name FROM api_keys WHERE user_id = $1", &[&user_id])?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
