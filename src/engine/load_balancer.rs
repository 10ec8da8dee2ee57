//! Load balancing: a call goes to the healthy model server with the fewest calls in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Cool-down after a server's first failure. It doubles with each further consecutive failure.
const MIN_COOL_DOWN: Duration = Duration::from_secs(1);
/// Upper limit of the cool-down.
const MAX_COOL_DOWN: Duration = Duration::from_secs(30);

/// The servers of one engine. Ties are broken round-robin.
#[derive(Debug)]
pub(super) struct LoadBalancer {
    began: Instant,
    turn: AtomicUsize,
    servers: Vec<Arc<Server>>,
}

#[derive(Debug)]
struct Server {
    base: String,
    calls: AtomicUsize,
    /// Consecutive failures; 0 while the server is healthy.
    failures: AtomicU32,
    /// End of the cool-down, in milliseconds since the balancer's `began`.
    cooling_until: AtomicU64,
}

/// A call in flight. The server's load includes it until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    server: Arc<Server>,
    began: Instant,
    pub(super) index: usize,
}

impl LoadBalancer {
    pub(super) fn new(urls: &[String]) -> LoadBalancer {
        let server = |base: &String| {
            let (calls, failures, cooling_until) = (AtomicUsize::new(0), AtomicU32::new(0), AtomicU64::new(0));
            Arc::new(Server { base: base.clone(), calls, failures, cooling_until })
        };
        LoadBalancer { began: Instant::now(), turn: AtomicUsize::new(0), servers: urls.iter().map(server).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }

    /// Picks a server for a call, other than the `failed` ones that it has tried; `None` when it has tried all. If all
    /// are cooling down, it picks the one whose cool-down ends first, because refusing the call would help nobody.
    pub(super) fn choose(&self, failed: &[usize]) -> Option<InFlight> {
        let (now, turn) = (millis(self.began.elapsed()), self.turn.fetch_add(1, Relaxed));
        let rotated = (0..self.len()).map(|i| (turn + i) % self.len()).filter(|i| !failed.contains(i));
        let index = rotated.min_by_key(|i| {
            let server = &self.servers[*i];
            let out = server.cooling_until.load(Relaxed);
            (if out > now { out } else { 0 }, server.calls.load(Relaxed))
        })?;
        let server = Arc::clone(&self.servers[index]);
        server.calls.fetch_add(1, Relaxed);
        // Only one call probes a server after its cool-down; the others avoid it until the outcome is known.
        let failures = server.failures.load(Relaxed);
        if failures > 0 {
            server.cooling_until.store(now + millis(cool_down(failures)), Relaxed);
        }
        Some(InFlight { server, began: self.began, index })
    }
}

impl InFlight {
    /// The server's base URL.
    pub(super) fn base(&self) -> &str {
        &self.server.base
    }

    /// Ends the cool-down: the server answered as it should.
    pub(super) fn succeeded(&self) {
        if self.server.failures.load(Relaxed) > 0 {
            log::info!("{} works again", self.server.base);
            self.server.failures.store(0, Relaxed);
            self.server.cooling_until.store(0, Relaxed);
        }
    }

    /// Starts or extends the server's cool-down, and logs the reason.
    pub(super) fn failed(&self, why: &dyn std::fmt::Display) {
        let failures = self.server.failures.fetch_add(1, Relaxed).saturating_add(1);
        let cool_down = cool_down(failures);
        self.server.cooling_until.store(millis(self.began.elapsed() + cool_down), Relaxed);
        log::warn!("{} failed and is skipped for {} s: {why}", self.server.base, cool_down.as_secs());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.server.calls.fetch_sub(1, Relaxed);
    }
}

fn cool_down(failures: u32) -> Duration {
    MIN_COOL_DOWN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_COOL_DOWN)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(n: usize) -> LoadBalancer {
        LoadBalancer::new(&(0..n).map(|i| format!("http://{i}")).collect::<Vec<_>>())
    }

    #[test]
    fn picks_the_least_busy_server() {
        let balancer = balancer(3);
        let in_flight: Vec<_> = (0..6).map(|_| balancer.choose(&[]).unwrap()).collect();
        for i in 0..3 {
            assert_eq!(in_flight.iter().filter(|l| l.index == i).count(), 2);
        }
        let busy = in_flight[4].index;
        let (held, rest): (Vec<_>, Vec<_>) = in_flight.into_iter().partition(|l| l.index == busy);
        drop(rest);
        let next: Vec<_> = (0..4).map(|_| balancer.choose(&[]).unwrap()).collect();
        assert!(held.len() == 2 && next.iter().all(|l| l.index != busy));
    }

    #[test]
    fn skips_a_failed_server_and_probes_it_after_its_cool_down() {
        let balancer = balancer(2);
        balancer.choose(&[1]).unwrap().failed(&"broken");
        let held: Vec<_> = (0..5).map(|_| balancer.choose(&[]).unwrap()).collect();
        assert!(held.iter().all(|l| l.index == 1));
        balancer.servers[0].cooling_until.store(0, Relaxed);
        assert_eq!(balancer.choose(&[]).unwrap().index, 0, "tried again once the cool-down is over");
        assert_eq!(balancer.choose(&[]).unwrap().index, 1, "by one call only");
        balancer.choose(&[1]).unwrap().succeeded();
        assert_eq!(balancer.choose(&[]).unwrap().index, 0);
        assert!(balancer.choose(&[0, 1]).is_none());
    }

    #[test]
    fn picks_a_server_even_if_all_are_cooling_down() {
        let balancer = balancer(2);
        balancer.choose(&[1]).unwrap().failed(&"broken");
        balancer.choose(&[0]).unwrap().failed(&"broken");
        assert!(balancer.choose(&[]).is_some());
        assert_eq!(cool_down(1), MIN_COOL_DOWN);
        assert_eq!(cool_down(u32::MAX), MAX_COOL_DOWN);
    }
}
