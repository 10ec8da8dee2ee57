//! Table `documents`.

use std::collections::HashMap;

use postgres::Row;
use serde::Serialize;
use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// A document. Serialised, it is the document object of the wire.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// Names it, and cannot be guessed.
    pub id: String,
    /// What it is called.
    pub title: String,
    /// What stands in it.
    pub content: Option<String>,
    /// Whose it is.
    pub user_id: String,
    /// When it was made.
    #[serde(serialize_with = "super::timestamp::serialize_naive")]
    pub created_at: OffsetDateTime,
    /// When it was last saved.
    #[serde(serialize_with = "super::timestamp::serialize_naive")]
    pub updated_at: OffsetDateTime,
    /// Whether anyone who has the id may read it.
    pub is_public: bool,
    /// Counts the saves.
    pub version: i64,
}

fn from_row(row: &Row) -> Result<Document, Error> {
    Ok(Document {
        id: row.try_get(0)?,
        title: row.try_get(1)?,
        content: row.try_get(2)?,
        user_id: row.try_get(3)?,
        created_at: row.try_get(4)?,
        updated_at: row.try_get(5)?,
        is_public: row.try_get(6)?,
        version: row.try_get(7)?,
    })
}

/// The document with this id, whoever's it is.
///
/// # Errors
/// See [`Error`].
pub fn by_id(db: &mut impl Executor, id: &str) -> Result<Option<Document>, Error> {
    const SQL: &str = "SELECT id, title, content, user_id, created, updated, is_public, version \
        FROM documents WHERE id = $1";
    db.query_opt(SQL, &[&id])?.as_ref().map(from_row).transpose()
}

/// The documents with these ids, by id.
///
/// # Errors
/// See [`Error`].
pub fn by_ids(db: &mut impl Executor, ids: &[&str]) -> Result<HashMap<String, Document>, Error> {
    const SQL: &str = "SELECT id, title, content, user_id, created, updated, is_public, version \
        FROM documents WHERE id = ANY($1)";
    if let [id] = ids {
        return Ok(by_id(db, id)?.map(|document| (document.id.clone(), document)).into_iter().collect());
    }
    let documents = db.query(SQL, &[&ids.to_vec()])?;
    documents.iter().map(from_row).map(|document| document.map(|document| (document.id.clone(), document))).collect()
}

/// Where a page of the list begins: behind the document made at this time with this id.
pub type After<'a> = (OffsetDateTime, &'a str);

/// A page of a person's documents, newest first: at most `limit`, and only the first of those at which the contents
/// exceed `most_bytes`.
///
/// # Errors
/// See [`Error`].
pub fn page(
    db: &mut impl Executor,
    user_id: &str,
    after: Option<After<'_>>,
    limit: i64,
    with_content: bool,
    most_bytes: i64,
) -> Result<Vec<Document>, Error> {
    const SQL: &str = "SELECT id, title, CASE WHEN $5 THEN content END, user_id, created, updated, is_public, version
        FROM (SELECT *, sum(CASE WHEN $5 THEN octet_length(content) ELSE 0 END)
                  OVER (ORDER BY created DESC, id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
              FROM (SELECT * FROM documents
                    WHERE user_id = $1 AND (created, id) < (coalesce($2, 'infinity'::timestamptz), $3)
                    ORDER BY created DESC, id DESC LIMIT $4) AS newest) AS page
        WHERE coalesce(before, 0) <= $6 ORDER BY created DESC, id DESC";
    let (time, id) = after.map_or((None, ""), |(time, id)| (Some(time), id));
    let rows = db.query(SQL, &[&user_id, &time, &id, &limit, &with_content, &most_bytes])?;
    rows.iter().map(from_row).collect()
}

/// Makes a document.
///
/// # Errors
/// [`Error::ForeignKey`] when the account is gone.
pub fn insert(
    db: &mut impl Executor,
    id: &str,
    user_id: &str,
    title: &str,
    content: Option<&str>,
) -> Result<i64, Error> {
    const SQL: &str = "INSERT INTO documents (id, user_id, title, content) VALUES ($1, $2, $3, $4) RETURNING version";
    Ok(db.query_one(SQL, &[&id, &user_id, &title, &content])?.try_get(0)?)
}

/// What a save changes; what is `None` stays.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The title.
    pub title: Option<&'a str>,
    /// The content, which may be made `null`.
    pub content: Option<Option<&'a str>>,
    /// Save only if this is still the document's version.
    pub version: Option<i64>,
}

/// Saves a person's document. Its new version; `None` when it is not theirs, gone, or has another version.
///
/// # Errors
/// See [`Error`].
pub fn update(db: &mut impl Executor, id: &str, user_id: &str, change: Change<'_>) -> Result<Option<i64>, Error> {
    const SQL: &str = "UPDATE documents SET title = coalesce($3, title),
            content = CASE WHEN $4 THEN $5 ELSE content END, updated = now(), version = version + 1
        WHERE id = $1 AND user_id = $2 AND ($6::bigint IS NULL OR version = $6) RETURNING version";
    let Change { title, content, version } = change;
    let row = db.query_opt(SQL, &[&id, &user_id, &title, &content.is_some(), &content.flatten(), &version])?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Lets anyone who has the id read a person's document, or no longer. Its version; `None` when it is not theirs.
///
/// # Errors
/// See [`Error`].
pub fn publish(db: &mut impl Executor, id: &str, user_id: &str, public: bool) -> Result<Option<i64>, Error> {
    const SQL: &str = "UPDATE documents SET is_public = $3, updated = now() WHERE id = $1 AND user_id = $2 \
        RETURNING version";
    db.query_opt(SQL, &[&id, &user_id, &public])?.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// A document as a list shows it.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Names it.
    pub id: String,
    /// What it is called.
    pub title: String,
    /// Some of its content, around what was searched for.
    pub excerpt: String,
    /// When it was made.
    pub created: OffsetDateTime,
    /// When it was last saved.
    pub updated: OffsetDateTime,
    /// Whether anyone who has the id may read it.
    pub is_public: bool,
}

/// A page of a person's documents whose title or content holds `text` (all, where it is empty), newest first.
///
/// # Errors
/// See [`Error`].
pub fn search(
    db: &mut impl Executor,
    user_id: &str,
    text: &str,
    after: Option<After<'_>>,
    limit: i64,
) -> Result<Vec<Summary>, Error> {
    const SQL: &str = "SELECT id, title,
            substring(content FROM greatest(1, position(lower($4) IN lower(content)) - 60) FOR 180),
            created, updated, is_public
        FROM documents
        WHERE user_id = $1 AND (created, id) < (coalesce($2, 'infinity'::timestamptz), $3)
            AND ($4 = '' OR title ILIKE $5 OR content ILIKE $5)
        ORDER BY created DESC, id DESC LIMIT $6";
    let (time, id) = after.map_or((None, ""), |(time, id)| (Some(time), id));
    let pattern = holds(text);
    let summary = |row: &Row| {
        Ok(Summary {
            id: row.try_get(0)?,
            title: row.try_get(1)?,
            excerpt: row.try_get::<_, Option<String>>(2)?.unwrap_or_default(),
            created: row.try_get(3)?,
            updated: row.try_get(4)?,
            is_public: row.try_get(5)?,
        })
    };
    db.query(SQL, &[&user_id, &time, &id, &text, &pattern, &limit])?.iter().map(summary).collect()
}

/// The `LIKE` pattern of what holds this text.
fn holds(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

/// Deletes a person's document; [`restore`](super::deleted_documents::restore) brings it back. Whether there was one.
///
/// # Errors
/// See [`Error`].
pub fn delete(db: &mut impl Executor, id: &str, user_id: &str) -> Result<bool, Error> {
    const SQL: &str = "WITH gone AS (DELETE FROM documents WHERE id = $1 AND user_id = $2
            RETURNING id, title, content, user_id, created, updated, is_public, version)
        INSERT INTO deleted_documents (id, title, content, user_id, created, updated, is_public, version)
        SELECT * FROM gone";
    Ok(db.execute(SQL, &[&id, &user_id])? == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_for_text_not_for_a_pattern() {
        assert_eq!(holds(r"50%_\"), r"%50\%\_\\%");
    }
}
