//! How many requests limits have refused.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::kinds::Kind;

/// What refuses requests, as metrics have it.
const KINDS: [&str; 5] = ["budget", "requests", "tokens", "concurrent", "unreachable"];

/// What has refused a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    Budget,
    Rate(Kind),
    /// It is not known what is left.
    Unreachable,
}

/// Counters since the process started.
#[derive(Debug, Default)]
pub struct Refusals([AtomicU64; KINDS.len()]);

impl Refusals {
    /// How often each kind of limit has refused a request or a further call of a model; "unreachable": it is not known
    /// what is left of the limit.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.into_iter().zip(self.0.iter().map(|count| count.load(Relaxed)))
    }

    pub(super) fn add(&self, by: By) {
        let index = match by {
            By::Budget => 0,
            By::Rate(Kind::Requests) => 1,
            By::Rate(Kind::Tokens) => 2,
            By::Rate(Kind::Concurrent) => 3,
            By::Unreachable => 4,
        };
        self.0[index].fetch_add(1, Relaxed);
    }
}
