//! The threads: who holds which slot, who is spare, and how a slot goes from a thread that waits to one that runs.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::blocking::{BlockingHooks, Busy};

use super::Shared;
use super::connection::Connection;
use super::outgoing;

/// Handlers recurse little, but a TLS upstream or a JSON parser wants some room. Only what is touched takes memory.
const STACK: usize = 1024 * 1024;
/// How long a spare thread waits for work before it ends.
const SPARE_TIME: Duration = Duration::from_secs(10);

/// What a thread does with its first slot, until it ends.
type Work = fn(Arc<Shared>, usize);

/// The threads without a slot.
pub(super) struct Crew {
    work: Work,
    spare: Mutex<Vec<Arc<Spare>>>,
    /// Slots that no thread could be found for.
    vacant: Mutex<Vec<usize>>,
    /// Threads in a handler without a slot: they wait, or have waited.
    pub(super) detached: AtomicUsize,
    pub(super) threads: AtomicUsize,
    pub(super) refused: AtomicU64,
}

impl Crew {
    /// No threads yet; each will do this work.
    pub(super) fn new(work: Work) -> Crew {
        Crew {
            work,
            spare: Mutex::default(),
            vacant: Mutex::default(),
            detached: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

#[derive(Default)]
struct Spare {
    orders: Mutex<Option<Orders>>,
    given: Condvar,
}

enum Orders {
    Take(usize),
    Leave,
}

/// Finds a thread for a slot that nobody holds.
pub(super) fn staff(shared: &Arc<Shared>, slot: usize) -> io::Result<()> {
    if let Some(spare) = shared.crew.spare.lock().pop() {
        *spare.orders.lock() = Some(Orders::Take(slot));
        spare.given.notify_one();
        return Ok(());
    }
    let own = Arc::clone(shared);
    let work = shared.crew.work;
    let main = move || work(own, slot);
    shared.crew.threads.fetch_add(1, Relaxed);
    let spawned = thread::Builder::new().name("worker".into()).stack_size(STACK).spawn(main);
    if spawned.is_err() {
        shared.crew.threads.fetch_sub(1, Relaxed);
    }
    spawned.map(drop)
}

/// As [`staff`], but keeps the slot in mind if no thread can be had now.
pub(super) fn staff_sometime(shared: &Arc<Shared>, slot: usize) {
    if let Err(e) = staff(shared, slot) {
        log::error!("cannot start a thread: {e}");
        shared.crew.vacant.lock().push(slot);
    }
}

/// Tries again for slots that no thread could be found for.
pub(super) fn staff_vacant(shared: &Arc<Shared>) {
    let vacant = std::mem::take(&mut *shared.crew.vacant.lock());
    for slot in vacant {
        staff_sometime(shared, slot);
    }
}

/// Waits, as a spare thread, for a slot; `None` when the thread is to end.
pub(super) fn next_slot(shared: &Shared) -> Option<usize> {
    if let Some(slot) = shared.crew.vacant.lock().pop() {
        return Some(slot);
    }
    let spare = Arc::new(Spare::default());
    {
        let mut spares = shared.crew.spare.lock();
        if shared.is_finished() {
            return None;
        }
        spares.push(Arc::clone(&spare));
    }
    let mut orders = spare.orders.lock();
    loop {
        match orders.take() {
            Some(Orders::Take(slot)) => return Some(slot),
            Some(Orders::Leave) => return None,
            None => {}
        }
        if spare.given.wait_for(&mut orders, SPARE_TIME).timed_out() && orders.is_none() {
            // Whoever gives orders takes the spare off the list first, and the lock on the orders second.
            drop(orders);
            let mut spares = shared.crew.spare.lock();
            let place = spares.iter().position(|other| Arc::ptr_eq(other, &spare));
            if let Some(place) = place {
                spares.swap_remove(place);
                return None;
            }
            drop(spares);
            orders = spare.orders.lock();
        }
    }
}

/// Sends all spare threads away.
pub(super) fn dismiss(shared: &Shared) {
    for spare in std::mem::take(&mut *shared.crew.spare.lock()) {
        *spare.orders.lock() = Some(Orders::Leave);
        spare.given.notify_one();
    }
}

/// A thread's place: the slot it holds, if any, and the run it is in.
pub(super) struct Seat {
    shared: Arc<Shared>,
    slot: Cell<Option<usize>>,
    word: Cell<u64>,
    in_handler: Cell<bool>,
    /// Replies to earlier requests of the connection whose handler runs; they must not wait for it if it waits.
    early: RefCell<Option<(Arc<Connection>, Vec<u8>)>>,
}

impl Seat {
    pub(super) fn new(shared: Arc<Shared>) -> Seat {
        let (slot, word, in_handler) = (Cell::new(None), Cell::new(0), Cell::new(false));
        Seat { shared, slot, word, in_handler, early: RefCell::new(None) }
    }

    pub(super) fn take(&self, slot: usize) {
        self.word.set(self.shared.slots[slot].word());
        self.slot.set(Some(slot));
    }

    pub(super) fn slot(&self) -> Option<usize> {
        self.slot.get()
    }

    /// The thread goes into a handler, with a new request.
    pub(super) fn start_request(&self) {
        if let Some(slot) = self.slot.get() {
            self.shared.slots[slot].count_request();
        }
        self.start();
    }

    /// The thread goes into a handler.
    pub(super) fn start(&self) {
        if let Some(slot) = self.slot.get() {
            self.word.set(self.shared.slots[slot].start(self.word.get()));
        }
        self.in_handler.set(true);
    }

    /// The thread is back from a handler. If its slot was taken meanwhile, it goes on without.
    pub(super) fn end(&self) {
        self.in_handler.set(false);
        if let Some(slot) = self.slot.get() {
            if self.shared.slots[slot].claim(self.word.get()) {
                self.word.set(self.word.get() + 1);
            } else {
                self.slot.set(None);
            }
        }
    }

    /// The thread without a slot has nothing more to do with the request that cost it.
    pub(super) fn rejoin(&self) {
        self.shared.crew.detached.fetch_sub(1, Relaxed);
    }

    pub(super) fn lend(&self, connection: &Arc<Connection>, replies: &mut Vec<u8>) {
        *self.early.borrow_mut() = Some((Arc::clone(connection), std::mem::take(replies)));
    }

    pub(super) fn give_back(&self, replies: &mut Vec<u8>) {
        if let Some((_, bytes)) = self.early.borrow_mut().take() {
            *replies = bytes;
        }
    }

    fn send_early(&self) {
        if let Some((connection, replies)) = &mut *self.early.borrow_mut() {
            // An error comes up again, where it can be dealt with.
            if let Ok(sent) = outgoing::send(&connection.socket, replies, &[], 0) {
                replies.drain(..sent);
            }
        }
    }
}

impl BlockingHooks for Seat {
    fn before_blocking(&self) -> Result<(), Busy> {
        self.send_early();
        let (Some(slot), true) = (self.slot.get(), self.in_handler.get()) else {
            return Ok(());
        };
        let (crew, place) = (&self.shared.crew, &self.shared.slots[slot]);
        if crew.detached.fetch_add(1, Relaxed) >= self.shared.settings.max_blocked {
            crew.detached.fetch_sub(1, Relaxed);
            crew.refused.fetch_add(1, Relaxed);
            return Err(Busy);
        }
        if !place.claim(self.word.get()) {
            // The keeper was first, and has counted this thread.
            crew.detached.fetch_sub(1, Relaxed);
        } else if let Err(e) = staff(&self.shared, slot) {
            log::error!("cannot start a thread: {e}");
            place.unclaim(self.word.get());
            crew.detached.fetch_sub(1, Relaxed);
            crew.refused.fetch_add(1, Relaxed);
            return Err(Busy);
        }
        self.slot.set(None);
        Ok(())
    }

    fn before_short_wait(&self) {
        if let (Some(slot), true) = (self.slot.get(), self.in_handler.get()) {
            self.shared.slots[slot].note_short_wait();
            self.shared.call_help(slot);
        }
    }
}
