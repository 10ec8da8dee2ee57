//! `/documents`: the list of the caller's documents; creates, deletes and restores them.

use askama::Template;

use super::{Frame, encoded, page, query_text, segment, show};
use crate::auth::Caller;
use crate::call::Call;
use crate::config::DocumentQuota;
use crate::http::Response;
use crate::store::deleted_documents::{self, DeletedDocument, KEPT_DAYS};
use crate::store::document_totals::{self, DocumentTotals};
use crate::store::documents::DocumentSummary;
use crate::web::cursor;
use crate::web::document_search::{self, Found, LONGEST_TEXT};
use crate::web::documents::{UNTITLED, delete_one, insert, quota, restore_one};
use crate::web::{Answer, fields};

/// Documents on a page.
const PAGE: usize = 30;

/// How many deleted documents are listed, the latest first.
const LISTED_DELETED: i64 = 200;

#[derive(Template)]
#[template(path = "documents.html")]
struct Documents {
    frame: Frame,
    query: String,
    documents: Vec<DocumentSummary>,
    first: String,
    next: Option<String>,
    is_first: bool,
    undo: Option<String>,
    usage: DocumentTotals,
    quota: DocumentQuota,
}

#[derive(Template)]
#[template(path = "deleted.html")]
struct DeletedPage {
    frame: Frame,
    documents: Vec<DeletedDocument>,
    kept_days: i64,
}

/// `GET /documents?q=&after=`.
pub(in crate::web) fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let query: String = query_text(call, "q").chars().take(LONGEST_TEXT).collect();
    let after = query_text(call, "after");
    let position = cursor::parse(&after);
    let Found { documents, next } = document_search::page(call.app, &caller.user.id, &query, position, PAGE)?;
    let (usage, quota) = (document_totals::of_user(&mut call.app.db.session()?, &caller.user.id)?, quota(call));
    let first = format!("/documents?q={}", encoded(&query));
    let next = next.map(|after| format!("{first}&after={}", encoded(&after)));
    let undo = Some(query_text(call, "deleted")).filter(|id| !id.is_empty());
    let frame = Frame::new(Some(caller), "documents").with_notice(call, &[("restored", "Document restored.")]);
    page(200, &Documents { frame, query, documents, first, next, is_first: position.is_none(), undo, usage, quota })
}

/// `POST /documents`: creates an empty document and opens it.
pub(in crate::web) fn create(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let (id, _) = insert(call, &caller.user.id, UNTITLED, Some(""))?;
    Ok(Response::see_other(format!("/documents/{id}")))
}

/// `POST /documents/{id}/delete`: shows the list, with a button to undo it.
pub(in crate::web) fn delete(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let id = segment(call, 0)?;
    delete_one(call, &id, &caller.user.id)?;
    Ok(Response::see_other(format!("/documents?deleted={}", encoded(&id))))
}

/// `POST /documents/{id}/restore`: shows the list, or opens the document with `open=true`.
pub(in crate::web) fn restore(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let opens = fields(call)?.optional_bool("open")?.unwrap_or(false);
    let id = segment(call, 0)?;
    restore_one(call, &id, &caller.user.id)?;
    Ok(match opens {
        true => Response::see_other(format!("/documents/{id}?done=restored")),
        false => Response::see_other("/documents?done=restored"),
    })
}

/// `GET /documents/deleted`.
pub(in crate::web) fn deleted(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let documents = deleted_documents::of_user(&mut call.app.db.session()?, &caller.user.id, LISTED_DELETED)?;
    page(200, &DeletedPage { frame: Frame::new(Some(caller), "documents"), documents, kept_days: KEPT_DAYS })
}
