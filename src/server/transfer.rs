//! How fast bodies and responses go over a connection: how much time they have, and which of them are slow.

use std::time::{Duration, Instant};

use crate::memory_budget::Holder;

use super::clock::millis;

/// Rates are measured over one to two of these, in milliseconds.
const WINDOW: u64 = 1500;

/// A transfer that was at least this fast lately, in bytes per second, is not ended for its memory.
pub(super) const FAST: u64 = 256 * 1024;

/// How long a transfer takes to end, at the most: a thread that waits for its client looks twice a second.
const ENDING: Duration = Duration::from_secs(1);

/// When a transfer must have gone on. All times are in milliseconds of any clock that does not go back.
///
/// A transfer begins with a time-out. Each byte buys the time that it takes at the least rate, but there is never more than
/// the time-out ahead. So a transfer that is too slow ends within about one, however fast it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    timeout: u64,
    /// Bytes per second.
    least: u64,
    /// In microseconds, so that single bytes count.
    until: u64,
}

impl Pace {
    pub(super) fn new(timeout: Duration, least: u64, now: u64) -> Pace {
        let timeout = millis(timeout);
        Pace { timeout, least: least.max(1), until: now.saturating_add(timeout).saturating_mul(1000) }
    }

    /// Bytes were transferred.
    pub(super) fn note(&mut self, bytes: usize, now: u64) {
        let bought = (bytes as u64).saturating_mul(1_000_000) / self.least;
        let most = now.saturating_add(self.timeout).saturating_mul(1000);
        self.until = self.until.saturating_add(bought).min(most);
    }

    /// When more must have been transferred.
    pub(super) fn deadline(&self) -> u64 {
        self.until / 1000
    }
}

/// A body that is being received, or a response that is being read, as the monitor sees it. Only the time counts that was
/// spent waiting for the client.
#[derive(Clone)]
pub(super) struct Transfer {
    /// What its request holds.
    pub(super) holder: Holder,
    /// Since when it is to end, as others need its memory.
    evicted: Option<Instant>,
    /// Milliseconds waited before, and since when it waits now.
    waited: u64,
    since: Option<Instant>,
    /// When the current window began, in milliseconds waited, and the bytes in it.
    began: u64,
    bytes: u64,
    /// The length of the window before, and the bytes in that.
    before: (u64, u64),
}

impl Transfer {
    pub(super) fn new(holder: Holder) -> Transfer {
        Transfer { holder, evicted: None, waited: 0, since: None, began: 0, bytes: 0, before: (0, 0) }
    }

    /// Has it end, as others need its memory.
    pub(super) fn evict(&mut self, now: Instant) {
        self.evicted.get_or_insert(now);
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.is_some()
    }

    /// Whether its memory will be free in a moment. What has had a second to end and has not is held by something else,
    /// such as a reply that is read on for its usage.
    pub(super) fn is_ending(&self, now: Instant) -> bool {
        self.evicted.is_some_and(|evicted| now.saturating_duration_since(evicted) < ENDING)
    }

    fn waited_at(&self, now: Instant) -> u64 {
        self.waited + self.since.map_or(0, |since| millis(now.saturating_duration_since(since)))
    }

    /// Begins to wait for the client.
    pub(super) fn wait(&mut self, now: Instant) {
        self.since = self.since.or(Some(now));
    }

    /// Has waited, and bytes were transferred.
    pub(super) fn note(&mut self, bytes: usize, now: Instant) {
        self.waited = self.waited_at(now);
        self.since = None;
        let length = self.waited - self.began;
        if length >= WINDOW {
            (self.before, self.bytes, self.began) = ((length, self.bytes), 0, self.waited);
        }
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// How fast it was lately, in bytes per second; `None` before it has waited for a second.
    pub(super) fn rate(&self, now: Instant) -> Option<u64> {
        let length = self.waited_at(now) - self.began;
        // What was before a long window says nothing any more.
        let before = if length >= WINDOW { (0, 0) } else { self.before };
        let length = length + before.0;
        (length >= 1000).then(|| self.bytes.saturating_add(before.1).saturating_mul(1000) / length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blocking::Party;
    use crate::memory_budget::{MemoryBudget, Reservation};

    /// When a transfer ends that began with so many bytes and then has this many in each second.
    fn end(first: usize, each: usize) -> Option<u64> {
        let mut pace = Pace::new(Duration::from_secs(30), 1024, 0);
        pace.note(first, 100);
        for now in (1000..10_000_000).step_by(1000) {
            if now >= pace.deadline() {
                return Some(pace.deadline());
            }
            for _ in 0..each {
                pace.note(1, now);
            }
        }
        None
    }

    #[test]
    fn a_transfer_that_is_slow_ends_however_it_began() {
        assert_eq!(end(0, 0), Some(30_000));
        assert_eq!(end(48 << 20, 0), Some(30_100));
        assert!((59_000..62_000).contains(&end(48 << 20, 512).unwrap()), "{:?}", end(48 << 20, 512));
        assert_eq!(end(48 << 20, 1025), None);
        assert_eq!(end(0, 1025), None);
    }

    #[test]
    fn what_does_not_end_is_not_counted_on() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut transfer = Transfer::new(Reservation::new(&budget, Party::Process).holder());
        let began = Instant::now();
        assert!(!transfer.is_evicted() && !transfer.is_ending(began));
        transfer.evict(began);
        let later = began + Duration::from_millis(900);
        assert!(transfer.is_evicted() && transfer.is_ending(later));
        transfer.evict(later);
        let later = began + Duration::from_millis(1100);
        assert!(transfer.is_evicted() && !transfer.is_ending(later));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_of_waiting() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut transfer = Transfer::new(Reservation::new(&budget, Party::Process).holder());
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        transfer.wait(began);
        transfer.note(8 << 20, at(500));
        assert_eq!((transfer.rate(at(600)), transfer.rate(at(600_000))), (None, None), "nobody waits for the client");
        transfer.wait(at(500));
        for now in (1000..=20_000).step_by(1000) {
            transfer.note(1000, at(now));
            transfer.wait(at(now));
            let rate = transfer.rate(at(now)).unwrap();
            assert!(if now < 4000 { rate > FAST } else { rate < 2000 }, "{now}: {rate}");
        }
        assert!(transfer.rate(at(60_000)).unwrap() < 200);
    }
}
