//! Ownership of a connection: at most one thread runs it at a time, and no event is missed.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::primitives::AtomicU32;

/// The number of events since the connection was last unowned. The thread that moves it from zero owns the connection
/// until it moves it back to zero, which succeeds only if no further event has come.
pub(crate) struct Ownership(AtomicU32);

impl Ownership {
    pub(crate) fn new() -> Ownership {
        Ownership(AtomicU32::new(0))
    }

    /// Counts an event. Returns true if the caller owns the connection now; it must then have it run.
    pub(crate) fn try_acquire(&self) -> bool {
        self.0.fetch_add(1, AcqRel) == 0
    }

    /// The events so far, for [`Ownership::release`]. Only the owner calls this, before it looks for work.
    pub(crate) fn events_seen(&self) -> u32 {
        self.0.load(Acquire)
    }

    /// Gives the connection up, unless events have come since `seen`: then the caller still owns it, and must look
    /// for work again.
    pub(crate) fn release(&self, seen: u32) -> bool {
        self.0.compare_exchange(seen, 0, AcqRel, Acquire).is_ok()
    }

    /// Whether no thread owns the connection. The answer may be outdated at once.
    pub(crate) fn is_unowned(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}
