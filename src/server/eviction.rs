//! Which connections are closed when there are too many, or when they take too much memory.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::blocking::Party;
use crate::memory_budget::{Held, Shortage};

use super::clock::millis;
use super::connection::{Connection, TimerKind};
use super::shared::Shared;
use super::transfer::FAST;

/// A connection whose first request is not complete after this time may be evicted.
const SLOW_START: Duration = Duration::from_secs(1);

/// Milliseconds between two looks for slow readers.
const BETWEEN_EVICTIONS: u64 = 20;

/// A transfer that holds less than this many bytes is not ended for its memory.
const SMALL: usize = 16 * 1024;

/// A transfer that is slow.
struct SlowTransfer {
    /// In bytes per second.
    rate: u64,
    held: Held,
    connection: Arc<Connection>,
    is_ended: bool,
}

impl Shared {
    /// Has about `count` connections closed: those that have been idle longest since their last request; if there are
    /// none, those that have not sent a first request for longest; if there are none either, those that send a head
    /// slowly. Returns how many it found.
    pub(super) fn evict_idle(&self, count: usize) -> usize {
        let slow = |timeout| (self.clock.now() + millis(timeout)).saturating_sub(millis(SLOW_START));
        let preferences = [
            (TimerKind::NextRequest, u64::MAX),
            (TimerKind::FirstRequest, slow(self.settings.idle_timeout)),
            (TimerKind::Head, slow(self.settings.head_timeout)),
        ];
        let candidates = preferences
            .into_iter()
            .map(|(kind, latest)| self.eviction_candidates(kind, latest))
            .find(|candidates| !candidates.is_empty());
        self.evict(candidates.unwrap_or_default(), count)
    }

    /// Closes an eighth of the connections whose clients are slow to read responses: those of whoever holds the most, the
    /// slowest of them first. Does nothing if that was done a moment ago: it takes a look at every connection.
    pub(super) fn evict_slow_readers(&self) {
        let now = self.clock.now();
        let due = self.next_eviction.load(Relaxed);
        let next = now + BETWEEN_EVICTIONS;
        if now < due || self.next_eviction.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let now = Instant::now();
        let rank = |(deadline, connection): (u64, Arc<Connection>)| {
            let (held, rate) = match &*connection.transfer.lock() {
                Some(transfer) => (transfer.holder.held().of_all(), transfer.rate(now).unwrap_or(u64::MAX)),
                None => (0, u64::MAX),
            };
            ((Reverse(held), rate, deadline), connection)
        };
        let candidates = self.eviction_candidates(TimerKind::Write, u64::MAX);
        let candidates: Vec<_> = candidates.into_iter().filter(|(_, c)| !c.is_eviction_requested()).map(rank).collect();
        let eighth = candidates.len().div_ceil(8);
        let count = self.evict(candidates, eighth);
        log::warn!("unsent responses take too much memory: closing {count} connections of slow clients");
    }

    /// For each request that was refused memory: ends the slowest transfers of parties that hold more than the refused one
    /// would, if that frees enough for it. Takes a look at every connection if there is such a request, and returns how
    /// many it has ended; `None` if there was no such request.
    pub(super) fn free_memory(&self) -> Option<usize> {
        let shortages = self.memory.take_shortages();
        if shortages.is_empty() {
            return None;
        }
        let (mut slow, mut coming) = self.slow_transfers();
        // What parties will not hold any more.
        let mut given_up: HashMap<Party, usize> = HashMap::new();
        let mut ended = 0;
        for shortage in shortages {
            let missing = self.memory.missing(&shortage, coming);
            let Some((chosen, found)) = choose(&slow, &shortage, missing, &mut given_up) else {
                shortage.refuse();
                continue;
            };
            for index in &chosen {
                slow[*index].is_ended = true;
                self.end_slow_transfer(&slow[*index].connection);
            }
            self.memory.promise(&shortage);
            (coming, ended) = (coming + found, ended + chosen.len());
        }
        if ended > 0 {
            self.evicted.fetch_add(ended as u64, Relaxed);
            log::warn!("low on memory: ended {ended} slow transfers");
        }
        Some(ended)
    }

    /// The slow transfers, the slowest first, and the bytes of those that are about to end.
    fn slow_transfers(&self) -> (Vec<SlowTransfer>, usize) {
        let (now, mut found, mut coming) = (Instant::now(), Vec::new(), 0);
        for slot in &self.slots {
            slot.for_each_connection(|connection| {
                let Some(transfer) = &*connection.transfer.lock() else { return };
                if transfer.is_evicted() {
                    if transfer.is_ending(now) {
                        coming += transfer.holder.held().bytes;
                    }
                    return;
                }
                let Some(rate) = transfer.rate(now).filter(|rate| *rate < FAST) else { return };
                let held = transfer.holder.held();
                if held.bytes >= SMALL {
                    found.push(SlowTransfer { rate, held, connection: Arc::clone(connection), is_ended: false });
                }
            });
        }
        found.sort_unstable_by_key(|transfer| transfer.rate);
        (found, coming)
    }

    /// Has a transfer end: by the thread that waits for the client, or in a turn of its own.
    fn end_slow_transfer(&self, connection: &Arc<Connection>) {
        if let Some(transfer) = &mut *connection.transfer.lock() {
            transfer.evict(Instant::now());
        }
        self.schedule(connection);
    }

    /// The connections that wait for `wanted` and whose deadline is not later than `latest`, with their deadlines.
    fn eviction_candidates(&self, wanted: TimerKind, latest: u64) -> Vec<(u64, Arc<Connection>)> {
        let mut found = Vec::new();
        for slot in &self.slots {
            slot.for_each_connection(|connection| {
                let (kind, deadline) = connection.timer();
                if kind == wanted && deadline <= latest && connection.ownership.is_unowned() {
                    found.push((deadline, Arc::clone(connection)));
                }
            });
        }
        found
    }

    /// Has at most `count` of these closed, those with the least rank. Returns how many.
    fn evict<R: Ord + Copy>(&self, mut candidates: Vec<(R, Arc<Connection>)>, count: usize) -> usize {
        let count = count.min(candidates.len());
        if count == 0 {
            return 0;
        }
        candidates.select_nth_unstable_by_key(count - 1, |(rank, _)| *rank);
        for (_, connection) in &candidates[..count] {
            connection.request_eviction();
            self.schedule(connection);
        }
        self.evicted.fetch_add(count as u64, Relaxed);
        count
    }
}

/// The slowest transfers of those that hold more than the refused one would, until they free what is missing, and how much
/// they free; `None` if that is not enough. Adds them to what is given up.
fn choose(
    slow: &[SlowTransfer],
    shortage: &Shortage,
    missing: usize,
    given_up: &mut HashMap<Party, usize>,
) -> Option<(Vec<usize>, usize)> {
    let (mut chosen, mut found, mut more) = (Vec::new(), 0, given_up.clone());
    for (index, transfer) in slow.iter().enumerate().filter(|(_, transfer)| !transfer.is_ended) {
        if found >= missing {
            break;
        }
        let given_up = more.entry(transfer.held.party).or_default();
        if transfer.held.is_above(shortage, *given_up) {
            chosen.push(index);
            found += transfer.held.bytes;
            *given_up += transfer.held.bytes;
        }
    }
    let is_enough = found >= missing;
    if is_enough {
        *given_up = more;
    }
    is_enough.then_some((chosen, found))
}
