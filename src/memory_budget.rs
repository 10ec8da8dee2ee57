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

mod shortage;

#[cfg(test)]
mod budget_tests;

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::blocking::{Party, Refused};
use shortage::Shortages;
pub use shortage::{Answer, Shortage};

/// Bytes that a party may hold for each one that is free.
const SHARE: usize = 2;

/// More bytes than this are [large](reserve_if_large).
const SMALL: usize = 64 * 1024;

/// Counters of each table.
const COUNTERS: usize = 4096;

/// How long somebody waits for memory that others are made to free, and how often they look.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// A number of bytes.
pub struct MemoryBudget {
    most: usize,
    used: AtomicUsize,
    /// What parties hold, in two tables with different hashes (a count-min sketch): a party holds no more than the less of
    /// its two counters, which only a party that shares both of them can raise. Nobody can choose to, as the hashes are
    /// secret.
    held: [Table; 2],
    /// The same for [groups](Party::group) of networks.
    held_by_groups: [Table; 2],
    refused: AtomicU64,
    shortages: Shortages,
}

struct Table {
    hash: RandomState,
    counters: Box<[AtomicUsize]>,
}

impl Table {
    fn new() -> Table {
        Table { hash: RandomState::new(), counters: (0..COUNTERS).map(|_| AtomicUsize::new(0)).collect() }
    }

    fn of(&self, party: Party) -> &AtomicUsize {
        // The remainder is less than their number.
        &self.counters[usize::try_from(self.hash.hash_one(party) % COUNTERS as u64).unwrap_or(0)]
    }
}

impl MemoryBudget {
    /// One of so many bytes.
    pub fn new(most: usize) -> MemoryBudget {
        let (used, refused) = (AtomicUsize::new(0), AtomicU64::new(0));
        let tables = || [Table::new(), Table::new()];
        MemoryBudget { most, used, held: tables(), held_by_groups: tables(), refused, shortages: Shortages::default() }
    }

    /// All of it, in bytes.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Bytes that are reserved now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether more is reserved than there is, as some of it could not be refused.
    pub fn is_exceeded(&self) -> bool {
        self.used() > self.most
    }

    /// How often nothing was left so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// What was refused since this was last called, those first who would hold the least.
    pub fn take_shortages(&self) -> Vec<Shortage> {
        self.shortages.take()
    }

    /// How many bytes must be given back before that can be granted which was refused.
    pub fn missing(&self, shortage: &Shortage) -> usize {
        let share = shortage.total.max(shortage.total_of_group).div_ceil(SHARE);
        shortage.bytes.saturating_add(share).saturating_sub(self.most.saturating_sub(self.used()))
    }

    fn note_shortage(&self, party: Party, bytes: usize) -> Shortage {
        let [total, of_group] = self.held_by(party).map(|held| held.saturating_add(bytes));
        let shortage = Shortage::new(party, bytes, total, if of_group > bytes { of_group } else { total });
        self.shortages.add(&shortage);
        shortage
    }

    /// What a party holds, and its group if it is one of several in that.
    fn held_by(&self, party: Party) -> [usize; 2] {
        self.counters(party).map(|each| each.into_iter().flatten().map(|held| held.load(Relaxed)).min().unwrap_or(0))
    }

    fn take(&self, party: Party, bytes: usize) -> Result<(), Refused> {
        let used = self.used.fetch_add(bytes, Relaxed).saturating_add(bytes);
        let Some(free) = self.most.checked_sub(used) else {
            self.used.fetch_sub(bytes, Relaxed);
            self.refused.fetch_add(1, Relaxed);
            return Err(Refused::Full);
        };
        let add = |counter: &AtomicUsize| counter.fetch_add(bytes, Relaxed);
        let [held, held_by_group] =
            self.counters(party).map(|each| each.into_iter().flatten().map(add).min().unwrap_or(0));
        // Whoever has nothing gets what there is.
        let has_share = |held: usize| held == 0 || held.saturating_add(bytes) <= SHARE.saturating_mul(free);
        if party == Party::Process || (has_share(held) && has_share(held_by_group)) {
            return Ok(());
        }
        self.give_back(party, bytes);
        Err(if let Party::Account(_) = party { Refused::ShareIsUsed } else { Refused::Full })
    }

    fn take_regardless(&self, party: Party, bytes: usize) {
        self.used.fetch_add(bytes, Relaxed);
        for counter in self.counters(party).into_iter().flatten().flatten() {
            counter.fetch_add(bytes, Relaxed);
        }
    }

    fn give_back(&self, party: Party, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
        for counter in self.counters(party).into_iter().flatten().flatten() {
            counter.fetch_sub(bytes, Relaxed);
        }
    }

    /// What counts what a party holds, and its group if it is one of several in that.
    fn counters(&self, party: Party) -> [[Option<&AtomicUsize>; 2]; 2] {
        let group = matches!(party, Party::Network(_)).then(|| party.group());
        let own = self.held.each_ref().map(|table| Some(table.of(party)));
        [own, self.held_by_groups.each_ref().map(|table| group.map(|group| table.of(group)))]
    }
}

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

    fn try_grow(&mut self, bytes: usize) -> Result<(), Refused> {
        if bytes > 0 {
            self.0.budget.take(self.0.get().party, bytes)?;
            self.0.holding.lock().bytes += bytes;
        }
        Ok(())
    }

    /// Makes it larger by so many bytes.
    ///
    /// # Errors
    /// There are none for this party. It stays as it is.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refused> {
        self.try_grow(bytes).inspect_err(|_| drop(self.0.budget.note_shortage(self.0.get().party, bytes)))
    }

    /// The same; waits for up to two seconds while others who hold more are made to free memory.
    ///
    /// # Errors
    /// As [`Reservation::grow`].
    pub fn grow_in_time(&mut self, bytes: usize) -> Result<(), Refused> {
        let Err(refused) = self.try_grow(bytes) else { return Ok(()) };
        let (shortage, began) = (self.0.budget.note_shortage(self.0.get().party, bytes), Instant::now());
        while shortage.answer() != Answer::Hopeless && began.elapsed() < PATIENCE {
            thread::sleep(PAUSE);
            if self.try_grow(bytes).is_ok() {
                return Ok(());
            }
        }
        Err(refused)
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

/// The same as [`reserve`], unless it is so little that many requests with as much do no harm.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_if_large(bytes: usize) -> Result<(), Refused> {
    if bytes > SMALL { reserve(bytes) } else { Ok(()) }
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

/// Takes what was reserved for the request that this thread works on.
pub fn take() -> Option<Reservation> {
    REQUEST.take()
}

/// The next [`reserve`] adds to this.
pub fn put(reservation: Reservation) {
    REQUEST.set(Some(reservation));
}
