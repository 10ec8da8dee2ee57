//! What is counted of the calls of each model at each provider.
//!
//! The counters belong to the process, not to a provider as it is set up now: a change of the catalogue does not begin them
//! anew, and two purposes that share a server count together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::telemetry::{Histogram, SECONDS};
use crate::units::{Unit, Units};

/// Most pairs of a provider and a model that are told apart. They come from the catalogue and from model servers' lists.
const MAX_PAIRS: usize = 2000;

/// Stands for all others.
const OTHERS: &str = "other";

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider answered, even if it refused the request as wrong.
    Answered,
    /// It said that there are too many requests (429).
    TooMany,
    /// It answered with another status for which another provider is tried, such as 500.
    Error,
    /// It did not answer, or not in time.
    Failed,
    /// The client left, or its upload broke off, before there was an answer.
    Left,
}

impl Outcome {
    /// Each, in the order of their declaration.
    const ALL: [Outcome; 5] = [Outcome::Answered, Outcome::TooMany, Outcome::Error, Outcome::Failed, Outcome::Left];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::TooMany => "too_many",
            Outcome::Error => "error",
            Outcome::Failed => "failed",
            Outcome::Left => "left",
        }
    }
}

/// The calls of one model at one provider.
#[derive(Debug)]
pub struct CallMetrics {
    provider: String,
    model: String,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    broken: AtomicU64,
    durations: Histogram,
    first_pieces: Histogram,
    /// Of input and output.
    tokens: [AtomicU64; 2],
    between_tokens: Histogram,
}

impl CallMetrics {
    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The model's own name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// How many calls ended how.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::ALL.iter().map(|outcome| outcome.label()).zip(self.outcomes.iter().map(|count| count.load(Relaxed)))
    }

    /// How many replies broke off.
    pub fn broken(&self) -> u64 {
        self.broken.load(Relaxed)
    }

    /// How long calls took, until their reply was read or given up.
    pub fn durations(&self) -> &Histogram {
        &self.durations
    }

    /// When the first piece of streamed replies came.
    pub fn first_pieces(&self) -> &Histogram {
        &self.first_pieces
    }

    /// Tokens by their direction.
    pub fn tokens(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["input", "output"].into_iter().zip(self.tokens.iter().map(|count| count.load(Relaxed)))
    }

    /// The time from one token of a streamed reply to the next, as the mean of each reply.
    pub fn between_tokens(&self) -> &Histogram {
        &self.between_tokens
    }

    /// A reply has used this. `streaming` is how long its pieces came, if they came one by one.
    pub(super) fn add_tokens(&self, units: &Units, streaming: Option<Duration>) {
        let output = u64::try_from(units[Unit::CompletionTokens]).unwrap_or(0);
        let input = u64::try_from(units.tokens()).unwrap_or(0).saturating_sub(output);
        self.tokens[0].fetch_add(input, Relaxed);
        self.tokens[1].fetch_add(output, Relaxed);
        if let (Some(time), Ok(intervals @ 1..)) = (streaming, u32::try_from(output.saturating_sub(1))) {
            self.between_tokens.add_time(time / intervals);
        }
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_broken(&self) {
        self.broken.fetch_add(1, Relaxed);
    }
}

static CALLS: Mutex<BTreeMap<(String, String), &'static CallMetrics>> = Mutex::new(BTreeMap::new());

/// What is counted of this model at this provider. To be looked up when routes are made: it is kept until the process ends.
pub(super) fn of(provider: &str, model: &str) -> &'static CallMetrics {
    let mut calls = CALLS.lock();
    let pair = (provider.to_owned(), model.to_owned());
    let pair = if calls.contains_key(&pair) || calls.len() < MAX_PAIRS { pair } else { (OTHERS.into(), OTHERS.into()) };
    calls.entry(pair).or_insert_with_key(|(provider, model)| {
        Box::leak(Box::new(CallMetrics {
            provider: provider.clone(),
            model: model.clone(),
            outcomes: Outcome::ALL.map(|_| AtomicU64::new(0)),
            broken: AtomicU64::new(0),
            durations: Histogram::new(&SECONDS),
            first_pieces: Histogram::new(&SECONDS),
            tokens: [(); 2].map(|()| AtomicU64::new(0)),
            between_tokens: Histogram::new(&SECONDS),
        }))
    })
}

/// All pairs of which there was a call.
pub fn all() -> Vec<&'static CallMetrics> {
    let calls: Vec<&'static CallMetrics> = CALLS.lock().values().copied().collect();
    calls.into_iter().filter(|calls| calls.durations.count() > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_counted_together_wherever_it_is_called() {
        of("calls-test", "m").count(Outcome::TooMany);
        of("calls-test", "m").count(Outcome::TooMany);
        of("calls-test", "n").count(Outcome::Left);
        let counts: Vec<u64> = of("calls-test", "m").outcomes().map(|(_, count)| count).collect();
        assert_eq!(counts, [0, 2, 0, 0, 0]);
        assert!(all().iter().all(|calls| calls.provider() != "calls-test"), "no call has ended");
        of("calls-test", "m").durations().add(1);
        assert_eq!(all().iter().filter(|calls| calls.provider() == "calls-test").count(), 1);
    }
}
