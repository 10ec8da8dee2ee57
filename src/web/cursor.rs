//! Pages of lists, most of which are sorted by time and id. Where a page ends is sent to the client, which sends it back to get
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
        let (limit, after) = asked(request, most)?;
        if after.as_deref().is_some_and(|text| parse(text).is_none()) {
            return Err(Error::bad(NO_POSITION));
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

pub(super) const NO_POSITION: &str = "after must be the next of a previous page";

/// The `limit` and `after` of a request.
pub(super) fn asked(request: &Request, most: i64) -> Result<(i64, Option<String>)> {
    let limit = request.query("limit").map_or(Some(most), |text| text.parse().ok());
    let limit = limit.filter(|n| (1..=most).contains(n));
    let limit = limit.ok_or_else(|| Error::bad(format!("limit must be from 1 to {most}")))?;
    Ok((limit, request.query("after").filter(|text| !text.is_empty())))
}

/// Cuts a list that is in memory to the page that a request asks for, of at most `most` items. Returns where the next
/// one begins, if there is one. An item's place and name are in it, so that a list that has changed meanwhile goes on
/// behind the same item, or if that is gone at the same place.
///
/// # Errors
/// As [`Page::of`].
pub(super) fn cut_list<T>(
    request: &Request,
    most: i64,
    items: &mut Vec<T>,
    name: impl Fn(&T) -> &str,
) -> Result<Option<String>> {
    let (limit, after) = asked(request, most)?;
    let mut first = 0;
    if let Some(after) = after {
        let position = after.split_once('_').and_then(|(at, name)| Some((at.parse::<usize>().ok()?, name)));
        let (at, last) = position.ok_or(Error::bad(NO_POSITION))?;
        first = items.iter().position(|item| name(item) == last).map_or(at, |found| found + 1);
    }
    items.drain(..first.min(items.len()));
    let last = last_before_next_page(items, limit);
    Ok(last.map(|item| format!("{}_{}", first + usize::try_from(limit).unwrap_or(usize::MAX) - 1, name(item))))
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
    fn a_list_goes_on_behind_the_same_item() {
        let page = |query: &str, items: &[&'static str]| {
            let mut request = Request::default();
            request.head.parse(format!("GET /?{query} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
            let mut items = items.to_vec();
            cut_list(&request, 2, &mut items, |item| item).map(|next| (items, next)).map_err(|e| e.to_string())
        };
        let next = |text: &str| Some(text.to_owned());
        assert_eq!(page("", &["a", "b", "c_d", "e", "f"]), Ok((vec!["a", "b"], next("1_b"))));
        assert_eq!(page("after=1_b", &["a", "b", "c_d", "e", "f"]), Ok((vec!["c_d", "e"], next("3_e"))));
        assert_eq!(page("after=2_c_d", &["c_d", "e", "f"]), Ok((vec!["e", "f"], None)), "the first ones are gone");
        assert_eq!(page("after=1_b", &["a", "c_d", "e", "f"]), Ok((vec!["c_d", "e"], next("2_e"))), "b is gone");
        assert_eq!(page("after=99999999_x", &["a"]), Ok((vec![], None)));
        for bad in ["after=x", "after=_a", "after=-1_a", "limit=3", "limit=0"] {
            assert!(page(bad, &["a"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_is_parsed_as_it_was_written() {
        let (time, id) = parse("1795341705000120_doc_a_b").unwrap();
        assert_eq!((write(time, id).as_str(), id), ("1795341705000120_doc_a_b", "doc_a_b"));
        for bad in ["", "x", "_", "x_y", "99999999999999999999_a", "-300000000000000000_a"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
