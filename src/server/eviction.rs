//! Which connections are closed when there are too many, or when they take too much memory.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::clock::millis;
use super::connection::{Connection, TimerKind};
use super::shared::Shared;

/// A connection whose first request is not complete after this time may be evicted.
const SLOW_START: Duration = Duration::from_secs(1);

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

    /// Closes an eighth of the connections whose clients are slow to read responses, those with the earliest deadline
    /// first.
    pub(super) fn evict_slow_readers(&self) {
        let candidates = self.eviction_candidates(TimerKind::Write, u64::MAX);
        let eighth = candidates.len().div_ceil(8);
        let count = self.evict(candidates, eighth);
        log::warn!("unsent responses take too much memory: closing {count} connections of slow clients");
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

    /// Has at most `count` of these closed, those with the earliest deadline. Returns how many.
    fn evict(&self, mut candidates: Vec<(u64, Arc<Connection>)>, count: usize) -> usize {
        let count = count.min(candidates.len());
        if count == 0 {
            return 0;
        }
        candidates.select_nth_unstable_by_key(count - 1, |(deadline, _)| *deadline);
        for (_, connection) in &candidates[..count] {
            connection.request_eviction();
            self.schedule(connection);
        }
        self.evicted.fetch_add(count as u64, Relaxed);
        count
    }
}
