//! The API of documents.

use schemars::JsonSchema;
use serde::Serialize;

use super::Answer;
use super::keys::in_transaction;
use super::whole_documents;
use crate::accounts::random;
use crate::auth::Caller;
use crate::call::Call;
use crate::config::DocumentQuota;
use crate::error::{Conflicting, Error, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::http::request_fields::request_fields;
use crate::operation::Group::Documents;
use crate::operation::Handler::{Authenticated, Optional};
use crate::operation::{Operation, get, post, summary};
use crate::store::deleted_documents::{self, Restored};
use crate::store::document_totals::{self, Added, DocumentTotals};
use crate::store::documents::{self, Change, Document};
use crate::store::users;

/// The most bytes of a document's content.
pub(super) const LARGEST: usize = 8 * 1024 * 1024;

/// The most bytes of a request that saves a document: in JSON, one byte of text may take six.
pub(super) const LARGEST_BODY: usize = 6 * LARGEST + 64 * 1024;

/// The most characters of a title.
const LONGEST_TITLE: usize = 1000;

/// The title of a document that was created without one.
pub(super) const UNTITLED: &str = "Untitled Document";

/// How often a save without a version is tried, if the document is deleted and restored at the same time.
const TRIES: usize = 3;

pub(super) const AUTHENTICATION_REQUIRED: &str = "Authentication required";
pub(super) const NOT_FOUND: &str = "Document not found";
const TOO_MANY: &str = "Too many documents: delete some first";
const TOO_LARGE: &str = "Document storage is full: delete some documents first";
pub(super) const RESTORED_TOO_MUCH: &str = "This account has restored a lot of text, try again later";
const ID_REQUIRED: &str = "Document ID is required";

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    const NONE: &str = "No document of the caller has this id";
    const FULL: &str = "The account's documents are as many, or as large, as they may be; the reply has the limit";
    let saves = |words| {
        summary(Documents, words)
            .json::<SaveDocument<'_>>()
            .reply::<SavedDocument<'_>>()
            .status(403, FULL)
            .status(404, NONE)
            .status(409, "The document was changed in the meantime; the reply has the saved one")
    };
    let changes = |words| summary(Documents, words).fields::<DocumentId<'_>>().status(404, NONE);
    vec![
        get("/api/docs/usage", Authenticated(usage)).described(
            summary(Documents, "How much the caller's documents take, and how much they may").reply::<DocumentUsage>(),
        ),
        get("/api/docs/get", Optional(get_one)).described(
            summary(Documents, "A document of the caller, or a public one; or a version of the caller's")
                .query::<GetDocument>()
                .reply::<Document>()
                .status(400, "The id is missing, or the version is no number")
                .status(401, "The credential is invalid")
                .status(404, "The document does not exist, or not for this caller"),
        ),
        post("/api/docs/save", Authenticated(save))
            .described(saves("Create a document, or save one; fields that are left out stay as they are. An unknown id of the form doc_<13 digits>, as older editors invent it, creates one")),
        post("/api/docs/autosave", Authenticated(autosave)).described(saves("Same as /api/docs/save")),
        post("/api/docs/publish", Authenticated(publish)).described(
            summary(Documents, "Make a document public or private")
                .fields::<PublishDocument<'_>>()
                .reply::<PublishedDocument<'_>>()
                .status(404, NONE),
        ),
        post("/api/docs/delete", Authenticated(delete))
            .described(changes("Delete a document").reply::<ChangedDocument<'_>>()),
        post("/api/docs/restore", Authenticated(restore)).described(
            changes("Restore a document that was deleted in the last 30 days")
                .reply::<ChangedDocument<'_>>()
                .status(403, FULL)
                .status(429, "The account has restored 32 MiB of text in the last minute"),
        ),
    ]
}

/// The parameters of a document.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct GetDocument {
    #[schemars(required)]
    id: Option<String>,
    /// The document as it was then: of `/api/docs/versions`.
    version: Option<i64>,
}

request_fields! {
    /// Which document.
    struct DocumentId<'f> {
        #[schemars(required)]
        id: Option<&'f str>,
    }
}

request_fields! {
    /// What a save takes.
    struct SaveDocument<'f> {
        /// Without an id, a document is created.
        id: Option<&'f str>,
        title: Option<&'f str>,
        /// At most 8 MiB.
        content: Option<&'f str>,
        /// Save only if this is still the document's version.
        version: Option<i64>,
        /// Keep the text that `content` replaces as a version, even if another was kept in the last 10 minutes.
        keep_version: Option<bool>,
    }
}

request_fields! {
    /// What publishing takes.
    struct PublishDocument<'f> {
        #[schemars(required)]
        id: Option<&'f str>,
        /// `false` makes the document private again; true by default.
        is_public: Option<bool>,
    }
}

#[derive(Serialize, JsonSchema)]
struct DocumentUsage {
    documents: i64,
    /// Bytes of their titles and texts, in UTF-8.
    bytes: i64,
    /// How many documents there may be; null for any number.
    max_documents: Option<i64>,
    /// How many bytes they may take; null for any number.
    max_bytes: Option<i64>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct SavedDocument<'a> {
    pub(super) id: &'a str,
    /// Always true.
    pub(super) success: bool,
    pub(super) message: &'a str,
    pub(super) version: i64,
}

#[derive(Serialize, JsonSchema)]
struct ChangedDocument<'a> {
    id: &'a str,
    /// Always true.
    success: bool,
    message: &'a str,
}

#[derive(Serialize, JsonSchema)]
struct PublishedDocument<'a> {
    id: &'a str,
    /// Always true.
    success: bool,
    is_public: bool,
    version: i64,
}

/// `GET /api/docs/usage`.
fn usage(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let DocumentTotals { documents, bytes } = document_totals::of_user(&mut call.app.db.session()?, &caller.user.id)?;
    let quota = quota(call);
    let limit = |limit| Some(limit).filter(|limit| *limit < i64::MAX);
    let (max_documents, max_bytes) = (limit(quota.documents), limit(quota.bytes));
    Ok(Response::json(200, &DocumentUsage { documents, bytes, max_documents, max_bytes }))
}

pub(super) fn quota(call: &Call<'_>) -> DocumentQuota {
    call.app.config.quotas.of_documents()
}

/// What was added; `None` if there is nothing that could be.
pub(super) fn within_quota<T>(added: Added<T>, quota: DocumentQuota) -> Result<Option<T>> {
    let used = |text, limit| Error::QuotaUsed(text, Conflicting { limit: Some(limit), ..Conflicting::default() });
    match added {
        Added::Done(done) => Ok(Some(done)),
        Added::Nothing => Ok(None),
        Added::TooMany => Err(used(TOO_MANY, quota.documents)),
        Added::TooLarge => Err(used(TOO_LARGE, quota.bytes)),
    }
}

/// `GET /api/docs/get?id=&version=`: the caller's own document, also as it was at a version, or a public one; 404 for any
/// other.
fn get_one(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let id = call.request.query("id").filter(|id| !id.is_empty()).ok_or(Error::bad(ID_REQUIRED))?;
    let owner = caller.map(|caller| caller.user.id.as_str());
    let is_readable = |document: &Document| document.is_public || owner == Some(&document.user_id);
    let version = call.request.query("version").filter(|version| !version.is_empty());
    let version = version.map(|text| text.parse().map_err(|_| Error::bad("version must be an integer"))).transpose()?;
    let found = match (version, owner) {
        (None, _) => whole_documents::find(call, &id, is_readable)?,
        (Some(version), Some(owner)) => whole_documents::find_version(call, &id, owner, version)?,
        (Some(_), None) => None,
    };
    match found {
        Some(found) => {
            let size = whole_documents::reserve_json(found.value.content.as_deref())?;
            Ok(found.shown_in(Response::json_of_size(200, size, &found.value)))
        }
        None if owner.is_none() && call.has_credential() => Err(Error::Unauthorized(AUTHENTICATION_REQUIRED)),
        None => Err(Error::NotFound(NOT_FOUND)),
    }
}

/// `POST /api/docs/save`.
fn save(call: &mut Call<'_>, caller: &Caller) -> Answer {
    write(call, caller, "Document saved successfully")
}

/// `POST /api/docs/autosave`.
fn autosave(call: &mut Call<'_>, caller: &Caller) -> Answer {
    write(call, caller, "Document autosaved")
}

fn write(call: &mut Call<'_>, caller: &Caller, message: &str) -> Answer {
    let fields = Fields::read_json(call.request, LARGEST_BODY)?;
    let SaveDocument { id, title, content, version, keep_version } = SaveDocument::read(&fields)?;
    let keep_version = keep_version.unwrap_or(false);
    let id = id.filter(|id| !id.is_empty());
    let title = title.map(checked_title).transpose()?;
    let content = match fields.has("content") {
        true => Some(content.map(checked_content).transpose()?),
        false => None,
    };
    let change = Change { title, content, version, keep_version };
    let create = || insert(call, &caller.user.id, title.unwrap_or(UNTITLED), content.unwrap_or(Some("")));
    let (id, version) = match id {
        None => create()?,
        Some(id) => match update(call, id, &caller.user.id, change) {
            Err(Error::NotFound(_)) if version.is_none() && is_invented(call, id, &caller.user.id)? => create()?,
            saved => (id.to_owned(), saved?),
        },
    };
    Ok(Response::json(200, &SavedDocument { id: &id, success: true, message, version }))
}

/// Whether an id without a document is one that editors of the older system invent for a new document, from the time in
/// milliseconds, and not that of a document which the user has deleted.
fn is_invented(call: &Call<'_>, id: &str, user_id: &str) -> Result<bool> {
    let digits = id.strip_prefix("doc_").unwrap_or_default();
    if digits.len() != 13 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(false);
    }
    Ok(!deleted_documents::exists(&mut call.app.db.session()?, id, user_id)?)
}

/// Creates a document; returns its id and version.
pub(super) fn insert(call: &Call<'_>, user_id: &str, title: &str, content: Option<&str>) -> Result<(String, i64)> {
    let (id, quota) = (format!("doc_{}", random(22)?), quota(call));
    let added = documents::insert(&mut call.app.db.session()?, &id, user_id, title, content, quota)?;
    // Otherwise the account has just been deleted.
    let version = within_quota(added, quota)?.ok_or(Error::Unauthorized(AUTHENTICATION_REQUIRED))?;
    Ok((id, version))
}

/// Saves a document; returns its new version.
pub(super) fn update(call: &Call<'_>, id: &str, user_id: &str, change: Change<'_>) -> Result<i64> {
    for _ in 0..TRIES {
        let quota = quota(call);
        let saved = documents::update(&mut call.app.db.session()?, id, user_id, change, quota)?;
        if let Some(version) = within_quota(saved, quota)? {
            return Ok(version);
        }
        let Some(found) = whole_documents::find(call, id, |_| true)? else {
            return Err(Error::NotFound(NOT_FOUND));
        };
        let document = found.value;
        if document.user_id != user_id {
            return Err(Error::Forbidden("Permission denied"));
        }
        // Without a version there can be no conflict: it was restored between the two statements. Try again.
        if change.version.is_some() {
            whole_documents::reserve_json(document.content.as_deref())?;
            let saved = Conflicting { document: Some(Box::new(document)), ..Conflicting::default() };
            return Err(Error::Conflict("The document was changed in the meantime", saved));
        }
    }
    Err(Error::Busy)
}

/// `POST /api/docs/delete` with `id`.
fn delete(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = super::fields(call)?;
    let id = required_id(&fields)?;
    delete_one(call, id, &caller.user.id)?;
    Ok(Response::json(200, &ChangedDocument { id, success: true, message: "Document deleted" }))
}

/// Deletes a document. If the deleted ones are too many then, or too large, the oldest of them can't be restored any more.
pub(super) fn delete_one(call: &Call<'_>, id: &str, user_id: &str) -> Result<()> {
    in_transaction(call, |db| {
        // Without the account there is no document.
        if !(users::lock(db, user_id)? && documents::delete(db, id, user_id)?) {
            return Err(Error::NotFound(NOT_FOUND));
        }
        Ok(deleted_documents::make_room(db, user_id, quota(call))?)
    })
}

/// `POST /api/docs/restore` with `id`: restores a document that was deleted in the last 30 days.
fn restore(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = super::fields(call)?;
    let id = required_id(&fields)?;
    restore_one(call, id, &caller.user.id)?;
    Ok(Response::json(200, &ChangedDocument { id, success: true, message: "Document restored" }))
}

/// Restores a document.
pub(super) fn restore_one(call: &Call<'_>, id: &str, user_id: &str) -> Result<()> {
    let quota = quota(call);
    match deleted_documents::restore(&mut call.app.db.session()?, id, user_id, quota)? {
        Restored::Now(restored) => within_quota(restored, quota)?.ok_or(Error::NotFound(NOT_FOUND)),
        Restored::Later(wait) => Err(Error::RateLimited(RESTORED_TOO_MUCH, Some(wait))),
    }
}

/// `POST /api/docs/publish` with `id` and optionally `is_public: false`.
fn publish(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = super::fields(call)?;
    if fields.is_null("is_public") {
        return Err(Error::bad("is_public must be true or false"));
    }
    let PublishDocument { id, is_public } = PublishDocument::read(&fields)?;
    let (id, is_public) = (not_empty(id)?, is_public.unwrap_or(true));
    let version = documents::set_public(&mut call.app.db.session()?, id, &caller.user.id, is_public)?;
    let version = version.ok_or(Error::NotFound(NOT_FOUND))?;
    Ok(Response::json(200, &PublishedDocument { id, success: true, is_public, version }))
}

fn required_id(fields: &Fields) -> Result<&str> {
    not_empty(DocumentId::read(fields)?.id)
}

pub(super) fn not_empty(id: Option<&str>) -> Result<&str> {
    id.filter(|id| !id.is_empty()).ok_or(Error::bad(ID_REQUIRED))
}

pub(super) fn checked_title(title: &str) -> Result<&str> {
    match title.chars().count() > LONGEST_TITLE {
        true => Err(Error::bad("The title must have at most 1000 characters")),
        false => Ok(title),
    }
}

pub(super) fn checked_content(content: &str) -> Result<&str> {
    if content.len() > LARGEST { Err(Error::TooLarge(LARGEST)) } else { Ok(content) }
}
