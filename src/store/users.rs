//! Table `users`.

use postgres::Row;
use serde::Serialize;
use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// An account. Serialised, it is the user object of the wire: these keys in this order.
#[derive(Clone, Serialize)]
pub struct User {
    /// Sixteen letters and digits, or what an older system gave.
    pub id: String,
    /// Trimmed and lower-cased.
    pub email: String,
    /// What the person is called.
    pub name: Option<String>,
    /// A page about the person.
    pub profile_url: Option<String>,
    /// A picture of the person.
    pub photo_url: Option<String>,
    /// Whether a subscription is active.
    pub is_subscribed: bool,
    /// The customer at Stripe.
    pub stripe_id: Option<String>,
    /// The default key's visible prefix; the whole secret only in the reply that made it.
    pub secret: String,
    /// Credits left.
    pub free_credits: i32,
    /// Charges since the month began (UTC), in micro-dollars.
    pub charges_monthly: i64,
    /// Instances the person runs.
    pub num_self_hosted_instances: i32,
    /// When the account was made.
    #[serde(serialize_with = "super::timestamp::serialize_naive")]
    pub created: OffsetDateTime,
    /// When it was last changed.
    #[serde(serialize_with = "super::timestamp::serialize_naive")]
    pub updated: OffsetDateTime,
    /// Whether the person may look after other accounts. Not part of the user object.
    #[serde(skip)]
    pub is_admin: bool,
}

/// Leaves the secret out, which is whole right after it was made.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("id", &self.id).field("email", &self.email).finish_non_exhaustive()
    }
}

/// The columns of a [`User`], of the table named `u`; [`from_row`] reads them from the start of a row.
macro_rules! columns {
    () => {
        "u.id, u.email, u.name, u.profile_url, u.photo_url, u.is_subscribed, u.stripe_id, u.secret, u.free_credits, \
         CASE WHEN u.charges_month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date \
              THEN u.charges_monthly ELSE 0 END, u.num_self_hosted_instances, u.created, u.updated, u.is_admin"
    };
}
pub(super) use columns;

/// How many columns [`columns`] names: what follows them in a row starts here.
pub(super) const COLUMNS: usize = 14;

pub(super) fn from_row(row: &Row) -> Result<User, Error> {
    Ok(User {
        id: row.try_get(0)?,
        email: row.try_get(1)?,
        name: row.try_get(2)?,
        profile_url: row.try_get(3)?,
        photo_url: row.try_get(4)?,
        is_subscribed: row.try_get(5)?,
        stripe_id: row.try_get(6)?,
        secret: row.try_get(7)?,
        free_credits: row.try_get(8)?,
        charges_monthly: row.try_get(9)?,
        num_self_hosted_instances: row.try_get(10)?,
        created: row.try_get(11)?,
        updated: row.try_get(12)?,
        is_admin: row.try_get(13)?,
    })
}

/// Makes an account.
///
/// # Errors
/// [`Error::Unique`] of [`EMAIL_KEY`] when the address is taken.
pub fn insert(
    db: &mut impl Executor,
    id: &str,
    email: &str,
    password_hash: Option<&str>,
    secret_prefix: &str,
) -> Result<User, Error> {
    // A database of the older system has a unique index of its own on the address, whose name may come first.
    const SQL: &str = concat!(
        "INSERT INTO users AS u (id, email, password_hash, secret) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (email) DO NOTHING RETURNING ",
        columns!()
    );
    let row = db.query_opt(SQL, &[&id, &email, &password_hash, &secret_prefix])?;
    from_row(&row.ok_or_else(|| Error::Unique(EMAIL_KEY.to_owned()))?)
}

/// The constraint that keeps an address from being used twice.
pub const EMAIL_KEY: &str = "users_email_unique";

/// The account with this id.
///
/// # Errors
/// See [`Error`].
pub fn by_id(db: &mut impl Executor, id: &str) -> Result<Option<User>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM users u WHERE u.id = $1");
    db.query_opt(SQL, &[&id])?.as_ref().map(from_row).transpose()
}

/// The account with this normalised address, and its password's hash if it has one.
///
/// # Errors
/// See [`Error`].
pub fn by_email(db: &mut impl Executor, email: &str) -> Result<Option<(User, Option<String>)>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), ", u.password_hash FROM users u WHERE u.email = $1");
    let row = db.query_opt(SQL, &[&email])?;
    row.map(|row| Ok((from_row(&row)?, row.try_get(COLUMNS)?))).transpose()
}

/// The hash of this account's password, if it has one.
///
/// # Errors
/// See [`Error`].
pub fn password_hash(db: &mut impl Executor, id: &str) -> Result<Option<String>, Error> {
    let row = db.query_opt("SELECT password_hash FROM users WHERE id = $1", &[&id])?;
    row.map_or(Ok(None), |row| Ok(row.try_get(0)?))
}

/// Locks the account until the transaction ends, before any of its keys: whoever wants both takes them in this order.
/// Whether it exists.
///
/// # Errors
/// See [`Error`].
pub fn lock(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    Ok(db.query_opt("SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE", &[&id])?.is_some())
}

/// As [`lock`], if the account still has this hash.
///
/// # Errors
/// See [`Error`].
pub fn lock_with_hash(db: &mut impl Executor, id: &str, hash: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT 1 FROM users WHERE id = $1 AND password_hash = $2 FOR NO KEY UPDATE";
    Ok(db.query_opt(SQL, &[&id, &hash])?.is_some())
}

/// Gives the account another hash, if it still has the `old` one: of two changes at once, one is made. Whether it was.
///
/// # Errors
/// See [`Error`].
pub fn replace_password_hash(db: &mut impl Executor, id: &str, old: &str, new: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE users SET password_hash = $3, updated = now() WHERE id = $1 AND password_hash = $2";
    Ok(db.execute(SQL, &[&id, &old, &new])? == 1)
}

/// Names the account's default key by its visible prefix.
///
/// # Errors
/// See [`Error`].
pub fn set_secret_prefix(db: &mut impl Executor, id: &str, prefix: &str) -> Result<(), Error> {
    db.execute("UPDATE users SET secret = $2, updated = now() WHERE id = $1", &[&id, &prefix]).map(drop)
}

/// Gives the account another name. Whether it exists.
///
/// # Errors
/// See [`Error`].
pub fn set_name(db: &mut impl Executor, id: &str, name: &str) -> Result<bool, Error> {
    Ok(db.execute("UPDATE users SET name = $2, updated = now() WHERE id = $1", &[&id, &name])? == 1)
}

/// Keeps the account out, or lets it in again: none of its credentials is valid meanwhile. Whether it exists.
///
/// # Errors
/// See [`Error`].
pub fn set_suspended(db: &mut impl Executor, id: &str, suspended: bool) -> Result<bool, Error> {
    const SQL: &str = "UPDATE users SET suspended = CASE WHEN $2 THEN coalesce(suspended, now()) END, updated = now() \
        WHERE id = $1";
    Ok(db.execute(SQL, &[&id, &suspended])? == 1)
}

/// Lets the account look after others, or no longer. Whether it exists.
///
/// # Errors
/// See [`Error`].
pub fn set_admin(db: &mut impl Executor, id: &str, is_admin: bool) -> Result<bool, Error> {
    Ok(db.execute("UPDATE users SET is_admin = $2, updated = now() WHERE id = $1", &[&id, &is_admin])? == 1)
}

/// Documents of one account that are counted: a million of them would take their time.
pub const MOST_COUNTED: i64 = 1000;

/// What only those who look after an account see of it.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Since when it is kept out.
    pub suspended: Option<OffsetDateTime>,
    /// How many documents it has; one more than [`MOST_COUNTED`] for any number above that.
    pub documents: i64,
}

/// How an account stands.
///
/// # Errors
/// See [`Error`].
pub fn standing(db: &mut impl Executor, id: &str) -> Result<Standing, Error> {
    const SQL: &str = "SELECT suspended,
            (SELECT count(*) FROM (SELECT FROM documents WHERE user_id = $1 LIMIT $2) AS counted)
        FROM users WHERE id = $1";
    let row = db.query_opt(SQL, &[&id, &(MOST_COUNTED + 1)])?;
    row.map_or(Ok(Standing::default()), |row| Ok(Standing { suspended: row.try_get(0)?, documents: row.try_get(1)? }))
}

/// Whether the account is kept out.
///
/// # Errors
/// See [`Error`].
pub fn is_suspended(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    let row = db.query_opt("SELECT suspended IS NOT NULL FROM users WHERE id = $1", &[&id])?;
    row.map_or(Ok(false), |row| Ok(row.try_get(0)?))
}

/// Deletes the account and all that belongs to it. Whether it existed.
///
/// # Errors
/// [`Error::ForeignKey`] when a table unknown to us holds rows of it.
pub fn delete(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    Ok(db.execute("DELETE FROM users WHERE id = $1", &[&id])? == 1)
}

/// The newest accounts.
///
/// # Errors
/// See [`Error`].
pub fn newest(db: &mut impl Executor, limit: i64) -> Result<Vec<User>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM users u ORDER BY u.created DESC, u.id DESC LIMIT $1");
    db.query(SQL, &[&limit])?.iter().map(from_row).collect()
}
