//! Ownership of a connection, and the completion of a deferred response.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use loom::sync::Notify;
use loom::sync::atomic::AtomicUsize;

use super::sync::{CompletionFlag, Ownership, ParkedThreads, Parker, ReadyQueue};
use super::{Exclusive, check, spawn};

/// Two events come at the same time. Each thread runs the connection if the event made it the owner.
#[test]
fn a_connection_has_one_owner_and_no_event_is_missed() {
    struct Shared {
        ownership: Ownership,
        /// What the events tell.
        events: [AtomicUsize; 2],
        handled: [Exclusive; 2],
        turns: Exclusive,
    }

    impl Shared {
        /// Returns the number of turns.
        fn event(&self, n: usize) -> usize {
            self.events[n].store(1, Relaxed);
            if !self.ownership.try_acquire() {
                return 0;
            }
            let mut turns = 0;
            loop {
                let seen = self.ownership.events_seen();
                self.turns.add(1);
                turns += 1;
                for (event, handled) in self.events.iter().zip(&self.handled) {
                    handled.add(event.load(Relaxed));
                }
                if self.ownership.release(seen) {
                    return turns;
                }
            }
        }
    }

    check(3, || {
        let shared = Arc::new(Shared {
            ownership: Ownership::new(),
            events: [AtomicUsize::new(0), AtomicUsize::new(0)],
            handled: [Exclusive::new(), Exclusive::new()],
            turns: Exclusive::new(),
        });
        let other = spawn(&shared, |shared| shared.event(1));
        let turns = shared.event(0) + other.join().unwrap();
        assert_eq!(shared.turns.get(), turns, "two threads ran the connection at the same time");
        assert!(shared.handled.iter().all(|handled| handled.get() > 0), "an event was missed");
        assert!(shared.ownership.is_unowned());
    });
}

/// A worker defers a response, waits for work, and sends the response once the notifier has been called on another
/// thread. The client sends something meanwhile.
#[test]
fn a_deferred_response_is_sent_once_and_complete() {
    struct Shared {
        ownership: Ownership,
        completion: CompletionFlag,
        /// What the response waits for.
        result: AtomicUsize,
        queue: ReadyQueue<()>,
        parker: Parker,
        parked: ParkedThreads,
        waker: Notify,
    }

    impl Shared {
        fn schedule(&self) {
            if self.ownership.try_acquire() {
                self.queue.push(());
                self.parked.wake_one([self], |shared| &shared.parker, |shared| shared.waker.notify());
            }
        }
    }

    check(2, || {
        let shared = Arc::new(Shared {
            ownership: Ownership::new(),
            completion: CompletionFlag::new(),
            result: AtomicUsize::new(0),
            queue: ReadyQueue::new(),
            parker: Parker::new(),
            parked: ParkedThreads::new(),
            waker: Notify::new(),
        });
        assert!(shared.ownership.try_acquire());
        let mut seen = shared.ownership.events_seen();
        shared.completion.reset();
        let notifier = spawn(&shared, |shared| {
            shared.result.store(1, Relaxed);
            shared.completion.set();
            shared.schedule();
        });
        let client = spawn(&shared, Shared::schedule);
        let (mut is_sent, mut is_owner) = (false, !shared.ownership.release(seen));
        while !is_sent {
            if !is_owner {
                let block = || {
                    shared.waker.wait();
                    0
                };
                shared.parker.park(&shared.parked, || !shared.queue.is_empty(), block);
                is_owner = shared.queue.pop().is_some();
                continue;
            }
            seen = shared.ownership.events_seen();
            if shared.completion.is_set() {
                assert_eq!(shared.result.load(Relaxed), 1, "the response was completed before its result was there");
                is_sent = true;
            }
            is_owner = !shared.ownership.release(seen);
        }
        notifier.join().unwrap();
        client.join().unwrap();
    });
}
