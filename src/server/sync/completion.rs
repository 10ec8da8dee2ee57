//! The flag that a deferred response can be completed.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::primitives::AtomicBool;

/// Set by the notifier of a deferred response, on any thread; read and reset by the owner of the connection. Whoever
/// sets it must count an event ([`Ownership::try_acquire`](super::Ownership::try_acquire)) afterwards, so that the
/// owner looks at it.
pub(crate) struct CompletionFlag(AtomicBool);

impl CompletionFlag {
    pub(crate) fn new() -> CompletionFlag {
        CompletionFlag(AtomicBool::new(false))
    }

    /// Before a response is deferred. Only the owner calls this, while no notifier is outstanding.
    pub(crate) fn reset(&self) {
        self.0.store(false, Relaxed);
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Acquire)
    }
}
