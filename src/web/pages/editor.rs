//! `/documents/{id}`: the editor of a document. `/public/{id}`: a published document.

use askama::Template;

use super::failure::had_session;
use super::{Frame, NO_PAGE, page_of_size, segment, show, web_address, with_retry_after};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::{FORM_LIMIT, Fields};
use crate::store::documents::{self as store, Change, Document};
use crate::web::difference::{Difference, between};
use crate::web::documents::{
    AUTHENTICATION_REQUIRED, LARGEST, LARGEST_BODY, NOT_FOUND, UNTITLED, checked_content, checked_title, update,
};
use crate::web::whole_documents::{find, reserve_html};
use crate::web::{Answer, fields};

#[derive(Template)]
#[template(path = "editor.html")]
struct Editor<'d> {
    frame: Frame,
    document: &'d Document,
    /// Whether nothing was written yet.
    is_new: bool,
    /// The most bytes of a text.
    largest: usize,
    /// The address of this server, for the link to the public page.
    web: String,
}

#[derive(Template)]
#[template(path = "conflict.html")]
struct ConflictPage<'d> {
    frame: Frame,
    document: &'d Document,
    title: &'d str,
    content: &'d str,
    difference: Difference<'d>,
}

#[derive(Template)]
#[template(path = "unsaved.html")]
struct Unsaved<'d> {
    frame: Frame,
    id: &'d str,
    /// Why it was not saved; `None` if the session has ended.
    problem: Option<String>,
    version: Option<i64>,
    title: &'d str,
    content: &'d str,
}

#[derive(Template)]
#[template(path = "public.html")]
struct Public<'d> {
    frame: Frame,
    document: &'d Document,
    is_owner: bool,
}

/// `GET /documents/{id}`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    const NOTICES: &[(&str, &str)] = &[
        ("saved", "Saved."),
        ("published", "Published. Anyone with the link can read it."),
        ("unpublished", "The document is private again."),
        ("restored", "Document restored."),
        ("kept", "The saved version stays. Yours is kept under Versions."),
        ("reverted", "Version restored. The text it replaced is kept under Versions."),
    ];
    let found = find(call, &segment(call, 0)?, |document| document.user_id == caller.user.id)?;
    let found = found.ok_or(Error::NotFound(NOT_FOUND))?;
    let size = reserve_html(found.value.content.as_deref())?;
    let frame = Frame::new(Some(caller), "documents").with_notice(call, NOTICES);
    let document = &found.value;
    let is_new = document.version == 1 && document.title == UNTITLED && document.content.as_deref() == Some("");
    let editor = Editor { frame, document, is_new, largest: LARGEST, web: web_address(call) };
    Ok(found.shown_in(page_of_size(200, size, &editor)?))
}

/// `POST /documents/{id}` with `title`, `content` and `version`; if the document was saved elsewhere in the meantime, both
/// versions are shown, and how they differ. With `use_saved`, the saved one stays and this one is kept as an earlier version.
pub(in crate::web) fn save(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let id = segment(call, 0)?;
    let Some(caller) = caller else { return show_unsaved(call, &id) };
    let fields = Fields::read(call.request, LARGEST_BODY)?;
    // Browsers send the lines of a text area with CRLF.
    let content = fields.text("content")?.replace("\r\n", "\n");
    let (title, version) = (fields.text("title")?, fields.optional_integer("version")?);
    let keep_version = fields.optional_bool("keep_version")?.unwrap_or(false);
    let uses_saved = fields.optional_bool("use_saved")?.unwrap_or(false);
    let saved = match uses_saved {
        true => keep_saved(call, caller, &id, &[title, &content], version),
        false => save_text(call, caller, &id, (title, &content, version, keep_version)).map(|_| "saved"),
    };
    match saved {
        Ok(done) => Ok(Response::see_other(format!("/documents/{id}?done={done}"))),
        Err(Error::Conflict(..)) => show_conflict(call, caller, &id, title, &content),
        Err(e) if call.wants_json() || e.is_fault() && e.retry_after().is_none() => Err(e),
        Err(e) => {
            let size = reserve_html([content.as_str(), title])?;
            let (frame, problem) = (Frame::new(Some(caller), "documents"), Some(e.message().into_owned()));
            let unsaved = Unsaved { frame, id: &id, problem, version, title, content: &content };
            Ok(with_retry_after(page_of_size(e.status(), size, &unsaved)?, &e))
        }
    }
}

/// Saves a title and a content that are based on a version, perhaps keeping the one that is overwritten.
fn save_text(
    call: &Call<'_>,
    caller: &Caller,
    id: &str,
    (title, content, version, keep_version): (&str, &str, Option<i64>, bool),
) -> Result<i64> {
    let (title, content) = (Some(checked_title(title)?), Some(Some(checked_content(content)?)));
    update(call, id, &caller.user.id, Change { title, content, version, keep_version })
}

/// Keeps a text as an earlier version of the document that it is in conflict with: it is saved, and then the present one again.
fn keep_saved(
    call: &Call<'_>,
    caller: &Caller,
    id: &str,
    typed: &[&str; 2],
    version: Option<i64>,
) -> Result<&'static str> {
    let found = find(call, id, |document| document.user_id == caller.user.id)?;
    let theirs = found.ok_or(Error::NotFound(NOT_FOUND))?.value;
    let [title, content] = *typed;
    let version = save_text(call, caller, id, (title, content, version, true))?;
    let content = theirs.content.as_deref().unwrap_or_default();
    save_text(call, caller, id, (&theirs.title, content, Some(version), true))?;
    Ok("kept")
}

/// What was typed, for whoever's session has ended meanwhile: it is saved from here after another log-in. A longer form is not
/// read without a session.
fn show_unsaved(call: &mut Call<'_>, id: &str) -> Answer {
    if !had_session(call) || call.wants_json() {
        return Err(Error::Unauthorized(AUTHENTICATION_REQUIRED));
    }
    call.check_same_site()?;
    let fields = Fields::read(call.request, FORM_LIMIT)?;
    let (title, content) = (fields.text("title")?, fields.text("content")?);
    let version = fields.optional_integer("version")?;
    let size = reserve_html([content, title])?;
    page_of_size(401, size, &Unsaved { frame: Frame::new(None, ""), id, problem: None, version, title, content })
}

/// Both versions; or the document, if the same was saved before, perhaps by a request whose reply was lost.
fn show_conflict(call: &Call<'_>, caller: &Caller, id: &str, title: &str, content: &str) -> Answer {
    let document = find(call, id, |document| document.user_id == caller.user.id)?;
    let document = &document.ok_or(Error::NotFound(NOT_FOUND))?.value;
    let theirs = document.content.as_deref().unwrap_or_default();
    if document.title == title && theirs == content {
        return Ok(Response::see_other(format!("/documents/{id}?done=saved")));
    }
    let difference = between(theirs, content)?;
    let size = reserve_html([theirs, content])? + difference.reserve_html()?;
    let frame = Frame::new(Some(caller), "documents");
    page_of_size(409, size, &ConflictPage { frame, document, title, content, difference })
}

/// `POST /documents/{id}/publish` with `is_public`.
pub(in crate::web) fn publish(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let (id, public) = (segment(call, 0)?, fields.optional_bool("is_public")?.unwrap_or(true));
    let version = store::set_public(&mut call.app.db.session()?, &id, &caller.user.id, public)?;
    version.ok_or(Error::NotFound(NOT_FOUND))?;
    let done = if public { "published" } else { "unpublished" };
    Ok(Response::see_other(format!("/documents/{id}?done={done}")))
}

/// `GET /public/{id}`: for everyone, if the document is public.
pub(in crate::web) fn public(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let found = find(call, &segment(call, 0)?, |document| document.is_public)?;
    let found = found.ok_or(Error::NotFound(NO_PAGE))?;
    let document = &found.value;
    let is_owner = caller.is_some_and(|caller| caller.user.id == document.user_id);
    let size = reserve_html(document.content.as_deref())?;
    Ok(found.shown_in(page_of_size(200, size, &Public { frame: Frame::new(caller, ""), document, is_owner })?))
}
