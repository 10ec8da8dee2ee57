//! The worker threads that hold no slot, and slots that no thread holds.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::sync::IdleThreads;

/// Handlers recurse little, but a TLS upstream or a JSON parser needs some room. Only pages that are touched take
/// memory.
pub(super) const STACK_SIZE: usize = 1024 * 1024;
/// How long an idle thread waits for a slot before it exits.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct ThreadPool {
    idle: IdleThreads,
    /// Slots that no thread could be started for.
    vacant: Mutex<Vec<usize>>,
    /// Threads that are in a handler and hold no slot: they are blocked, or have been.
    pub(super) detached: AtomicUsize,
    /// All worker threads.
    pub(super) threads: AtomicUsize,
    /// Calls that were refused because too many threads were blocked.
    pub(super) refused: AtomicU64,
}

impl ThreadPool {
    pub(super) fn new() -> ThreadPool {
        ThreadPool {
            idle: IdleThreads::new(),
            vacant: Mutex::default(),
            detached: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Gives a slot that nobody holds to an idle thread, or to a new one that runs `work`.
    ///
    /// # Errors
    /// The operating system starts no thread.
    pub(super) fn assign(&self, slot: usize, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        if self.idle.assign(slot) {
            return Ok(());
        }
        self.threads.fetch_add(1, Relaxed);
        let spawned = thread::Builder::new().name("worker".into()).stack_size(STACK_SIZE).spawn(work);
        if spawned.is_err() {
            self.threads.fetch_sub(1, Relaxed);
        }
        spawned.map(drop)
    }

    /// Remembers a slot that no thread could be started for.
    pub(super) fn add_vacant(&self, slot: usize) {
        self.vacant.lock().push(slot);
    }

    /// Takes all slots that no thread could be started for.
    pub(super) fn take_vacant(&self) -> Vec<usize> {
        std::mem::take(&mut *self.vacant.lock())
    }

    /// Waits for a slot, as a thread without one. `None`: the thread is to exit.
    pub(super) fn wait_for_slot(&self, is_finished: impl FnOnce() -> bool) -> Option<usize> {
        let vacant = self.vacant.lock().pop();
        vacant.or_else(|| self.idle.wait(IDLE_TIMEOUT, is_finished))
    }

    /// Tells all idle threads to exit.
    pub(super) fn dismiss_idle(&self) {
        self.idle.dismiss_all();
    }
}
