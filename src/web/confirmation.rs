//! Proof that it is the owner of an account who asks for what could not be undone: the password, and a code of the second
//! factor.

use time::{Duration, OffsetDateTime};

use super::attempt;
use crate::accounts::second_factor;
use crate::auth::{Caller, Via};
use crate::call::Call;
use crate::db::Transaction;
use crate::error::{Error, Result};
use crate::store::users;

/// For how long after signing in the password is not asked for again.
const FRESH: Duration = Duration::minutes(15);

/// Checks the caller's password; without one, the session must be new.
///
/// # Errors
/// 400 for a wrong password, 429 after too many, and 403, with `without`, for an older session without one.
pub(super) fn by_password(
    call: &Call<'_>,
    caller: &Caller,
    password: Option<&str>,
    without: &'static str,
) -> Result<()> {
    match password {
        Some(password) => check_password(call, caller, password).map(drop),
        None if is_fresh(caller) => Ok(()),
        None => Err(Error::Forbidden(without)),
    }
}

fn is_fresh(caller: &Caller) -> bool {
    match &caller.via {
        Via::Session { created, .. } => OffsetDateTime::now_utc() - *created < FRESH,
        Via::Key { .. } => false,
    }
}

/// Checks the caller's password and returns the stored hash.
///
/// # Errors
/// 400 for a wrong one, 429 after too many.
pub(super) fn check_password(call: &Call<'_>, caller: &Caller, password: &str) -> Result<String> {
    let attempt = attempt::confirm(call, &caller.user.email)?;
    let kept = users::password_hash(&mut call.app.db.session()?, &caller.user.id)?;
    let check = call.app.passwords.check(password, kept.as_deref())?;
    let Some(hash) = kept.filter(|_| check.is_correct) else {
        attempt.failed();
        return Err(Error::InvalidCredentials);
    };
    Ok(hash)
}

/// Does what an account with a second factor needs a code for, in the transaction that uses the code up. The account is
/// locked, so that it may also be deleted.
///
/// # Errors
/// 401 without a code and for a wrong one, 429 after too many; those of `work`.
pub(super) fn with_code<T>(
    call: &Call<'_>,
    caller: &Caller,
    code: Option<&str>,
    work: impl FnOnce(&mut Transaction<'_>, &Caller) -> Result<T>,
) -> Result<T> {
    let attempt = code.map(|_| attempt::code(call, &caller.user.email)).transpose()?;
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    users::lock_to_delete(&mut transaction, &caller.user.id)?;
    let checked = second_factor::check(&mut transaction, &call.app.seeds, &caller.user.id, code);
    if let (Err(Error::InvalidCode), Some(attempt)) = (&checked, attempt) {
        attempt.failed();
    }
    checked?;
    let done = work(&mut transaction, caller)?;
    transaction.commit()?;
    Ok(done)
}
