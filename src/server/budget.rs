//! Limits of memory that all connections share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts the memory that one kind of data takes in all connections together. The limit is enforced by those who
/// reserve memory.
#[derive(Default)]
pub(super) struct Budget(AtomicUsize);

impl Budget {
    /// Bytes reserved now.
    pub(super) fn used(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// A part of a [`Budget`], released when dropped.
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    /// A reservation of 0 bytes.
    pub(super) fn new(budget: &Arc<Budget>) -> Reservation {
        Reservation { budget: Arc::clone(budget), bytes: 0 }
    }

    pub(super) fn resize(&mut self, bytes: usize) {
        // Adds the difference, which may be negative.
        self.budget.0.fetch_add(bytes.wrapping_sub(self.bytes), Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.resize(0);
    }
}
