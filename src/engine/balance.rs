//! Which of several model servers a call goes to: the least busy one that works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a server is left out after its first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The servers for one purpose.
#[derive(Debug)]
pub(super) struct Balance {
    began: Instant,
    turn: AtomicUsize,
    servers: Vec<Arc<Server>>,
}

#[derive(Debug)]
struct Server {
    base: String,
    calls: AtomicUsize,
    /// In a row.
    failures: AtomicU32,
    /// Left out until then, in milliseconds since `began`.
    out_until: AtomicU64,
}

/// A call of a server, counted as long as this lives.
#[derive(Debug)]
pub(super) struct Lease {
    server: Arc<Server>,
    began: Instant,
    pub(super) index: usize,
}

impl Balance {
    pub(super) fn new(urls: &[String]) -> Balance {
        let server = |base: &String| {
            let (calls, failures, out_until) = (AtomicUsize::new(0), AtomicU32::new(0), AtomicU64::new(0));
            Arc::new(Server { base: base.clone(), calls, failures, out_until })
        };
        Balance { began: Instant::now(), turn: AtomicUsize::new(0), servers: urls.iter().map(server).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }

    /// The server for a call that these have failed. When all others are left out, the one that comes back first is
    /// tried all the same: refusing would help nobody.
    pub(super) fn choose(&self, failed: &[usize]) -> Option<Lease> {
        let (now, turn) = (millis(self.began.elapsed()), self.turn.fetch_add(1, Relaxed));
        let rotated = (0..self.len()).map(|i| (turn + i) % self.len()).filter(|i| !failed.contains(i));
        let index = rotated.min_by_key(|i| {
            let server = &self.servers[*i];
            let out = server.out_until.load(Relaxed);
            (if out > now { out } else { 0 }, server.calls.load(Relaxed))
        })?;
        let server = Arc::clone(&self.servers[index]);
        server.calls.fetch_add(1, Relaxed);
        // One call tries a server that comes back; others keep away until it is known how that went.
        let failures = server.failures.load(Relaxed);
        if failures > 0 {
            server.out_until.store(now + millis(pause(failures)), Relaxed);
        }
        Some(Lease { server, began: self.began, index })
    }
}

impl Lease {
    /// The server's address.
    pub(super) fn base(&self) -> &str {
        &self.server.base
    }

    /// The server did what it should.
    pub(super) fn worked(&self) {
        if self.server.failures.load(Relaxed) > 0 {
            log::info!("{} works again", self.server.base);
            self.server.failures.store(0, Relaxed);
            self.server.out_until.store(0, Relaxed);
        }
    }

    /// The server failed: it is left out for a while.
    pub(super) fn failed(&self, why: &dyn std::fmt::Display) {
        let failures = self.server.failures.fetch_add(1, Relaxed).saturating_add(1);
        let pause = pause(failures);
        self.server.out_until.store(millis(self.began.elapsed() + pause), Relaxed);
        log::warn!("{} failed and is left out for {} s: {why}", self.server.base, pause.as_secs());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.calls.fetch_sub(1, Relaxed);
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(n: usize) -> Balance {
        Balance::new(&(0..n).map(|i| format!("http://{i}")).collect::<Vec<_>>())
    }

    #[test]
    fn the_least_busy_is_next() {
        let balance = balance(3);
        let leases: Vec<_> = (0..6).map(|_| balance.choose(&[]).unwrap()).collect();
        for i in 0..3 {
            assert_eq!(leases.iter().filter(|l| l.index == i).count(), 2);
        }
        let busy = leases[4].index;
        let (held, rest): (Vec<_>, Vec<_>) = leases.into_iter().partition(|l| l.index == busy);
        drop(rest);
        let next: Vec<_> = (0..4).map(|_| balance.choose(&[]).unwrap()).collect();
        assert!(held.len() == 2 && next.iter().all(|l| l.index != busy));
    }

    #[test]
    fn one_that_fails_is_left_out_and_tried_again() {
        let balance = balance(2);
        balance.choose(&[1]).unwrap().failed(&"broken");
        let held: Vec<_> = (0..5).map(|_| balance.choose(&[]).unwrap()).collect();
        assert!(held.iter().all(|l| l.index == 1));
        balance.servers[0].out_until.store(0, Relaxed);
        assert_eq!(balance.choose(&[]).unwrap().index, 0, "tried again once the pause is over");
        assert_eq!(balance.choose(&[]).unwrap().index, 1, "by one call only");
        balance.choose(&[1]).unwrap().worked();
        assert_eq!(balance.choose(&[]).unwrap().index, 0);
        assert!(balance.choose(&[0, 1]).is_none());
    }

    #[test]
    fn with_all_failing_one_is_tried_all_the_same() {
        let balance = balance(2);
        balance.choose(&[1]).unwrap().failed(&"broken");
        balance.choose(&[0]).unwrap().failed(&"broken");
        assert!(balance.choose(&[]).is_some());
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
