//! `/documents/{id}`: the editor of a document. `/public/{id}`: a published document.

use askama::Template;

use super::{Frame, NO_PAGE, page_of_size, segment, show};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::Error;
use crate::http::Response;
use crate::http::form::Fields;
use crate::store::documents::{self as store, Change, Document};
use crate::web::documents::{LARGEST_BODY, NOT_FOUND, checked_content, checked_title, update};
use crate::web::whole_documents::{find, reserve_html};
use crate::web::{Answer, fields};

#[derive(Template)]
#[template(path = "editor.html")]
struct Editor<'d> {
    frame: Frame,
    document: &'d Document,
}

#[derive(Template)]
#[template(path = "conflict.html")]
struct ConflictPage {
    frame: Frame,
    document: Document,
    title: String,
    content: String,
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
        ("reverted", "Version restored. The text it replaced is kept under Versions."),
    ];
    let found = find(call, &segment(call, 0)?, |document| document.user_id == caller.user.id)?;
    let found = found.ok_or(Error::NotFound(NOT_FOUND))?;
    let size = reserve_html(found.value.content.as_deref())?;
    let frame = Frame::new(Some(caller), "documents").with_notice(call, NOTICES);
    Ok(found.shown_in(page_of_size(200, size, &Editor { frame, document: &found.value })?))
}

/// `POST /documents/{id}` with `title`, `content` and `version`; if the document was saved elsewhere in the
/// meantime, both versions are shown.
pub(in crate::web) fn save(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let id = segment(call, 0)?;
    let fields = Fields::read(call.request, LARGEST_BODY)?;
    // Browsers send the lines of a text area with CRLF.
    let content = fields.text("content")?.replace("\r\n", "\n");
    let title = checked_title(fields.text("title")?)?;
    let version = fields.optional_integer("version")?;
    let change =
        Change { title: Some(title), content: Some(Some(checked_content(&content)?)), version, keep_version: false };
    match update(call, &id, &caller.user.id, change) {
        Ok(_) => Ok(Response::see_other(format!("/documents/{id}?done=saved"))),
        Err(Error::Conflict(..)) => {
            let document = find(call, &id, |document| document.user_id == caller.user.id)?;
            let document = document.ok_or(Error::NotFound(NOT_FOUND))?.value;
            let size = reserve_html(document.content.as_deref().into_iter().chain([content.as_str()]))?;
            let frame = Frame::new(Some(caller), "documents");
            page_of_size(409, size, &ConflictPage { frame, document, title: title.to_owned(), content })
        }
        Err(e) => Err(e),
    }
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
