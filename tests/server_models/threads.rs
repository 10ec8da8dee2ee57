//! Threads that wait: for ready connections, or for a slot.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::time::Duration;

use loom::sync::Notify;
use loom::sync::atomic::{AtomicBool, AtomicUsize};

use super::sync::{IdleThreads, ParkedThreads, Parker, ReadyQueue};
use super::{check, spawn};

struct Slot {
    queue: ReadyQueue<usize>,
    parker: Parker,
    waker: Notify,
}

struct Server {
    slots: Vec<Slot>,
    parked: ParkedThreads,
}

impl Server {
    fn new(slots: usize) -> Arc<Server> {
        let slot = |_| Slot { queue: ReadyQueue::new(), parker: Parker::new(), waker: Notify::new() };
        Arc::new(Server { slots: (0..slots).map(slot).collect(), parked: ParkedThreads::new() })
    }

    fn queue(&self, slot: usize, connection: usize) {
        self.slots[slot].queue.push(connection);
        self.wake_one();
    }

    fn wake_one(&self) {
        self.parked.wake_one(&self.slots, |slot| &slot.parker, |slot| slot.waker.notify());
    }

    /// Takes `count` connections from any slot, as the holder of `slot`; returns their sum.
    fn work(&self, slot: usize, count: usize) -> usize {
        let (mut taken, mut sum, own) = (0, 0, &self.slots[slot]);
        while taken < count {
            if let Some(connection) = self.slots.iter().find_map(|slot| slot.queue.pop()) {
                (taken, sum) = (taken + 1, sum + connection);
            } else {
                let has_work = || self.slots.iter().any(|slot| !slot.queue.is_empty());
                let block = || {
                    own.waker.wait();
                    0
                };
                if own.parker.park(&self.parked, has_work, block) {
                    self.wake_one();
                }
            }
        }
        sum
    }
}

/// Two threads queue connections, on different slots, while the only worker is about to park.
#[test]
fn a_worker_that_parks_is_woken_for_every_connection() {
    check(2, || {
        let server = Server::new(2);
        let others = [1, 2].map(|n| spawn(&server, move |server| server.queue(n - 1, n)));
        assert_eq!(server.work(0, 2), 3);
        for other in others {
            other.join().unwrap();
        }
    });
}

/// One thread queues two connections, and two workers take one each.
#[test]
fn each_connection_wakes_a_worker() {
    check(2, || {
        let server = Server::new(2);
        let workers = [0, 1].map(|slot| spawn(&server, move |server| server.work(slot, 1)));
        server.queue(0, 1);
        server.queue(0, 2);
        assert_eq!(workers.map(|worker| worker.join().unwrap()).iter().sum::<usize>(), 3);
    });
}

/// An event comes for a worker's own connection, 1, and at the same time it is woken for another, 2. The handler of 1 is
/// slow: it returns only after 2 was served, which must be by the other worker.
#[test]
fn a_worker_that_has_work_already_passes_a_wake_up_on() {
    struct Shared {
        server: Arc<Server>,
        /// Events that the kernel holds for the first slot.
        events: AtomicUsize,
        is_2_served: Notify,
        is_finished: AtomicBool,
    }

    impl Shared {
        fn serve(&self, connection: usize) {
            if connection == 2 {
                self.is_2_served.notify();
                return;
            }
            self.is_2_served.wait();
            self.is_finished.store(true, Release);
            self.server.slots.iter().for_each(|slot| slot.waker.notify());
        }

        fn work(&self, slot: usize) {
            let (slots, parked) = (&self.server.slots, &self.server.parked);
            while !self.is_finished.load(Acquire) {
                if let Some(connection) = slots.iter().find_map(|slot| slot.queue.pop()) {
                    self.serve(connection);
                    continue;
                }
                let block = || {
                    slots[slot].waker.wait();
                    let found = if slot == 0 { self.events.swap(0, AcqRel) } else { 0 };
                    slots[slot].queue.append(|queue| queue.extend(vec![1; found]))
                };
                let has_work = || self.is_finished.load(Acquire) || slots.iter().any(|slot| !slot.queue.is_empty());
                if slots[slot].parker.park(parked, has_work, block) {
                    self.server.wake_one();
                }
            }
        }
    }

    check(1, || {
        let shared = Arc::new(Shared {
            server: Server::new(2),
            events: AtomicUsize::new(1),
            is_2_served: Notify::new(),
            is_finished: AtomicBool::new(false),
        });
        shared.server.slots[0].waker.notify();
        let worker = spawn(&shared, |shared| shared.work(0));
        let other = spawn(&shared, |shared| shared.server.queue(0, 2));
        shared.work(1);
        worker.join().unwrap();
        other.join().unwrap();
    });
}

/// A slot is assigned just when an idle thread has waited for long enough.
#[test]
fn a_slot_is_never_given_to_a_thread_that_exits() {
    check(3, || {
        let idle = Arc::new(IdleThreads::new());
        let thread = spawn(&idle, |idle| idle.wait(Duration::ZERO, || false));
        let is_assigned = idle.assign(7);
        assert_eq!(thread.join().unwrap(), is_assigned.then_some(7));
    });
}

/// The server finishes while a thread becomes idle, and another thread looks for one to give a slot to.
#[test]
fn every_idle_thread_exits_at_the_end() {
    check(3, || {
        let shared = Arc::new((IdleThreads::new(), AtomicBool::new(false)));
        let thread = spawn(&shared, |(idle, finished)| idle.wait(Duration::MAX, || finished.load(Acquire)));
        let assigner = spawn(&shared, |(idle, _)| idle.assign(7));
        shared.1.store(true, Release);
        shared.0.dismiss_all();
        let is_assigned = assigner.join().unwrap();
        assert_eq!(thread.join().unwrap(), is_assigned.then_some(7));
    });
}
