//! Which connection a thread runs next, and which thread is woken to run one.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use super::connection::Connection;
use super::shared::Shared;
use super::slot::Slot;

/// A worker polls after this many turns even if its queue is not empty: busy connections, which go back to the queue
/// after each turn, must not starve others.
const POLL_INTERVAL: u32 = 64;

impl Shared {
    /// The next connection for the holder of `slot`, which owns it then. The slot's own connections come first,
    /// including those that have only just become ready. `turn` is the number of turns since it holds the slot.
    pub(super) fn next_ready(&self, slot: usize, turn: u32) -> Option<Arc<Connection>> {
        let own = &self.slots[slot];
        if turn.is_multiple_of(POLL_INTERVAL) && own.poll(Some(Duration::ZERO)) > 1 {
            self.wake_one();
        }
        if let Some(connection) = own.pop() {
            return Some(connection);
        }
        // A worker that never sleeps would keep other processes, such as its clients on the same machine, off its core
        // until the kernel preempts it, which takes milliseconds; one round of all ready connections takes less than
        // one. While helpers are in use, workers sleep often enough.
        if self.helpers.load(Relaxed) == 0 {
            thread::yield_now();
        }
        if own.poll(Some(Duration::ZERO)) > 1 {
            self.wake_one();
        }
        own.pop().or_else(|| if self.is_unused(slot) { None } else { self.steal(slot) })
    }

    /// Takes a ready connection from another slot. If none is queued, polls on behalf of holders that cannot do so now:
    /// those that are stalled, or all of them while helpers are in use, as many handlers are waiting then.
    fn steal(&self, thief: usize) -> Option<Arc<Connection>> {
        // Each thief starts at another slot, so that no slot is at a disadvantage.
        let (workers, helpers) = self.slots.split_at(self.settings.workers);
        let start = thief % workers.len();
        let others = || (start..workers.len()).chain(0..start).filter(|n| *n != thief).map(|n| &workers[n]);
        others().chain(helpers).find_map(Slot::pop).or_else(|| {
            let is_helping = self.helpers.load(Relaxed) > 0;
            others().filter(|slot| is_helping || slot.load.is_stalled()).find_map(|slot| {
                if slot.poll_for_holder() > 1 {
                    self.wake_one();
                }
                slot.pop()
            })
        })
    }

    /// Blocks until there may be a connection for the holder of `slot`, its own or another's.
    pub(super) fn wait_for_work(&self, slot: usize) {
        let own = &self.slots[slot];
        let has_work = || self.is_finished() || (!self.is_unused(slot) && self.slots.iter().any(Slot::has_ready));
        let must_wake_another = own.parker.park(&self.parked, has_work, || own.poll(None));
        self.clock.refresh();
        if must_wake_another {
            self.wake_one();
        }
    }

    /// Whether this is the slot of a helper that is not in use.
    fn is_unused(&self, slot: usize) -> bool {
        slot >= self.settings.workers + self.helpers.load(Relaxed)
    }

    /// Wakes a helper to run ready connections while the holder of `slot` waits for a short time.
    pub(super) fn call_helper(&self, slot: usize) {
        if self.helpers.load(Relaxed) > 0 && self.parked.any() {
            let has_ready = self.slots.iter().any(Slot::has_ready) || self.slots[slot].poll_for_holder() > 0;
            if has_ready {
                self.wake_one();
            }
        }
    }

    /// Wakes one parked thread, if there is one, to share the work.
    fn wake_one(&self) {
        self.parked.wake_one(self.used_slots(), |slot| &slot.parker, Slot::interrupt);
    }

    /// Queues a connection that the caller owns and wakes a parked thread to run it, that of its own slot first.
    pub(super) fn queue(&self, connection: Arc<Connection>) {
        let own = &self.slots[connection.slot];
        own.push(connection);
        self.parked.wake_one(iter::once(own).chain(self.used_slots()), |slot| &slot.parker, Slot::interrupt);
    }

    fn used_slots(&self) -> &[Slot] {
        &self.slots[..self.settings.workers + self.helpers.load(Relaxed)]
    }

    /// Schedules a connection as if it had an event.
    pub(super) fn schedule(&self, connection: &Arc<Connection>) {
        if connection.ownership.try_acquire() {
            self.queue(Arc::clone(connection));
        }
    }
}
