//! The position of an item in a list that is sorted by time and id, as clients send it back to get the next page.

use time::OffsetDateTime;

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
