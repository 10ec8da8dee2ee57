//! Table `account_links`: links that let somebody do something once.

use time::OffsetDateTime;

use super::row::{Record, record};
use crate::db::{Error, Executor};

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Setting a password.
    Password,
    /// Making an address that of the account.
    Email,
    /// Showing that the account's owner gets mails at its address.
    Verify,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Purpose::Password => "password",
            Purpose::Email => "email",
            Purpose::Verify => "verify",
        }
    }
}

/// The most links of one purpose that an account has; the oldest make room.
const MOST: i64 = 10;

record! {
    /// A link that can be used.
    #[derive(Clone, Debug)]
    pub struct Link {
        /// The account.
        pub user_id: String = "l.user_id",
        /// The address that it was sent to; empty if an administrator has it.
        pub email: String = "l.email",
        /// What it is for, by its name.
        pub purpose: String = "l.purpose",
    }
}

impl Link {
    /// Whether it is for this.
    pub fn is_for(&self, purpose: Purpose) -> bool {
        self.purpose == purpose.name()
    }
}

/// Adds a link that can be used until `expires`. Returns false if the account is gone.
///
/// # Errors
/// See [`Error`].
pub fn insert(
    db: &mut impl Executor,
    digest: &[u8],
    user_id: &str,
    purpose: Purpose,
    email: &str,
    expires: OffsetDateTime,
) -> Result<bool, Error> {
    // The lock keeps the account from being deleted meanwhile, without which the foreign key would fail.
    const SQL: &str = "INSERT INTO account_links (digest, user_id, purpose, email, expires)
        SELECT $1, u.id, $3, $4, $5 FROM (SELECT id FROM users WHERE id = $2 FOR KEY SHARE) AS u";
    const BOUND: &str = "DELETE FROM account_links WHERE digest IN (
        SELECT digest FROM account_links WHERE digest IN (
            SELECT digest FROM account_links WHERE user_id = $1 AND purpose = $2 ORDER BY created DESC, digest OFFSET $3)
        ORDER BY digest FOR UPDATE)";
    let is_inserted = db.execute(SQL, &[&digest, &user_id, &purpose.name(), &email, &expires])? == 1;
    db.execute(BOUND, &[&user_id, &purpose.name(), &MOST])?;
    Ok(is_inserted)
}

/// The link with this digest, if it can be used.
///
/// # Errors
/// See [`Error`].
pub fn by_digest(db: &mut impl Executor, digest: &[u8]) -> Result<Option<Link>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM account_links l WHERE l.digest = $1 AND l.expires > now()");
    db.query_opt(SQL, &[&digest])?.as_ref().map(Link::from_row).transpose()
}

/// Uses a link: of all who try, one gets it. To be called in a transaction that has locked the account.
///
/// # Errors
/// See [`Error`].
pub fn consume(db: &mut impl Executor, digest: &[u8]) -> Result<Option<Link>, Error> {
    const SQL: &str = concat!(
        "DELETE FROM account_links l WHERE l.digest = $1 AND l.expires > clock_timestamp() RETURNING ",
        columns!()
    );
    db.query_opt(SQL, &[&digest])?.as_ref().map(Link::from_row).transpose()
}

/// Ends all of an account's links but those that only verify an address. To be called in a transaction that has locked the
/// account.
///
/// # Errors
/// See [`Error`].
pub fn end(db: &mut impl Executor, user_id: &str) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM account_links WHERE digest IN (
        SELECT digest FROM account_links WHERE user_id = $1 AND purpose <> 'verify' ORDER BY digest FOR UPDATE)";
    db.execute(SQL, &[&user_id])
}

/// Deletes links that can no longer be used, and returns how many.
///
/// # Errors
/// See [`Error`].
pub fn delete_expired(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM account_links WHERE digest IN (
        SELECT digest FROM account_links WHERE expires < now() FOR UPDATE SKIP LOCKED)";
    db.execute(SQL, &[])
}
