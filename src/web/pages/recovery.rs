//! `/forgot-password`, `/reset-password`, `/confirm-email` and `/set-password`: getting in again. Their forms lead to the pages
//! themselves. Opening a link of a mail changes nothing, as programs that look for viruses open it too.

use askama::Template;

use super::{Frame, Problem, Refused, page, typed};
use crate::accounts::recovery::{self, Confirmed};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::store::account_links::Purpose;
use crate::store::api_keys;
use crate::web::recovery as handlers;
use crate::web::{Answer, fields};

#[derive(Template)]
#[template(path = "forgot.html")]
struct Forgot {
    frame: Frame,
    is_set_up: bool,
    is_sent: bool,
    email: String,
    problem: Option<Problem>,
}

#[derive(Template)]
#[template(path = "reset.html")]
struct Reset {
    frame: Frame,
    token: String,
    /// The account's address, if the link can be used.
    email: Option<String>,
    keys: usize,
    refused: Refused,
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct Confirm {
    frame: Frame,
    token: String,
    /// The address, if the link can be used.
    email: Option<String>,
    /// Whether it is another than the account has.
    is_new: bool,
    done: Option<Confirmed>,
    problem: Option<Problem>,
}

#[derive(Template)]
#[template(path = "set_password.html")]
struct SetPassword {
    frame: Frame,
    refused: Refused,
}

/// The reply to a form that was refused, as far as the person can do something about it.
fn refused(form: &'static str, e: Error) -> Result<(Problem, Option<u64>)> {
    let wait = e.retry_after();
    Ok((Problem::of(form, e)?, wait))
}

fn with_wait(reply: Response, wait: Option<u64>) -> Response {
    match wait {
        Some(seconds) => reply.header("Retry-After", seconds.to_string()),
        None => reply,
    }
}

/// `GET /forgot-password`.
pub(in crate::web) fn forgot(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let is_sent = call.request.query("done").is_some();
    show_forgot(call, caller, is_sent, String::new(), None)
}

/// `POST /forgot-password` with `email`.
pub(in crate::web) fn ask_for_reset(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    call.check_same_site()?;
    let fields = fields(call)?;
    let email = fields.text("email")?.to_owned();
    match handlers::ask_for_reset(call, &email) {
        Ok(()) => Ok(Response::see_other("/forgot-password?done=sent")),
        Err(e) => {
            let (problem, wait) = refused("forgot", e)?;
            Ok(with_wait(show_forgot(call, caller, false, email, Some(problem))?, wait))
        }
    }
}

fn show_forgot(
    call: &Call<'_>,
    caller: Option<&Caller>,
    is_sent: bool,
    email: String,
    problem: Option<Problem>,
) -> Answer {
    let status = problem.as_ref().map_or(200, |problem| problem.status);
    let is_set_up = call.app.mail.is_set_up();
    page(status, &Forgot { frame: Frame::new(caller, "login"), is_set_up, is_sent, email, problem })
}

/// `GET /reset-password?token=`.
pub(in crate::web) fn reset(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let token = call.request.query("token").unwrap_or_default();
    show_reset(call, caller, token, None)
}

fn show_reset(call: &Call<'_>, caller: Option<&Caller>, token: String, problem: Option<Problem>) -> Answer {
    let mut session = call.app.db.session()?;
    let (email, keys) = match recovery::account_of_link(&mut session, &token, Purpose::Password) {
        Ok((user, _)) => (Some(user.email), api_keys::of_user(&mut session, &user.id)?.len()),
        Err(Error::LinkInvalid) => (None, 0),
        Err(e) => return Err(e),
    };
    drop(session);
    let usual = if email.is_some() { 200 } else { Error::LinkInvalid.status() };
    let status = problem.as_ref().map_or(usual, |problem| problem.status);
    page(status, &Reset { frame: Frame::new(caller, "login"), token, email, keys, refused: Refused(problem) })
}

/// `POST /reset-password` with `token`, `password`, `password_confirm` and perhaps `revoke_keys`.
pub(in crate::web) fn choose(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    call.check_same_site()?;
    let fields = fields(call)?;
    let (token, password) = (fields.text("token")?.to_owned(), fields.text("password")?.to_owned());
    let is_confirmed = fields.optional_text("password_confirm")?.is_none_or(|confirmed| confirmed == password);
    let ends_keys = fields.optional_bool("revoke_keys")?.unwrap_or(false);
    let kept = typed(&fields, &["revoke_keys"]);
    drop(fields);
    let outcome = match is_confirmed {
        true => handlers::reset_for(call, &token, &password, ends_keys),
        false => Err(Error::PasswordMismatch),
    };
    match outcome {
        Ok(_) => Ok(Response::see_other("/login?done=password")),
        Err(e) => {
            let field = if matches!(e, Error::PasswordMismatch) { "password_confirm" } else { "password" };
            let problem = Problem::of("reset", e)?.with(field, "", kept);
            show_reset(call, caller, token, Some(problem))
        }
    }
}

/// `GET /confirm-email?token=`.
pub(in crate::web) fn confirm(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let done = match call.request.query("done").as_deref() {
        Some("changed") => Some(Confirmed::New),
        Some("confirmed") => Some(Confirmed::Own),
        _ => None,
    };
    let token = call.request.query("token").unwrap_or_default();
    show_confirm(call, caller, token, done, None)
}

fn show_confirm(
    call: &Call<'_>,
    caller: Option<&Caller>,
    token: String,
    done: Option<Confirmed>,
    problem: Option<Problem>,
) -> Answer {
    let (mut email, mut is_new) = (None, false);
    if done.is_none() {
        let mut session = call.app.db.session()?;
        for purpose in [Purpose::Verify, Purpose::Email] {
            match recovery::account_of_link(&mut session, &token, purpose) {
                Ok((_, link)) => (email, is_new) = (Some(link.email), purpose == Purpose::Email),
                Err(Error::LinkInvalid) => {}
                Err(e) => return Err(e),
            }
        }
    }
    let usual = if email.is_some() || done.is_some() { 200 } else { Error::LinkInvalid.status() };
    let status = problem.as_ref().map_or(usual, |problem| problem.status);
    page(status, &Confirm { frame: Frame::new(caller, ""), token, email, is_new, done, problem })
}

/// `POST /confirm-email` with `token`.
pub(in crate::web) fn confirm_now(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    call.check_same_site()?;
    let fields = fields(call)?;
    let token = fields.text("token")?.to_owned();
    drop(fields);
    match handlers::confirm_for(call, &token) {
        Ok(Confirmed::New) => Ok(Response::see_other("/confirm-email?done=changed")),
        Ok(Confirmed::Own) => Ok(Response::see_other("/confirm-email?done=confirmed")),
        Err(e) => {
            let problem = Problem::of("confirm", e)?;
            show_confirm(call, caller, token, None, Some(problem))
        }
    }
}

/// `GET /set-password`.
pub(in crate::web) fn first(_: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    page(200, &SetPassword { frame: Frame::new(caller, "login"), refused: Refused(None) })
}

/// `POST /set-password` with `secret`, `password` and `password_confirm`.
pub(in crate::web) fn set_first(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    call.check_same_site()?;
    let fields = fields(call)?;
    let (secret, password) = (fields.text("secret")?.to_owned(), fields.text("password")?.to_owned());
    let is_confirmed = fields.optional_text("password_confirm")?.is_none_or(|confirmed| confirmed == password);
    drop(fields);
    let outcome = match is_confirmed {
        true => handlers::set_first_for(call, Some(&secret), &password),
        false => Err(Error::PasswordMismatch),
    };
    match outcome {
        Ok(()) => Ok(Response::see_other("/login?done=password")),
        Err(e) => {
            let (field, e) = match e {
                Error::Unauthorized(_) => ("secret", Error::bad("This is not a valid secret")),
                Error::Forbidden(_) | Error::Conflict(..) => ("secret", e),
                Error::PasswordMismatch => ("password_confirm", e),
                e => ("password", e),
            };
            let refused = Refused(Some(Problem::of("set", e)?.with(field, "", Vec::new())));
            page(refused.status(), &SetPassword { frame: Frame::new(caller, "login"), refused })
        }
    }
}
