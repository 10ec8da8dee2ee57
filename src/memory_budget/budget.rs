//! A number of bytes, and who holds how many of them.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::blocking::{Party, Refused};

use super::shortage::{Answer, Shortage, Shortages};

/// Bytes that a party may hold for each one that is free.
const SHARE: usize = 2;

/// Counters of each table.
const COUNTERS: usize = 4096;

/// A number of bytes.
pub struct MemoryBudget {
    most: usize,
    used: AtomicUsize,
    /// What parties hold, in two tables with different hashes (a count-min sketch): a party holds no more than the less of
    /// its two counters, which only a party that shares both of them can raise. Nobody can choose to, as the hashes are
    /// secret.
    pub(super) held: [Table; 2],
    /// The same for [groups](Party::group) of networks.
    held_by_groups: [Table; 2],
    refused: AtomicU64,
    shortages: Shortages,
    /// Bytes that are being freed for somebody who waits.
    promised: AtomicUsize,
}

pub(super) struct Table {
    hash: RandomState,
    pub(super) counters: Box<[AtomicUsize]>,
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
        MemoryBudget {
            most,
            used,
            held: tables(),
            held_by_groups: tables(),
            refused,
            shortages: Shortages::default(),
            promised: AtomicUsize::new(0),
        }
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

    /// How many bytes must be given back before that can be granted which was refused, `coming` of which are.
    pub fn missing(&self, shortage: &Shortage, coming: usize) -> usize {
        let share = shortage.total.max(shortage.total_of_group).div_ceil(SHARE);
        let taken = self.used().saturating_add(self.promised.load(Relaxed));
        let needed = shortage.bytes.saturating_add(share).saturating_add(taken);
        needed.saturating_sub(self.most).saturating_sub(coming)
    }

    /// Enough is being freed for it: others do not get that, if somebody waits for it.
    pub fn promise(&self, shortage: &Shortage) {
        if shortage.waits {
            self.promised.fetch_add(shortage.bytes, Relaxed);
            if !shortage.answer_first(Answer::Coming) {
                self.promised.fetch_sub(shortage.bytes, Relaxed);
            }
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn give_up(&self, shortage: &Shortage) {
        if shortage.give_up() {
            self.promised.fetch_sub(shortage.bytes, Relaxed);
        }
    }

    pub(super) fn note_shortage(&self, party: Party, bytes: usize, waits: bool) -> Shortage {
        let [total, of_group] = self.held_by(party).map(|held| held.saturating_add(bytes));
        let mut shortage = Shortage::new(party, bytes, total, if of_group > bytes { of_group } else { total });
        shortage.waits = waits;
        self.shortages.add(&shortage);
        shortage
    }

    /// What a party holds, and its group if it is one of several in that.
    pub(super) fn held_by(&self, party: Party) -> [usize; 2] {
        self.counters(party).map(|each| each.into_iter().flatten().map(|held| held.load(Relaxed)).min().unwrap_or(0))
    }

    /// Takes bytes for a party, `own` of which were promised to it.
    pub(super) fn take(&self, party: Party, bytes: usize, own: usize) -> Result<(), Refused> {
        let used = self.used.fetch_add(bytes, Relaxed).saturating_add(bytes);
        let promised = self.promised.load(Relaxed).saturating_sub(own);
        let Some(free) = self.most.checked_sub(used.saturating_add(promised)) else {
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

    pub(super) fn take_regardless(&self, party: Party, bytes: usize) {
        self.used.fetch_add(bytes, Relaxed);
        for counter in self.counters(party).into_iter().flatten().flatten() {
            counter.fetch_add(bytes, Relaxed);
        }
    }

    pub(super) fn give_back(&self, party: Party, bytes: usize) {
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
