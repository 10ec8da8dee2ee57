//! How long a provider asks to be left alone.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ureq::http::HeaderMap;
use ureq::http::header::RETRY_AFTER;

/// What `retry-after-ms` (milliseconds) or `Retry-After` (RFC 9110, 10.2.3: seconds, here also with a fraction, or a
/// date) say.
pub(super) fn requested(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let millis = text("retry-after-ms").and_then(|text| duration(text, 0.001));
    millis.or_else(|| text(RETRY_AFTER.as_str()).and_then(|text| duration(text, 1.0).or_else(|| until(text, now))))
}

fn duration(text: &str, unit: f64) -> Option<Duration> {
    // `f64` would also take `inf` and `1e9`.
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = text.parse::<f64>().ok().filter(|_| is_decimal)?;
    Some(Duration::try_from_secs_f64(number * unit).unwrap_or(Duration::MAX))
}

fn until(text: &str, now: OffsetDateTime) -> Option<Duration> {
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Some(Duration::try_from(date - now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ureq::http::HeaderValue;

    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Option<Duration> {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        let headers = pairs.iter().map(|(name, text)| (name.parse().unwrap(), value(text))).collect();
        requested(&headers, time::macros::datetime!(1994-11-06 08:49:00 UTC))
    }

    #[test]
    fn each_notation_is_understood() {
        let seconds = |n: f64| Some(Duration::from_secs_f64(n));
        assert_eq!(of(&[("retry-after", "7")]), seconds(7.0));
        assert_eq!(of(&[("retry-after", " 0.25 ")]), seconds(0.25));
        assert_eq!(of(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]), seconds(37.0));
        assert_eq!(of(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), seconds(0.0));
        assert_eq!(of(&[("retry-after", "9"), ("retry-after-ms", "1500")]), seconds(1.5));
        assert_eq!(of(&[("retry-after", "9"), ("retry-after-ms", "soon")]), seconds(9.0));
        assert_eq!(of(&[("retry-after", &"9".repeat(400))]), Some(Duration::MAX));
        for nothing in ["", "-1", "inf", "nan", "1e3", "soon", "Sun, 06 Nov", "."] {
            assert_eq!(of(&[("retry-after", nothing)]), None, "{nothing}");
        }
        assert_eq!(of(&[]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[ -~]{0,40}", millis in "[ -~]{0,20}") {
            of(&[("retry-after", &text), ("retry-after-ms", &millis)]);
        }

        #[test]
        fn whole_seconds_are_exact(seconds in 0..=u32::MAX) {
            prop_assert_eq!(of(&[("retry-after", &seconds.to_string())]), Some(Duration::from_secs(seconds.into())));
        }
    }
}
