//! Getting in again, and changing the password or the e-mail address: by links in mails, or with a key.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::keys::in_transaction;
use super::{Answer, Message, actor, confirmation, fields};
use crate::accounts::email;
use crate::accounts::recovery::{self, Change, Confirmed, Ended};
use crate::auth::password::Passwords;
use crate::auth::{Caller, Kind as CredentialKind, Permission};
use crate::call::Call;
use crate::error::{Error, NOT_AUTHENTICATED, Result};
use crate::http::Response;
use crate::http::request_fields::request_fields;
use crate::mail::Kind;
use crate::memory_budget;
use crate::operation::Group::Accounts;
use crate::operation::Handler::{Authenticated, Public};
use crate::operation::{Operation, post, summary};
use crate::store::account_links::Purpose;
use crate::store::{User, users};

/// What whoever asks for a link is told, whether or not there is an account.
pub(super) const ON_ITS_WAY: &str = "If there is an account with this address, an e-mail with a link is on its way";

const TOO_MANY: (u16, &str) = (429, "Too many attempts; see Retry-After");
const NO_MAIL: (u16, &str) = (503, "E-mail is not set up here, or the server is too busy");

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        post("/api/forgot-password", Public(forgot)).described(
            summary(Accounts, "Send a link for a new password to the owner of an account")
                .fields::<ForgotPassword<'_>>()
                .reply::<Message>()
                .status(TOO_MANY.0, TOO_MANY.1)
                .status(NO_MAIL.0, NO_MAIL.1)
                .status(403, CROSS_SITE),
        ),
        post("/api/reset-password", Public(reset)).described(
            summary(Accounts, "Choose a new password by such a link, and end all sessions")
                .fields::<ResetPassword<'_>>()
                .reply::<PasswordSet>()
                .status(403, CROSS_SITE),
        ),
        post("/api/set-password", Public(set_first)).described(
            summary(Accounts, "Choose the first password of an account that has none, with one of its keys")
                .fields::<SetPassword<'_>>()
                .reply::<Message>()
                .status(401, "There is no valid secret")
                .status(403, "The key may not be used for this, or another site's page sent it")
                .status(409, "The account has a password"),
        ),
        post("/api/change-email", Authenticated(change_email)).described(
            summary(Accounts, "Send a link to a new e-mail address, which makes it that of the account")
                .fields::<ChangeEmail<'_>>()
                .reply::<Message>()
                .status(
                    401,
                    "A code of the account's second factor is wanted, or is wrong; or there is no valid credential",
                )
                .status(TOO_MANY.0, TOO_MANY.1)
                .status(NO_MAIL.0, NO_MAIL.1),
        ),
        post("/api/confirm-email", Public(confirm_email)).described(
            summary(Accounts, "Confirm an e-mail address by a link")
                .fields::<ConfirmEmail<'_>>()
                .reply::<Message>()
                .status(403, CROSS_SITE)
                .status(409, "Another account has the address"),
        ),
        post("/api/verify-email", Authenticated(verify_email)).described(
            summary(Accounts, "Send another link that confirms the account's e-mail address")
                .reply::<Message>()
                .status(TOO_MANY.0, TOO_MANY.1)
                .status(NO_MAIL.0, NO_MAIL.1),
        ),
    ]
}

const CROSS_SITE: &str = "Sent by another site's page";

request_fields! {
    /// What whoever has forgotten a password sends.
    struct ForgotPassword<'f> {
        /// The account's e-mail address.
        email: &'f str,
    }
}

request_fields! {
    /// What a new password takes.
    struct ResetPassword<'f> {
        /// From the link: what follows `token=`.
        token: &'f str,
        /// 8 to 1,024 characters.
        password: &'f str,
        /// Whether all keys are revoked too.
        revoke_keys: Option<bool>,
    }
}

request_fields! {
    /// What a first password takes.
    struct SetPassword<'f> {
        /// The secret of a key of the account, unless a header has it.
        secret: Option<&'f str>,
        /// 8 to 1,024 characters.
        password: &'f str,
    }
}

request_fields! {
    /// What a change of the e-mail address takes.
    struct ChangeEmail<'f> {
        /// The new address.
        email: &'f str,
        /// The account's password.
        password: &'f str,
        /// A code of the account's second factor, required if it has one.
        totp: Option<&'f str>,
    }
}

request_fields! {
    /// What the confirmation of an e-mail address takes.
    struct ConfirmEmail<'f> {
        /// From the link: what follows `token=`.
        token: &'f str,
    }
}

#[derive(Serialize, JsonSchema)]
struct PasswordSet {
    message: &'static str,
    sessions_ended: u64,
    keys_revoked: u64,
}

/// `POST /api/forgot-password`.
fn forgot(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let fields = fields(call)?;
    ask_for_reset(call, ForgotPassword::read(&fields)?.email)?;
    Ok(Response::json(200, &Message { message: ON_ITS_WAY }))
}

/// Queues a mail to whoever has the address. Whether anybody has it is found out when it is sent: the same is done here for
/// every address, in the same time.
pub(super) fn ask_for_reset(call: &Call<'_>, address: &str) -> Result<()> {
    call.app.mail.check()?;
    let address = email::normalise(address);
    call.app.mail_requests.ask(&address, call.client()).map_err(Error::TooManyAttempts)?;
    // What is no address gets no mail, whoever has it.
    if email::is_valid(&address) {
        call.app.mail.queue_to(&mut call.app.db.session()?, Kind::Reset, "", &address, &json!({}))?;
    }
    Ok(())
}

/// `POST /api/reset-password`.
fn reset(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let fields = fields(call)?;
    let ResetPassword { token, password, revoke_keys } = ResetPassword::read(&fields)?;
    let (token, password, ends_keys) = (token.to_owned(), password.to_owned(), revoke_keys.unwrap_or(false));
    drop(fields);
    memory_budget::shrink_to(token.len() + password.len());
    let (_, ended) = reset_for(call, &token, &password, ends_keys)?;
    let set = PasswordSet { message: "Password changed", sessions_ended: ended.sessions, keys_revoked: ended.keys };
    Ok(Response::json(200, &set))
}

/// Sets a password by a link. Nobody is signed in by that.
pub(super) fn reset_for(call: &Call<'_>, token: &str, password: &str, ends_keys: bool) -> Result<(User, Ended)> {
    // Before anything is hashed: who has no link costs little.
    let (user, _) = recovery::account_of_link(&mut call.app.db.session()?, token, Purpose::Password)?;
    Passwords::validate(password, &user.email)?;
    let hash = call.app.passwords.hash(password)?;
    let address = call.client().to_string();
    let done =
        in_transaction(call, |db| recovery::reset(db, &user.id, token, &hash, ends_keys, (&address, &call.app.mail)))?;
    call.app.cache.revoke(&user.id);
    Ok(done)
}

/// `POST /api/set-password`.
fn set_first(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let fields = fields(call)?;
    let SetPassword { secret, password } = SetPassword::read(&fields)?;
    let (secret, password) = (secret.map(str::to_owned), password.to_owned());
    drop(fields);
    memory_budget::shrink_to(secret.as_ref().map_or(0, String::len) + password.len());
    set_first_for(call, secret.as_deref(), &password)?;
    Ok(Response::json(200, &Message { message: "Password set. You can log in with it now" }))
}

/// Sets the first password of the account whose key this is, or that of a header.
pub(super) fn set_first_for(call: &mut Call<'_>, secret: Option<&str>, password: &str) -> Result<()> {
    let caller = match secret.map(str::trim).filter(|secret| !secret.is_empty()) {
        Some(secret) => call.app.resolver.resolve(CredentialKind::Key, secret)?,
        None => call.authenticate()?,
    };
    let caller = caller.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))?;
    caller.check_address(call.client())?;
    if caller.scope.as_ref().is_some_and(|scope| !scope.permits(Permission::Account)) {
        return Err(Error::Forbidden("This key may not be used for this"));
    }
    Passwords::validate(password, &caller.user.email)?;
    if users::password_hash(&mut call.app.db.session()?, &caller.user.id)?.is_some() {
        return Err(recovery::has_password());
    }
    let hash = call.app.passwords.hash(password)?;
    let address = call.client().to_string();
    let change = Change { actor: actor(&caller, &address), mail: &call.app.mail };
    in_transaction(call, |db| recovery::set_first(db, &caller.user, &hash, &change))?;
    call.app.cache.revoke(&caller.user.id);
    Ok(())
}

/// `POST /api/change-email`.
fn change_email(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let ChangeEmail { email, password, totp } = ChangeEmail::read(&fields)?;
    let (email, password, totp) = (email.to_owned(), password.to_owned(), totp.map(str::to_owned));
    drop(fields);
    memory_budget::shrink_to(email.len() + password.len() + totp.as_ref().map_or(0, String::len));
    ask_for_email(call, caller, &email, &password, totp.as_deref())?;
    Ok(Response::json(200, &Message { message: "An e-mail with a link is on its way to the new address" }))
}

/// Queues a mail to an address that is to be the account's: who has that gets in by it, so that a second factor is asked for
/// too. Whether another account has the address is told nobody but its owner.
pub(super) fn ask_for_email(
    call: &Call<'_>,
    caller: &Caller,
    address: &str,
    password: &str,
    code: Option<&str>,
) -> Result<()> {
    call.app.mail.check()?;
    let address = email::normalise(address);
    if !email::is_valid(&address) {
        return Err(Error::InvalidEmail);
    }
    if address == caller.user.email {
        return Err(Error::bad("This is your e-mail address already"));
    }
    confirmation::check_password(call, caller, password)?;
    confirmation::with_code(call, caller, code, |db, caller| {
        call.app.mail_requests.ask(&caller.user.id, call.client()).map_err(Error::TooManyAttempts)?;
        call.app.mail.queue_to(db, Kind::ConfirmEmail, &caller.user.id, &address, &json!({})).map(drop)
    })
}

/// `POST /api/confirm-email`.
fn confirm_email(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let fields = fields(call)?;
    let message = match confirm_for(call, ConfirmEmail::read(&fields)?.token)? {
        Confirmed::Own => "E-mail address confirmed",
        Confirmed::New => "E-mail address changed",
    };
    Ok(Response::json(200, &Message { message }))
}

/// Confirms an address by a link.
pub(super) fn confirm_for(call: &Call<'_>, token: &str) -> Result<Confirmed> {
    let address = call.client().to_string();
    let (user, confirmed) = in_transaction(call, |db| recovery::confirm_email(db, token, &address, &call.app.mail))?;
    call.app.cache.revoke(&user.id);
    Ok(confirmed)
}

/// `POST /api/verify-email`.
fn verify_email(call: &mut Call<'_>, caller: &Caller) -> Answer {
    ask_for_verification(call, caller)?;
    Ok(Response::json(200, &Message { message: "An e-mail with a link is on its way" }))
}

/// Queues a mail that confirms the account's address.
pub(super) fn ask_for_verification(call: &Call<'_>, caller: &Caller) -> Result<()> {
    call.app.mail.check()?;
    call.app.mail_requests.ask(&caller.user.id, call.client()).map_err(Error::TooManyAttempts)?;
    call.app.mail.queue(&mut call.app.db.session()?, Kind::Verify, &caller.user, &json!({}))?;
    Ok(())
}
