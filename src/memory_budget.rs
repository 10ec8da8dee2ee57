//! The memory that requests hold: their bodies, what is parsed and rendered of them, and replies that clients have not
//! read yet. There is one budget for all of it. Memory is reserved before it is taken; when there is none, the request is
//! refused.
//!
//! A party may hold [`SHARE`] times what is free, as with [places](crate::blocking::Bulkhead): one that is alone gets two
//! thirds, and something is left for whoever comes next. What parties hold is only counted with atomic additions, so that
//! small requests do not meet at a lock.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::blocking::{Party, Refused};

/// Bytes that a party may hold for each one that is free.
const SHARE: usize = 2;

/// More bytes than this are [large](reserve_if_large).
const SMALL: usize = 64 * 1024;

/// Counters of each table.
const COUNTERS: usize = 4096;

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
        MemoryBudget { most, used, held: tables(), held_by_groups: tables(), refused }
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
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    party: Party,
    bytes: usize,
}

impl Reservation {
    /// One of 0 bytes.
    pub fn new(budget: &Arc<MemoryBudget>, party: Party) -> Reservation {
        Reservation { budget: Arc::clone(budget), party, bytes: 0 }
    }

    /// Makes it larger by so many bytes.
    ///
    /// # Errors
    /// There are none for this party. It stays as it is.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refused> {
        if bytes > 0 {
            self.budget.take(self.party, bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Makes it at least this large.
    ///
    /// # Errors
    /// As [`Reservation::grow`].
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Refused> {
        self.grow(bytes.saturating_sub(self.bytes))
    }

    /// Sets its size to what is held in any case.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.budget.take_regardless(self.party, bytes - self.bytes);
        } else {
            self.budget.give_back(self.party, self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// Makes it this party's.
    pub fn pass_to(&mut self, party: Party) {
        if party != self.party {
            self.budget.give_back(self.party, self.bytes);
            self.budget.take_regardless(party, self.bytes);
            self.party = party;
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

/// The same, unless it is so little that many requests with as much do no harm.
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
            request.set(request.bytes.saturating_sub(bytes));
        }
    });
}

/// Counts so many bytes more for the request that this thread works on, which are not refused: the reply of a model that
/// has done its work. Further requests find less.
pub fn count(bytes: usize) {
    REQUEST.with_borrow_mut(|request| {
        if let Some(request) = with_budget(request) {
            request.set(request.bytes + bytes);
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

/// Takes what was reserved for the request that this thread works on.
pub fn take() -> Option<Reservation> {
    REQUEST.take()
}

/// The next [`reserve`] adds to this.
pub fn put(reservation: Reservation) {
    REQUEST.set(Some(reservation));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(budget: &Arc<MemoryBudget>, party: Party, piece: usize) -> (Reservation, Refused) {
        let mut reservation = Reservation::new(budget, party);
        loop {
            if let Err(refused) = reservation.grow(piece) {
                return (reservation, refused);
            }
        }
    }

    #[test]
    fn one_party_has_two_thirds_and_others_what_it_leaves() {
        let budget = Arc::new(MemoryBudget::new(9_000_000));
        let (first, refused) = filled(&budget, Party::Account(1), 1000);
        assert_eq!((first.bytes, refused), (6_000_000, Refused::ShareIsUsed));
        let (second, refused) = filled(&budget, Party::network("10.0.0.1".parse().unwrap()), 1000);
        assert_eq!((second.bytes, refused), (2_000_000, Refused::Full));
        assert_eq!(budget.refused(), 0, "something is left");
        let mut small = Reservation::new(&budget, Party::Account(3));
        assert_eq!(small.grow(1_000_000), Ok(()), "whoever has nothing gets what there is");
        assert_eq!(Reservation::new(&budget, Party::Account(4)).grow(1), Err(Refused::Full));
        assert_eq!(budget.refused(), 1);
        drop((first, second, small));
        assert_eq!(budget.used(), 0);
        assert_eq!(filled(&budget, Party::Process, 1000).0.bytes, 9_000_000);
    }

    #[test]
    fn all_addresses_of_a_site_have_together_what_one_has() {
        for addresses in
            [["10.0.0.1", "10.0.0.2", "10.0.0.3"], ["2001:db8:1:1::1", "2001:db8:1:2::1", "2001:db8:1:3::1"]]
        {
            let budget = Arc::new(MemoryBudget::new(9_000_000));
            let party = |address: &str| Party::network(address.parse().unwrap());
            let held: Vec<_> = addresses.iter().map(|address| filled(&budget, party(address), 1000).0).collect();
            assert_eq!(held.iter().map(|held| held.bytes).sum::<usize>(), 6_000_000);
            assert_eq!(filled(&budget, party("10.0.1.1"), 1000).0.bytes, 2_000_000);
            drop(held);
            assert_eq!((budget.used(), filled(&budget, party(addresses[2]), 1000).0.bytes), (0, 6_000_000));
        }
    }

    #[test]
    fn what_is_there_already_is_counted_in_any_case() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut unread = Reservation::new(&budget, Party::Account(1));
        unread.set(150);
        assert!(budget.is_exceeded());
        unread.set(90);
        unread.pass_to(Party::Account(2));
        assert_eq!(Reservation::new(&budget, Party::Account(1)).grow(10), Ok(()), "it holds nothing any more");
        drop(unread);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_request_holds_what_was_reserved_until_it_is_taken() {
        std::thread::spawn(|| {
            assert_eq!(reserve(1000), Ok(()), "without a budget nothing is counted");
            let budget = Arc::new(MemoryBudget::new(1000));
            install(Arc::clone(&budget));
            crate::blocking::set_party(Party::Account(7));
            assert_eq!((reserve(400), reserve(200)), (Ok(()), Ok(())));
            assert_eq!(reserve(200), Err(Refused::ShareIsUsed));
            release(300);
            assert_eq!((budget.used(), reserve(300)), (300, Ok(())));
            count(500);
            assert!(budget.is_exceeded() && budget.used() == 1100);
            release(500);
            identify(Party::Account(8));
            let taken = take().unwrap();
            assert_eq!((taken.bytes, taken.party, budget.used()), (600, Party::Account(8), 600));
            put(taken);
            assert_eq!(reserve(10), Ok(()));
            drop(take());
            assert_eq!(budget.used(), 0);
        })
        .join()
        .unwrap();
    }

    proptest! {
        #[test]
        fn whatever_parties_do(most in 1_usize..5000, steps in prop::collection::vec((0_u64..5, 0_usize..2000, any::<bool>()), 1..200)) {
            let budget = Arc::new(MemoryBudget::new(most));
            let mut held: Vec<Reservation> = (0..5).map(|n| Reservation::new(&budget, Party::Account(n))).collect();
            for (party, bytes, grows) in steps {
                let reservation = &mut held[usize::try_from(party).unwrap()];
                if grows {
                    let _ = reservation.grow(bytes);
                } else {
                    reservation.set(bytes.min(reservation.bytes));
                }
                let sum: usize = held.iter().map(|reservation| reservation.bytes).sum();
                prop_assert_eq!(budget.used(), sum);
                prop_assert!(sum <= most);
            }
            held.clear();
            for table in &budget.held {
                prop_assert!(table.counters.iter().all(|counter| counter.load(Relaxed) == 0));
            }
        }
    }
}
