//! Table `users`.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::row::{Columns, Record, record};
use crate::db::{Error, Executor};

record! {
    /// An account, and the user object of the API: its fields are serialised in this order. The columns are those of
    /// `users AS u`.
    #[derive(Clone, Serialize, JsonSchema)]
    pub struct User {
        /// Sixteen letters and digits, or an id of an older system.
        pub id: String = "u.id",
        /// E-mail address, trimmed and in lower case.
        pub email: String = "u.email",
        /// Display name.
        pub name: Option<String> = "u.name",
        /// URL of a page about the user.
        pub profile_url: Option<String> = "u.profile_url",
        /// URL of a picture of the user.
        pub photo_url: Option<String> = "u.photo_url",
        /// Whether a subscription is active.
        pub is_subscribed: bool = "u.is_subscribed",
        /// Customer id at Stripe.
        pub stripe_id: Option<String> = "u.stripe_id",
        /// Visible prefix of the default key. The whole secret only in the reply to sign-up.
        pub secret: String = "u.secret",
        /// Credit left, in whole cents. For an account that never had credit here, what an older system has stored.
        pub free_credits: i32 = "CASE WHEN u.balance_id IS NULL THEN u.free_credits ELSE coalesce(textgen_credit_cents(u.balance_id), 0) END",
        /// Charges since the month began (UTC), in micro-dollars.
        pub charges_monthly: i64 = "CASE WHEN u.charges_month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date \
            THEN u.charges_monthly ELSE 0 END",
        /// Number of instances that the user hosts.
        pub num_self_hosted_instances: i32 = "u.num_self_hosted_instances",
        /// When the account was created: ISO 8601 in UTC, without a zone.
        #[serde(serialize_with = "super::timestamp::serialize_naive")]
        #[schemars(with = "String")]
        pub created: OffsetDateTime = "u.created",
        /// When the account was last changed: ISO 8601 in UTC, without a zone.
        #[serde(serialize_with = "super::timestamp::serialize_naive")]
        #[schemars(with = "String")]
        pub updated: OffsetDateTime = "u.updated",
        /// Whether the user may manage other accounts. Not part of the user object.
        #[serde(skip)]
        pub is_admin: bool = "u.is_admin",
        /// The id of the budget of the whole account, if it has one. Not part of the user object.
        #[serde(skip)]
        pub budget_id: Option<String> = "u.budget_id",
        /// The id of the budget whose limit is the sum of the account's credits, if it ever had any. Not part of the
        /// user object.
        #[serde(skip)]
        pub balance_id: Option<String> = "u.balance_id",
        /// The id of the rate limits of the whole account, if it has some. Not part of the user object.
        #[serde(skip)]
        pub rate_id: Option<String> = "u.rate_id",
        /// The models that the account may call; `None` for all. Not part of the user object.
        #[serde(skip)]
        pub models: Option<Vec<String>> = "u.models",
        /// The networks that the account may be used from; `None` for all. Not part of the user object.
        #[serde(skip)]
        pub addresses: Option<Vec<String>> = "u.addresses",
        /// Whether log-ins ask for a second factor. Not part of the user object.
        #[serde(skip)]
        pub has_second_factor: bool =
            "EXISTS (SELECT FROM second_factors f WHERE f.user_id = u.id AND f.confirmed IS NOT NULL)",
    }
}
pub(super) use columns;

/// Leaves out the secret, which is complete right after sign-up.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("id", &self.id).field("email", &self.email).finish_non_exhaustive()
    }
}

/// The constraint that makes e-mail addresses unique.
pub const EMAIL_KEY: &str = "users_email_unique";

/// Creates an account.
///
/// # Errors
/// [`Error::Unique`] of [`EMAIL_KEY`] if the address is taken.
pub fn insert(
    db: &mut impl Executor,
    id: &str,
    email: &str,
    password_hash: Option<&str>,
    secret_prefix: &str,
) -> Result<User, Error> {
    // Not a plain insert, whose error may name another constraint: a database of the older system has a second unique
    // index on the address.
    const SQL: &str = concat!(
        "INSERT INTO users AS u (id, email, password_hash, secret) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (email) DO NOTHING RETURNING ",
        columns!()
    );
    let row = db.query_opt(SQL, &[&id, &email, &password_hash, &secret_prefix])?;
    User::from_row(&row.ok_or_else(|| Error::Unique(EMAIL_KEY.to_owned()))?)
}

/// The account with this id.
///
/// # Errors
/// See [`Error`].
pub fn by_id(db: &mut impl Executor, id: &str) -> Result<Option<User>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM users u WHERE u.id = $1");
    db.query_opt(SQL, &[&id])?.as_ref().map(User::from_row).transpose()
}

/// Whether any account has a password hash of the older system.
///
/// # Errors
/// See [`Error`].
pub fn any_with_bcrypt(db: &mut impl Executor) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM users WHERE password_hash LIKE '$2%')";
    Ok(db.query_one(SQL, &[])?.try_get(0)?)
}

/// The account with this normalised e-mail address, and its password hash if it has one.
///
/// # Errors
/// See [`Error`].
pub fn by_email(db: &mut impl Executor, email: &str) -> Result<Option<(User, Option<String>)>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), ", u.password_hash FROM users u WHERE u.email = $1");
    let Some(row) = db.query_opt(SQL, &[&email])? else { return Ok(None) };
    let mut columns = Columns::of(&row);
    Ok(Some((User::from_columns(&mut columns)?, columns.next()?)))
}

/// The account's password hash, if it has one.
///
/// # Errors
/// See [`Error`].
pub fn password_hash(db: &mut impl Executor, id: &str) -> Result<Option<String>, Error> {
    let row = db.query_opt("SELECT password_hash FROM users WHERE id = $1", &[&id])?;
    row.map_or(Ok(None), |row| Ok(row.try_get(0)?))
}

/// Locks the account until the end of the transaction, and returns whether it exists. To avoid deadlocks, a transaction
/// that locks keys as well locks the account first.
///
/// # Errors
/// See [`Error`].
pub fn lock(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    Ok(db.query_opt("SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE", &[&id])?.is_some())
}

/// Like [`lock`], for a transaction that may delete the account: it waits for those that insert rows of the account, before
/// it holds anything that they could wait for.
///
/// # Errors
/// See [`Error`].
pub fn lock_to_delete(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    Ok(db.query_opt("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", &[&id])?.is_some())
}

/// Like [`lock`], but only if the password hash is still this one.
///
/// # Errors
/// See [`Error`].
pub fn lock_with_hash(db: &mut impl Executor, id: &str, hash: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT 1 FROM users WHERE id = $1 AND password_hash = $2 FOR NO KEY UPDATE";
    Ok(db.query_opt(SQL, &[&id, &hash])?.is_some())
}

/// Replaces the password hash if it is still `old`, so that only one of two concurrent changes succeeds. Returns
/// whether it was replaced.
///
/// # Errors
/// See [`Error`].
pub fn replace_password_hash(db: &mut impl Executor, id: &str, old: &str, new: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE users SET password_hash = $3, updated = now() WHERE id = $1 AND password_hash = $2";
    Ok(db.execute(SQL, &[&id, &old, &new])? == 1)
}

/// Sets the password hash, whatever it was, and returns whether the account exists.
///
/// # Errors
/// See [`Error`].
pub fn set_password_hash(db: &mut impl Executor, id: &str, hash: &str) -> Result<bool, Error> {
    Ok(db.execute("UPDATE users SET password_hash = $2, updated = now() WHERE id = $1", &[&id, &hash])? == 1)
}

/// Sets the password hash if there is none. Returns whether it was set.
///
/// # Errors
/// See [`Error`].
pub fn set_first_password_hash(db: &mut impl Executor, id: &str, hash: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE users SET password_hash = $2, updated = now() WHERE id = $1 AND password_hash IS NULL";
    Ok(db.execute(SQL, &[&id, &hash])? == 1)
}

/// Sets the e-mail address, which its owner has confirmed.
///
/// # Errors
/// [`Error::Unique`] of [`EMAIL_KEY`] if the address is taken.
pub fn set_email(db: &mut impl Executor, id: &str, email: &str) -> Result<(), Error> {
    const SQL: &str = "UPDATE users SET email = $2, email_verified = now(), updated = now() WHERE id = $1";
    match db.execute(SQL, &[&id, &email]) {
        // The second unique index that a database of the older system has on the address.
        Err(Error::Unique(_)) => Err(Error::Unique(EMAIL_KEY.to_owned())),
        done => done.map(drop),
    }
}

/// The account's owner gets mails at its address.
///
/// # Errors
/// See [`Error`].
pub fn set_verified(db: &mut impl Executor, id: &str) -> Result<(), Error> {
    db.execute("UPDATE users SET email_verified = now() WHERE id = $1", &[&id]).map(drop)
}

/// Whether it is known that the account's owner gets mails at its address.
///
/// # Errors
/// See [`Error`].
pub fn is_verified(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    let row = db.query_opt("SELECT email_verified IS NOT NULL FROM users WHERE id = $1", &[&id])?;
    row.map_or(Ok(false), |row| Ok(row.try_get(0)?))
}

/// Sets the visible prefix of the default key.
///
/// # Errors
/// See [`Error`].
pub fn set_secret_prefix(db: &mut impl Executor, id: &str, prefix: &str) -> Result<(), Error> {
    db.execute("UPDATE users SET secret = $2, updated = now() WHERE id = $1", &[&id, &prefix]).map(drop)
}

/// Sets the display name, and returns whether the account exists.
///
/// # Errors
/// See [`Error`].
pub fn set_name(db: &mut impl Executor, id: &str, name: &str) -> Result<bool, Error> {
    Ok(db.execute("UPDATE users SET name = $2, updated = now() WHERE id = $1", &[&id, &name])? == 1)
}

/// Suspends or restores the account, and returns whether it exists. None of a suspended account's credentials is valid.
///
/// # Errors
/// See [`Error`].
pub fn set_suspended(db: &mut impl Executor, id: &str, suspended: bool) -> Result<bool, Error> {
    const SQL: &str = "UPDATE users SET suspended = CASE WHEN $2 THEN coalesce(suspended, now()) END, updated = now() \
        WHERE id = $1";
    Ok(db.execute(SQL, &[&id, &suspended])? == 1)
}

/// Limits the models that the account may call; `None` for all.
///
/// # Errors
/// See [`Error`].
pub fn set_models(db: &mut impl Executor, id: &str, models: &Option<Vec<String>>) -> Result<(), Error> {
    db.execute("UPDATE users SET models = $2, updated = now() WHERE id = $1", &[&id, models]).map(drop)
}

/// Limits the networks that the account may be used from; `None` for all.
///
/// # Errors
/// See [`Error`].
pub fn set_addresses(db: &mut impl Executor, id: &str, addresses: &Option<Vec<String>>) -> Result<(), Error> {
    db.execute("UPDATE users SET addresses = $2, updated = now() WHERE id = $1", &[&id, addresses]).map(drop)
}

/// Grants or revokes admin rights, and returns whether the account exists.
///
/// # Errors
/// See [`Error`].
pub fn set_admin(db: &mut impl Executor, id: &str, is_admin: bool) -> Result<bool, Error> {
    Ok(db.execute("UPDATE users SET is_admin = $2, updated = now() WHERE id = $1", &[&id, &is_admin])? == 1)
}

/// Whether any other account is an administrator's that is not suspended. Such accounts stay as they are until the end of
/// the transaction, so that two that demote each other do not leave none.
///
/// # Errors
/// See [`Error`].
pub fn has_other_admin(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT id FROM users WHERE is_admin ORDER BY id FOR NO KEY UPDATE";
    const OTHERS: &str = "SELECT EXISTS (SELECT FROM users WHERE is_admin AND suspended IS NULL AND id <> $1)";
    db.query(SQL, &[])?;
    Ok(db.query_one(OTHERS, &[&id])?.try_get(0)?)
}

/// The highest number of an account's documents that is counted exactly: counting a million would take too long.
pub const MAX_COUNTED: i64 = 1000;

/// What only administrators see of an account.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// When the account was suspended, if it is.
    pub suspended: Option<OffsetDateTime>,
    /// How many documents it has, or [`MAX_COUNTED`] + 1 if there are more than [`MAX_COUNTED`].
    pub documents: i64,
}

/// The account's status.
///
/// # Errors
/// See [`Error`].
pub fn status(db: &mut impl Executor, id: &str) -> Result<Status, Error> {
    const SQL: &str = "SELECT suspended,
            (SELECT count(*) FROM (SELECT FROM documents WHERE user_id = $1 LIMIT $2) AS counted)
        FROM users WHERE id = $1";
    let row = db.query_opt(SQL, &[&id, &(MAX_COUNTED + 1)])?;
    row.map_or(Ok(Status::default()), |row| Ok(Status { suspended: row.try_get(0)?, documents: row.try_get(1)? }))
}

/// Whether the account is suspended.
///
/// # Errors
/// See [`Error`].
pub fn is_suspended(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    let row = db.query_opt("SELECT suspended IS NOT NULL FROM users WHERE id = $1", &[&id])?;
    row.map_or(Ok(false), |row| Ok(row.try_get(0)?))
}

/// Deletes the account and everything that belongs to it. Returns whether it existed.
///
/// # Errors
/// [`Error::ForeignKey`] if a table that is not ours refers to it.
pub fn delete(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    const SQL: &str = "WITH replies AS (DELETE FROM kept_replies WHERE user_id = $1) DELETE FROM users WHERE id = $1";
    Ok(db.execute(SQL, &[&id])? == 1)
}

/// The newest accounts.
///
/// # Errors
/// See [`Error`].
pub fn newest(db: &mut impl Executor, limit: i64) -> Result<Vec<User>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM users u ORDER BY u.created DESC, u.id DESC LIMIT $1");
    db.query(SQL, &[&limit])?.iter().map(User::from_row).collect()
}

#[cfg(test)]
impl User {
    /// A new account.
    pub(crate) fn sample(id: &str) -> User {
        User {
            id: id.to_owned(),
            email: format!("{id}@example.com"),
            name: None,
            profile_url: None,
            photo_url: None,
            is_subscribed: false,
            stripe_id: None,
            secret: "tg_12345".to_owned(),
            free_credits: 0,
            charges_monthly: 0,
            num_self_hosted_instances: 0,
            created: OffsetDateTime::UNIX_EPOCH,
            updated: OffsetDateTime::UNIX_EPOCH,
            is_admin: false,
            budget_id: None,
            balance_id: None,
            rate_id: None,
            models: None,
            addresses: None,
            has_second_factor: false,
        }
    }
}
