//! `/account`: who one is, the keys, the browsers one is signed in with, the password, the end.

use std::sync::Arc;

use askama::Template;
use time::{Duration, OffsetDateTime};

use super::{Frame, Problem, page, show, signed_in_or_return, web_address};
use crate::auth::{Caller, Digest, Secret};
use crate::call::Call;
use crate::db;
use crate::error::{Error, Result};
use crate::http::form::Fields;
use crate::http::{Response, cookie};
use crate::store::{ApiKey, BrowserSession, User, api_keys, sessions, users};
use crate::web::{Answer, account, fields, keys, sessions as ending};

/// Most characters of a person's name.
const LONGEST_NAME: usize = 200;

/// What the address's `done` says.
const NOTICES: &[(&str, &str)] = &[
    ("name", "Your name was changed."),
    ("key-renamed", "The key has its new name."),
    ("key-revoked", "The key was revoked. No server takes it any more."),
    ("session", "That browser was signed out."),
    ("sessions", "Every other browser was signed out."),
    ("password", "Your password was changed, and every other browser signed out."),
];

#[derive(Template)]
#[template(path = "account.html")]
struct Account {
    frame: Frame,
    user: User,
    keys: Vec<ApiKey>,
    sessions: Vec<BrowserSession>,
    current_session: String,
    made: Option<Made>,
    problem: Option<Problem>,
    web: String,
}

/// A key whose secret is shown this once.
struct Made {
    name: String,
    secret: String,
}

impl Made {
    /// The key of this person that was made a moment ago, as the form's cookie says.
    fn of(call: &Call<'_>, session: &mut db::Session, keys: &[ApiKey]) -> Result<Option<Made>> {
        let Some(secret) = cookie::read(call.request, cookie::NEW_SECRET) else { return Ok(None) };
        let found = api_keys::by_digest(session, &Digest::of(secret).0)?;
        let key = found.and_then(|found| keys.iter().find(|key| key.id == found.id));
        Ok(key.map(|key| Made { name: key.name.clone(), secret: secret.to_owned() }))
    }
}

impl Account {
    /// What is wrong with this form, if it was the one that was sent.
    fn wrong(&self, form: &str) -> Option<&str> {
        self.problem.as_ref().filter(|problem| problem.form == form).map(|problem| problem.words.as_str())
    }
}

/// `GET /account`.
pub(in crate::web) fn show(call: &mut Call<'_>) -> Answer {
    let caller = signed_in_or_return!(call);
    let shown = render(call, &caller, None)?;
    if cookie::read(call.request, cookie::NEW_SECRET).is_none() {
        return Ok(shown);
    }
    Ok(shown.header("Set-Cookie", cookie::new_secret(None, call.app.config.is_https())))
}

fn render(call: &Call<'_>, caller: &Caller, problem: Option<Problem>) -> Answer {
    let mut session = call.app.db.session()?;
    // Fresh, not as the cache has it: a name or a key may have been changed a moment ago.
    let user = users::by_id(&mut session, &caller.user.id)?.ok_or(Error::Unauthorized("Not authenticated"))?;
    let keys = api_keys::of_user(&mut session, &user.id)?;
    let sessions = sessions::of_user(&mut session, &user.id)?;
    let made = Made::of(call, &mut session, &keys)?;
    drop(session);
    let status = problem.as_ref().map_or(200, |problem| problem.status);
    let current_session = caller.session_id().unwrap_or("").to_owned();
    let web = web_address(call);
    let frame = Frame::new(Some(caller), "account").noticing(call, NOTICES);
    page(status, &Account { frame, user, keys, sessions, current_session, made, problem, web })
}

/// Runs a form: leads back to the account page with `done`, or shows the page again with what was wrong.
fn run(
    call: &mut Call<'_>,
    form: &'static str,
    done: &str,
    work: impl FnOnce(&Call<'_>, &Caller, &Fields) -> Result<()>,
) -> Answer {
    let (caller, fields) = sent(call)?;
    match work(call, &caller, &fields) {
        Ok(()) => Ok(Response::see_other(format!("/account?done={done}"))),
        Err(e) => render(call, &caller, Some(Problem::of(form, e)?)),
    }
}

/// Runs a form that makes a key, and leads to the page that shows its secret: loading that again makes no second key.
fn run_making(
    call: &mut Call<'_>,
    form: &'static str,
    work: impl FnOnce(&Call<'_>, &Caller, &Fields) -> Result<(ApiKey, Secret)>,
) -> Answer {
    let (caller, fields) = sent(call)?;
    match work(call, &caller, &fields) {
        Ok((_, secret)) => {
            let carried = cookie::new_secret(Some(secret.reveal()), call.app.config.is_https());
            Ok(Response::see_other("/account").header("Set-Cookie", carried))
        }
        Err(e) => render(call, &caller, Some(Problem::of(form, e)?)),
    }
}

fn sent(call: &mut Call<'_>) -> Result<(Arc<Caller>, Fields)> {
    let caller = call.caller()?;
    Ok((caller, fields(call)?))
}

/// `POST /account/name`.
pub(in crate::web) fn rename(call: &mut Call<'_>) -> Answer {
    run(call, "name", "name", |call, caller, fields| {
        let name = fields.text("name")?.trim();
        if name.chars().count() > LONGEST_NAME {
            return Err(Error::bad("The name must have at most 200 characters"));
        }
        users::set_name(&mut call.app.db.session()?, &caller.user.id, name)?;
        Ok(())
    })
}

/// `POST /account/keys`: makes a key, whose secret is shown once.
pub(in crate::web) fn create_key(call: &mut Call<'_>) -> Answer {
    run_making(call, "key", |call, caller, fields| {
        let name = keys::checked_name(fields.text("name")?)?;
        let days = fields.optional_integer("days")?.filter(|days| (1..=3650).contains(days));
        let expires = days.map(|days| OffsetDateTime::now_utc() + Duration::days(days));
        keys::make(call, &caller.user.id, name, expires)
    })
}

/// `POST /account/keys/rotate`: puts a new key in the place of an old one; its secret is shown once.
pub(in crate::web) fn rotate_key(call: &mut Call<'_>) -> Answer {
    run_making(call, "keys", |call, caller, fields| {
        let grace = fields.optional_integer("grace_seconds")?.unwrap_or(0);
        keys::replace(call, &caller.user.id, fields.text("id")?, grace)
    })
}

/// `POST /account/keys/rename`.
pub(in crate::web) fn rename_key(call: &mut Call<'_>) -> Answer {
    run(call, "keys", "key-renamed", |call, caller, fields| {
        keys::call_otherwise(call, &caller.user.id, fields.text("id")?, fields.text("name")?).map(drop)
    })
}

/// `POST /account/keys/revoke`.
pub(in crate::web) fn revoke_key(call: &mut Call<'_>) -> Answer {
    run(call, "keys", "key-revoked", |call, caller, fields| keys::end(call, &caller.user.id, fields.text("id")?))
}

/// `POST /account/sessions/revoke` with `id`, or without for all others.
pub(in crate::web) fn end_sessions(call: &mut Call<'_>) -> Answer {
    let (caller, fields) = sent(call)?;
    let (which, done) = match fields.optional_text("id")? {
        Some(id) => (ending::Which::One(id), "session"),
        None => (ending::Which::Others, "sessions"),
    };
    match ending::end(call, &caller, which) {
        Ok(_) => Ok(Response::see_other(format!("/account?done={done}"))),
        Err(e) => render(call, &caller, Some(Problem::of("sessions", e)?)),
    }
}

/// `POST /account/password`.
pub(in crate::web) fn change_password(call: &mut Call<'_>) -> Answer {
    run(call, "password", "password", |call, caller, fields| {
        let (current, new) = (fields.text("current_password")?, fields.text("new_password")?);
        account::replace_password(call, caller, current, new).map(drop).map_err(|e| match e {
            Error::BadRequest(words) if words == crate::web::sign_in::INVALID_CREDENTIALS => {
                Error::bad("The current password is not right")
            }
            e => e,
        })
    })
}

/// `POST /account/delete`, with the password.
pub(in crate::web) fn delete(call: &mut Call<'_>) -> Answer {
    let (caller, fields) = sent(call)?;
    match account::remove(call, &caller, Some(fields.text("password")?)) {
        Ok(()) => Ok(Response::see_other("/").header("Set-Cookie", cookie::clear(call.app.config.is_https()))),
        Err(Error::BadRequest(_)) => {
            let words = "The password is not right. Nothing was deleted.".to_owned();
            render(call, &caller, Some(Problem { form: "delete", status: 400, words }))
        }
        Err(e) => render(call, &caller, Some(Problem::of("delete", e)?)),
    }
}
