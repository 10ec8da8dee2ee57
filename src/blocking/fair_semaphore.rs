//! A semaphore whose permits are shared out between parties, and handed on in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bulkhead::Shares;
use super::party::Party;
use super::turns::Turns;

/// A number of permits. A party may hold as many as it may have places of a [`Bulkhead`](super::Bulkhead), so one that
/// keeps its own for long leaves some to others; the process itself has no share and takes what is free. Whoever waits is
/// served in [`Turns`], not by who comes first or asks most often.
#[derive(Clone)]
pub struct FairSemaphore(Arc<Mutex<State>>);

struct State {
    shares: Shares,
    /// None of them may have a permit now: whenever that changes, they are served.
    waiting: Turns<Arc<Waiter>>,
}

struct Waiter {
    is_served: AtomicBool,
    thread: Thread,
}

/// A permit that is held until it is dropped.
#[must_use]
pub struct Permit {
    semaphore: FairSemaphore,
    party: Party,
}

impl FairSemaphore {
    /// One with so many permits.
    pub fn new(permits: usize) -> FairSemaphore {
        FairSemaphore(Arc::new(Mutex::new(State { shares: Shares::new(permits), waiting: Turns::default() })))
    }

    /// Takes a permit, if the party may have one now. From now on there are so many permits in all.
    pub fn try_acquire(&self, party: Party, permits: usize) -> Option<Permit> {
        let mut state = self.0.lock();
        state.set_permits(permits);
        state.shares.take(party).ok()?;
        Some(self.permit(party))
    }

    /// Takes a permit, and waits up to `longest` for it.
    pub fn acquire(&self, party: Party, longest: Duration) -> Option<Permit> {
        let deadline = Instant::now() + longest;
        let waiter = {
            let mut state = self.0.lock();
            if state.shares.take(party).is_ok() {
                return Some(self.permit(party));
            }
            let waiter = Arc::new(Waiter { is_served: AtomicBool::new(false), thread: thread::current() });
            state.waiting.push(party, waiter.clone());
            waiter
        };
        loop {
            if waiter.is_served.load(Ordering::Acquire) {
                return Some(self.permit(party));
            }
            let now = Instant::now();
            if now < deadline {
                thread::park_timeout(deadline - now);
                continue;
            }
            let is_removed = self.0.lock().waiting.remove(party, |other| Arc::ptr_eq(other, &waiter));
            // Otherwise it has just been served.
            return (!is_removed).then(|| self.permit(party));
        }
    }

    /// How many permits are held.
    pub fn used(&self) -> usize {
        self.0.lock().shares.used()
    }

    /// Of a permit that was taken.
    fn permit(&self, party: Party) -> Permit {
        Permit { semaphore: self.clone(), party }
    }
}

impl State {
    fn set_permits(&mut self, permits: usize) {
        if self.shares.set_places(permits) {
            self.serve();
        }
    }

    /// Gives permits to those who wait and may have one, in turns.
    fn serve(&mut self) {
        let State { shares, waiting } = self;
        while let Some(waiter) = waiting.pop_where(|party| shares.take(party).is_ok()) {
            waiter.is_served.store(true, Ordering::Release);
            waiter.thread.unpark();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.semaphore.0.lock();
        state.shares.give_back(self.party);
        if !state.waiting.is_empty() {
            state.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn wait_for(semaphore: &FairSemaphore, waiting: usize) {
        while semaphore.0.lock().waiting.len() < waiting {
            thread::yield_now();
        }
    }

    #[test]
    fn one_party_leaves_some_to_others_and_the_process_takes_what_is_free() {
        let semaphore = FairSemaphore::new(6);
        let take = |party| semaphore.try_acquire(party, 6);
        let mut held: Vec<_> = std::iter::from_fn(|| take(Party::Account(1))).collect();
        assert_eq!(held.len(), 4);
        assert!(semaphore.acquire(Party::Account(1), Duration::from_millis(1)).is_none());
        held.extend(take(Party::Account(2)));
        held.extend(take(Party::Process));
        assert!(held.len() == 6 && take(Party::Process).is_none() && take(Party::Account(3)).is_none());
        drop(held);
        assert_eq!(std::iter::from_fn(|| take(Party::Process)).take(9).collect::<Vec<_>>().len(), 6);
        let state = semaphore.0.lock();
        assert!(state.shares.used() == 0 && state.waiting.is_empty(), "who gave up waits no more");
    }

    #[test]
    fn whoever_comes_last_is_served_after_one_of_those_that_others_have_waiting() {
        let semaphore = FairSemaphore::new(1);
        let held = semaphore.try_acquire(Party::Account(0), 1).unwrap();
        let (sender, served) = mpsc::channel();
        thread::scope(|scope| {
            for (n, account) in [1, 1, 1, 1, 2].into_iter().enumerate() {
                let (semaphore, sender) = (&semaphore, sender.clone());
                scope.spawn(move || {
                    let permit = semaphore.acquire(Party::Account(account), LONG).unwrap();
                    sender.send(account).unwrap();
                    drop(permit);
                });
                wait_for(semaphore, n + 1);
            }
            drop(held);
        });
        assert_eq!(served.try_iter().collect::<Vec<_>>(), [1, 2, 1, 1, 1]);
    }

    #[test]
    fn who_may_have_one_is_not_held_up_by_those_who_may_not() {
        let semaphore = FairSemaphore::new(3);
        let held = [(); 2].map(|()| semaphore.try_acquire(Party::Account(1), 3).unwrap());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| semaphore.acquire(Party::Account(1), LONG).is_some());
            wait_for(&semaphore, 1);
            drop(semaphore.acquire(Party::Account(2), Duration::ZERO).unwrap());
            assert!(!waiting.is_finished());
            drop(held);
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn there_may_be_more_or_fewer_permits_at_any_time() {
        let semaphore = FairSemaphore::new(1);
        let first = semaphore.try_acquire(Party::Account(1), 1).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| semaphore.acquire(Party::Account(2), LONG).is_some());
            wait_for(&semaphore, 1);
            drop(semaphore.try_acquire(Party::Account(3), 3));
            assert!(waiting.join().unwrap());
        });
        assert!(semaphore.try_acquire(Party::Account(3), 1).is_none());
        drop(first);
        assert!(semaphore.try_acquire(Party::Account(3), 1).is_some());
    }
}
