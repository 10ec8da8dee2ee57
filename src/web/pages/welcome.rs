//! `/`, `/signup` and `/login`.

use std::borrow::Cow;

use askama::Template;

use super::{Frame, encoded, is_local_path, page, program_address, web_address};
use crate::auth::Caller;
use crate::auth::password::{MAX_LENGTH, MIN_LENGTH};
use crate::call::{Call, Role};
use crate::error::Error;
use crate::http::Response;
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
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct Login {
    frame: Frame,
    errors: Errors,
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
}

/// The notice for each `done` in the query.
const NOTICES: &[(&str, &str)] = &[("password", "Password saved. Log in with it.")];

/// What a person is told about [`Error::InvalidCredentials`], whose own message is fixed for programs.
const INCORRECT: &str = "Incorrect e-mail or password";

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
    fn from_query(call: &Call<'_>) -> Errors {
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
            Some(e) => Errors::of(e),
            None => Errors { password: Some("Something went wrong. Please try again.".into()), ..Errors::default() },
        }
    }

    fn of(e: &Error) -> Errors {
        let mut errors = Errors::default();
        match e {
            Error::InvalidEmail => errors.email = Some(e.message()),
            Error::PasswordMismatch => errors.password_confirm = Some(e.message()),
            Error::InvalidCredentials => errors.password = Some(INCORRECT.into()),
            _ => errors.password = Some(e.message()),
        }
        errors
    }
}

/// `GET /`.
pub(in crate::web) fn home(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    page(
        200,
        &Home {
            frame: Frame::new(caller, "home"),
            web: web_address(call),
            inference: program_address(call, Role::Inference),
            audio: program_address(call, Role::Audio),
        },
    )
}

/// `GET /signup`.
pub(in crate::web) fn signup(call: &mut Call<'_>) -> Answer {
    show(call, 200, Form::SignUp, Errors::from_query(call), next(call))
}

/// `GET /login`.
pub(in crate::web) fn login(call: &mut Call<'_>) -> Answer {
    show(call, 200, Form::LogIn, Errors::from_query(call), next(call))
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
pub(in crate::web) fn show_again(call: &Call<'_>, form: Form, e: &Error, next: Option<&str>) -> Answer {
    Ok(with_retry_after(show(call, e.status(), form, Errors::of(e), next.map(str::to_owned))?, e))
}

fn with_retry_after(response: Response, e: &Error) -> Response {
    match e.retry_after() {
        Some(seconds) => response.header("Retry-After", seconds.to_string()),
        None => response,
    }
}

fn show(call: &Call<'_>, status: u16, form: Form, errors: Errors, next: Option<String>) -> Answer {
    let frame = Frame::new(None, &form.path()[1..]).with_notice(call, NOTICES);
    match form {
        Form::SignUp => page(status, &Signup { frame, errors, next }),
        Form::LogIn => page(status, &Login { frame, errors, next }),
    }
}

fn next(call: &Call<'_>) -> Option<String> {
    call.request.query("next").filter(|next| is_local_path(next))
}
