//! Times in the API: ISO 8601 in UTC.

use serde::Serializer;
use time::OffsetDateTime;
use time::macros::format_description;

/// `2026-11-22T10:08:25`: UTC, without a zone, and with microseconds unless they are 0. User and document objects use
/// this form, which existing clients parse.
pub fn naive(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let whole = time.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]")).unwrap_or_default();
    match time.microsecond() {
        0 => whole,
        micros => format!("{whole}.{micros:06}"),
    }
}

/// [`naive`] for serde's `serialize_with`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_naive<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&naive(*time))
}

/// [`naive`] with the `Z` of RFC 3339, which all other objects use.
pub fn zulu(time: OffsetDateTime) -> String {
    naive(time) + "Z"
}

/// [`zulu`] for serde's `serialize_with`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_zulu<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&zulu(*time))
}

/// [`zulu`] or `null`, for serde's `serialize_with`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_zulu_option<S: Serializer>(time: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serialize_zulu(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// Parses RFC 3339, with a zone. `None` also for a time that is outside the years 0 to 9999 in UTC.
pub fn parse_zoned(text: &str) -> Option<OffsetDateTime> {
    use time::format_description::well_known::Rfc3339;
    OffsetDateTime::parse(text.trim(), &Rfc3339).ok().and_then(in_utc)
}

/// As [`parse_zoned`], but also in other forms of ISO 8601, and without a zone, which then is UTC.
pub fn parse(text: &str) -> Option<OffsetDateTime> {
    use time::PrimitiveDateTime;
    use time::format_description::well_known::{Iso8601, Rfc3339};
    let text = text.trim();
    let zoned = OffsetDateTime::parse(text, &Rfc3339).or_else(|_| OffsetDateTime::parse(text, &Iso8601::DEFAULT));
    let Ok(zoned) = zoned else {
        return PrimitiveDateTime::parse(text, &Iso8601::DEFAULT)
            .ok()
            .map(PrimitiveDateTime::assume_utc)
            .filter(is_usual);
    };
    in_utc(zoned)
}

/// The same time in UTC. `None` if it is outside the years 0 to 9999 there, though not in its own zone: the database's
/// driver cannot write it.
fn in_utc(time: OffsetDateTime) -> Option<OffsetDateTime> {
    time.checked_to_offset(time::UtcOffset::UTC).filter(is_usual)
}

fn is_usual(time: &OffsetDateTime) -> bool {
    (0..=9999).contains(&time.year())
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn writes_microseconds_only_where_there_are_any() {
        assert_eq!(naive(datetime!(2026-11-22 12:08:25 +2)), "2026-11-22T10:08:25");
        assert_eq!(zulu(datetime!(2026-11-22 10:08:25.000_120 UTC)), "2026-11-22T10:08:25.000120Z");
    }

    #[test]
    fn reads_both_forms() {
        assert_eq!(parse("2026-11-22T10:08:25Z"), Some(datetime!(2026-11-22 10:08:25 UTC)));
        assert_eq!(parse("2026-11-22T12:08:25.5+02:00"), Some(datetime!(2026-11-22 10:08:25.5 UTC)));
        assert_eq!(parse("2026-11-22T10:08:25"), Some(datetime!(2026-11-22 10:08:25 UTC)));
        assert_eq!(parse("tomorrow"), None);
    }

    #[test]
    fn times_that_cannot_be_written_are_refused() {
        for text in ["9999-12-31T23:59:59-12:00", "0000-01-01T00:00:00+12:00", "+12000-01-01T00:00:00", "soon"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("9999-12-31T23:59:59Z"), Some(datetime!(9999-12-31 23:59:59 UTC)));
        assert_eq!(parse("2027-01-31T12:00+02:00"), parse("2027-01-31T10:00:00Z"));
        assert_eq!(parse("2027-01-31T12:00:00+02:00"), Some(datetime!(2027-01-31 10:00 UTC)));
        assert_eq!((parse("2027-01-31T12:00:00").is_some(), parse_zoned("2027-01-31T12:00:00")), (true, None));
    }
}
