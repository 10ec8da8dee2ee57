//! The memory that requests hold: their bodies, what is parsed and rendered of them, and replies that clients have not
//! read yet. There is one budget for all of it. Memory is reserved before it is taken; when there is none, the request is
//! refused.
//!
//! A party may hold [`SHARE`] times what is free, as with [places](crate::blocking::Bulkhead): one that is alone gets two
//! thirds, and something is left for whoever comes next. What parties hold is only counted with atomic additions, so that
//! small requests do not meet at a lock.
//!
//! What is refused is [noted](Shortage). A server then ends transfers that hold memory and are slow, of parties that hold
//! more than the refused one would.

mod budget;
mod growth;
mod shortage;

#[cfg(test)]
mod budget_tests;

use std::cell::RefCell;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::blocking::{Party, Refused};
pub use budget::MemoryBudget;
pub use growth::{Growth, ReservedBytes};
pub use shortage::{Answer, Shortage};

/// More bytes than this are [large](reserve_if_large).
const SMALL: usize = 64 * 1024;

/// How long somebody waits for memory that others are made to free, and how often they look.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// A part of a budget, given back when it is dropped.
pub struct Reservation(Holder);

/// Tells what a [`Reservation`] holds, on any thread.
#[derive(Clone)]
pub struct Holder {
    budget: Arc<MemoryBudget>,
    holding: Arc<Mutex<Holding>>,
}

#[derive(Clone, Copy)]
struct Holding {
    party: Party,
    bytes: usize,
}

/// What a [`Reservation`] held, and what its party held in all.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Whose it was.
    pub party: Party,
    /// The bytes that were reserved.
    pub bytes: usize,
    /// The bytes of all reservations of the party, and of its [group](Party::group).
    of_party: usize,
    of_group: usize,
}

impl Held {
    /// The bytes of its party, or of its group if that is more.
    pub fn of_all(&self) -> usize {
        self.of_party.max(self.of_group)
    }

    /// Whether its party holds more than the one that was refused would, or its group more than that one's, when so many
    /// bytes are given up.
    pub fn is_above(&self, shortage: &Shortage, given_up: usize) -> bool {
        let is_other_group = self.party.group() != shortage.party.group();
        let is_above = |held: usize, total| held.saturating_sub(given_up) > total;
        self.party != shortage.party
            && (is_above(self.of_party, shortage.total)
                || is_other_group && is_above(self.of_group, shortage.total_of_group))
    }
}

impl Holder {
    fn get(&self) -> Holding {
        *self.holding.lock()
    }

    /// What it holds now.
    pub fn held(&self) -> Held {
        let Holding { party, bytes } = self.get();
        let [of_party, of_group] = self.budget.held_by(party);
        Held { party, bytes, of_party, of_group }
    }
}

impl Reservation {
    /// One of 0 bytes.
    pub fn new(budget: &Arc<MemoryBudget>, party: Party) -> Reservation {
        let holding = Arc::new(Mutex::new(Holding { party, bytes: 0 }));
        Reservation(Holder { budget: Arc::clone(budget), holding })
    }

    /// Tells what it holds.
    pub fn holder(&self) -> Holder {
        self.0.clone()
    }

    fn try_grow(&mut self, bytes: usize, promised: usize) -> Result<(), Refused> {
        if bytes > 0 {
            self.0.budget.take(self.0.get().party, bytes, promised)?;
            self.0.holding.lock().bytes += bytes;
        }
        Ok(())
    }

    /// Makes it larger by so many bytes.
    ///
    /// # Errors
    /// There are none for this party. It stays as it is.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refused> {
        let outcome = self.try_grow(bytes, 0);
        if outcome.is_err() {
            self.0.budget.note_shortage(self.0.get().party, bytes, false);
        }
        outcome
    }

    /// The same; waits for up to two seconds while others who hold more are made to free memory.
    ///
    /// # Errors
    /// As [`Reservation::grow`].
    pub fn grow_in_time(&mut self, bytes: usize) -> Result<(), Refused> {
        let mut outcome = self.try_grow(bytes, 0);
        if outcome.is_err() {
            let (shortage, began) = (self.0.budget.note_shortage(self.0.get().party, bytes, true), Instant::now());
            while outcome.is_err() && shortage.answer() != Answer::Hopeless && began.elapsed() < PATIENCE {
                thread::sleep(PAUSE);
                let promised = if shortage.answer() == Answer::Coming { bytes } else { 0 };
                outcome = self.try_grow(bytes, promised);
            }
            self.0.budget.give_up(&shortage);
        }
        outcome
    }

    /// Makes it at least this large.
    ///
    /// # Errors
    /// As [`Reservation::grow`].
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Refused> {
        self.grow(bytes.saturating_sub(self.0.get().bytes))
    }

    /// Sets its size to what is held in any case.
    pub fn set(&mut self, bytes: usize) {
        let Holding { party, bytes: before } = self.0.get();
        if bytes > before {
            self.0.budget.take_regardless(party, bytes - before);
        } else {
            self.0.budget.give_back(party, before - bytes);
        }
        self.0.holding.lock().bytes = bytes;
    }

    /// Makes it this party's.
    pub fn pass_to(&mut self, party: Party) {
        let Holding { party: before, bytes } = self.0.get();
        if party != before {
            self.0.budget.give_back(before, bytes);
            self.0.budget.take_regardless(party, bytes);
            self.0.holding.lock().party = party;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.set(0);
    }
}

thread_local! {
    static BUDGET: RefCell<Option<Arc<MemoryBudget>>> = const { RefCell::new(None) };
    /// What the request holds that this thread works on.
    static REQUEST: RefCell<Option<Reservation>> = const { RefCell::new(None) };
}

/// Sets the budget from which [`reserve`] takes on this thread from now on. Without one, nothing is counted.
pub fn install(budget: Arc<MemoryBudget>) {
    BUDGET.set(Some(budget));
}

/// Reserves so many bytes more for the request that this thread works on, until it is answered.
///
/// # Errors
/// There are none for its party.
pub fn reserve(bytes: usize) -> Result<(), Refused> {
    REQUEST.with_borrow_mut(|request| with_budget(request).map_or(Ok(()), |request| request.grow(bytes)))
}

/// The same, on a thread that may block: waits for up to two seconds while others who hold more are made to free memory.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_in_time(bytes: usize) -> Result<(), Refused> {
    REQUEST.with_borrow_mut(|request| with_budget(request).map_or(Ok(()), |request| request.grow_in_time(bytes)))
}

/// The same as [`reserve`], unless it is so little that many requests with as much do no harm. Returns whether it was
/// reserved.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_if_large(bytes: usize) -> Result<bool, Refused> {
    let is_large = bytes > SMALL;
    if is_large {
        reserve(bytes)?;
    }
    Ok(is_large)
}

/// Reads on until `bytes` has `most` bytes, or to the end of the source. `take` is told of the memory for each piece before
/// it is taken, from `first` on twice as much each time: a source that only says that it has much takes little.
///
/// # Errors
/// Those of `take` and of the source.
pub fn read_up_to<E: From<io::Error>>(
    source: &mut dyn Read,
    bytes: &mut Vec<u8>,
    (first, most): (usize, usize),
    take: impl Fn(usize) -> Result<(), E>,
) -> Result<(), E> {
    while bytes.len() < most {
        let (length, capacity) = (bytes.len(), bytes.capacity());
        if length == capacity {
            let wanted = most.min((2 * capacity).max(first));
            take(wanted - capacity)?;
            bytes.reserve_exact(wanted - length);
        }
        let room = bytes.capacity().min(most) - length;
        // Never more than there is room for, so that the vector does not grow by itself.
        if source.take(room as u64).read_to_end(bytes)? < room {
            return Ok(());
        }
    }
    Ok(())
}

/// Gives back so many bytes of what was reserved for the request that this thread works on.
pub fn release(bytes: usize) {
    REQUEST.with_borrow_mut(|request| {
        if let Some(request) = request {
            request.set(request.0.get().bytes.saturating_sub(bytes));
        }
    });
}

/// Gives back what was reserved for the request that this thread works on, but for so many bytes.
pub fn shrink_to(most: usize) {
    REQUEST.with_borrow_mut(|request| {
        if let Some(request) = request {
            request.set(request.0.get().bytes.min(most));
        }
    });
}

/// Does work, and gives back what it has reserved for the request that this thread works on: what it returns is small.
pub fn briefly<T>(work: impl FnOnce() -> T) -> T {
    let held = || REQUEST.with_borrow(|request| request.as_ref().map_or(0, |request| request.0.get().bytes));
    let before = held();
    let done = work();
    release(held().saturating_sub(before));
    done
}

/// Counts so many bytes more for the request that this thread works on, which are not refused: the reply of a model that
/// has done its work. Further requests find less.
pub fn count(bytes: usize) {
    REQUEST.with_borrow_mut(|request| {
        if let Some(request) = with_budget(request) {
            request.set(request.0.get().bytes + bytes);
        }
    });
}

/// The request's reservation, which is made if there is none yet and there is a budget.
fn with_budget(request: &mut Option<Reservation>) -> Option<&mut Reservation> {
    if request.is_none() {
        let party = crate::blocking::party();
        *request = BUDGET.with_borrow(|budget| budget.as_ref().map(|budget| Reservation::new(budget, party)));
    }
    request.as_mut()
}

/// The request that this thread works on has turned out to be this party's.
pub fn identify(party: Party) {
    REQUEST.with_borrow_mut(|request| {
        if let Some(request) = request {
            request.pass_to(party);
        }
    });
}

/// Tells what is reserved for the request that this thread works on, if anything is.
pub fn holder() -> Option<Holder> {
    REQUEST.with_borrow(|request| request.as_ref().map(Reservation::holder))
}

/// Has other threads count for the request that this one works on.
pub struct Helpers {
    budget: Option<Arc<MemoryBudget>>,
    party: Party,
    counted: Mutex<Vec<Reservation>>,
}

impl Helpers {
    /// For the request that this thread works on.
    pub fn of_request() -> Helpers {
        let budget = BUDGET.with_borrow(Clone::clone);
        Helpers { budget, party: crate::blocking::party(), counted: Mutex::default() }
    }

    /// Does work on a thread that has been started for it.
    pub fn work(&self, work: impl FnOnce()) {
        if let Some(budget) = &self.budget {
            install(Arc::clone(budget));
        }
        crate::blocking::set_party(self.party);
        work();
        self.counted.lock().extend(take());
    }

    /// Has the request hold what was counted by all of them.
    pub fn join(self) {
        for counted in self.counted.into_inner() {
            let bytes = counted.0.get().bytes;
            drop(counted);
            count(bytes);
        }
    }
}

/// Takes what was reserved for the request that this thread works on.
pub fn take() -> Option<Reservation> {
    REQUEST.take()
}

/// The next [`reserve`] adds to this.
pub fn put(reservation: Reservation) {
    REQUEST.set(Some(reservation));
}
