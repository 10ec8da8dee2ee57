//! What a slot has done so far, for the monitor and for other slots.

use std::sync::atomic::Ordering::Relaxed;

use super::primitives::AtomicU64;

/// Counters of one slot. None of them ever goes down.
pub(crate) struct LoadCounters {
    requests: AtomicU64,
    short_waits: AtomicU64,
    polls: AtomicU64,
    /// `polls` when another thread last asked.
    polls_seen: AtomicU64,
}

impl LoadCounters {
    pub(crate) fn new() -> LoadCounters {
        let zero = || AtomicU64::new(0);
        LoadCounters { requests: zero(), short_waits: zero(), polls: zero(), polls_seen: zero() }
    }

    /// Handlers called by holders of the slot.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Short waits in these handlers.
    pub(crate) fn short_waits(&self) -> u64 {
        self.short_waits.load(Relaxed)
    }

    /// The holder is about to call a handler. Nobody but the holder calls this, so a load and a store are enough.
    pub(crate) fn count_request(&self) {
        self.requests.store(self.requests.load(Relaxed) + 1, Relaxed);
    }

    /// A handler is about to wait for a short time. Its thread may have lost the slot without knowing it yet and count
    /// at the same time as the new holder, so this is one atomic addition.
    pub(crate) fn count_short_wait(&self) {
        self.short_waits.fetch_add(1, Relaxed);
    }

    /// The holder is about to poll for readiness. Nobody but the holder calls this.
    pub(crate) fn count_poll(&self) {
        self.polls.store(self.polls.load(Relaxed) + 1, Relaxed);
    }

    /// Whether the holder has not polled since this was last called: it is in a handler, or the operating system runs
    /// something else on its core.
    pub(crate) fn is_stalled(&self) -> bool {
        let polls = self.polls.load(Relaxed);
        self.polls_seen.load(Relaxed) == polls || {
            self.polls_seen.store(polls, Relaxed);
            false
        }
    }
}
