//! Threads without a slot, and how one of them is given a slot.

use std::sync::Arc;
use std::time::Duration;

use super::primitives::{Condvar, Mutex};

/// The threads that wait for a slot.
pub(crate) struct IdleThreads(Mutex<Vec<Arc<IdleThread>>>);

struct IdleThread {
    assignment: Mutex<Option<Assignment>>,
    assigned: Condvar,
}

enum Assignment {
    Slot(usize),
    Exit,
}

impl IdleThread {
    fn assign(&self, assignment: Assignment) {
        *self.assignment.lock() = Some(assignment);
        self.assigned.notify_one();
    }
}

impl IdleThreads {
    pub(crate) fn new() -> IdleThreads {
        IdleThreads(Mutex::new(Vec::new()))
    }

    /// Gives the slot to an idle thread. False if there is none.
    pub(crate) fn assign(&self, slot: usize) -> bool {
        let idle = self.0.lock().pop();
        idle.is_some_and(|idle| {
            idle.assign(Assignment::Slot(slot));
            true
        })
    }

    /// Waits for a slot. `None` if none comes within `timeout`, or if the server is finished: the thread is to exit.
    pub(crate) fn wait(&self, timeout: Duration, is_finished: impl FnOnce() -> bool) -> Option<usize> {
        let own = Arc::new(IdleThread { assignment: Mutex::new(None), assigned: Condvar::new() });
        {
            let mut threads = self.0.lock();
            // Asked under the lock: `dismiss_all` comes after the end, and finds whoever was added before it.
            if is_finished() {
                return None;
            }
            threads.push(Arc::clone(&own));
        }
        let mut assignment = own.assignment.lock();
        loop {
            match assignment.take() {
                Some(Assignment::Slot(slot)) => return Some(slot),
                Some(Assignment::Exit) => return None,
                None => {}
            }
            if own.assigned.wait_for(&mut assignment, timeout).timed_out() && assignment.is_none() {
                // A thread that is no longer in the list is about to get its assignment.
                drop(assignment);
                if self.remove(&own) {
                    return None;
                }
                assignment = own.assignment.lock();
            }
        }
    }

    fn remove(&self, thread: &Arc<IdleThread>) -> bool {
        let mut threads = self.0.lock();
        let index = threads.iter().position(|other| Arc::ptr_eq(other, thread));
        index.map(|index| threads.swap_remove(index)).is_some()
    }

    /// Tells all idle threads to exit.
    pub(crate) fn dismiss_all(&self) {
        let threads = std::mem::take(&mut *self.0.lock());
        for idle in threads {
            idle.assign(Assignment::Exit);
        }
    }
}
