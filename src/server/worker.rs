//! What a thread does with its slot: runs ready connections, its own first, then others', then waits for more.

use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::Duration;

use crate::blocking;
use crate::http::Request;

use super::Shared;
use super::clock::Date;
use super::connection::{Connection, Phase};
use super::crew::{self, Seat};
use super::incoming::Window;
use super::slot::Slot;

/// A thread with all that it needs to serve any connection.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) seat: Rc<Seat>,
    pub(super) request: Request,
    pub(super) window: Window,
    /// Replies to the connection that is run, not sent yet.
    pub(super) out: Vec<u8>,
    pub(super) date: Date,
}

/// What is to happen with a connection after a turn.
pub(super) enum Outcome {
    /// It waits for an event.
    Wait,
    /// It could go on, but it is others' turn.
    Yield,
    Close,
}

/// The life of a thread.
pub(super) fn main(shared: Arc<Shared>, first: usize) {
    let seat = Rc::new(Seat::new(Arc::clone(&shared)));
    blocking::install(seat.clone());
    let mut worker = Worker {
        seat,
        request: Request::default(),
        window: Window::new(shared.settings.max_head),
        out: Vec::new(),
        date: Date::default(),
        shared: Arc::clone(&shared),
    };
    let mut slot = Some(first);
    while let Some(held) = slot {
        worker.seat.take(held);
        if worker.hold(held) {
            break;
        }
        slot = crew::next_slot(&shared);
    }
    shared.crew.threads.fetch_sub(1, Relaxed);
}

impl Worker {
    /// Works until the server ends (true) or the slot is lost (false).
    fn hold(&mut self, slot: usize) -> bool {
        let shared = Arc::clone(&self.shared);
        loop {
            if let Some(connection) = shared.next_ready(slot) {
                self.run(connection);
                if self.seat.slot().is_none() {
                    self.seat.rejoin();
                    return false;
                }
            } else if shared.is_finished() {
                return true;
            } else {
                shared.wait_for_work(slot);
            }
        }
    }

    /// Gives a connection that is this thread's own its turn. Whatever goes wrong inside costs this connection only.
    fn run(&mut self, connection: Arc<Connection>) {
        loop {
            let seen = connection.events_seen();
            let turn = catch_unwind(AssertUnwindSafe(|| {
                let mut state = connection.state.lock();
                self.advance(&connection, &mut state)
            }));
            match turn {
                Ok(Outcome::Wait) if connection.disown(seen) => return,
                Ok(Outcome::Wait) if self.seat.slot().is_some() => {}
                Ok(Outcome::Wait | Outcome::Yield) => match self.seat.slot() {
                    Some(slot) => return self.shared.slots[slot].push(connection),
                    None => return self.shared.queue(connection),
                },
                Ok(Outcome::Close) => return self.close(&connection),
                Err(_) => {
                    log::error!("a connection is cut after a panic of the server");
                    self.seat.end();
                    return self.close(&connection);
                }
            }
        }
    }
}

impl Worker {
    fn close(&self, connection: &Connection) {
        let state = std::mem::take(&mut *connection.state.lock());
        if let Phase::Held(_) = state.phase {
            // Whoever is to give the signal keeps a handle until then.
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
        self.shared.close(connection);
    }
}

impl Shared {
    /// Takes a ready connection from another slot; also one that nobody has seen yet, where the holder does not get
    /// round to looking. While helpers are wanted, many holders wait.
    fn steal(&self, thief: usize) -> Option<Arc<Connection>> {
        // Each thief begins elsewhere, so that no slot's connections wait longer than others'.
        let (owners, helpers) = self.slots.split_at(self.settings.workers);
        let from = thief % owners.len();
        let others = || (from..owners.len()).chain(0..from).filter(|n| *n != thief).map(|n| &owners[n]);
        others().chain(helpers).find_map(Slot::pop).or_else(|| {
            let helping = self.helpers.load(Relaxed) > 0;
            others().filter(|slot| helping || slot.is_behind()).find_map(|slot| {
                if slot.poll_for_holder() > 1 {
                    self.wake_one();
                }
                slot.pop()
            })
        })
    }

    /// Whether this slot belongs to a helper that is not wanted.
    fn is_unwanted(&self, slot: usize) -> bool {
        slot >= self.settings.workers + self.helpers.load(Relaxed)
    }

    /// Has a helper look after what is ready while the holder of `slot` waits.
    pub(super) fn call_help(&self, slot: usize) {
        if self.helpers.load(Relaxed) > 0 && self.sleepers.load(SeqCst) > 0 {
            let ready = self.slots.iter().any(Slot::has_ready) || self.slots[slot].poll_for_holder() > 0;
            if ready {
                self.wake_one();
            }
        }
    }

    /// The next connection to run. The slot's own come first, those included that have only just become ready.
    fn next_ready(&self, slot: usize) -> Option<Arc<Connection>> {
        let place = &self.slots[slot];
        if let Some(connection) = place.pop() {
            return Some(connection);
        }
        // A worker that never waits would keep others of this machine, such as its clients, from a core until the
        // scheduler loses its time_slice: after milliseconds, where a round of all that is ready takes less than one.
        // While helpers are wanted, workers wait often enough.
        if self.helpers.load(Relaxed) == 0 {
            thread::yield_now();
        }
        if place.poll(Some(Duration::ZERO)) > 1 {
            self.wake_one();
        }
        place.pop().or_else(|| if self.is_unwanted(slot) { None } else { self.steal(slot) })
    }

    /// Waits until there is something to run, here or elsewhere.
    fn wait_for_work(&self, slot: usize) {
        let place = &self.slots[slot];
        place.lie_down();
        self.sleepers.fetch_add(1, SeqCst);
        let idle = !self.is_finished() && (self.is_unwanted(slot) || !self.slots.iter().any(Slot::has_ready));
        let found = if idle { place.poll(None) } else { 0 };
        self.sleepers.fetch_sub(1, SeqCst);
        place.get_up();
        self.clock.refresh();
        if found > 1 {
            self.wake_one();
        }
    }

    /// Wakes a worker that waits, if any does, to share the work.
    fn wake_one(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            let _ = self.slots[..self.settings.workers + self.helpers.load(Relaxed)].iter().any(Slot::wake);
        }
    }

    /// Queues a connection that the caller owns, from outside its slot, and sees to it that somebody runs it.
    pub(super) fn queue(&self, connection: Arc<Connection>) {
        let slot = &self.slots[connection.slot];
        slot.push(connection);
        if !slot.wake() {
            self.wake_one();
        }
    }

    /// Lets a connection be looked at, as if something had happened on it.
    pub(super) fn nudge(&self, connection: &Arc<Connection>) {
        if connection.announce() {
            self.queue(Arc::clone(connection));
        }
    }
}
