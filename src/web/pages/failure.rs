//! What a browser is shown instead of an error in JSON.

use askama::Template;

use super::{Frame, text_of};
use crate::call::Call;
use crate::error::Error;
use crate::http::{Request, Response};

#[derive(Template)]
#[template(path = "failure.html")]
struct Failure<'a> {
    frame: Frame,
    status: u16,
    heading: &'static str,
    words: &'a str,
    request_id: &'a str,
    log_in: bool,
}

/// Whether the client is a browser on its way to a page, not a script.
pub(in crate::web) fn wants_page(request: &Request) -> bool {
    let has = |name, text: &str| request.header(name).is_some_and(|value| value.to_ascii_lowercase().contains(text));
    has("accept", "text/html") && !has("accept", "application/json") && !has("x-requested-with", "xmlhttprequest")
}

/// The page for an error; the error's own reply, should the page fail too.
pub(in crate::web) fn failure(call: &mut Call<'_>, e: &Error, reply: Response, request_id: &str) -> Response {
    // Asking who calls may fail for the same reason as the page did: then it is nobody.
    let caller = call.optional_caller().ok().flatten();
    let (heading, words) = said(e);
    let page = Failure {
        frame: Frame::new(caller.as_deref(), ""),
        status: e.status(),
        heading,
        words: &words,
        request_id,
        log_in: matches!(e, Error::Unauthorized(_)),
    };
    let Ok(text) = text_of(&page) else { return reply };
    let mut response = Response::html(e.status(), text);
    // Retry-After, Allow and their like.
    response.headers.extend(reply.headers.into_iter().filter(|(name, _)| *name != "Content-Type"));
    response
}

/// A heading and what it means for the person.
fn said(e: &Error) -> (&'static str, String) {
    let public = e.public().into_owned();
    match e.status() {
        401 => ("Log in first", "This page is for those who are signed in. Your session may have ended.".to_owned()),
        403 => ("This is not allowed", format!("{public}.")),
        404 if public == "Not Found" => ("Nothing here", "There is no page at this address.".to_owned()),
        404 => ("Nothing here", format!("{public}.")),
        405 => ("That is not how this page works", "It was called in a way it does not know.".to_owned()),
        409 => ("That did not go together", format!("{public}.")),
        429 => ("Too many attempts", "Wait a moment, then try again.".to_owned()),
        503 => {
            ("Back in a moment", "The service is busy or being looked after. Nothing was lost; try again.".to_owned())
        }
        500 => ("Something broke", "The fault is ours and was written down. Try again.".to_owned()),
        _ => ("That did not work", format!("{public}.")),
    }
}
