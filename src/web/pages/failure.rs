//! The page that a browser gets instead of an error in JSON.

use askama::Template;
use serde_json::Value;

use super::{Frame, page, text_of};
use crate::call::Call;
use crate::error::{Error, Public};
use crate::http::form::{FORM_LIMIT, Fields};
use crate::http::{Method, Request, Response};

/// The media type of forms.
const FORM: &str = "application/x-www-form-urlencoded";

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

#[derive(Template)]
#[template(path = "ended_session.html")]
struct EndedSession {
    frame: Frame,
    path: String,
    fields: Vec<(String, String)>,
}

/// Whether the client is a browser that opens a page, not a script.
pub(in crate::web) fn wants_page(request: &Request) -> bool {
    let has = |name, text: &str| request.header(name).is_some_and(|value| value.to_ascii_lowercase().contains(text));
    has("accept", "text/html") && !has("accept", "application/json") && !has("x-requested-with", "xmlhttprequest")
}

/// The page for an error; `reply`, the JSON, if the page cannot be rendered.
pub(in crate::web) fn failure(call: &mut Call<'_>, e: &Error, reply: Response, request_id: &str) -> Response {
    // Retry-After, Allow and the like.
    let headers = reply.headers.iter().filter(|(name, _)| *name != "Content-Type").cloned();
    let headers: Vec<_> = headers.collect();
    if let Some(mut page) = ended_session(call, e) {
        page.headers.extend(headers);
        return page;
    }
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
    response.headers.extend(headers);
    response
}

/// Whether a request without a session seems to come from somebody who had one: it has its cookie still, or a browser sent it
/// from a page of this site.
pub(super) fn had_session(call: &Call<'_>) -> bool {
    call.has_credential() || call.request.header("sec-fetch-site") == Some("same-origin")
}

/// The page for a form that came without a session, as it has ended: what was entered can be sent again after a log-in.
/// Not if another site's page sent it, nor if it holds what must not be in a page.
fn ended_session(call: &mut Call<'_>, e: &Error) -> Option<Response> {
    let is_form = *call.request.method() == Method::POST && call.request.media_type() == FORM;
    if !matches!(e, Error::Unauthorized(_)) || !is_form || !had_session(call) || call.check_same_site().is_err() {
        return None;
    }
    let fields = Fields::read(call.request, FORM_LIMIT).ok()?.into_object();
    let is_secret = |name: &str| name == "key" || ["password", "totp", "secret"].iter().any(|part| name.contains(part));
    if fields.iter().any(|(name, value)| is_secret(name) && value.as_str() != Some("")) {
        return None;
    }
    let text = |value: Value| value.as_str().map(str::to_owned);
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect();
    let path = call.request.path().to_owned();
    page(e.status(), &EndedSession { frame: Frame::new(None, ""), path, fields }).ok()
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
