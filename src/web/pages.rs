//! The pages. Every page works without scripts and loads nothing from other sites.

pub(super) mod account;
pub(super) mod admin;
pub(super) mod admin_catalogue;
pub(super) mod admin_models;
pub(super) mod admin_parts;
pub(super) mod admin_provider;
pub(super) mod admin_usage;
pub(super) mod admin_user;
pub(super) mod admin_webhooks;
pub(super) mod documents;
pub(super) mod editor;
pub(super) mod failure;
mod limits;
mod new_key;
pub(super) mod playground;
pub(super) mod recovery;
pub(super) mod reference;
mod samples;
mod show;
pub(super) mod subscribe;
pub(super) mod two_factor;
pub(super) mod usage;
pub(super) mod versions;
pub(super) mod welcome;

use askama::Template;
use percent_encoding::NON_ALPHANUMERIC;
use ureq::http::Uri;

use super::Answer;
use crate::auth::Caller;
use crate::call::{Call, Role};
use crate::error::{Error, Public, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::memory_budget::ReservedBytes;
use crate::operation::LONGEST_NEXT;

pub(super) use show::known_browser;

/// What the layout of every page needs.
struct Frame {
    /// Whether the visitor is signed in.
    signed_in: bool,
    /// Whether the visitor is an administrator.
    is_admin: bool,
    /// The menu entry of this page.
    here: &'static str,
    /// A message about what was just done.
    notice: Option<&'static str>,
}

impl Frame {
    /// The layout of a page that belongs to the menu entry `here`.
    fn new(caller: Option<&Caller>, here: &'static str) -> Frame {
        Frame { signed_in: caller.is_some(), is_admin: caller.is_some_and(|c| c.user.is_admin), here, notice: None }
    }

    /// Adds the notice for the `done` in the query, if it is one of these.
    fn with_notice(mut self, call: &Call<'_>, notices: &[(&str, &'static str)]) -> Frame {
        let done = call.request.query("done").unwrap_or_default();
        self.notice = notices.iter().find(|(code, _)| *code == done).map(|(_, notice)| *notice);
        self
    }
}

/// What a page may do: load from and send to this site only, run no inline script, be in no frame.
pub(crate) fn page_policy() -> String {
    policy("'self'")
}

/// The same for a page whose forms lead elsewhere too: browsers also check where a reply to a form leads.
fn policy(form_targets: &str) -> String {
    format!(
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; media-src 'self' blob:; \
         connect-src 'self'; form-action {form_targets}; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// The form that was refused, and why. The page is shown again with the message beside the field that it is about.
struct Problem {
    form: &'static str,
    /// The field; empty if it is about the whole form.
    field: &'static str,
    /// Which of several such forms on the page it is.
    of: String,
    /// What was entered: names and values. Never passwords.
    typed: Vec<(&'static str, String)>,
    status: u16,
    message: String,
}

impl Problem {
    /// A form's problem, if the client can do something about it; any other error stays an error.
    fn of(form: &'static str, e: Error) -> Result<Problem> {
        match e.status() {
            400 | 403 | 404 | 409 | 422 | 429 => Ok(Problem::shown(form, &e)),
            _ => Err(e),
        }
    }

    /// Any error, shown beside the form.
    fn shown(form: &'static str, e: &Error) -> Problem {
        let Public { status, message, .. } = e.public();
        let (field, of, typed) = ("", String::new(), Vec::new());
        Problem { form, field, of, typed, status, message: message.into_owned() }
    }

    /// The same about a field, and with what was entered.
    fn with(self, field: &'static str, of: &str, typed: Vec<(&'static str, String)>) -> Problem {
        Problem { field, of: of.to_owned(), typed, ..self }
    }

    /// Whether it is about this field of this form.
    fn is_at(&self, form: &str, of: &str, field: &str) -> bool {
        self.form == form && self.of == of && self.field == field
    }
}

/// The form of a page that was refused, if one was.
struct Refused(Option<Problem>);

impl Refused {
    /// The status of the page.
    fn status(&self) -> u16 {
        self.0.as_ref().map_or(200, |problem| problem.status)
    }

    /// The message for this field of this form, if it is the one that was refused.
    fn message_at(&self, form: &str, of: &str, field: &str) -> Option<&str> {
        self.0.as_ref().filter(|problem| problem.is_at(form, of, field)).map(|problem| problem.message.as_str())
    }

    /// The message about a form as a whole, whichever it is.
    fn message_of_form(&self) -> Option<&str> {
        self.0.as_ref().filter(|problem| problem.field.is_empty()).map(|problem| problem.message.as_str())
    }

    /// Whether any field of this form was refused.
    fn is_form(&self, form: &str, of: &str) -> bool {
        self.of_form(form, of).is_some()
    }

    /// What a field is shown with: what was entered, if its form was refused.
    fn value<'a>(&'a self, form: &str, of: &str, field: &str, otherwise: &'a str) -> &'a str {
        let typed = self.of_form(form, of).and_then(|problem| problem.typed.iter().find(|(name, _)| *name == field));
        typed.map_or(otherwise, |(_, value)| value)
    }

    fn of_form(&self, form: &str, of: &str) -> Option<&Problem> {
        self.0.as_ref().filter(|problem| problem.form == form && problem.of == of)
    }
}

/// What was entered in these fields of a form, to be shown again.
fn typed(fields: &Fields, names: &[&'static str]) -> Vec<(&'static str, String)> {
    let text = |name: &&'static str| Some((*name, fields.optional_text(name).ok()??.to_owned()));
    names.iter().filter_map(text).collect()
}

/// A page, whose memory is reserved as it grows.
fn page(status: u16, template: &impl Template) -> Answer {
    let mut page = ReservedBytes::default();
    let written = template.render_into(&mut page);
    match (written, page.refused()) {
        (Ok(()), _) => Ok(Response::with_body(status, "text/html; charset=utf-8", page.into_bytes())),
        (Err(_), Some(refused)) => Err(refused.into()),
        (Err(e), None) => Err(cannot_render(&e)),
    }
}

/// A page of about this many bytes.
fn page_of_size(status: u16, size: usize, template: &impl Template) -> Answer {
    let mut text = String::with_capacity(size);
    template.render_into(&mut text).map_err(|e| cannot_render(&e))?;
    Ok(Response::html(status, text))
}

/// The reply to what failed, with its `Retry-After`.
fn with_retry_after(response: Response, e: &Error) -> Response {
    match e.retry_after() {
        Some(seconds) => response.header("Retry-After", seconds.to_string()),
        None => response,
    }
}

fn cannot_render(e: &askama::Error) -> Error {
    Error::Internal(format!("cannot render a page: {e}"))
}

fn text_of(template: &impl Template) -> Result<String> {
    template.render().map_err(|e| cannot_render(&e))
}

/// The decoded segment of the path at the `at`th `{…}`.
///
/// # Errors
/// 404 for text that PostgreSQL cannot store, because nothing can have that name.
fn segment(call: &Call<'_>, at: usize) -> Result<String> {
    let raw = call.segments.get(at).map_or("", String::as_str);
    let decoded = percent_encoding::percent_decode_str(raw).decode_utf8();
    decoded.ok().filter(|text| !text.contains('\0')).map(std::borrow::Cow::into_owned).ok_or(Error::NotFound(NO_PAGE))
}

const NO_PAGE: &str = "There is no page at this address";

/// A parameter of the query, trimmed. Empty if it is missing, too long, or not storable in PostgreSQL.
fn query_text(call: &Call<'_>, name: &str) -> String {
    let text = call.request.query(name).unwrap_or_default();
    let text = text.trim();
    if text.contains('\0') || text.len() > 4000 { String::new() } else { text.to_owned() }
}

/// A text as a value in a query.
pub(super) fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Whether `next` is a path on this site: not `//host`, nor anything that a browser would read as that.
pub(super) fn is_local_path(next: &str) -> bool {
    let mut bytes = next.bytes();
    bytes.next() == Some(b'/')
        && !matches!(bytes.next(), Some(b'/' | b'\\'))
        && next.len() <= LONGEST_NEXT
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

/// The address of this server, for the examples on the pages.
pub(super) fn web_address(call: &Call<'_>) -> String {
    let config = &call.app.config;
    match (config.public_url.as_str(), call.request.header("host")) {
        ("", Some(host)) => format!("http://{host}"),
        ("", None) => format!("http://{}", config.web_addr),
        (url, _) => url.to_owned(),
    }
}

/// The address of a server, for the examples on the pages.
fn program_address(call: &Call<'_>, role: Role) -> String {
    let config = &call.app.config;
    let (public, configured) = match role {
        Role::Web => return web_address(call),
        Role::Inference => (&config.inference_public_url, config.inference_addr),
        Role::Audio => (&config.audio_public_url, config.audio_addr),
    };
    if !public.is_empty() {
        return public.clone();
    }
    let bound = call.app.addresses.get().into_iter().flatten().find(|(name, _)| *name == role.name());
    let address = bound.map_or(configured, |(_, address)| *address);
    // A server that listens on all addresses is reached at the host that this request was sent to.
    let host = call.request.header("host").filter(|_| address.ip().is_unspecified());
    match host.and_then(|host| format!("http://{host}").parse::<Uri>().ok()?.host().map(str::to_owned)) {
        Some(host) => format!("http://{host}:{}", address.port()),
        None => format!("http://{address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_site_are_local() {
        for good in ["/", "/account", "/account?a=b#c", "/@x"] {
            assert!(is_local_path(good), "{good}");
        }
        for bad in ["", "account", "//evil", "/\\evil", "https://evil", "/a\r\nb", "/a\\b", "/\u{e9}", "\t//evil"] {
            assert!(!is_local_path(bad), "{bad}");
        }
    }
}
