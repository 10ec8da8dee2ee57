//! The caller's own account.

use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::{Answer, attempt, fields};
use crate::auth::password::Passwords;
use crate::auth::{Caller, Via};
use crate::call::Call;
use crate::error::{Error, NOT_AUTHENTICATED, Result};
use crate::http::{Response, cookie};
use crate::store::{sessions, users};

/// How long after signing in the account can be deleted without the password.
const FRESH: Duration = Duration::minutes(15);

/// `POST /api/get-user` and `/api/get-user/stripe-usage`: the user object, read from the database and not the cache.
pub(super) fn fresh_user(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let user = users::by_id(&mut call.app.db.session()?, &caller.user.id)?;
    Ok(Response::json(200, &user.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))?))
}

/// `GET /api/subscription-status`: 200 for everyone, signed in or not.
pub(super) fn subscription_status(_: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let body = match caller {
        None => json!({"is_subscribed": false, "authenticated": false}),
        Some(caller) => json!({
            "is_subscribed": caller.user.is_subscribed,
            "authenticated": true,
            "user_email": caller.user.email,
        }),
    };
    Ok(Response::json(200, &body))
}

/// `POST /api/change-password` with `current_password` and `new_password`: ends every other session.
pub(super) fn change_password(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    fields.require(&["current_password", "new_password"])?;
    let ended = replace_password(call, caller, fields.text("current_password")?, fields.text("new_password")?)?;
    Ok(Response::json(200, &json!({"message": "Password changed", "sessions_ended": ended})))
}

/// Changes the caller's password and ends all other sessions; returns how many.
pub(super) fn replace_password(call: &Call<'_>, caller: &Caller, current: &str, new: &str) -> Result<u64> {
    Passwords::validate(new)?;
    let old_hash = check_password(call, caller, current)?;
    let new_hash = call.app.passwords.hash(new)?;
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    if !users::replace_password_hash(&mut transaction, &caller.user.id, &old_hash, &new_hash)? {
        return Err(Error::Conflict("The password was changed in the meantime", json!({})));
    }
    let ended = sessions::delete_others(&mut transaction, &caller.user.id, caller.session_id().unwrap_or(""))?;
    transaction.commit()?;
    call.app.cache.revoke(&caller.user.id);
    Ok(ended)
}

/// `POST /api/delete-account`, with `password` unless the session is new. Documents, keys and sessions are deleted with
/// the account.
pub(super) fn delete(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    remove(call, caller, fields.optional_text("password")?)?;
    Ok(Response::json(200, &json!({"message": "Account deleted successfully"}))
        .header("Set-Cookie", cookie::clear(call.app.config.is_https())))
}

/// Deletes the caller's account.
pub(super) fn remove(call: &Call<'_>, caller: &Caller, password: Option<&str>) -> Result<()> {
    match password {
        Some(password) => drop(check_password(call, caller, password)?),
        None if is_fresh(caller) => {}
        None => return Err(Error::Forbidden("Enter your password to delete the account")),
    }
    users::delete(&mut call.app.db.session()?, &caller.user.id)?;
    call.app.cache.revoke(&caller.user.id);
    Ok(())
}

fn is_fresh(caller: &Caller) -> bool {
    match &caller.via {
        Via::Session { created, .. } => OffsetDateTime::now_utc() - *created < FRESH,
        Via::Key { .. } => false,
    }
}

/// Checks the caller's password and returns the stored hash.
fn check_password(call: &Call<'_>, caller: &Caller, password: &str) -> Result<String> {
    let attempt = attempt::start(call, &caller.user.email, true)?;
    let kept = users::password_hash(&mut call.app.db.session()?, &caller.user.id)?;
    let check = call.app.passwords.check(password, kept.as_deref())?;
    let Some(hash) = kept.filter(|_| check.is_correct) else {
        attempt.failed();
        return Err(Error::InvalidCredentials);
    };
    Ok(hash)
}
