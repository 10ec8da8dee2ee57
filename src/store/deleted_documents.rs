//! Table `deleted_documents`: deleted documents that can still be restored.

use time::OffsetDateTime;

use super::documents;
use super::row::{Record, record};
use crate::db::{Error, Executor};

/// Days for which a deleted document can be restored.
pub const KEPT_DAYS: i64 = 30;

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
    db.query(SQL, &[&user_id, &limit])?.iter().map(DeletedDocument::from_row).collect()
}

/// Restores one of the user's documents as it was, and returns whether it existed.
///
/// # Errors
/// See [`Error`].
pub fn restore(db: &mut impl Executor, id: &str, user_id: &str) -> Result<bool, Error> {
    const SQL: &str = concat!(
        "WITH restored AS (DELETE FROM deleted_documents WHERE id = $1 AND user_id = $2 RETURNING ",
        documents::columns!(),
        ") INSERT INTO documents (",
        documents::columns!(),
        ") SELECT * FROM restored"
    );
    Ok(db.execute(SQL, &[&id, &user_id])? == 1)
}

/// Permanently deletes documents that were deleted more than [`KEPT_DAYS`] days ago, and returns how many.
///
/// # Errors
/// See [`Error`].
pub fn purge(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM deleted_documents WHERE deleted < now() - $1 * interval '1 day'";
    db.execute(SQL, &[&KEPT_DAYS])
}
