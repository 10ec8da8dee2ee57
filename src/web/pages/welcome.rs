//! `/`, `/signup` and `/login`.

use std::borrow::Cow;

use askama::Template;

use super::{Frame, encoded, is_local_path, page, program_address, web_address, with_retry_after};
use crate::auth::Caller;
use crate::auth::password::{MAX_LENGTH, MIN_LENGTH};
use crate::call::{Call, Role};
use crate::error::Error;
use crate::http::{Response, cookie};
use crate::web::{Answer, half_log_in};

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    frame: Frame,
    web: String,
    inference: String,
    audio: String,
}

#[derive(Template)]
#[template(path = "signup.html")]
struct Signup {
    frame: Frame,
    errors: Errors,
    email: String,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct Login {
    frame: Frame,
    errors: Errors,
    email: String,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "login_code.html")]
struct LoginCode {
    frame: Frame,
    error: Option<Cow<'static, str>>,
    next: Option<String>,
}

/// The path of the page that asks for the code of a second factor.
pub(in crate::web) const CODE_PATH: &str = "/login/code";

/// The notice for each `done` in the query of the home page.
const HOME_NOTICES: &[(&str, &str)] =
    &[("deleted", "Your account was deleted, with its documents, keys and sessions. Its keys no longer work.")];

/// The notice for each `done` in the query of the forms.
const NOTICES: &[(&str, &str)] = &[("password", "Password saved. Log in with it.")];

/// The forms that sign a person in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::web) enum Form {
    SignUp,
    LogIn,
}

impl Form {
    /// The path of its page.
    pub(in crate::web) fn path(self) -> &'static str {
        match self {
            Form::SignUp => "/signup",
            Form::LogIn => "/login",
        }
    }

    /// What a person is told about [`Error::InvalidCredentials`], whose own message is fixed for programs.
    const fn incorrect(self) -> &'static str {
        match self {
            Form::SignUp => "That didn’t work. If you already have an account, log in with its password instead.",
            Form::LogIn => "Incorrect e-mail or password",
        }
    }
}

/// Messages, each shown below the field that it is about.
#[derive(Default)]
struct Errors {
    email: Option<Cow<'static, str>>,
    password: Option<Cow<'static, str>>,
    password_confirm: Option<Cow<'static, str>>,
}

impl Errors {
    /// The error that a redirect put into the query. Anyone can write a link with a text of their own there, so only
    /// the messages of these errors are recognised, and no other text is repeated.
    fn from_query(call: &Call<'_>, form: Form) -> Errors {
        let Some(message) = call.request.query("error") else { return Errors::default() };
        let known = [
            Error::InvalidCredentials,
            Error::InvalidEmail,
            Error::PasswordMismatch,
            Error::PasswordTooShort(MIN_LENGTH),
            Error::PasswordTooLong(MAX_LENGTH),
            Error::AccountSuspended,
            Error::LogInExpired,
        ];
        match known.iter().find(|e| e.message() == message) {
            Some(e) => Errors::of(e, form),
            None => Errors { password: Some("Something went wrong. Please try again.".into()), ..Errors::default() },
        }
    }

    fn of(e: &Error, form: Form) -> Errors {
        let mut errors = Errors::default();
        match e {
            Error::InvalidEmail => errors.email = Some(e.message()),
            Error::PasswordMismatch => errors.password_confirm = Some(e.message()),
            Error::InvalidCredentials => errors.password = Some(form.incorrect().into()),
            _ => errors.password = Some(e.message()),
        }
        errors
    }
}

/// `GET /`.
pub(in crate::web) fn home(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let frame = Frame::new(caller, "home");
    // Who is signed in has an account, whatever a link says.
    let frame = if caller.is_none() { frame.with_notice(call, HOME_NOTICES) } else { frame };
    page(
        200,
        &Home {
            frame,
            web: web_address(call),
            inference: program_address(call, Role::Inference),
            audio: program_address(call, Role::Audio),
        },
    )
}

/// `GET /signup`.
pub(in crate::web) fn signup(call: &mut Call<'_>) -> Answer {
    show(call, 200, Form::SignUp, Errors::from_query(call, Form::SignUp), entered(call), next(call))
}

/// `GET /login`.
pub(in crate::web) fn login(call: &mut Call<'_>) -> Answer {
    show(call, 200, Form::LogIn, Errors::from_query(call, Form::LogIn), entered(call), next(call))
}

/// `GET /login/code`: asks for the code of the second factor, after the password was right.
pub(in crate::web) fn login_code(call: &mut Call<'_>) -> Answer {
    let next = next(call);
    match half_log_in::find(call)? {
        Some(_) => page(200, &LoginCode { frame: Frame::new(None, "login"), error: None, next }),
        None => Ok(Response::see_other(match next {
            Some(next) => format!("/login?next={}", encoded(&next)),
            None => "/login".to_owned(),
        })),
    }
}

/// That page again, after a code that was refused.
pub(in crate::web) fn show_code_again(e: &Error, next: Option<String>) -> Answer {
    let shown = LoginCode { frame: Frame::new(None, "login"), error: Some(e.message()), next };
    Ok(with_retry_after(page(e.status(), &shown)?, e))
}

/// The page of a form that failed, with the error, its status and its `Retry-After`.
pub(in crate::web) fn show_again(call: &Call<'_>, form: Form, e: &Error, email: &str, next: Option<&str>) -> Answer {
    let shown = show(call, e.status(), form, Errors::of(e, form), email.to_owned(), next.map(str::to_owned))?;
    Ok(with_retry_after(shown, e))
}

/// The address that was entered in a form that was refused.
fn entered(call: &Call<'_>) -> String {
    let value = cookie::read(call.request, cookie::ENTERED).unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(value).decode_utf8().unwrap_or_default();
    if decoded.chars().any(char::is_control) { String::new() } else { decoded.into_owned() }
}

fn show(call: &Call<'_>, status: u16, form: Form, errors: Errors, email: String, next: Option<String>) -> Answer {
    let frame = Frame::new(None, &form.path()[1..]).with_notice(call, NOTICES);
    match form {
        Form::SignUp => page(status, &Signup { frame, errors, email, next }),
        Form::LogIn => page(status, &Login { frame, errors, email, next }),
    }
}

fn next(call: &Call<'_>) -> Option<String> {
    call.request.query("next").filter(|next| is_local_path(next))
}
