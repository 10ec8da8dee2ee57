//! `/`, `/signup` and `/login`.

use askama::Template;

use super::{Frame, page, program_address, web_address};
use crate::call::{Call, Role};
use crate::error::Error;
use crate::web::{Answer, sign_in};

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

/// What is wrong, beside the field it is about.
#[derive(Default)]
struct Errors {
    email: Option<&'static str>,
    password: Option<&'static str>,
    password_confirm: Option<&'static str>,
}

/// The words that a form's redirect may bring back. Whatever else stands in the address is somebody's invention and is
/// not repeated.
const KNOWN: [&str; 9] = [
    sign_in::INVALID_CREDENTIALS,
    sign_in::INVALID_EMAIL,
    sign_in::DIFFERENT_PASSWORDS,
    sign_in::SUSPENDED,
    "The password must have at least 8 characters",
    "The password must have at most 1024 characters",
    "Too many attempts, try again later",
    "Service temporarily unavailable, try again",
    "Cross-site request refused",
];

impl Errors {
    fn asked(call: &Call<'_>) -> Errors {
        call.request.query("error").map_or_else(Errors::default, |error| Errors::of(&error))
    }

    fn of(error: &str) -> Errors {
        let known = KNOWN.iter().copied().find(|words| *words == error).unwrap_or("That did not work. Try again");
        let mut errors = Errors::default();
        match known {
            sign_in::INVALID_EMAIL => errors.email = Some(known),
            sign_in::DIFFERENT_PASSWORDS => errors.password_confirm = Some(known),
            sign_in::INVALID_CREDENTIALS => errors.password = Some("That e-mail and password do not match"),
            _ => errors.password = Some(known),
        }
        errors
    }
}

/// `GET /`.
pub(in crate::web) fn home(call: &mut Call<'_>) -> Answer {
    let caller = call.optional_caller()?;
    page(
        200,
        &Home {
            frame: Frame::new(caller.as_deref(), "home"),
            web: web_address(call),
            inference: program_address(call, Role::Inference),
            audio: program_address(call, Role::Audio),
        },
    )
}

/// `GET /signup`.
pub(in crate::web) fn signup(call: &mut Call<'_>) -> Answer {
    page(200, &Signup { frame: Frame::new(None, "signup"), errors: Errors::asked(call), next: next(call) })
}

/// `GET /login`.
pub(in crate::web) fn login(call: &mut Call<'_>) -> Answer {
    page(200, &Login { frame: Frame::new(None, "login"), errors: Errors::asked(call), next: next(call) })
}

/// The form of this page once more, with what went wrong, under that status: for now nothing else can be done.
pub(in crate::web) fn form_again(path: &str, e: &Error, next: Option<&str>) -> Answer {
    let (errors, next) = (Errors::of(&e.public()), next.map(str::to_owned));
    let response = match path {
        "/signup" => page(e.status(), &Signup { frame: Frame::new(None, "signup"), errors, next })?,
        _ => page(e.status(), &Login { frame: Frame::new(None, "login"), errors, next })?,
    };
    Ok(match e.retry_after() {
        Some(seconds) => response.header("Retry-After", seconds.to_string()),
        None => response,
    })
}

fn next(call: &Call<'_>) -> Option<String> {
    call.request.query("next").filter(|next| sign_in::is_local(next))
}
