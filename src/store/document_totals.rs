//! Tables `document_totals` and `document_rooms`: what the documents of each account take, and what is set aside of its
//! quota. The totals count both. A save takes from a room that is free, in one statement, and calls a function of the
//! database only if there is none; so saves of one account do not wait for each other. What else writes documents is
//! counted by triggers.

use super::row::{Record, record};
use crate::config::DocumentQuota;
use crate::db::{Error, Executor};

record! {
    /// What an account's documents take.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DocumentTotals {
        /// How many there are.
        pub documents: i64 =
            "t.documents - coalesce((SELECT sum(r.documents) FROM document_rooms r WHERE r.user_id = t.user_id), 0)::bigint",
        /// Bytes of their titles and texts.
        pub bytes: i64 =
            "t.bytes - coalesce((SELECT sum(r.bytes) FROM document_rooms r WHERE r.user_id = t.user_id), 0)::bigint",
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
    /// Why the quota does not admit what was not added to the user's documents.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) fn refused(db: &mut impl Executor, user_id: &str, quota: DocumentQuota) -> Result<Added<T>, Error> {
        Ok(match find(db, user_id)? {
            None => Added::Nothing,
            Some(totals) if totals.documents >= quota.documents => Added::TooMany,
            Some(_) => Added::TooLarge,
        })
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
