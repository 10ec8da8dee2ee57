//! Single flight: of several requests that need the same value at once, one computes it and the others wait for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The flights under way, by key.
pub(super) struct SingleFlight<K, T>(Mutex<HashMap<K, Arc<Flight<T>>>>);

/// One computation, and those that wait for it.
pub(super) struct Flight<T> {
    progress: Mutex<Progress<T>>,
    finished: Condvar,
}

#[derive(Clone)]
enum Progress<T> {
    Running,
    Completed(T),
    Abandoned,
}

/// The part that a request plays in a flight.
pub(super) enum Joined<'s, K: Copy + Eq + Hash, T: Clone> {
    /// It has to compute the value.
    Leader(Guard<'s, K, T>),
    /// It can wait for the value.
    Follower(Arc<Flight<T>>),
}

/// Why a follower got no value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotShared {
    /// The leader took too long.
    TimedOut,
    /// The leader panicked.
    Abandoned,
}

impl<K: Copy + Eq + Hash, T: Clone> SingleFlight<K, T> {
    pub(super) fn new() -> SingleFlight<K, T> {
        SingleFlight(Mutex::new(HashMap::new()))
    }

    /// Joins the flight for this key, or starts one.
    pub(super) fn join(&self, key: K) -> Joined<'_, K, T> {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(&key) {
            return Joined::Follower(flight.clone());
        }
        let flight = Arc::new(Flight { progress: Mutex::new(Progress::Running), finished: Condvar::new() });
        flights.insert(key, flight.clone());
        Joined::Leader(Guard { flights: self, key, flight })
    }
}

impl<T: Clone> Flight<T> {
    /// Waits for the value.
    pub(super) fn wait(&self, timeout: Duration) -> Result<T, NotShared> {
        let deadline = Instant::now() + timeout;
        let mut progress = self.progress.lock();
        loop {
            match &*progress {
                Progress::Completed(value) => return Ok(value.clone()),
                Progress::Abandoned => return Err(NotShared::Abandoned),
                Progress::Running => {}
            }
            if self.finished.wait_until(&mut progress, deadline).timed_out() {
                return Err(NotShared::TimedOut);
            }
        }
    }
}

/// Ends the flight when it is dropped, so that followers are woken even if the leader panics.
pub(super) struct Guard<'s, K: Copy + Eq + Hash, T: Clone> {
    flights: &'s SingleFlight<K, T>,
    key: K,
    flight: Arc<Flight<T>>,
}

impl<K: Copy + Eq + Hash, T: Clone> Guard<'_, K, T> {
    /// Gives the value to the followers.
    pub(super) fn complete(self, value: T) {
        *self.flight.progress.lock() = Progress::Completed(value);
    }
}

impl<K: Copy + Eq + Hash, T: Clone> Drop for Guard<'_, K, T> {
    fn drop(&mut self) {
        self.flights.0.lock().remove(&self.key);
        let mut progress = self.flight.progress.lock();
        if let Progress::Running = *progress {
            *progress = Progress::Abandoned;
        }
        drop(progress);
        self.flight.finished.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn leader(flights: &SingleFlight<u8, u8>) -> Guard<'_, u8, u8> {
        match flights.join(1) {
            Joined::Leader(guard) => guard,
            Joined::Follower(_) => panic!("a flight is under way"),
        }
    }

    fn follower(flights: &SingleFlight<u8, u8>) -> Arc<Flight<u8>> {
        match flights.join(1) {
            Joined::Leader(_) => panic!("no flight is under way"),
            Joined::Follower(flight) => flight,
        }
    }

    #[test]
    fn followers_get_the_value_of_the_leader() {
        let flights = SingleFlight::new();
        let guard = leader(&flights);
        let flight = follower(&flights);
        assert_eq!(flight.wait(Duration::ZERO), Err(NotShared::TimedOut));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| flight.wait(LONG));
            guard.complete(7);
            assert_eq!(waiting.join().unwrap(), Ok(7));
        });
        drop(leader(&flights));
    }

    #[test]
    fn followers_learn_that_the_leader_gave_up() {
        let flights = SingleFlight::new();
        let guard = leader(&flights);
        let flight = follower(&flights);
        drop(guard);
        assert_eq!(flight.wait(LONG), Err(NotShared::Abandoned));
    }
}
