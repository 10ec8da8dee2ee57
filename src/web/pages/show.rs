//! Formats times, money and the names of browsers for the pages.

use time::OffsetDateTime;
use time::macros::format_description;

use crate::money::Cost;
use crate::store::timestamp;

/// A time as HTML, in UTC; a script shows it in the visitor's time zone.
pub(super) fn time(time: &OffsetDateTime) -> String {
    let utc = time.to_offset(time::UtcOffset::UTC);
    let text = utc.format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC")).unwrap_or_default();
    format!("<time datetime=\"{}\">{text}</time>", timestamp::zulu(utc))
}

/// A time to the second, in UTC.
pub(super) fn to_the_second(time: &OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    time.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}

/// An amount, with two decimal places or as many as it takes to be exact: `$0.0005`.
pub(super) fn money<C: Copy + Into<Cost>>(amount: &C) -> String {
    money_to(amount, &0)
}

/// The same with at least so many decimal places: as many as [`places`] finds for a column are shown below each other.
pub(super) fn money_to<C: Copy + Into<Cost>>(amount: &C, places: &usize) -> String {
    let cost: Cost = (*amount).into();
    let (sign, size) = (if cost.micros() < 0 { "−" } else { "" }, cost.micros().unsigned_abs());
    let fraction = fraction(cost);
    let kept = decimals(&fraction).max((*places).min(fraction.len()));
    format!("{sign}${}.{}", grouped(size / 1_000_000), &fraction[..kept])
}

/// The most decimal places of these amounts.
pub(super) fn places(amounts: impl Iterator<Item = Cost>) -> usize {
    amounts.map(|cost| decimals(&fraction(cost))).max().unwrap_or(2)
}

fn fraction(cost: Cost) -> String {
    format!("{:06}{:06}", cost.micros().unsigned_abs() % 1_000_000, cost.picos())
}

fn decimals(fraction: &str) -> usize {
    fraction.trim_end_matches('0').len().max(2)
}

/// An amount: rounded to the cent from one dollar on, and exact below.
pub(super) fn cents<C: Copy + Into<Cost>>(amount: &C) -> String {
    const CENT: i64 = 10_000;
    let cost: Cost = (*amount).into();
    let micros = cost.micros();
    match micros.unsigned_abs() >= 1_000_000 {
        true => money(&(micros.saturating_add(micros.signum() * CENT / 2) / CENT * CENT)),
        false => money(&cost),
    }
}

/// A number with thousands separators: `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes in the largest unit that fits, rounded down to a tenth: `3.4 MiB`.
pub(super) fn bytes(bytes: &i64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let bytes = bytes.unsigned_abs();
    let Some((name, unit)) = UNITS.into_iter().find(|(_, unit)| bytes >= *unit) else {
        return if bytes == 1 { "1 byte".to_owned() } else { format!("{bytes} bytes") };
    };
    match (bytes / unit, bytes % unit * 10 / unit) {
        (whole, 0) => format!("{} {name}", grouped(whole)),
        (whole, tenths) => format!("{}.{tenths} {name}", grouped(whole)),
    }
}

/// How much of a quota is used: `3 of 100`, or `3` where it does not end.
pub(super) fn of_quota(used: &i64, most: &i64, in_words: fn(&i64) -> String) -> String {
    match *most < i64::MAX {
        true => format!("{} of {}", in_words(used), in_words(most)),
        false => in_words(used),
    }
}

/// A number of things.
pub(super) fn count(number: &i64) -> String {
    grouped(number.unsigned_abs())
}

/// The short name of a browser that is known, with its system. Nothing of it is the client's own text.
pub(in crate::web) fn known_browser(user_agent: &str) -> Option<String> {
    // The order matters, because browsers also claim to be those further down.
    const BROWSERS: [(&str, &str); 7] = [
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
        ("ureq/", "a program"),
    ];
    const SYSTEMS: [(&str, &str); 6] = [
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ];
    let find = |names: &[(&str, &'static str)]| {
        names.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, name)| *name)
    };
    match (find(&BROWSERS), find(&SYSTEMS)) {
        (Some(browser), Some(system)) => Some(format!("{browser} on {system}")),
        (browser, _) => browser.map(str::to_owned),
    }
}

/// A short name for a `User-Agent`: `Firefox on Linux`, or its first 60 characters if the browser is unknown.
pub(super) fn browser(user_agent: &str) -> String {
    match known_browser(user_agent) {
        Some(name) => name,
        None if user_agent.is_empty() => "Unknown browser".to_owned(),
        None => user_agent.chars().take(60).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn money_is_exact_and_says_its_currency() {
        for (micros, text) in [
            (0, "$0.00"),
            (42, "$0.000042"),
            (1_500_000, "$1.50"),
            (1_234_567_890_000, "$1,234,567.89"),
            (-10_000, "−$0.01"),
        ] {
            assert_eq!(money(&micros), text);
        }
    }

    #[test]
    fn little_money_is_exact_and_much_is_rounded() {
        for (micros, text) in [(999_999, "$0.999999"), (21_096_402, "$21.10"), (-1_994_999, "−$1.99")] {
            assert_eq!(cents(&micros), text);
        }
    }

    #[test]
    fn times_are_utc_until_a_script_knows_better() {
        let html = time(&datetime!(2026-11-22 12:08:25 +2));
        assert_eq!(html, "<time datetime=\"2026-11-22T10:08:25Z\">2026-11-22 10:08 UTC</time>");
        assert_eq!(to_the_second(&datetime!(2026-11-22 12:08:25 +2)), "2026-11-22 10:08:25 UTC");
    }

    #[test]
    fn browsers_have_short_names() {
        let chrome =
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36";
        assert_eq!(browser(chrome), "Chrome on Linux");
        assert_eq!(browser("curl/8.5.0"), "curl");
        assert_eq!(browser("<script>"), "<script>");
        assert_eq!(browser(""), "Unknown browser");
    }
}
