//! Parking and waking without lost wake-ups: a thread that finds nothing to do announces that it parks, looks once
//! more, and only then blocks. A thread that has queued work looks for a parked thread afterwards. The fences between
//! the two steps make sure that at least one of the two sees the other.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::primitives::{AtomicBool, AtomicUsize, fence};

/// The number of parked threads of a server, so that a thread that queues work need not ask each [`Parker`] while all
/// are busy.
pub(crate) struct ParkedThreads(AtomicUsize);

/// Whether the holder of one slot is parked and has not been woken yet.
pub(crate) struct Parker(AtomicBool);

impl ParkedThreads {
    pub(crate) fn new() -> ParkedThreads {
        ParkedThreads(AtomicUsize::new(0))
    }

    /// Whether a thread was parked at some moment after the caller last queued work.
    pub(crate) fn any(&self) -> bool {
        fence(SeqCst);
        self.0.load(Relaxed) > 0
    }

    /// Wakes the first parked one of `candidates` by `interrupt`, if there is one. Called after work was queued.
    pub(crate) fn wake_one<'a, S: 'a>(
        &self,
        candidates: impl IntoIterator<Item = &'a S>,
        parker: impl Fn(&S) -> &Parker,
        interrupt: impl FnOnce(&S),
    ) {
        if self.any()
            && let Some(candidate) = candidates.into_iter().find(|candidate| parker(candidate).take())
        {
            interrupt(candidate);
        }
    }
}

impl Parker {
    pub(crate) fn new() -> Parker {
        Parker(AtomicBool::new(false))
    }

    /// Parks the calling thread: calls `block` unless `has_work`, which is asked once the thread counts as parked.
    /// `block` must return when the thread is interrupted, also if that came before the call; it returns how much work
    /// the thread has found by itself meanwhile.
    ///
    /// Returns true if the caller must wake another thread: there is too much work for this one, or it was woken for
    /// work that comes on top of what it had found already.
    pub(crate) fn park(
        &self,
        threads: &ParkedThreads,
        has_work: impl FnOnce() -> bool,
        block: impl FnOnce() -> usize,
    ) -> bool {
        self.0.store(true, Relaxed);
        threads.0.fetch_add(1, Relaxed);
        fence(SeqCst);
        let found = if has_work() { 1 } else { block() };
        threads.0.fetch_sub(1, Relaxed);
        let was_woken = !self.0.swap(false, Relaxed);
        found + usize::from(was_woken) > 1
    }

    /// Whether it is parked. True for one caller only, who must interrupt it.
    fn take(&self) -> bool {
        self.0.load(Relaxed) && self.0.compare_exchange(true, false, Relaxed, Relaxed).is_ok()
    }
}
