//! The headers that tell a caller what is left of its rate limits, named and written as OpenAI's.

use crate::app::App;
use crate::limits::{Micros, RateIds};

/// Limit, what is left of it, and in how long all of it is; of requests and of tokens.
pub(super) const NAMES: [[&str; 3]; 2] = [
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
];

/// Those of a caller with these limits.
pub(super) fn of(app: &App, rates: &RateIds) -> Vec<(&'static str, String)> {
    let status = app.meter.limits().rates().status(rates);
    let mut headers = Vec::new();
    for ([limit, remaining, reset], status) in NAMES.into_iter().zip(status) {
        if let Some(status) = status {
            headers.push((limit, status.most.to_string()));
            headers.push((remaining, status.remaining.to_string()));
            headers.push((reset, duration(status.resets_in)));
        }
    }
    headers
}

/// `59s` or `6m0s`, rounded up.
fn duration(micros: Micros) -> String {
    let seconds = (micros.max(0) + 999_999) / 1_000_000;
    match seconds / 60 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{}s", seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        let written = [0, 1, 1_000_000, 59_000_001, 360_000_000, 361_500_000].map(duration);
        assert_eq!(written, ["0s", "1s", "1s", "1m0s", "6m0s", "6m2s"]);
    }
}
