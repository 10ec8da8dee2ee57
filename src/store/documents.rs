//! Table `documents`.

use std::collections::HashMap;

use postgres::Row;
use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::document_totals::Added;
use super::row::{Record, record};
use crate::config::DocumentQuota;
use crate::db::{Error, Executor, Param};

record! {
    /// A document, and the document object of the API: its fields are serialised in this order.
    #[derive(Clone, Debug, Serialize, JsonSchema)]
    #[schemars(transform = content_is_optional)]
    pub struct Document {
        /// Random id: whoever knows that of a public document can read it.
        pub id: String = "id",
        /// Title.
        pub title: String = "title",
        /// Text. Lists leave it out if content=false.
        pub content: Option<String> = "content",
        /// Id of the owner.
        pub user_id: String = "user_id",
        /// When the document was created: ISO 8601 in UTC, without a zone.
        #[serde(serialize_with = "super::timestamp::serialize_naive")]
        #[schemars(with = "String")]
        pub created_at: OffsetDateTime = "created",
        /// When it was last saved: ISO 8601 in UTC, without a zone.
        #[serde(serialize_with = "super::timestamp::serialize_naive")]
        #[schemars(with = "String")]
        pub updated_at: OffsetDateTime = "updated",
        /// Whether anyone who has the id may read it.
        pub is_public: bool = "is_public",
        /// Number of times it was saved.
        pub version: i64 = "version",
    }
}

/// A [`Document`] without its content, as lists may show it.
#[derive(Debug, Serialize)]
pub struct Title<'d> {
    id: &'d str,
    title: &'d str,
    user_id: &'d str,
    #[serde(serialize_with = "super::timestamp::serialize_naive")]
    created_at: OffsetDateTime,
    #[serde(serialize_with = "super::timestamp::serialize_naive")]
    updated_at: OffsetDateTime,
    is_public: bool,
    version: i64,
}

impl Title<'_> {
    /// That of this document.
    pub fn of(document: &Document) -> Title<'_> {
        let Document { id, title, user_id, created_at, updated_at, is_public, version, .. } = document;
        let (created_at, updated_at, is_public, version) = (*created_at, *updated_at, *is_public, *version);
        Title { id, title, user_id, created_at, updated_at, is_public, version }
    }
}

fn content_is_optional(schema: &mut schemars::Schema) {
    if let Some(required) = schema.get_mut("required").and_then(serde_json::Value::as_array_mut) {
        required.retain(|name| name != "content");
    }
}

/// The document with this id, whoever owns it.
///
/// # Errors
/// See [`Error`].
pub fn by_id(db: &mut impl Executor, id: &str) -> Result<Option<Document>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM documents WHERE id = $1");
    db.query_opt(SQL, &[&id])?.as_ref().map(Document::from_row).transpose()
}

/// A document whose content may have been left out, as it is large.
#[derive(Clone, Debug)]
pub struct Short {
    /// The document. Its content is `None` if it has none, or if it was left out.
    pub document: Document,
    /// How many bytes of content were left out.
    pub left_out: usize,
}

/// A content of more bytes than this is read on its own.
pub const SHORT: i32 = 64 * 1024;

/// The columns of `columns!()`, but for a content of more than `$1` bytes, and how many bytes that has. The length is
/// known without reading it.
macro_rules! short_columns {
    ($condition:literal) => {
        concat!(
            "SELECT id, title, CASE WHEN octet_length(content) <= $1 THEN content END, user_id, created, updated,
                is_public, version, CASE WHEN octet_length(content) > $1 THEN octet_length(content) ELSE 0 END
            FROM documents ",
            $condition
        )
    };
}

/// The documents with these ids, by id, without large contents.
///
/// # Errors
/// See [`Error`].
pub fn by_ids(db: &mut impl Executor, ids: &[&str]) -> Result<HashMap<String, Short>, Error> {
    const ONE: &str = short_columns!("WHERE id = $2");
    const MANY: &str = short_columns!("WHERE id = ANY($2)");
    let rows = match ids {
        [id] => db.query(ONE, &[&SHORT, id])?,
        _ => db.query(MANY, &[&SHORT, &ids.to_vec()])?,
    };
    let by_id = |row: &Row| short(row).map(|short| (short.document.id.clone(), short));
    rows.iter().map(by_id).collect()
}

/// A document, and in the next column how many bytes of its content were left out.
pub(super) fn short(row: &Row) -> Result<Short, Error> {
    let mut columns = super::row::Columns::of(row);
    let document = Document::from_columns(&mut columns)?;
    let left_out = usize::try_from(columns.next::<i32>()?).unwrap_or(0);
    Ok(Short { document, left_out })
}

/// The last document of the previous page of a list: when it was created, and its id.
pub type After<'a> = (OffsetDateTime, &'a str);

/// A page of the user's documents, newest first: at most `limit`, and no further ones once the contents exceed
/// `max_bytes` in total. Contents are left out once they exceed `whole` in total.
///
/// # Errors
/// See [`Error`].
pub fn page(
    db: &mut impl Executor,
    user_id: &str,
    after: Option<After<'_>>,
    limit: i64,
    max_bytes: i64,
    whole: i64,
) -> Result<Vec<Short>, Error> {
    // The columns of `columns!()`, but for contents that are left out, and how many bytes these have.
    const SQL: &str = "SELECT id, title, CASE WHEN before + bytes <= $6 THEN content END, user_id, created, updated,
            is_public, version, CASE WHEN before + bytes > $6 THEN bytes ELSE 0 END
        FROM (SELECT *, coalesce(sum(bytes) OVER
                  (ORDER BY created DESC, id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
              FROM (SELECT *, coalesce(octet_length(content), 0) AS bytes FROM documents
                    WHERE user_id = $1 AND (created, id) < (coalesce($2, 'infinity'::timestamptz), $3)
                    ORDER BY created DESC, id DESC LIMIT $4) AS newest) AS page
        WHERE before <= $5 ORDER BY created DESC, id DESC";
    let (time, id) = after.map_or((None, ""), |(time, id)| (Some(time), id));
    let params: [&dyn Param; 6] = [&user_id, &time, &id, &limit, &max_bytes, &whole];
    // Contents that were left out before are reserved by whoever asks for them.
    let rows = if whole > SHORT.into() { db.query(SQL, &params)? } else { db.query_list(SQL, &params)? };
    rows.iter().map(short).collect()
}

/// A page of the user's documents without their contents, newest first: at most `limit`.
///
/// # Errors
/// See [`Error`].
pub fn page_of_titles(
    db: &mut impl Executor,
    user_id: &str,
    after: Option<After<'_>>,
    limit: i64,
) -> Result<Vec<Document>, Error> {
    const SQL: &str = "SELECT id, title, NULL::text, user_id, created, updated, is_public, version FROM documents
        WHERE user_id = $1 AND (created, id) < (coalesce($2, 'infinity'::timestamptz), $3)
        ORDER BY created DESC, id DESC LIMIT $4";
    let (time, id) = after.map_or((None, ""), |(time, id)| (Some(time), id));
    db.query_list(SQL, &[&user_id, &time, &id, &limit])?.iter().map(Document::from_row).collect()
}

/// Inserts a document, if the quota admits it, and returns its version.
///
/// # Errors
/// See [`Error`].
pub fn insert(
    db: &mut impl Executor,
    id: &str,
    user_id: &str,
    title: &str,
    content: Option<&str>,
    quota: DocumentQuota,
) -> Result<Added<i64>, Error> {
    // The account comes first, as whoever deletes it locks it first.
    const IN_ROOM: &str = "WITH counted AS (
            UPDATE document_rooms r
            SET documents = r.documents - 1, bytes = r.bytes - textgen_document_bytes($3, $4)
            WHERE r.user_id = (SELECT u.id FROM users u WHERE u.id = $2 FOR KEY SHARE)
                AND r.slot = (SELECT textgen_document_slot($2))
                AND r.documents > 0 AND r.bytes >= textgen_document_bytes($3, $4)
                AND r.max_documents = $5 AND r.max_bytes = $6
            RETURNING r.user_id)
        INSERT INTO documents (id, user_id, title, content) SELECT $1, user_id, $3, $4 FROM counted
        RETURNING version, textgen_note_counted()";
    const WITHOUT_ROOM: &str = "SELECT textgen_insert_document($1, $2, $3, $4, $5, $6)";
    let params: [&dyn Param; 6] = [&id, &user_id, &title, &content, &quota.documents, &quota.bytes];
    if let Some(row) = db.query_opt(IN_ROOM, &params)? {
        return Ok(Added::Done(row.try_get(0)?));
    }
    match db.query_one(WITHOUT_ROOM, &params)?.try_get(0)? {
        Some(version) => Ok(Added::Done(version)),
        None => Added::refused(db, user_id, quota),
    }
}

/// What a save changes; `None` leaves a field as it is.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The title.
    pub title: Option<&'a str>,
    /// The content, which may be set to `NULL`.
    pub content: Option<Option<&'a str>>,
    /// The version that the change is based on: if the document has another one, it is not saved.
    pub version: Option<i64>,
    /// Whether a content that it replaces is [kept](super::document_versions) whenever the last one was.
    pub keep_version: bool,
}

/// Saves one of the user's documents, if the quota of bytes admits it or it does not become longer, and returns its new
/// version; [`Added::Nothing`] if the user has no such document, or it has another version.
///
/// # Errors
/// See [`Error`].
pub fn update(
    db: &mut impl Executor,
    id: &str,
    user_id: &str,
    change: Change<'_>,
    quota: DocumentQuota,
) -> Result<Added<i64>, Error> {
    // The document is locked before the totals, as triggers do it.
    const IN_ROOM: &str = "WITH found AS (
            SELECT id AS found_id, textgen_document_bytes(coalesce($3, title), CASE WHEN $4 THEN $5 ELSE content END)
                - textgen_document_bytes(title, content) AS growth,
                textgen_is_version(title, content, coalesce($3, title), CASE WHEN $4 THEN $5 ELSE content END,
                    coalesce(kept, created), $9) AS is_kept
            FROM documents WHERE id = $1 AND user_id = $2 AND ($6::bigint IS NULL OR version = $6)
            FOR NO KEY UPDATE),
        counted AS (
            UPDATE document_rooms r SET bytes = r.bytes - growth FROM found
            WHERE growth <> 0 AND r.user_id = $2 AND r.slot = (SELECT textgen_document_slot($2))
                AND (growth < 0 OR r.bytes >= growth AND r.max_documents = $7 AND r.max_bytes = $8)
            RETURNING r.user_id),
        saved AS (
            UPDATE documents SET title = coalesce($3, title), content = CASE WHEN $4 THEN $5 ELSE content END,
                updated = now(), version = version + 1, kept = CASE WHEN is_kept THEN now() ELSE kept END
            FROM found WHERE id = found_id AND (growth = 0 OR EXISTS (SELECT FROM counted))
                AND (NOT is_kept OR textgen_keep_version(found_id, $8))
            RETURNING version, textgen_note_counted())
        SELECT (SELECT version FROM saved) FROM found";
    const WITHOUT_ROOM: &str = "SELECT saved, is_found FROM textgen_save_and_keep($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let Change { title, content, version, keep_version } = change;
    let DocumentQuota { documents, bytes } = quota;
    // Without a new content, a few bytes would have a large one written.
    let asked = keep_version && content.is_some();
    let params: [&dyn Param; 9] =
        [&id, &user_id, &title, &content.is_some(), &content.flatten(), &version, &documents, &bytes, &asked];
    let Some(row) = db.query_opt(IN_ROOM, &params)? else { return Ok(Added::Nothing) };
    if let Some(version) = row.try_get(0)? {
        return Ok(Added::Done(version));
    }
    let row = db.query_one(WITHOUT_ROOM, &params)?;
    let unsaved = if row.try_get(1)? { Added::TooLarge } else { Added::Nothing };
    Ok(row.try_get::<_, Option<i64>>(0)?.map_or(unsaved, Added::Done))
}

/// Makes one of the user's documents public or private, and returns its version; `None` if the user has no such
/// document.
///
/// # Errors
/// See [`Error`].
pub fn set_public(db: &mut impl Executor, id: &str, user_id: &str, public: bool) -> Result<Option<i64>, Error> {
    // Nothing is to be counted.
    const SQL: &str = "UPDATE documents SET is_public = $3, updated = now() WHERE id = $1 AND user_id = $2 \
        RETURNING version, textgen_note_counted()";
    db.query_opt(SQL, &[&id, &user_id, &public])?.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// A document as shown in a list.
#[derive(Clone, Debug)]
pub struct DocumentSummary {
    /// The document's id.
    pub id: String,
    /// Title.
    pub title: String,
    /// Part of the content, around the first match of the search.
    pub excerpt: String,
    /// When the document was created.
    pub created: OffsetDateTime,
    /// When it was last saved.
    pub updated: OffsetDateTime,
    /// Whether anyone who has the id may read it.
    pub is_public: bool,
}

/// Characters of a content that a search looks at. What a document costs a search does not depend on how long it is
/// beyond that: PostgreSQL reads and unpacks only the beginning.
///
/// There is no index of texts. The documents of one account are found by `documents_of_user`; an index of trigrams over
/// the beginnings of all texts takes as much room as they do and makes each save slower, and the planner prefers the
/// account's documents to it.
pub const SEARCHED_CHARACTERS: i32 = 65_536;

/// A document that a search has looked at.
#[derive(Clone, Debug)]
pub struct Searched {
    /// The document's id.
    pub id: String,
    /// When it was created.
    pub created: OffsetDateTime,
    /// `None` if it does not match.
    pub summary: Option<DocumentSummary>,
}

/// Looks at the next `limit` of the user's documents, newest first, and finds those whose title or the first
/// [`SEARCHED_CHARACTERS`] of whose content contain `text` in upper or lower case; all of them if it is empty.
///
/// # Errors
/// See [`Error`].
pub fn search(
    db: &mut impl Executor,
    user_id: &str,
    text: &str,
    after: Option<After<'_>>,
    limit: i64,
) -> Result<Vec<Searched>, Error> {
    // Materialised, so that each text is compared once, and only matches are read further.
    const SQL: &str = "WITH looked_at AS MATERIALIZED (
            SELECT id, title, content, created, updated, is_public,
                $4 = '' OR title ILIKE $5 OR left(content, $7) ILIKE $5 AS is_match
            FROM documents
            WHERE user_id = $1 AND (created, id) < (coalesce($2, 'infinity'::timestamptz), $3)
            ORDER BY created DESC, id DESC LIMIT $6)
        SELECT id, created, coalesce(is_match, false), CASE WHEN is_match THEN title END,
            CASE WHEN $4 = '' THEN left(content, 180) WHEN is_match THEN
                substring(content FROM greatest(1, position(lower($4) IN lower(left(content, $7))) - 60) FOR 180) END,
            updated, is_public
        FROM looked_at ORDER BY created DESC, id DESC";
    let (time, id) = after.map_or((None, ""), |(time, id)| (Some(time), id));
    let pattern = like_pattern(text);
    let looked_at = |row: &Row| {
        let (id, created): (String, OffsetDateTime) = (row.try_get(0)?, row.try_get(1)?);
        let mut summary = None;
        if row.try_get(2)? {
            summary = Some(DocumentSummary {
                id: id.clone(),
                title: row.try_get(3)?,
                excerpt: row.try_get::<_, Option<String>>(4)?.unwrap_or_default(),
                created,
                updated: row.try_get(5)?,
                is_public: row.try_get(6)?,
            });
        }
        Ok(Searched { id, created, summary })
    };
    let rows = db.query_list(SQL, &[&user_id, &time, &id, &text, &pattern, &limit, &SEARCHED_CHARACTERS])?;
    rows.iter().map(looked_at).collect()
}

/// The `LIKE` pattern of texts that contain this one.
fn like_pattern(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

/// Deletes one of the user's documents, and returns whether it existed. It can be
/// [restored](super::deleted_documents::restore) for a while. To be called in a transaction that has locked the account.
///
/// # Errors
/// See [`Error`].
pub fn delete(db: &mut impl Executor, id: &str, user_id: &str) -> Result<bool, Error> {
    const SQL: &str = concat!(
        "WITH deleted AS (DELETE FROM documents WHERE id = $1 AND user_id = $2 RETURNING ",
        columns!(),
        ") INSERT INTO deleted_documents (",
        columns!(),
        ") SELECT * FROM deleted"
    );
    Ok(db.execute(SQL, &[&id, &user_id])? == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_of_a_search_are_escaped() {
        assert_eq!(like_pattern(r"50%_\"), r"%50\%\_\\%");
    }
}
