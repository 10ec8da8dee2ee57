//! The page that a browser gets instead of an error in JSON.

use askama::Template;

use super::{Frame, text_of};
use crate::call::Call;
use crate::error::{Error, Public};
use crate::http::{Request, Response};

#[derive(Template)]
#[template(path = "failure.html")]
struct Failure<'a> {
    frame: Frame,
    status: u16,
    heading: &'static str,
    explanation: &'a str,
    request_id: &'a str,
    log_in: bool,
    set_up_two_factor: bool,
}

/// Whether the client is a browser that opens a page, not a script.
pub(in crate::web) fn wants_page(request: &Request) -> bool {
    let has = |name, text: &str| request.header(name).is_some_and(|value| value.to_ascii_lowercase().contains(text));
    has("accept", "text/html") && !has("accept", "application/json") && !has("x-requested-with", "xmlhttprequest")
}

/// The page for an error; `reply`, the JSON, if the page cannot be rendered.
pub(in crate::web) fn failure(call: &mut Call<'_>, e: &Error, reply: Response, request_id: &str) -> Response {
    // The look-up of the caller may fail for the same reason. The page is then that of a visitor.
    let caller = call.authenticate().ok().flatten();
    let (heading, explanation) = describe(e);
    let page = Failure {
        frame: Frame::new(caller.as_deref(), ""),
        status: e.status(),
        heading,
        explanation: &explanation,
        request_id,
        log_in: matches!(e, Error::Unauthorized(_)),
        set_up_two_factor: matches!(e, Error::SecondFactorNeeded),
    };
    let Ok(text) = text_of(&page) else { return reply };
    let mut response = Response::html(e.status(), text);
    // Retry-After, Allow and the like.
    response.headers.extend(reply.headers.into_iter().filter(|(name, _)| *name != "Content-Type"));
    response
}

/// A heading, and an explanation for the person.
fn describe(e: &Error) -> (&'static str, String) {
    let Public { status, message, .. } = e.public();
    match status {
        401 => ("Please log in", "You need to log in to see this page. Your session may have expired.".to_owned()),
        403 if matches!(e, Error::QuotaUsed(..)) => ("No more room", format!("{message}.")),
        403 => ("Not allowed", format!("{message}.")),
        404 if matches!(e, Error::NoRoute) => ("Page not found", "There is no page at this address.".to_owned()),
        404 => ("Not found", format!("{message}.")),
        405 => ("Method not allowed", "This page doesn’t accept that request.".to_owned()),
        409 => ("Conflict", format!("{message}.")),
        429 => ("Too many attempts", "Wait a moment, then try again.".to_owned()),
        503 if matches!(e, Error::PaymentsNotConfigured(_)) => ("Not available", format!("{message}.")),
        503 => ("Back in a moment", "The service is busy or under maintenance. Please try again.".to_owned()),
        500 => ("Something went wrong", "We’ve logged the error. Please try again.".to_owned()),
        _ => ("Request failed", format!("{message}.")),
    }
}
