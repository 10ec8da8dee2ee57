//! Who holds a slot: the thread that runs its handler, or the one that has taken the slot from it.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use super::primitives::AtomicU64;

/// A number that goes up by one when the holder enters a handler, and by one when that run ends: because the handler
/// returned, because it is about to block, or because the monitor takes the slot away. So it is odd while the holder is
/// in a handler, and a thread that remembers the generation of its own run can tell whether the slot is still its own.
pub(crate) struct Generation(AtomicU64);

impl Generation {
    pub(crate) fn new() -> Generation {
        Generation(AtomicU64::new(0))
    }

    /// The generation that a new holder starts from.
    pub(crate) fn current(&self) -> u64 {
        self.0.load(Acquire)
    }

    /// The holder, whose generation is `current`, enters a handler. Returns the generation of this run.
    pub(crate) fn enter_handler(&self, current: u64) -> u64 {
        self.0.store(current + 1, Release);
        current + 1
    }

    /// Ends the run `generation`. The holder and the monitor may both try: the one that gets true has the slot.
    pub(crate) fn try_end_run(&self, generation: u64) -> bool {
        self.0.compare_exchange(generation, generation + 1, AcqRel, Acquire).is_ok()
    }

    /// Goes back to the run `generation` that the caller has just ended. Nobody has got the slot meanwhile.
    pub(crate) fn resume_run(&self, generation: u64) {
        self.0.store(generation, Release);
    }
}

/// Whether the holder is in a handler in this generation.
pub(crate) fn is_in_handler(generation: u64) -> bool {
    generation % 2 == 1
}
