//! When what was charged is settled: twice a second, and soon if somebody wants to know what is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::asking::IDLE_INTERVAL;

/// How long charges wait to be settled, unless somebody lacks what is left of a budget.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long they wait in any case.
const PAUSE: Duration = Duration::from_millis(20);

/// What the thread waits for that settles.
#[derive(Default)]
pub(super) struct SettleSchedule {
    /// Whether charges were made since the last time that they were settled.
    has_unsettled: AtomicBool,
    /// Whether there are leases to forget.
    forgets: AtomicBool,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether somebody wants to know what is left.
    is_urgent: bool,
    settled_at: Option<Instant>,
    is_stopped: bool,
}

/// What there is to do.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) settles: bool,
    pub(super) forgets: bool,
}

impl SettleSchedule {
    /// A charge was made, or may have been.
    pub(super) fn note_charge(&self) {
        if !self.has_unsettled.swap(true, Ordering::AcqRel) {
            self.wake(|_| {});
        }
    }

    /// What was charged is to be settled soon, as somebody wants to know what is left.
    pub(super) fn hurry(&self) {
        self.wake(|state| state.is_urgent = true);
    }

    /// There are leases that the database is to forget. It takes no lock, so it may have to be called again: the thread
    /// might be about to sleep.
    pub(super) fn forget_soon(&self) {
        self.forgets.store(true, Ordering::Release);
        self.work.notify_one();
    }

    /// The thread ends.
    pub(super) fn stop(&self) {
        self.wake(|state| state.is_stopped = true);
    }

    fn wake(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.work.notify_one();
    }

    /// Waits until there is something to do; `None` once stopped.
    pub(super) fn next(&self) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            let interval = if state.is_urgent { PAUSE } else { INTERVAL };
            let rest = state.settled_at.map_or(Duration::ZERO, |at| interval.saturating_sub(at.elapsed()));
            let settles = rest.is_zero() && self.has_unsettled.swap(false, Ordering::AcqRel);
            let forgets = self.forgets.swap(false, Ordering::AcqRel);
            if settles {
                (state.settled_at, state.is_urgent) = (Some(Instant::now()), false);
            }
            if settles || forgets {
                return Some(Work { settles, forgets });
            }
            let pause = if self.has_unsettled.load(Ordering::Acquire) { rest.max(PAUSE / 20) } else { IDLE_INTERVAL };
            self.work.wait_for(&mut state, pause);
        }
    }

    /// This was not done, and is to be tried again.
    pub(super) fn again(&self, work: Work) {
        self.has_unsettled.fetch_or(work.settles, Ordering::AcqRel);
        self.forgets.fetch_or(work.forgets, Ordering::AcqRel);
    }
}
