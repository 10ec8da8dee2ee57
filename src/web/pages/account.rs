//! `/account`: the person's details, keys, sessions and password, and deleting the account.

use askama::Template;
use time::{Duration, OffsetDateTime};

use super::limits::{Limits, dollars};
use super::new_key::NewKey;
use super::{Frame, Problem, Refused, page, show, typed};
use crate::auth::{Caller, Secret};
use crate::call::Call;
use crate::config::{DocumentQuota, QuotaConfig};
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

/// For how long a key can be made to live, in days, with the words of the form.
const LIVES: &[(&str, &str)] =
    &[("", "Never"), ("7", "In a week"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year")];

/// The windows of a key's spending limit, with the words of the form.
const WINDOWS: &[(&str, &str)] =
    &[("total", "in total"), ("day", "per day"), ("week", "per week"), ("month", "per month")];

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
    refused: Refused,
    /// Whether there is anything to be paid at Stripe.
    has_payments: bool,
    /// Whether the address was confirmed; `None` where mail is not set up.
    verified: Option<bool>,
    documents: DocumentTotals,
    document_quota: DocumentQuota,
    quotas: QuotaConfig,
    second_factor: second_factors::State,
}

/// `GET /account`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let shown = render(call, caller, None)?;
    Ok(NewKey::forget(call, shown, "/account"))
}

fn render(call: &Call<'_>, caller: &Caller, problem: Option<Problem>) -> Answer {
    let models = NewKey::models(call, caller);
    let mut session = call.app.db.session()?;
    // From the database and not the cache: the name or a key may just have changed.
    let user = users::by_id(&mut session, &caller.user.id)?.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))?;
    let keys = api_keys::of_user(&mut session, &user.id)?;
    let sessions = sessions::of_user(&mut session, &user.id)?;
    let limits = Limits::of(&mut session, &user, &keys)?;
    let new_key = NewKey::from_cookie(call, &mut session, caller, &models)?;
    let documents = document_totals::of_user(&mut session, &user.id)?;
    let is_verified = users::is_verified(&mut session, &user.id)?;
    let second_factor = second_factors::state(&mut session, &user.id)?;
    drop(session);
    let quotas = call.app.config.quotas.clone();
    let refused = Refused(problem);
    let current_session = caller.session_id().unwrap_or("").to_owned();
    let frame = Frame::new(Some(caller), "account").with_notice(call, NOTICES);
    let (can_lift, credit_id) = (false, "");
    let has_payments = call.app.payments().is_ok();
    page(
        refused.status(),
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
            refused,
            has_payments,
            verified: call.app.mail.is_set_up().then_some(is_verified),
            documents,
            document_quota: quotas.of_documents(),
            quotas,
            second_factor,
        },
    )
}

/// What a form does. It gets the place for the name of the field that it looks at, which an error is then shown beside.
type Work<'w, T> = &'w dyn Fn(&Call<'_>, &Caller, &Fields, &mut &'static str) -> Result<T>;

/// Handles a form; on an error, the page is shown again with it. `kept` are the fields that are shown with what was
/// entered.
fn attempt<T>(
    call: &mut Call<'_>,
    caller: &Caller,
    form: &'static str,
    kept: &[&'static str],
    work: Work<'_, T>,
) -> Result<std::result::Result<T, Box<Response>>> {
    let fields = fields(call)?;
    let mut field = "";
    match work(call, caller, &fields, &mut field) {
        Ok(done) => Ok(Ok(done)),
        Err(e) => {
            let of = if kept.contains(&"id") { fields.optional_text("id")?.unwrap_or_default() } else { "" };
            let problem = Problem::of(form, e)?.with(field, of, typed(&fields, kept));
            Ok(Err(Box::new(render(call, caller, Some(problem))?)))
        }
    }
}

/// Handles a form that leads to the account page with `done`.
fn handle(
    call: &mut Call<'_>,
    caller: &Caller,
    form: &'static str,
    kept: &[&'static str],
    done: &str,
    work: Work<'_, ()>,
) -> Answer {
    let outcome = attempt(call, caller, form, kept, work)?;
    Ok(outcome.map_or_else(|page| *page, |()| Response::see_other(format!("/account?done={done}"))))
}

/// Handles a form that creates a key, and redirects to the page that shows its secret: reloading that page creates no
/// second key.
fn handle_new_key(
    call: &mut Call<'_>,
    caller: &Caller,
    form: &'static str,
    kept: &[&'static str],
    work: Work<'_, (ApiKey, Secret)>,
) -> Answer {
    let outcome = attempt(call, caller, form, kept, work)?;
    let is_https = call.app.config.is_https();
    Ok(outcome.map_or_else(
        |page| *page,
        |(_, secret)| cookie::set_new_secret(Response::see_other("/account"), secret.reveal(), "/account", is_https),
    ))
}

/// `POST /account/name`.
pub(in crate::web) fn rename(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "name", &["name"], "name", &|call, caller, fields, field| {
        *field = "name";
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
    let kept = ["name", "days", "limit", "window"];
    handle_new_key(call, caller, "key", &kept, &|call, caller, fields, field| {
        *field = "name";
        let name = keys::checked_name(fields.text("name")?)?;
        *field = "days";
        let days = fields.optional_integer("days")?;
        if days.is_some_and(|days| !(1..=LONGEST_LIFE).contains(&days)) {
            return Err(Error::bad("Enter 1 to 3650 days, or leave it empty"));
        }
        let expires = days.map(|days| OffsetDateTime::now_utc() + Duration::days(days));
        *field = "limit";
        let limit = fields.optional_text("limit")?.filter(|text| !text.trim().is_empty());
        let limit_micros = limit.map(|text| dollars(text).map_err(Error::bad)).transpose()?;
        *field = "window";
        let window = fields.optional_text("window")?.filter(|name| !name.is_empty());
        let window =
            window.map(|name| Window::named(name).ok_or(Error::bad("window must be day, week, month or total")));
        let window = window.transpose()?;
        let budget = limit_micros.map(|limit_micros| BudgetChange { limit_micros, window, timezone: None });
        *field = "";
        keys::create_for(call, caller, name, expires, budget)
    })
}

/// `POST /account/keys/rotate`: replaces a key with a new one, whose secret is shown once.
pub(in crate::web) fn rotate_key(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle_new_key(call, caller, "keys", &[], &|call, caller, fields, _| {
        let grace = fields.optional_integer("grace_seconds")?.unwrap_or(0);
        keys::rotate_for(call, caller, fields.text("id")?, grace)
    })
}

/// `POST /account/keys/rename`.
pub(in crate::web) fn rename_key(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "rename", &["id", "name"], "key-renamed", &|call, caller, fields, field| {
        *field = "name";
        keys::rename_for(call, caller, fields.text("id")?, fields.text("name")?).map(drop)
    })
}

/// `POST /account/keys/revoke`.
pub(in crate::web) fn revoke_key(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "keys", &[], "key-revoked", &|call, caller, fields, _| {
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
    let outcome = attempt(call, caller, "password", &["revoke_keys"], &|call, caller, fields, field| {
        *field = "new_password";
        let (current, new) = (fields.text("current_password")?, fields.text("new_password")?);
        let ends_keys = fields.optional_text("revoke_keys")?.is_some();
        account::replace_password(call, caller, current, new, ends_keys).map_err(|e| match e {
            Error::InvalidCredentials => {
                *field = "current_password";
                Error::bad("The current password is incorrect")
            }
            e => e,
        })
    })?;
    match outcome {
        Ok((_, token)) => {
            let reply = Response::see_other("/account?done=password");
            Ok(account::with_new_token(call, reply, token.as_ref()))
        }
        Err(page) => Ok(*page),
    }
}

/// `POST /account/email` with `email` and `password`, and `totp` if the account has a second factor.
pub(in crate::web) fn change_email(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "email", &["email"], "email", &|call, caller, fields, field| {
        *field = "email";
        let (email, password) = (fields.text("email")?, fields.text("password")?);
        recovery::ask_for_email(call, caller, email, password, fields.optional_text("totp")?).map_err(|e| match e {
            Error::InvalidCredentials => {
                *field = "password";
                Error::bad("The password is incorrect")
            }
            Error::InvalidCode | Error::CodeRequired => {
                *field = "totp";
                Error::bad("The code is incorrect or was used already")
            }
            e => e,
        })
    })
}

/// `POST /account/email/verify`.
pub(in crate::web) fn verify_email(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, "verify", &[], "verify", &|call, caller, _, _| recovery::ask_for_verification(call, caller))
}

/// `POST /account/delete` with `password`.
pub(in crate::web) fn delete(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let outcome = attempt(call, caller, "delete", &[], &|call, caller, fields, field| {
        *field = "password";
        let (password, code) = (fields.text("password")?, fields.optional_text("totp")?);
        account::remove(call, caller, Some(password), code).map_err(|e| match e {
            Error::InvalidCredentials => Error::bad("The password is incorrect. Nothing was deleted."),
            Error::InvalidCode | Error::CodeRequired => {
                *field = "totp";
                Error::bad("The code is incorrect or was used already. Nothing was deleted.")
            }
            e => e,
        })
    })?;
    let is_https = call.app.config.is_https();
    Ok(outcome.map_or_else(|page| *page, |()| cookie::clear_session(Response::see_other("/?done=deleted"), is_https)))
}
