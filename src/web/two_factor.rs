//! Two-factor authentication: turning it on and off, and the recovery codes.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Answer, Message, confirmation, fields, qr};
use crate::accounts::second_factor;
use crate::auth::Caller;
use crate::auth::totp::Seed;
use crate::call::Call;
use crate::db::{Session, Transaction};
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::request_fields::request_fields;
use crate::memory_budget;
use crate::operation::Group::Accounts;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, post, summary};
use crate::store::{sessions, users};

/// The name of this service in authenticator apps.
const ISSUER: &str = "textgen";

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    const TOO_MANY: (u16, &str) = (429, "Too many attempts; see Retry-After");
    const CODE: (u16, &str) = (401, "The code is wrong or was used, or there is no valid credential");
    vec![
        post("/api/totp/enable", Authenticated(enable)).described(
            summary(
                Accounts,
                "Set up two-factor authentication: get the secret for an authenticator app, then confirm it",
            )
            .fields::<Enable<'_>>()
            .reply::<Enrolment>()
            .status(409, "It is on already")
            .status(TOO_MANY.0, TOO_MANY.1),
        ),
        post("/api/totp/confirm", Authenticated(confirm)).described(
            summary(Accounts, "Turn two-factor authentication on with a first code; other sessions end")
                .fields::<Code<'_>>()
                .reply::<RecoveryCodes>()
                .status(CODE.0, CODE.1)
                .status(409, "It is on already, or was not set up"),
        ),
        post("/api/totp/recovery-codes", Authenticated(recovery_codes)).described(
            summary(Accounts, "Replace the recovery codes")
                .fields::<Code<'_>>()
                .reply::<RecoveryCodes>()
                .status(CODE.0, CODE.1)
                .status(409, IS_OFF)
                .status(TOO_MANY.0, TOO_MANY.1),
        ),
        post("/api/totp/disable", Authenticated(disable)).described(
            summary(Accounts, "Turn two-factor authentication off")
                .fields::<Code<'_>>()
                .reply::<Message>()
                .status(CODE.0, CODE.1)
                .status(409, IS_OFF)
                .status(TOO_MANY.0, TOO_MANY.1),
        ),
    ]
}

const IS_OFF: &str = "Two-factor authentication is off";

request_fields! {
    /// What setting up two-factor authentication takes.
    struct Enable<'f> {
        /// Required unless the session is younger than 15 minutes.
        password: Option<&'f str>,
    }
}

request_fields! {
    /// A code of a second factor.
    struct Code<'f> {
        /// The six digits of the authenticator app or, once it is confirmed, a recovery code. Each works once.
        totp: &'f str,
    }
}

/// What an authenticator app is set up with.
#[derive(Serialize, JsonSchema)]
pub(super) struct Enrolment {
    /// To be typed into an authenticator app, in base32.
    pub(super) secret: String,
    /// The same as the address that the QR code holds.
    pub(super) uri: String,
    /// The QR code, as SVG.
    pub(super) qr: String,
}

#[derive(Serialize, JsonSchema)]
struct RecoveryCodes {
    message: &'static str,
    /// Each stands in for a code of the app once. Shown here and never again.
    recovery_codes: Vec<String>,
}

impl Enrolment {
    fn new(seed: &Seed, email: &str) -> Result<Enrolment> {
        let uri = seed.address(ISSUER, email);
        let qr = qr::svg(&uri, "QR code for your authenticator app");
        let qr = qr.ok_or_else(|| Error::Internal("a QR code has no room for an address".to_owned()))?;
        Ok(Enrolment { secret: seed.text(), uri, qr })
    }
}

/// `POST /api/totp/enable`, with `password` unless the session is new.
fn enable(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let password = Enable::read(&fields)?.password.map(str::to_owned);
    drop(fields);
    memory_budget::shrink_to(password.as_ref().map_or(0, String::len));
    Ok(Response::json(200, &begin_for(call, caller, password.as_deref())?))
}

/// `POST /api/totp/confirm` with `totp`.
fn confirm(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let recovery_codes = confirm_for(call, caller, Code::read(&fields)?.totp)?;
    Ok(Response::json(200, &RecoveryCodes { message: "Two-factor authentication is on", recovery_codes }))
}

/// `POST /api/totp/recovery-codes` with `totp`.
fn recovery_codes(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let recovery_codes = renew_codes_for(call, caller, Code::read(&fields)?.totp)?;
    Ok(Response::json(200, &RecoveryCodes { message: "The old recovery codes no longer work", recovery_codes }))
}

/// `POST /api/totp/disable` with `totp`.
fn disable(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    disable_for(call, caller, Code::read(&fields)?.totp)?;
    Ok(Response::json(200, &Message { message: "Two-factor authentication is off" }))
}

/// Begins to set up an authenticator app.
///
/// # Errors
/// 400 and 403 as for deleting the account; 409 if there is one.
pub(super) fn begin_for(call: &Call<'_>, caller: &Caller, password: Option<&str>) -> Result<Enrolment> {
    confirmation::by_password(call, caller, password, "Enter your password to set up two-factor authentication")?;
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    let seed = second_factor::begin(&mut transaction, &call.app.seeds, &caller.user.id)?;
    transaction.commit()?;
    Enrolment::new(&seed, &caller.user.email)
}

/// What was begun to be set up, if anything.
///
/// # Errors
/// Those of the database.
pub(super) fn pending(call: &Call<'_>, session: &mut Session, caller: &Caller) -> Result<Option<Enrolment>> {
    let seed = second_factor::pending(session, &call.app.seeds, &caller.user.id)?;
    seed.map(|seed| Enrolment::new(&seed, &caller.user.email)).transpose()
}

/// Turns it on, ends all other sessions, which were opened with a password alone, and returns recovery codes.
///
/// # Errors
/// 401 for a wrong code; 409.
pub(super) fn confirm_for(call: &Call<'_>, caller: &Caller, code: &str) -> Result<Vec<String>> {
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    let codes = second_factor::confirm(&mut transaction, &call.app.seeds, &caller.user.id, code)?;
    sessions::delete_others(&mut transaction, &caller.user.id, caller.session_id().unwrap_or(""))?;
    transaction.commit()?;
    call.app.cache.revoke(&caller.user.id);
    Ok(codes)
}

/// Replaces the recovery codes.
///
/// # Errors
/// 401 for a wrong code; 409 if it is off; 429.
pub(super) fn renew_codes_for(call: &Call<'_>, caller: &Caller, code: &str) -> Result<Vec<String>> {
    confirmation::with_code(call, caller, Some(code), |db, caller| {
        require_on(db, caller)?;
        second_factor::renew_codes(db, &caller.user.id)
    })
}

/// Turns it off.
///
/// # Errors
/// As [`renew_codes_for`].
pub(super) fn disable_for(call: &Call<'_>, caller: &Caller, code: &str) -> Result<()> {
    confirmation::with_code(call, caller, Some(code), |db, caller| {
        match second_factor::turn_off(db, &caller.user.id)? {
            true => Ok(()),
            false => Err(is_off()),
        }
    })?;
    call.app.cache.revoke(&caller.user.id);
    Ok(())
}

fn require_on(db: &mut Transaction<'_>, caller: &Caller) -> Result<()> {
    let user = users::by_id(db, &caller.user.id)?;
    if user.is_some_and(|user| user.has_second_factor) { Ok(()) } else { Err(is_off()) }
}

fn is_off() -> Error {
    Error::Conflict(IS_OFF, crate::error::Conflicting::default())
}
