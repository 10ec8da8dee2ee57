//! The API of earlier versions of documents.

use schemars::JsonSchema;
use serde::Serialize;

use super::Answer;
use super::documents::{NOT_FOUND, RESTORED_TOO_MUCH, SavedDocument, not_empty, quota, within_quota};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::request_fields::request_fields;
use crate::operation::Group::Documents;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::document_versions::{self, DocumentVersion, Reverted};

/// There is no such version of a document, or no such document.
pub(super) const NO_VERSION: &str = "Version not found";

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/api/docs/versions", Authenticated(list)).described(
            summary(Documents, "The earlier versions of a document, newest first: at most 50, of the last 30 days")
                .query::<OfDocument>()
                .reply::<VersionList>()
                .status(400, "The id is missing")
                .status(404, "No document of the caller has this id"),
        ),
        post("/api/docs/revert", Authenticated(revert)).described(
            summary(Documents, "Go back to an earlier version of a document; the present text becomes a version too")
                .fields::<RevertDocument<'_>>()
                .reply::<SavedDocument<'_>>()
                .status(403, "The account's documents are as large as they may be; the reply has the limit")
                .status(404, "The document or the version does not exist")
                .status(429, "The account has restored 32 MiB of text in the last minute"),
        ),
    ]
}

/// The parameters of the list.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct OfDocument {
    #[schemars(required)]
    id: Option<String>,
}

request_fields! {
    /// What going back takes.
    struct RevertDocument<'f> {
        #[schemars(required)]
        id: Option<&'f str>,
        #[schemars(required)]
        version: Option<i64>,
    }
}

#[derive(Serialize, JsonSchema)]
struct VersionList {
    versions: Vec<DocumentVersion>,
}

/// `GET /api/docs/versions?id=`.
fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let id = call.request.query("id");
    let versions = of_document(call, not_empty(id.as_deref())?, &caller.user.id)?;
    Ok(Response::json_reserved(200, &VersionList { versions })?)
}

/// The earlier versions of a document.
///
/// # Errors
/// 404 if the user has no such document. Those of the database.
pub(super) fn of_document(call: &Call<'_>, id: &str, user_id: &str) -> Result<Vec<DocumentVersion>> {
    // PostgreSQL rejects NUL, and no id contains it.
    if id.contains('\0') {
        return Err(Error::NotFound(NOT_FOUND));
    }
    let found = document_versions::of_document(&mut call.app.db.session()?, id, user_id)?;
    found.ok_or(Error::NotFound(NOT_FOUND))
}

/// `POST /api/docs/revert` with `id` and `version`.
fn revert(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = super::fields(call)?;
    let RevertDocument { id, version } = RevertDocument::read(&fields)?;
    let (id, version) = (not_empty(id)?, version.ok_or(Error::bad("version is required"))?);
    let version = revert_one(call, id, &caller.user.id, version)?;
    Ok(Response::json(200, &SavedDocument { id, success: true, message: "Document reverted", version }))
}

/// Gives a document the text of an earlier version; returns its new version.
///
/// # Errors
/// 404 if there is no such document or version, 403 if the quota does not admit it, 429 if the account has restored too much.
/// Those of the database.
pub(super) fn revert_one(call: &Call<'_>, id: &str, user_id: &str, version: i64) -> Result<i64> {
    let quota = quota(call);
    match document_versions::revert(&mut call.app.db.session()?, id, user_id, version, quota)? {
        Reverted::Now(reverted) => within_quota(reverted, quota)?.ok_or(Error::NotFound(NO_VERSION)),
        Reverted::Later(wait) => Err(Error::RateLimited(RESTORED_TOO_MUCH, Some(wait))),
    }
}
