//! A clock that costs one atomic load to read, and the `Date` header made from it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::macros::format_description;

/// Milliseconds since the clock was made, as of the last [`Clock::refresh`]. The monitor refreshes it regularly, and a
/// worker does when it wakes up.
pub(super) struct Clock {
    origin: Instant,
    millis: AtomicU64,
    unix_seconds: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Clock {
        let clock = Clock { origin: Instant::now(), millis: AtomicU64::new(0), unix_seconds: AtomicU64::new(0) };
        clock.refresh();
        clock
    }

    /// Reads the system's clocks. The milliseconds never go back.
    pub(super) fn refresh(&self) -> u64 {
        let now = millis(self.origin.elapsed());
        self.millis.fetch_max(now, Relaxed);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.unix_seconds.store(unix.as_secs(), Relaxed);
        now
    }

    pub(super) fn now(&self) -> u64 {
        self.millis.load(Relaxed)
    }

    pub(super) fn unix_seconds(&self) -> u64 {
        self.unix_seconds.load(Relaxed)
    }
}

/// A duration in whole milliseconds; a very long one is cut, so that sums of a few do not overflow.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX >> 8)
}

/// The value of the `Date` header, formatted once a second.
#[derive(Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

impl Date {
    /// The value for this second, as an IMF-fixdate (RFC 9110, section 5.6.7).
    pub(super) fn at(&mut self, unix_seconds: u64) -> &str {
        if self.second != unix_seconds || self.text.is_empty() {
            self.second = unix_seconds;
            self.text = imf_fixdate(unix_seconds);
        }
        &self.text
    }
}

fn imf_fixdate(unix_seconds: u64) -> String {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    let seconds = i64::try_from(unix_seconds).unwrap_or(0);
    let when = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    when.format(&format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_the_date_of_the_standard() {
        assert_eq!(Date::default().at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
