//! Table `document_versions`: earlier texts of documents. Saves keep them (`textgen_is_version` says when), and delete what
//! is too much then: a document has at most [`MOST`], and those of an account take at most as many bytes as its documents may.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::deleted_documents::RESTORED_A_MINUTE;
use super::document_totals::Added;
use super::documents::{SHORT, Short};
use super::row::{Columns, Record, record};
use crate::config::DocumentQuota;
use crate::db::{Error, Executor};

/// The most versions of a document, as `textgen_keep_version` keeps them.
pub const MOST: i64 = 50;

/// Days for which a version is kept, from when it was overwritten.
pub const KEPT_DAYS: i64 = 30;

/// The most versions that one statement purges, so that it ends in time however large they are.
const PURGE_STEP: i64 = 100;

record! {
    /// An earlier version of a document, as in the list of them: its fields are serialised in this order.
    #[derive(Clone, Debug, Serialize, JsonSchema)]
    pub struct DocumentVersion {
        /// The document's `version` when it had this text.
        pub version: i64 = "v.version",
        /// Its title.
        pub title: String = "v.title",
        /// When it was saved: ISO 8601 in UTC, without a zone.
        #[serde(serialize_with = "super::timestamp::serialize_naive")]
        #[schemars(with = "String")]
        pub updated_at: OffsetDateTime = "v.updated",
        /// Bytes of its title and text, in UTF-8.
        pub bytes: i64 = "v.bytes",
    }
}

/// The earlier versions of one of the user's documents, newest first; `None` if the user has no such document.
///
/// # Errors
/// See [`Error`].
pub fn of_document(db: &mut impl Executor, id: &str, user_id: &str) -> Result<Option<Vec<DocumentVersion>>, Error> {
    const OWNED: &str = "SELECT FROM documents WHERE id = $1 AND user_id = $2";
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM document_versions v WHERE v.document_id = $1 ORDER BY v.version DESC LIMIT $2"
    );
    if db.query_opt(OWNED, &[&id, &user_id])?.is_none() {
        return Ok(None);
    }
    let rows = db.query_list(SQL, &[&id, &MOST])?;
    rows.iter().map(DocumentVersion::from_row).collect::<Result<_, _>>().map(Some)
}

/// The user's document as it was at a version, or is if that is its present one; `None` if there is none. A content of more
/// than `largest` bytes is left out.
///
/// # Errors
/// See [`Error`].
pub fn find(
    db: &mut impl Executor,
    id: &str,
    user_id: &str,
    version: i64,
    largest: i32,
) -> Result<Option<Short>, Error> {
    const SQL: &str = "SELECT d.id, v.title, CASE WHEN octet_length(v.content) <= $4 THEN v.content END, d.user_id,
            d.created, v.updated, d.is_public, v.version,
            CASE WHEN octet_length(v.content) > $4 THEN octet_length(v.content) ELSE 0 END
        FROM documents d, LATERAL (
            SELECT d.title, d.content, d.updated, d.version
            UNION ALL
            SELECT o.title, o.content, o.updated, o.version FROM document_versions o
            WHERE o.document_id = d.id AND o.version = $3 AND o.version <> d.version) v
        WHERE d.id = $1 AND d.user_id = $2 AND v.version = $3";
    let params: [&dyn crate::db::Param; 4] = [&id, &user_id, &version, &largest];
    // Whoever asks for a large content has reserved it.
    let rows = if largest > SHORT { db.query(SQL, &params)? } else { db.query_list(SQL, &params)? };
    rows.first().map(super::documents::short).transpose()
}

/// What came of going back to a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reverted {
    /// The document has this version now, or the quota does not admit it; [`Added::Nothing`] if there is no such version.
    Now(Added<i64>),
    /// The account has [restored](RESTORED_A_MINUTE) so much that it must wait for so long.
    Later(Duration),
}

/// Gives one of the user's documents the text of an earlier version, as a new version, and keeps the present one.
///
/// # Errors
/// See [`Error`].
pub fn revert(
    db: &mut impl Executor,
    id: &str,
    user_id: &str,
    version: i64,
    quota: DocumentQuota,
) -> Result<Reverted, Error> {
    const SQL: &str = "SELECT is_found, saved, wait_seconds FROM textgen_revert_document($1, $2, $3, $4, $5, $6)";
    let row = db.query_one(SQL, &[&id, &user_id, &version, &quota.documents, &quota.bytes, &RESTORED_A_MINUTE])?;
    let mut columns = Columns::of(&row);
    let (is_found, saved) = (columns.next::<bool>()?, columns.next::<Option<i64>>()?);
    Ok(match (is_found, saved, columns.next::<Option<f64>>()?) {
        (false, ..) => Reverted::Now(Added::Nothing),
        (true, Some(version), _) => Reverted::Now(Added::Done(version)),
        // At most a minute for each allowance that the largest two texts take.
        (true, None, Some(seconds)) => Reverted::Later(Duration::try_from_secs_f64(seconds).unwrap_or_default()),
        (true, None, None) => Reverted::Now(Added::TooLarge),
    })
}

/// Deletes some of the versions that were overwritten more than [`KEPT_DAYS`] days ago, and returns how many. Call it until
/// there are none. Skips those that another transaction has locked: they are being deleted.
///
/// # Errors
/// See [`Error`].
pub fn purge(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM document_versions WHERE (document_id, version) IN (
            SELECT document_id, version FROM document_versions WHERE kept < now() - $1 * interval '1 day'
            ORDER BY kept LIMIT $2 FOR UPDATE SKIP LOCKED)";
    db.execute(SQL, &[&KEPT_DAYS, &PURGE_STEP])
}
