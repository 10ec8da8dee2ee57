//! Operations on accounts, for the web server and the command line.

pub mod bounds;
pub mod budgets;
pub mod credits;
pub mod email;
pub mod keys;
pub mod limited_keys;
pub mod rates;
pub mod recovery;
pub mod scopes;
pub mod second_factor;
pub mod spend;
pub mod webhooks;

use crate::auth::{Secret, secret};
use crate::db::{Executor, Transaction};
use crate::error::{Error, Result};
use crate::store::{User, users};

/// Length of an account's id, and of other ids without their prefix.
const ID_LENGTH: usize = 16;

/// Creates an account with its default key. Only in the user object returned here, `secret` is the whole secret.
///
/// # Errors
/// [`db::Error::Unique`](crate::db::Error::Unique) of [`users::EMAIL_KEY`] if the address is taken.
pub fn create(db: &mut impl Executor, email: &str, password_hash: Option<&str>) -> Result<User> {
    let secret = keys::new_secret()?;
    let mut user = users::insert(db, &random(ID_LENGTH)?, email, password_hash, &secret.visible_prefix())?;
    keys::insert_default(db, &user.id, &secret)?;
    secret.reveal().clone_into(&mut user.secret);
    Ok(user)
}

/// The account with this e-mail address or id.
///
/// # Errors
/// Those of the database.
pub fn find(db: &mut impl Executor, name: &str) -> Result<Option<User>> {
    Ok(match name.contains('@') {
        true => users::by_email(db, &email::normalise(name))?.map(|(user, _)| user),
        false => users::by_id(db, name)?,
    })
}

/// Grants or revokes an account's administrator rights.
///
/// # Errors
/// 400 for the last administrator, who keeps them; those of the database.
pub fn set_admin(db: &mut Transaction<'_>, user: &User, is_admin: bool) -> Result<()> {
    if !is_admin && user.is_admin && !users::has_other_admin(db, &user.id)? {
        return Err(Error::bad("The last administrator cannot be demoted"));
    }
    users::set_admin(db, &user.id, is_admin)?;
    Ok(())
}

/// A random id such as `key_Ab3dE…`, with about 95 random bits.
///
/// # Errors
/// The operating system provides no randomness.
pub fn new_id(prefix: &str) -> Result<String> {
    Ok(format!("{prefix}{}", random(ID_LENGTH)?))
}

/// Random letters and digits.
///
/// # Errors
/// The operating system provides no randomness.
pub fn random(length: usize) -> Result<String> {
    secret::random_text(length).map_err(no_randomness)
}

/// A token for a new session.
///
/// # Errors
/// The operating system provides no randomness.
pub fn new_session_token() -> Result<Secret> {
    Secret::new_session().map_err(no_randomness)
}

fn no_randomness(e: getrandom::Error) -> Error {
    Error::Internal(format!("no randomness: {e}"))
}
