//! Pages of lists that are sorted by time and id. Where a page ends is sent to the client, which sends it back to get
//! the next one.

use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::http::Request;

/// The page that a request asks for, by `limit` and `after`.
pub(super) struct Page {
    /// Most items on it.
    pub(super) limit: i64,
    after: Option<String>,
}

impl Page {
    /// At most `most` items, and as many unless `limit` asks for fewer.
    ///
    /// # Errors
    /// 400 for a limit or a position that cannot be.
    pub(super) fn of(request: &Request, most: i64) -> Result<Page> {
        let limit = request.query("limit").map_or(Some(most), |text| text.parse().ok());
        let limit = limit.filter(|n| (1..=most).contains(n));
        let limit = limit.ok_or_else(|| Error::bad(format!("limit must be from 1 to {most}")))?;
        let after = request.query("after").filter(|text| !text.is_empty());
        if after.as_deref().is_some_and(|text| parse(text).is_none()) {
            return Err(Error::bad("after must be the next of a previous page"));
        }
        Ok(Page { limit, after })
    }

    /// Behind which item it begins.
    pub(super) fn after(&self) -> Option<(OffsetDateTime, &str)> {
        self.after.as_deref().and_then(parse)
    }

    /// Cuts the items that were read, of which there may be one more than [`Page::limit`], to the page. Returns where
    /// the next one begins if there is one, or if `has_more` says so.
    pub(super) fn cut<T>(
        &self,
        items: &mut Vec<T>,
        has_more: bool,
        position: impl Fn(&T) -> (OffsetDateTime, &str),
    ) -> Option<String> {
        let has_more = last_before_next_page(items, self.limit).is_some() || has_more;
        items.last().filter(|_| has_more).map(|last| {
            let (time, id) = position(last);
            write(time, id)
        })
    }
}

/// The last item of a page, if another page follows. `found` was read with one item more than the `size` of a page, and
/// loses it.
pub(super) fn last_before_next_page<T>(found: &mut Vec<T>, size: i64) -> Option<&T> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let has_more = found.len() > size;
    found.truncate(size);
    found.last().filter(|_| has_more)
}

/// The time in microseconds since 1970, and the id.
pub(super) fn write(time: OffsetDateTime, id: &str) -> String {
    format!("{}_{id}", time.unix_timestamp_nanos() / 1000)
}

/// `None` for anything that [`write`] cannot have written.
pub(super) fn parse(text: &str) -> Option<(OffsetDateTime, &str)> {
    let (micros, id) = text.split_once('_')?;
    let nanos = micros.parse::<i64>().ok().map(|micros| i128::from(micros) * 1000)?;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
    // PostgreSQL's range of times begins later than that of `time`.
    Some((time, id)).filter(|_| time.year() > 0 && !id.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_parsed_as_it_was_written() {
        let (time, id) = parse("1795341705000120_doc_a_b").unwrap();
        assert_eq!((write(time, id).as_str(), id), ("1795341705000120_doc_a_b", "doc_a_b"));
        for bad in ["", "x", "_", "x_y", "99999999999999999999_a", "-300000000000000000_a"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
