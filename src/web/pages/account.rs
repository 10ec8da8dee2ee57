//! `/account`: the person's details, keys, sessions and password, and deleting the account.

use askama::Template;
use time::{Duration, OffsetDateTime};

use super::limits::{Limits, dollars};
use super::{Frame, Problem, page, show, web_address};
use crate::auth::{Caller, Digest, Secret};
use crate::call::Call;
use crate::config::{DocumentQuota, QuotaConfig};
use crate::db;
use crate::error::{Error, NOT_AUTHENTICATED, Result};
use crate::http::form::Fields;
use crate::http::{Response, cookie};
use crate::store::budgets::{BudgetChange, Window};
use crate::store::document_totals::{self, DocumentTotals};
use crate::store::{ApiKey, BrowserSession, User, api_keys, second_factors, sessions, users};
use crate::web::{Answer, account, fields, keys, recovery, sessions as session_handlers};

/// The most characters of a person's name.
const LONGEST_NAME: usize = 200;

/// The longest life of a key that the form takes, in days.
const LONGEST_LIFE: i64 = 3650;

/// The notice for each `done` in the query.
const NOTICES: &[(&str, &str)] = &[
    ("name", "Name saved."),
    ("key-renamed", "Key renamed."),
    ("key-revoked", "Key revoked. All servers now reject it."),
    ("session", "That browser is signed out."),
    ("sessions", "All other browsers are signed out."),
    ("email", "Check the new address: we sent a link that confirms it. It works for 30 minutes."),
    ("verify", "Check your e-mail: we sent a link that confirms your address."),
    ("password", "Password changed. All other browsers are signed out."),
];

#[derive(Template)]
#[template(path = "account.html")]
struct Account {
    frame: Frame,
    user: User,
    keys: Vec<ApiKey>,
    limits: Limits,
    /// Whether the visitor may lift limits and change credit.
    can_lift: bool,
    /// The id of the next change of credit.
    credit_id: &'static str,
    sessions: Vec<BrowserSession>,
    current_session: String,
    new_key: Option<NewKey>,
    problem: Option<Problem>,
    web: String,
    /// Whether there is anything to be paid at Stripe.
    has_payments: bool,
    /// Whether the address was confirmed; `None` where mail is not set up.
    verified: Option<bool>,
    documents: DocumentTotals,
    document_quota: DocumentQuota,
    quotas: QuotaConfig,
    second_factor: second_factors::State,
}

/// A new key, whose secret is shown only once.
struct NewKey {
    name: String,
    secret: String,
}

impl NewKey {
    /// The key that this person has just created, from the cookie that the form's reply set.
    fn from_cookie(call: &Call<'_>, session: &mut db::Session, keys: &[ApiKey]) -> Result<Option<NewKey>> {
        let Some(secret) = cookie::read(call.request, cookie::NEW_SECRET) else { return Ok(None) };
        let found = api_keys::by_digest(session, &Digest::of(secret).0)?;
        let key = found.and_then(|found| keys.iter().find(|key| key.id == found.id));
        Ok(key.map(|key| NewKey { name: key.name.clone(), secret: secret.to_owned() }))
    }
}

impl Account {
    /// The message for this form, if it is the one that was refused.
    fn problem_with(&self, form: &str) -> Option<&str> {
        self.problem.as_ref().filter(|problem| problem.form == form).map(|problem| problem.message.as_str())
    }
}

/// `GET /account`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let shown = render(call, caller, None)?;
    if cookie::read(call.request, cookie::NEW_SECRET).is_none() {
        return Ok(shown);
    }
    Ok(shown.header("Set-Cookie", cookie::new_secret(None, call.app.config.is_https())))
}

fn render(call: &Call<'_>, caller: &Caller, problem: Option<Problem>) -> Answer {
    let mut session = call.app.db.session()?;
    // From the database and not the cache: the name or a key may just have changed.
    let user = users::by_id(&mut session, &caller.user.id)?.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))?;
    let keys = api_keys::of_user(&mut session, &user.id)?;
    let sessions = sessions::of_user(&mut session, &user.id)?;
    let limits = Limits::of(&mut session, &user, &keys)?;
    let new_key = NewKey::from_cookie(call, &mut session, &keys)?;
    let documents = document_totals::of_user(&mut session, &user.id)?;
    let is_verified = users::is_verified(&mut session, &user.id)?;
    let second_factor = second_factors::state(&mut session, &user.id)?;
    drop(session);
    let quotas = call.app.config.quotas.clone();
    let status = problem.as_ref().map_or(200, |problem| problem.status);
    let current_session = caller.session_id().unwrap_or("").to_owned();
    let web = web_address(call);
    let frame = Frame::new(Some(caller), "account").with_notice(call, NOTICES);
    let (can_lift, credit_id) = (false, "");
    let has_payments = call.app.payments().is_ok();
    page(
        status,
        &Account {
            frame,
            user,
            keys,
            limits,
            can_lift,
            credit_id,
            sessions,
            current_session,
            new_key,
            problem,
            web,
            has_payments,
            verified: call.app.mail.is_set_up().then_some(is_verified),
            documents,
            document_quota: quotas.of_documents(),
            quotas,
            second_factor,
        },
    )
}

/// Handles a form: redirects to the account page with `done`, or shows the page again with the problem.
fn handle(
    call: &mut Call<'_>,
    caller: &Caller,
    form: &'static str,
    done: &str,
    work: impl FnOnce(&Call<'_>, &Caller, &Fields) -> Result<()>,
) -> Answer {
    let fields = fields(call)?;
    match work(call, caller, &fields) {
        Ok(()) => Ok(Response::see_other(format!("/account?done={done}"))),
        Err(e) => render(call, caller, Some(Problem::of(form, e)?)),
    }
}

/// Handles a form that creates a key, and redirects to the page that shows its secret: reloading that page creates no
/// second key.
fn handle_new_key(
    call: &mut Call<'_>,
    caller: &Caller,
    form: &'static str,
    work: impl FnOnce(&Call<'_>, &Caller, &Fields) -> Result<(ApiKey, Secret)>,
) -> Answer {
    let fields = fields(call)?;
    match work(call, caller, &fields) {
        Ok((_, secret)) => {
            let cookie = cookie::new_secret(Some(secret.reveal()), call.app.config.is_https());
            Ok(Response::see_other("/account").header("Set-Cookie", cookie))
        }
        Err(e) => render(call, caller, Some(Problem::of(form, e)?)),
    }
}

/// `POST /account/name`.
pub(in crate::web) fn rename(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "name", "name", |call, caller, fields| {
        let name = fields.text("name")?.trim();
        if name.chars().count() > LONGEST_NAME {
            return Err(Error::bad("The name must have at most 200 characters"));
        }
        users::set_name(&mut call.app.db.session()?, &caller.user.id, name)?;
        Ok(())
    })
}

/// `POST /account/keys`: creates a key, whose secret is shown once.
pub(in crate::web) fn create_key(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle_new_key(call, caller, "key", |call, caller, fields| {
        let name = keys::checked_name(fields.text("name")?)?;
        let days = fields.optional_integer("days")?;
        if days.is_some_and(|days| !(1..=LONGEST_LIFE).contains(&days)) {
            return Err(Error::bad("days must be from 1 to 3650, or empty"));
        }
        let expires = days.map(|days| OffsetDateTime::now_utc() + Duration::days(days));
        let limit = fields.optional_text("limit")?.filter(|text| !text.trim().is_empty());
        let window = fields.optional_text("window")?.filter(|name| !name.is_empty());
        let window =
            window.map(|name| Window::named(name).ok_or(Error::bad("window must be day, week, month or total")));
        let window = window.transpose()?;
        let limit_micros = limit.map(|text| dollars(text).map_err(Error::bad)).transpose()?;
        let budget = limit_micros.map(|limit_micros| BudgetChange { limit_micros, window, timezone: None });
        keys::create_for(call, caller, name, expires, budget)
    })
}

/// `POST /account/keys/rotate`: replaces a key with a new one, whose secret is shown once.
pub(in crate::web) fn rotate_key(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle_new_key(call, caller, "keys", |call, caller, fields| {
        let grace = fields.optional_integer("grace_seconds")?.unwrap_or(0);
        keys::rotate_for(call, caller, fields.text("id")?, grace)
    })
}

/// `POST /account/keys/rename`.
pub(in crate::web) fn rename_key(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "keys", "key-renamed", |call, caller, fields| {
        keys::rename_for(call, caller, fields.text("id")?, fields.text("name")?).map(drop)
    })
}

/// `POST /account/keys/revoke`.
pub(in crate::web) fn revoke_key(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "keys", "key-revoked", |call, caller, fields| {
        keys::revoke_for(call, caller, fields.text("id")?)
    })
}

/// `POST /account/sessions/revoke`: ends the session `id`, or without it all others.
pub(in crate::web) fn end_sessions(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let (which, done) = match fields.optional_text("id")? {
        Some(id) => (session_handlers::Which::One(id), "session"),
        None => (session_handlers::Which::Others, "sessions"),
    };
    match session_handlers::end(call, caller, which) {
        Ok(_) => Ok(Response::see_other(format!("/account?done={done}"))),
        Err(e) => render(call, caller, Some(Problem::of("sessions", e)?)),
    }
}

/// `POST /account/password`.
pub(in crate::web) fn change_password(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let mut token = None;
    let reply = handle(call, caller, "password", "password", |call, caller, fields| {
        let (current, new) = (fields.text("current_password")?, fields.text("new_password")?);
        let ends_keys = fields.optional_text("revoke_keys")?.is_some();
        (_, token) = account::replace_password(call, caller, current, new, ends_keys).map_err(|e| match e {
            Error::InvalidCredentials => Error::bad("The current password is incorrect"),
            e => e,
        })?;
        Ok(())
    })?;
    Ok(account::with_new_token(call, reply, token.as_ref()))
}

/// `POST /account/email` with `email` and `password`.
pub(in crate::web) fn change_email(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "email", "email", |call, caller, fields| {
        let (email, password) = (fields.text("email")?, fields.text("password")?);
        recovery::ask_for_email(call, caller, email, password).map_err(|e| match e {
            Error::InvalidCredentials => Error::bad("The password is incorrect"),
            e => e,
        })
    })
}

/// `POST /account/email/verify`.
pub(in crate::web) fn verify_email(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "email", "verify", |call, caller, _| recovery::ask_for_verification(call, caller))
}

/// `POST /account/delete` with `password`.
pub(in crate::web) fn delete(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    match account::remove(call, caller, Some(fields.text("password")?), fields.optional_text("totp")?) {
        Ok(()) => Ok(cookie::clear_session(Response::see_other("/"), call.app.config.is_https())),
        Err(Error::InvalidCredentials) => {
            let e = Error::bad("The password is incorrect. Nothing was deleted.");
            render(call, caller, Some(Problem::of("delete", e)?))
        }
        Err(Error::InvalidCode | Error::CodeRequired) => {
            let e = Error::bad("The code is incorrect or was used already. Nothing was deleted.");
            render(call, caller, Some(Problem::of("delete-code", e)?))
        }
        Err(e) => render(call, caller, Some(Problem::of("delete", e)?)),
    }
}
