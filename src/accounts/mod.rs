//! What is done to accounts, by the web server and by the operator alike.

pub mod email;
pub mod keys;

use crate::auth::{Secret, secret};
use crate::db::Executor;
use crate::error::{Error, Result};
use crate::store::{User, users};

/// Characters of an account's id.
const ID_LENGTH: usize = 16;

/// Makes an account with its default key, whose secret stands whole in the user object this once.
///
/// # Errors
/// [`db::Error::Unique`](crate::db::Error::Unique) of [`users::EMAIL_KEY`] when the address is taken.
pub fn create(db: &mut impl Executor, email: &str, password_hash: Option<&str>) -> Result<User> {
    let secret = keys::new_secret()?;
    let mut user = users::insert(db, &random(ID_LENGTH)?, email, password_hash, &secret.visible_prefix())?;
    keys::insert_default(db, &user.id, &secret)?;
    secret.reveal().clone_into(&mut user.secret);
    Ok(user)
}

/// A random id such as `key_Ab3dE…`, of some 95 bits.
///
/// # Errors
/// The operating system gives no randomness.
pub fn new_id(prefix: &str) -> Result<String> {
    Ok(format!("{prefix}{}", random(ID_LENGTH)?))
}

/// Random letters and digits.
///
/// # Errors
/// The operating system gives no randomness.
pub fn random(length: usize) -> Result<String> {
    secret::random_text(length).map_err(no_randomness)
}

/// A new session's token.
///
/// # Errors
/// The operating system gives no randomness.
pub fn new_session_token() -> Result<Secret> {
    Secret::new_session().map_err(no_randomness)
}

fn no_randomness(e: getrandom::Error) -> Error {
    Error::Internal(format!("no randomness: {e}"))
}
