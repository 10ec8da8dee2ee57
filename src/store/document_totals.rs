//! Table `document_totals`: what the documents of each account take. The statements of
//! [`documents`](super::documents) that are called most keep it themselves; triggers do it for all others.

use super::row::{Record, record};
use crate::config::DocumentQuota;
use crate::db::{Error, Executor};

record! {
    /// What an account's documents take.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DocumentTotals {
        /// How many there are.
        pub documents: i64 = "t.documents",
        /// Bytes of their titles and texts.
        pub bytes: i64 = "t.bytes",
    }
}

/// What came of adding to an account's documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added<T> {
    /// It was added.
    Done(T),
    /// There is nothing that could be added, or no such account.
    Nothing,
    /// There would be too many documents.
    TooMany,
    /// They would take too many bytes.
    TooLarge,
}

impl<T> Added<T> {
    /// What was not added to documents that take so much, as the quota does not admit it.
    pub(super) fn refused(totals: DocumentTotals, quota: DocumentQuota) -> Added<T> {
        if totals.documents >= quota.documents { Added::TooMany } else { Added::TooLarge }
    }
}

/// What the user's documents take; `None` if there is no such user.
///
/// # Errors
/// See [`Error`].
pub fn find(db: &mut impl Executor, user_id: &str) -> Result<Option<DocumentTotals>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM document_totals t WHERE t.user_id = $1");
    db.query_opt(SQL, &[&user_id])?.as_ref().map(DocumentTotals::from_row).transpose()
}

/// The same; 0 if there is no such user.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str) -> Result<DocumentTotals, Error> {
    Ok(find(db, user_id)?.unwrap_or(DocumentTotals { documents: 0, bytes: 0 }))
}
