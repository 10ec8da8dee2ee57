//! `/documents/{id}/versions`: earlier versions of a document, how they differ from the present one, and going back. Documents
//! and versions as text files.

use askama::Template;
use percent_encoding::utf8_percent_encode;

use super::{Frame, NO_PAGE, page, page_of_size, segment, show};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::store::document_versions::{DocumentVersion, KEPT_DAYS, MOST};
use crate::store::documents::Document;
use crate::web::difference::{Difference, between};
use crate::web::document_versions::{NO_VERSION, of_document, revert_one};
use crate::web::documents::{LARGEST_BODY, NOT_FOUND, checked_content};
use crate::web::whole_documents::{Found, find, find_version, reserve_html};
use crate::web::{Answer, fields};

#[derive(Template)]
#[template(path = "versions.html")]
struct Versions {
    frame: Frame,
    document: Document,
    versions: Vec<DocumentVersion>,
    most: i64,
    kept_days: i64,
}

#[derive(Template)]
#[template(path = "version.html")]
struct VersionPage<'d> {
    frame: Frame,
    document: &'d Document,
    earlier: &'d Document,
    difference: Difference<'d>,
}

#[derive(Template)]
#[template(path = "difference.html")]
struct DifferencePart<'d> {
    difference: Difference<'d>,
}

/// The caller's document of the path.
fn own(call: &Call<'_>, caller: &Caller) -> Result<Found<Document>> {
    find(call, &segment(call, 0)?, |document| document.user_id == caller.user.id)?.ok_or(Error::NotFound(NOT_FOUND))
}

/// The version of the path.
fn version_of_path(call: &Call<'_>) -> Result<i64> {
    segment(call, 1)?.parse().map_err(|_| Error::NotFound(NO_PAGE))
}

/// `GET /documents/{id}/versions`.
pub(in crate::web) fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let versions = of_document(call, &segment(call, 0)?, &caller.user.id)?;
    let document = own(call, caller)?.value;
    let frame = Frame::new(Some(caller), "documents");
    page(200, &Versions { frame, document, versions, most: MOST, kept_days: KEPT_DAYS })
}

/// `GET /documents/{id}/versions/{version}`: the version, and how the document differs from it.
pub(in crate::web) fn show_one(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let (id, version) = (segment(call, 0)?, version_of_path(call)?);
    let earlier = find_version(call, &id, &caller.user.id, version)?.ok_or(Error::NotFound(NO_VERSION))?;
    let found = own(call, caller)?;
    let document = &found.value;
    if document.version == version {
        return Ok(Response::see_other(format!("/documents/{id}")));
    }
    let difference = between(text_of(&earlier.value), text_of(document))?;
    let size = reserve_html([text_of(&earlier.value)])? + difference.reserve_html()?;
    let frame = Frame::new(Some(caller), "documents");
    let page = page_of_size(200, size, &VersionPage { frame, document, earlier: &earlier.value, difference })?;
    Ok(earlier.shown_in(found.shown_in(page)))
}

/// `POST /documents/{id}/versions/{version}`: goes back to it, and opens the document.
pub(in crate::web) fn revert(call: &mut Call<'_>, caller: &Caller) -> Answer {
    fields(call)?;
    let (id, version) = (segment(call, 0)?, version_of_path(call)?);
    revert_one(call, &id, &caller.user.id, version)?;
    Ok(Response::see_other(format!("/documents/{id}?done=reverted")))
}

/// `POST /documents/{id}/difference` with `content`: how that text differs from the saved one, as a part of a page.
pub(in crate::web) fn difference(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let sent = Fields::read(call.request, LARGEST_BODY)?;
    let content = checked_content(sent.text("content")?)?;
    let found = own(call, caller)?;
    page(200, &DifferencePart { difference: between(text_of(&found.value), content)? })
}

/// `GET /documents/{id}/text?version=`: the text of the document, or of a version, to be saved as a file.
pub(in crate::web) fn download(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let mut found = match call.request.query("version").map(|version| version.parse()) {
        None => own(call, caller)?,
        Some(Ok(version)) => {
            find_version(call, &segment(call, 0)?, &caller.user.id, version)?.ok_or(Error::NotFound(NO_VERSION))?
        }
        Some(Err(_)) => return Err(Error::NotFound(NO_PAGE)),
    };
    let disposition = format!("attachment; {}", file_name(&found.value.title));
    let content = found.value.content.take().unwrap_or_default();
    let response = Response::with_body(200, "text/plain; charset=utf-8", content.into_bytes());
    Ok(found.shown_in(response.header("Content-Disposition", disposition)))
}

fn text_of(document: &Document) -> &str {
    document.content.as_deref().unwrap_or_default()
}

/// The name of a document's file, for those that know only ASCII and for others (RFC 6266). Without characters that mean
/// something in paths.
fn file_name(title: &str) -> String {
    let is_plain = |c: char| !c.is_control() && !r#"/\:*?"<>|"#.contains(c);
    let name: String = title.chars().map(|c| if is_plain(c) { c } else { ' ' }).take(100).collect();
    let name = name.trim().trim_start_matches('.').trim_start();
    let name = if name.is_empty() { "Untitled" } else { name };
    let ascii: String = name.chars().map(|c| if c.is_ascii() { c } else { '_' }).collect();
    let encoded = utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    format!("filename=\"{ascii}.txt\"; filename*=UTF-8''{encoded}.txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_name_of_its_document() {
        assert_eq!(file_name("Trip"), "filename=\"Trip.txt\"; filename*=UTF-8''Trip.txt");
        assert_eq!(file_name("Über uns"), "filename=\"_ber uns.txt\"; filename*=UTF-8''%C3%9Cber%20uns.txt");
        assert_eq!(file_name(" ../a\"b\r\n\u{7f}"), "filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt");
        for empty in ["", "  ", "///", "..."] {
            assert!(file_name(empty).starts_with("filename=\"Untitled.txt\""), "{empty}");
        }
        assert!(file_name(&"x".repeat(1000)).len() < 300);
    }
}
