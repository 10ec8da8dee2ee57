//! Table `deleted_documents`: what was deleted and can be brought back.

use postgres::Row;
use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// Days for which a deleted document is kept.
pub const KEPT_DAYS: i64 = 30;

/// A deleted document as a list shows it.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// Names it.
    pub id: String,
    /// What it was called.
    pub title: String,
    /// When it was deleted.
    pub deleted: OffsetDateTime,
}

/// A person's deleted documents, the last one first.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str, limit: i64) -> Result<Vec<Deleted>, Error> {
    const SQL: &str = "SELECT id, title, deleted FROM deleted_documents WHERE user_id = $1 \
        ORDER BY deleted DESC, id LIMIT $2";
    let deleted = |row: &Row| Ok(Deleted { id: row.try_get(0)?, title: row.try_get(1)?, deleted: row.try_get(2)? });
    db.query(SQL, &[&user_id, &limit])?.iter().map(deleted).collect()
}

/// Brings a person's document back as it was. Whether there was one.
///
/// # Errors
/// See [`Error`].
pub fn restore(db: &mut impl Executor, id: &str, user_id: &str) -> Result<bool, Error> {
    const SQL: &str = "WITH back AS (DELETE FROM deleted_documents WHERE id = $1 AND user_id = $2
            RETURNING id, title, content, user_id, created, updated, is_public, version)
        INSERT INTO documents (id, title, content, user_id, created, updated, is_public, version)
        SELECT * FROM back";
    Ok(db.execute(SQL, &[&id, &user_id])? == 1)
}

/// Deletes for good what was deleted more than [`KEPT_DAYS`] days ago. How many.
///
/// # Errors
/// See [`Error`].
pub fn purge(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM deleted_documents WHERE deleted < now() - $1 * interval '1 day'";
    db.execute(SQL, &[&KEPT_DAYS])
}
