//! Creating, rotating and revoking API keys.

use time::OffsetDateTime;

use super::{new_id, no_randomness};
use crate::auth::Secret;
use crate::db::Executor;
use crate::error::{Conflicting, Error, NOT_AUTHENTICATED, Result};
use crate::store::{ApiKey, api_keys, users};

/// How many ended keys an account keeps for each one that may work: pages show their names for a while.
const ENDED_FOR_EACH: i64 = 10;

/// The name of the key that is created with an account.
const DEFAULT_NAME: &str = "default";

/// Creates a key of an account that may have `most`. To be called in a transaction.
///
/// # Errors
/// 401 if the account has just been deleted, 409 if it already has so many keys.
pub fn create(
    db: &mut impl Executor,
    user_id: &str,
    name: &str,
    expires: Option<OffsetDateTime>,
    most: i64,
) -> Result<(ApiKey, Secret)> {
    lock_account(db, user_id)?;
    check_count(db, user_id, most)?;
    forget_ended(db, user_id, most)?;
    let secret = new_secret()?;
    Ok((insert(db, &new_id("key_")?, user_id, name, &secret, expires, false)?, secret))
}

/// Locks an account and one of its working keys. To be called in a transaction.
///
/// # Errors
/// 404 if there is no such key, 401 if the account has just been deleted.
pub fn lock(db: &mut impl Executor, user_id: &str, id: &str) -> Result<ApiKey> {
    lock_account(db, user_id)?;
    api_keys::lock_working(db, user_id, id)?.ok_or(Error::NotFound("Key not found"))
}

/// Locks an account. To be called in a transaction.
///
/// # Errors
/// 401 if it has just been deleted.
pub(super) fn lock_account(db: &mut impl Executor, user_id: &str) -> Result<()> {
    if users::lock(db, user_id)? { Ok(()) } else { Err(Error::Unauthorized(NOT_AUTHENTICATED)) }
}

fn check_count(db: &mut impl Executor, user_id: &str, most: i64) -> Result<()> {
    match api_keys::count(db, user_id)? >= most {
        true => {
            let limit = Conflicting { limit: Some(most), ..Conflicting::default() };
            Err(Error::Conflict("Too many keys: revoke one first", limit))
        }
        false => Ok(()),
    }
}

/// Whoever creates and revokes keys over and over does not fill the table.
fn forget_ended(db: &mut impl Executor, user_id: &str, most: i64) -> Result<()> {
    api_keys::delete_ended_beyond(db, user_id, most.saturating_mul(ENDED_FOR_EACH))?;
    Ok(())
}

/// Creates the default key, whose prefix the user object shows.
pub(super) fn insert_default(db: &mut impl Executor, user_id: &str, secret: &Secret) -> Result<()> {
    insert(db, &new_id("key_")?, user_id, DEFAULT_NAME, secret, None, true).map(drop)
}

pub(super) fn new_secret() -> Result<Secret> {
    Secret::new_api_key().map_err(no_randomness)
}

fn insert(
    db: &mut impl Executor,
    id: &str,
    user_id: &str,
    name: &str,
    secret: &Secret,
    expires: Option<OffsetDateTime>,
    is_default: bool,
) -> Result<ApiKey> {
    let (prefix, digest) = (secret.visible_prefix(), secret.digest());
    let new = api_keys::NewKey { id, user_id, name, prefix: &prefix, digest: &digest.0, expires, is_default };
    Ok(api_keys::insert(db, new)?)
}

/// Replaces a key of an account that may have `most` with a new one; the old one works for another `grace_seconds`. To be
/// called in a transaction. Of several concurrent rotations of one key, only one succeeds.
///
/// # Errors
/// 404 if there is no such working key, or it has already been rotated; 409 if the old key would be one too many while
/// it still works; 401 if the account has just been deleted.
pub fn rotate(
    db: &mut impl Executor,
    user_id: &str,
    id: &str,
    grace_seconds: i64,
    most: i64,
) -> Result<(ApiKey, Secret)> {
    lock_account(db, user_id)?;
    let old = api_keys::lock_current(db, user_id, id)?.ok_or(Error::NotFound("Key not found, or already rotated"))?;
    if grace_seconds > 0 {
        check_count(db, user_id, most)?;
    }
    forget_ended(db, user_id, most)?;
    let new = new_id("key_")?;
    api_keys::replace(db, id, &new, grace_seconds)?;
    let secret = new_secret()?;
    insert(db, &new, user_id, &old.name, &secret, old.expires, old.is_default)?;
    let key = api_keys::inherit(db, id, &new)?;
    if old.is_default {
        users::set_secret_prefix(db, user_id, &key.prefix)?;
    }
    Ok((key, secret))
}

/// Rotates the account's default key, or creates one if none works. To be called in a transaction.
///
/// # Errors
/// See [`Error`].
pub fn rotate_default(db: &mut impl Executor, user_id: &str) -> Result<Secret> {
    lock_account(db, user_id)?;
    if let Some(id) = api_keys::default_of(db, user_id)? {
        return rotate(db, user_id, &id, 0, i64::MAX).map(|(_, secret)| secret);
    }
    let secret = new_secret()?;
    insert_default(db, user_id, &secret)?;
    users::set_secret_prefix(db, user_id, &secret.visible_prefix())?;
    Ok(secret)
}

/// Revokes a key: its secret stops working. To be called in a transaction.
///
/// # Errors
/// 404 if there is no such working key, 401 if the account has just been deleted.
pub fn revoke(db: &mut impl Executor, user_id: &str, id: &str) -> Result<()> {
    lock_account(db, user_id)?;
    let was_default = api_keys::revoke(db, user_id, id)?.ok_or(Error::NotFound("Key not found"))?;
    if was_default {
        users::set_secret_prefix(db, user_id, "")?;
    }
    Ok(())
}
