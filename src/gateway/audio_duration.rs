//! How long a recording plays, by its frames and by what a model server reports.

use std::time::Duration;

use crate::media::{Measured, NotMeasurable};
use crate::protocol::usage::Reported;
use crate::units::{Unit, Units};

/// Bytes per second that are assumed where neither the model server nor the file tells the duration: 4 kbit/s, less than
/// the codecs of speech in use need, so that a recording is hardly ever longer than is charged.
const LEAST_BYTE_RATE: u64 = 500;

/// How long a recording plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudioDuration {
    /// In milliseconds.
    pub millis: i64,
    /// Whether that is only an upper bound, derived from the size of the file.
    pub estimated: bool,
}

impl AudioDuration {
    /// That of a recording of `size` bytes, by its frames or, failing that, the most that its size allows, or what was
    /// counted of it if that is longer.
    pub(super) fn of(measured: Result<Measured, NotMeasurable>, counted: Duration, size: u64) -> AudioDuration {
        let whole = |millis| i64::try_from(millis).unwrap_or(i64::MAX);
        match measured {
            Ok(measured) => {
                let millis = whole((measured.duration.as_nanos() + 500_000) / 1_000_000);
                AudioDuration { millis, estimated: false }
            }
            Err(e) => {
                log::warn!("the length of a recording of {size} bytes could not be measured: {e}");
                let most = u128::from(size) * 1000 / u128::from(LEAST_BYTE_RATE);
                AudioDuration { millis: whole(most.max(counted.as_millis())), estimated: true }
            }
        }
    }

    /// A duration that a model server may report without being doubted: a little longer.
    pub(super) fn longest(self) -> AudioDuration {
        AudioDuration { millis: self.millis.saturating_add(self.millis / 9 + 1), ..self }
    }

    /// The duration to charge for: what the model server reports, unless it differs from what was measured by more than
    /// a tenth; then the longer of the two. Without a report, this one.
    #[must_use]
    pub fn reconcile(self, reported: Option<i64>) -> AudioDuration {
        let Some(reported) = reported else { return self };
        let longer = reported.max(self.millis);
        let is_doubtful = !self.estimated && reported.abs_diff(self.millis) > longer.unsigned_abs() / 10;
        if is_doubtful {
            let measured = self.millis;
            log::warn!("a model server reports {reported} ms for a recording that was measured as {measured} ms");
        }
        AudioDuration { millis: if is_doubtful { longer } else { reported }, estimated: false }
    }

    /// What a recording of this duration is charged as, with the tokens that the model server counts, if it does.
    pub fn units(self, reported: &Reported) -> Units {
        let tokens = if reported.is_by_tokens() { (reported.input(), reported.output()) } else { (None, None) };
        Units::of([
            (Unit::AudioMillis, self.millis),
            (Unit::PromptTokens, tokens.0.unwrap_or(0)),
            (Unit::CompletionTokens, tokens.1.unwrap_or(0)),
            (Unit::Requests, 1),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_duration_counts_where_two_disagree() {
        let measured = AudioDuration { millis: 2000, estimated: false };
        for (reported, millis) in [
            (None, 2000),
            (Some(2000), 2000),
            (Some(1800), 1800),
            (Some(1799), 2000),
            (Some(0), 2000),
            (Some(9000), 9000),
        ] {
            assert_eq!(measured.reconcile(reported), AudioDuration { millis, estimated: false }, "{reported:?}");
        }
        let bound = AudioDuration { millis: 99_000, estimated: true };
        assert_eq!(bound.reconcile(Some(5)), AudioDuration { millis: 5, estimated: false });
        assert_eq!(bound.reconcile(None), bound);
    }

    #[test]
    fn what_was_counted_is_the_least_of_an_estimate() {
        let of = |seconds, size| AudioDuration::of(Err(NotMeasurable::Junk), Duration::from_secs(seconds), size);
        assert_eq!(of(0, 5000), AudioDuration { millis: 10_000, estimated: true });
        assert_eq!(of(9, 5000), AudioDuration { millis: 10_000, estimated: true });
        assert_eq!(of(11, 5000), AudioDuration { millis: 11_000, estimated: true });
    }

    #[test]
    fn tokens_are_charged_where_the_model_counts_in_them() {
        let duration = AudioDuration { millis: 2000, estimated: false };
        let units = |usage: &str| {
            let mut reported = Reported::default();
            reported.update(&serde_json::from_str(usage).unwrap());
            let units = duration.units(&reported);
            (units[Unit::AudioMillis], units[Unit::PromptTokens], units[Unit::CompletionTokens])
        };
        assert_eq!(units(r#"{"type":"tokens","input_tokens":14,"output_tokens":5}"#), (2000, 14, 5));
        assert_eq!(units(r#"{"type":"duration","seconds":2}"#), (2000, 0, 0));
        assert_eq!(units(r#"{"prompt_tokens":14,"completion_tokens":5}"#), (2000, 0, 0));
    }
}
