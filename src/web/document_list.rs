//! `/api/docs/list`: the caller's documents.

use schemars::JsonSchema;
use serde::Serialize;

use super::Answer;
use super::cursor::Page;
use super::pages::encoded;
use super::whole_documents;
use crate::auth::Caller;
use crate::call::Call;
use crate::http::Response;
use crate::operation::Group::Documents;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, summary};
use crate::store::documents::{self, Document, Title};

/// Documents on a page of the list, unless `limit` asks for fewer.
const PAGE: i64 = 1000;

/// Bytes of content on a page of the list; the document that exceeds this is the last of its page.
const PAGE_BYTES: i64 = 16 * 1024 * 1024;

/// The operation of this file.
pub(super) fn operation() -> Operation {
    get("/api/docs/list", Authenticated(list)).described(
        summary(Documents, "The caller's documents, newest first")
            .query::<ListDocuments>()
            .reply::<DocumentList>()
            .status(400, "limit or after is invalid"),
    )
}

/// The parameters of the list.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct ListDocuments {
    /// 1 to 1000.
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
    /// `false` leaves out the contents.
    content: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
struct DocumentList {
    documents: Vec<Document>,
    /// The `after` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A list without the contents.
#[derive(Serialize)]
struct TitleList<'d> {
    documents: Vec<Title<'d>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /api/docs/list?limit=&after=&content=false`: newest first, with `next` if there are more.
fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let asked = Page::of(call.request, PAGE)?;
    if call.request.query("content").as_deref() == Some("false") {
        return list_titles(call, caller, &asked);
    }
    let mut found = whole_documents::page(call, &caller.user.id, &asked, PAGE_BYTES)?;
    let mut page = std::mem::take(&mut found.value);
    let bytes: usize = page.iter().filter_map(|d| d.content.as_ref()).map(String::len).sum();
    let is_cut = i64::try_from(bytes).unwrap_or(0) > PAGE_BYTES;
    let next = asked.cut(&mut page, is_cut, |last| (last.created_at, &last.id));
    let size = whole_documents::reserve_json(page.iter().filter_map(|document| document.content.as_deref()))?;
    let link = next.as_deref().map(|next| link_to_next(call, next));
    let response = Response::json_of_size(200, size, &DocumentList { documents: page, next });
    Ok(found.shown_in(with_link(response, link)))
}

/// Where the list goes on, for clients that know nothing of `next` (RFC 8288).
fn link_to_next(call: &Call<'_>, next: &str) -> String {
    let mut query = format!("after={}", encoded(next));
    for name in ["limit", "content"] {
        if let Some(value) = call.request.query(name) {
            query += &format!("&{name}={}", encoded(&value));
        }
    }
    format!("</api/docs/list?{query}>; rel=\"next\"")
}

fn with_link(response: Response, link: Option<String>) -> Response {
    match link {
        Some(link) => response.header("Link", link),
        None => response,
    }
}

fn list_titles(call: &Call<'_>, caller: &Caller, asked: &Page) -> Answer {
    let mut session = call.app.db.session()?;
    let mut page = documents::page_of_titles(&mut session, &caller.user.id, asked.after(), asked.limit + 1)?;
    drop(session);
    let next = asked.cut(&mut page, false, |last| (last.created_at, &last.id));
    let titles = TitleList { documents: page.iter().map(Title::of).collect(), next };
    let link = titles.next.as_deref().map(|next| link_to_next(call, next));
    Ok(with_link(Response::json_reserved(200, &titles)?, link))
}
