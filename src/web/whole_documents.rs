//! Documents with their contents. The memory for a large one is reserved before it is read, and that for its page or JSON
//! before that is written.

use super::cursor::Page;
use crate::call::Call;
use crate::db;
use crate::error::Result;
use crate::http::{Content, Method, Response};
use crate::memory_budget;
use crate::store::document_versions;
use crate::store::documents::{self as store, Document};

/// Times the size of a content that it takes while it is read: in the driver's buffer, which doubles as it grows, and as a
/// text.
const READING: usize = 3;

/// What a page or an object has besides the content, in bytes, and more.
const AROUND: usize = 32 * 1024;

/// A document, or a page of them.
pub(super) struct Found<T> {
    /// It.
    pub(super) value: T,
    /// Whether the large contents are there. They are not read for `HEAD`.
    pub(super) is_whole: bool,
}

impl<T> Found<T> {
    /// What a response that shows it becomes without the large contents.
    pub(super) fn shown_in(&self, response: Response) -> Response {
        if self.is_whole { response } else { Response { content: Content::LeftOut, ..response } }
    }
}

fn is_head(call: &Call<'_>) -> bool {
    *call.request.method() == Method::HEAD
}

/// The document with this id, if `is_readable` says so of it. A large one takes two round trips, so that nobody reads one
/// for nothing.
///
/// # Errors
/// 503 or 429 if there is no memory for it. Those of the database.
pub(super) fn find(
    call: &Call<'_>,
    id: &str,
    is_readable: impl Fn(&Document) -> bool,
) -> Result<Option<Found<Document>>> {
    // PostgreSQL rejects NUL, and no id contains it.
    if id.contains('\0') {
        return Ok(None);
    }
    // Others' documents are read along.
    let read = |ids: &[&str]| store::by_ids(&mut call.app.db.shared_session()?, ids);
    let found = call.app.documents.get::<_, db::Error>(id, read)?;
    let Some(short) = found.filter(|short| is_readable(&short.document)) else { return Ok(None) };
    if short.left_out == 0 || is_head(call) {
        return Ok(Some(Found { value: short.document, is_whole: short.left_out == 0 }));
    }
    memory_budget::reserve(READING * short.left_out)?;
    // It may have changed hands or size meanwhile; the next reservation is of its size now.
    let document = store::by_id(&mut call.app.db.session()?, id)?.filter(is_readable);
    memory_budget::release((READING - 1) * short.left_out);
    Ok(document.map(|value| Found { value, is_whole: true }))
}

/// A document of the user as it was at a version, or is. A large one takes two round trips.
///
/// # Errors
/// 503 or 429 if there is no memory for it. Those of the database.
pub(super) fn find_version(call: &Call<'_>, id: &str, user_id: &str, version: i64) -> Result<Option<Found<Document>>> {
    if id.contains('\0') {
        return Ok(None);
    }
    let found = document_versions::find(&mut call.app.db.session()?, id, user_id, version, store::SHORT)?;
    let Some(short) = found else { return Ok(None) };
    if short.left_out == 0 || is_head(call) {
        return Ok(Some(Found { value: short.document, is_whole: short.left_out == 0 }));
    }
    memory_budget::reserve(READING * short.left_out)?;
    let whole = document_versions::find(&mut call.app.db.session()?, id, user_id, version, i32::MAX)?;
    memory_budget::release((READING - 1) * short.left_out);
    Ok(whole.map(|whole| Found { value: whole.document, is_whole: true }))
}

/// A page of the account's documents, and one more if there is one, of about `most` bytes of contents. Large contents take
/// two round trips.
///
/// # Errors
/// 503 or 429 if there is no memory for it. Those of the database.
pub(super) fn page(call: &Call<'_>, user_id: &str, asked: &Page, most: i64) -> Result<Found<Vec<Document>>> {
    let read = |whole| {
        let mut session = call.app.db.session()?;
        store::page(&mut session, user_id, asked.after(), asked.limit + 1, most, whole)
    };
    let mut found = read(store::SHORT.into())?;
    let left_out: usize = found.iter().map(|short| short.left_out).sum();
    let is_whole = left_out == 0 || !is_head(call);
    if left_out > 0 && is_whole {
        memory_budget::reserve(READING * left_out)?;
        found = read(i64::MAX)?;
        memory_budget::release((READING - 1) * left_out);
    }
    Ok(Found { value: found.into_iter().map(|short| short.document).collect(), is_whole })
}

/// Reserves what a page with these texts in it takes, and returns how much that is.
///
/// # Errors
/// 503 or 429 if there is no memory for it.
pub(super) fn reserve_html<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<usize> {
    reserve(texts, |byte| match byte {
        b'<' | b'>' | b'&' | b'"' | b'\'' => 5, // as in `&#60;`
        _ => 1,
    })
}

/// Reserves what an object with these texts in it takes as JSON, and returns how much that is.
///
/// # Errors
/// 503 or 429 if there is no memory for it.
pub(super) fn reserve_json<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<usize> {
    reserve(texts, |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..=31 => 6, // as in `\u0001`
        _ => 1,
    })
}

fn reserve<'t>(texts: impl IntoIterator<Item = &'t str>, written: impl Fn(u8) -> usize) -> Result<usize> {
    let texts = texts.into_iter().map(|text| text.bytes().map(&written).sum::<usize>());
    let size = texts.sum::<usize>() + AROUND;
    memory_budget::reserve_if_large(size)?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_has_the_size_that_was_reserved() {
        let all: String = (0..=0x2100).filter_map(char::from_u32).collect();
        let html = askama::filters::escape(&all, askama::filters::Html).unwrap().to_string();
        assert_eq!(reserve_html([all.as_str()]).unwrap(), html.len() + AROUND);
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(reserve_json([all.as_str()]).unwrap(), json.len() - 2 + AROUND);
    }
}
