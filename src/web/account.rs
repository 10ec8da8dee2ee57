//! The caller's own account.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Answer, Message, actor, confirmation, fields};
use crate::accounts::new_session_token;
use crate::accounts::recovery::{self, Ended};
use crate::auth::password::Passwords;
use crate::auth::{Caller, Secret};
use crate::call::Call;
use crate::error::{Conflicting, Error, NOT_AUTHENTICATED, Result};
use crate::http::request_fields::request_fields;
use crate::http::{Response, cookie};
use crate::memory_budget;
use crate::operation::Group::Accounts;
use crate::operation::Handler::{Authenticated, Optional};
use crate::operation::{Operation, get, post, summary};
use crate::store::{User, sessions, users};

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    const TOO_MANY: (u16, &str) = (429, "Too many attempts; see Retry-After");
    vec![
        post("/api/get-user", Authenticated(fresh_user))
            .described(summary(Accounts, "The caller, read from the database").reply::<User>()),
        post("/api/get-user/stripe-usage", Authenticated(fresh_user))
            .described(summary(Accounts, "Same as /api/get-user").reply::<User>()),
        get("/api/subscription-status", Optional(subscription_status))
            .described(summary(Accounts, "Whether the caller has a subscription").reply::<Subscription<'_>>()),
        post("/api/change-password", Authenticated(change_password)).described(
            summary(Accounts, "Change the password and end all other sessions")
                .fields::<ChangePassword<'_>>()
                .reply::<PasswordChanged>()
                .status(409, "The password was changed in the meantime")
                .status(TOO_MANY.0, TOO_MANY.1),
        ),
        post("/api/delete-account", Authenticated(delete)).described(
            summary(Accounts, "Delete the account with its documents, keys and sessions")
                .fields::<DeleteAccount<'_>>()
                .reply::<Message>()
                .status(
                    401,
                    "A code of the account's second factor is wanted, or is wrong; or there is no valid credential",
                )
                .status(TOO_MANY.0, TOO_MANY.1),
        ),
    ]
}

request_fields! {
    /// What a change of password takes.
    struct ChangePassword<'f> {
        current_password: &'f str,
        /// 8 to 1,024 characters.
        new_password: &'f str,
        /// Whether all keys are revoked too.
        revoke_keys: Option<bool>,
    }
}

request_fields! {
    /// What the deletion of an account takes.
    struct DeleteAccount<'f> {
        /// Required unless the session is younger than 15 minutes.
        password: Option<&'f str>,
        /// A code of the account's second factor, required if it has one.
        totp: Option<&'f str>,
    }
}

#[derive(Serialize, JsonSchema)]
struct Subscription<'u> {
    is_subscribed: bool,
    /// Whether there is a caller.
    authenticated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_email: Option<&'u str>,
}

#[derive(Serialize, JsonSchema)]
struct PasswordChanged {
    message: &'static str,
    sessions_ended: u64,
    keys_revoked: u64,
}

/// `POST /api/get-user` and `/api/get-user/stripe-usage`: the user object, read from the database and not the cache.
fn fresh_user(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let user = users::by_id(&mut call.app.db.session()?, &caller.user.id)?;
    Ok(Response::json(200, &user.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))?))
}

/// `GET /api/subscription-status`: 200 for everyone, signed in or not.
fn subscription_status(_: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let body = Subscription {
        is_subscribed: caller.is_some_and(|caller| caller.user.is_subscribed),
        authenticated: caller.is_some(),
        user_email: caller.map(|caller| caller.user.email.as_str()),
    };
    Ok(Response::json(200, &body))
}

/// `POST /api/change-password` with `current_password` and `new_password`: ends every other session.
fn change_password(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let ChangePassword { current_password, new_password, revoke_keys } = ChangePassword::read(&fields)?;
    let (current, new) = (current_password.to_owned(), new_password.to_owned());
    drop(fields);
    memory_budget::shrink_to(current.len() + new.len());
    let (ended, token) = replace_password(call, caller, &current, &new, revoke_keys.unwrap_or(false))?;
    let Ended { sessions: sessions_ended, keys: keys_revoked } = ended;
    let changed = PasswordChanged { message: "Password changed", sessions_ended, keys_revoked };
    let reply = Response::json(200, &changed);
    Ok(with_new_token(call, reply, token.as_ref()))
}

/// Sets the session's cookie to the token that it was given when the password was changed.
pub(super) fn with_new_token(call: &Call<'_>, reply: Response, token: Option<&Secret>) -> Response {
    match token {
        Some(token) => cookie::set_session(reply, token.reveal(), call.app.config.is_https()),
        None => reply,
    }
}

/// Changes the caller's password and ends all other sessions, and all keys if that is asked for. The caller's session, if it is one, gets
/// a new token: whoever knows the old one, perhaps a reason for the change, is signed out.
pub(super) fn replace_password(
    call: &Call<'_>,
    caller: &Caller,
    current: &str,
    new: &str,
    ends_keys: bool,
) -> Result<(Ended, Option<Secret>)> {
    Passwords::validate(new, &caller.user.email)?;
    let old_hash = confirmation::check_password(call, caller, current)?;
    let new_hash = call.app.passwords.hash(new)?;
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    if !users::replace_password_hash(&mut transaction, &caller.user.id, &old_hash, &new_hash)? {
        return Err(Error::Conflict("The password was changed in the meantime", Conflicting::default()));
    }
    let address = call.client().to_string();
    let change = recovery::Change { actor: actor(caller, &address), mail: &call.app.mail };
    let (kept, action) = (caller.session_id(), "change password");
    let ended = recovery::after_new_password(&mut transaction, &caller.user, kept, ends_keys, &change, action)?;
    let token = caller.session_id().map(|id| Ok::<_, Error>((id, new_session_token()?))).transpose()?;
    if let Some((id, token)) = &token {
        sessions::replace_token(&mut transaction, &caller.user.id, id, &token.digest().0)?;
    }
    transaction.commit()?;
    call.app.cache.revoke(&caller.user.id);
    Ok((ended, token.map(|(_, token)| token)))
}

/// `POST /api/delete-account`, with `password` unless the session is new. Documents, keys and sessions are deleted with
/// the account.
fn delete(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let DeleteAccount { password, totp } = DeleteAccount::read(&fields)?;
    let (password, totp) = (password.map(str::to_owned), totp.map(str::to_owned));
    drop(fields);
    memory_budget::shrink_to(password.iter().chain(&totp).map(String::len).sum());
    remove(call, caller, password.as_deref(), totp.as_deref())?;
    let reply = Response::json(200, &Message { message: "Account deleted successfully" });
    Ok(cookie::clear_session(reply, call.app.config.is_https()))
}

/// Deletes the caller's account.
pub(super) fn remove(call: &Call<'_>, caller: &Caller, password: Option<&str>, code: Option<&str>) -> Result<()> {
    confirmation::by_password(call, caller, password, "Enter your password to delete the account")?;
    confirmation::with_code(call, caller, code, |db, caller| Ok(users::delete(db, &caller.user.id)?))?;
    call.app.cache.revoke(&caller.user.id);
    Ok(())
}
