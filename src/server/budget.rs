//! A count of the memory that one kind of data takes. It is reserved in the
//! [budget of all requests](crate::memory_budget), which this is a part of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of one kind of data, in all connections together.
#[derive(Default)]
pub(super) struct ByteCount(AtomicUsize);

impl ByteCount {
    /// Bytes counted now.
    pub(super) fn sum(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// A part of a [`ByteCount`], taken off when dropped.
pub(super) struct Counted {
    count: Arc<ByteCount>,
    bytes: usize,
}

impl Counted {
    pub(super) fn new(count: &Arc<ByteCount>, bytes: usize) -> Counted {
        count.0.fetch_add(bytes, Relaxed);
        Counted { count: Arc::clone(count), bytes }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.0.fetch_sub(self.bytes, Relaxed);
    }
}
