//! Table `deleted_documents`: deleted documents that can still be restored.

use std::time::Duration;

use time::OffsetDateTime;

use super::document_totals::Added;
use super::row::{Record, record};
use crate::config::DocumentQuota;
use crate::db::{Error, Executor};

/// Days for which a deleted document can be restored.
pub const KEPT_DAYS: i64 = 30;

/// Bytes of titles and texts that an account can have restored in a minute: each restoration writes its document's text anew,
/// and lets the next deletion do so too.
pub const RESTORED_A_MINUTE: i64 = 32 * 1024 * 1024;

/// The most documents that one statement deletes to make room for others.
const ROOM_STEP: i64 = 1000;

/// The most documents that one statement purges, so that it ends in time however large they are.
const PURGE_STEP: i64 = 100;

record! {
    /// A deleted document, as in the list of them.
    #[derive(Clone, Debug)]
    pub struct DeletedDocument {
        /// The document's id.
        pub id: String = "id",
        /// Its title.
        pub title: String = "title",
        /// When it was deleted.
        pub deleted: OffsetDateTime = "deleted",
    }
}

/// The user's deleted documents, the most recently deleted first.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str, limit: i64) -> Result<Vec<DeletedDocument>, Error> {
    const SQL: &str =
        concat!("SELECT ", columns!(), " FROM deleted_documents WHERE user_id = $1 ORDER BY deleted DESC, id LIMIT $2");
    db.query_list(SQL, &[&user_id, &limit])?.iter().map(DeletedDocument::from_row).collect()
}

/// Whether the user has deleted this document, and can restore it.
///
/// # Errors
/// See [`Error`].
pub fn exists(db: &mut impl Executor, id: &str, user_id: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT FROM deleted_documents WHERE id = $1 AND user_id = $2";
    Ok(db.query_opt(SQL, &[&id, &user_id])?.is_some())
}

/// What came of a restoration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It was restored, or not.
    Now(Added<()>),
    /// The account has restored [so much](RESTORED_A_MINUTE) that it must wait for so long.
    Later(Duration),
}

/// Restores one of the user's documents as it was, if the quota admits it; [`Added::Nothing`] if there is none.
///
/// # Errors
/// See [`Error`].
pub fn restore(db: &mut impl Executor, id: &str, user_id: &str, quota: DocumentQuota) -> Result<Restored, Error> {
    let row = db.query_one(
        "SELECT restored, wait_seconds FROM textgen_restore_within($1, $2, $3, $4, $5)",
        &[&id, &user_id, &quota.documents, &quota.bytes, &RESTORED_A_MINUTE],
    )?;
    if let Some(seconds) = row.try_get::<_, Option<f64>>(1)? {
        // At most a minute for each allowance that the largest document takes.
        return Ok(Restored::Later(Duration::try_from_secs_f64(seconds).unwrap_or_default()));
    }
    Ok(Restored::Now(match row.try_get::<_, Option<bool>>(0)? {
        None => Added::Nothing,
        Some(true) => Added::Done(()),
        Some(false) => Added::refused(db, user_id, quota)?,
    }))
}

/// Permanently deletes the user's oldest deleted documents, until the others are within the quota. To be called in a
/// transaction that has locked the account.
///
/// # Errors
/// See [`Error`].
pub fn make_room(db: &mut impl Executor, user_id: &str, quota: DocumentQuota) -> Result<(), Error> {
    // Those that are locked are being restored or purged.
    const SQL: &str = "WITH excess AS (
            SELECT deleted - $2 AS too_many, deleted_bytes - $3 AS too_large FROM document_totals
            WHERE user_id = $1 AND (deleted > $2 OR deleted_bytes > $3)),
        oldest AS (
            SELECT id, deleted, textgen_document_bytes(title, content) AS size FROM deleted_documents
            WHERE user_id = $1 AND EXISTS (SELECT FROM excess)
            ORDER BY deleted, id LIMIT $4 FOR UPDATE SKIP LOCKED),
        summed AS (
            SELECT id, row_number() OVER by_age AS number, sum(size) OVER by_age - size AS before FROM oldest
            WINDOW by_age AS (ORDER BY deleted, id))
        DELETE FROM deleted_documents WHERE id IN (
            SELECT id FROM summed, excess WHERE number <= too_many OR before < too_large)";
    let DocumentQuota { documents, bytes } = quota;
    while db.execute(SQL, &[&user_id, &documents, &bytes, &ROOM_STEP])? == ROOM_STEP.unsigned_abs() {}
    Ok(())
}

/// Permanently deletes some of the documents that were deleted more than [`KEPT_DAYS`] days ago, and returns how many. Call
/// it until there are none. Skips those that another transaction has locked: they are being restored, or deleted.
///
/// # Errors
/// See [`Error`].
pub fn purge(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM deleted_documents WHERE id IN (
            SELECT id FROM deleted_documents WHERE deleted < now() - $1 * interval '1 day'
            ORDER BY deleted LIMIT $2 FOR UPDATE SKIP LOCKED)";
    db.execute(SQL, &[&KEPT_DAYS, &PURGE_STEP])
}
