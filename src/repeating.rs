//! Threads that do something again and again until the process is stopped.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How soon a stop is noticed.
const STEP: Duration = Duration::from_millis(100);

/// Sleeps for this time, or until the process is stopped; false once it is.
pub fn sleep(time: Duration, stopped: &AtomicBool) -> bool {
    let until = Instant::now() + time;
    while !stopped.load(Ordering::Acquire) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(STEP.min(left));
    }
    false
}

/// Logs why something that is tried again and again fails: each reason once, until there is another one or none.
pub struct FailureLog {
    what: &'static str,
    last: String,
}

impl FailureLog {
    /// Lines begin with `what`.
    pub fn new(what: &'static str) -> FailureLog {
        FailureLog { what, last: String::new() }
    }

    /// One attempt has ended.
    pub fn note<T, E: Display>(&mut self, outcome: Result<T, E>) {
        let failure = outcome.err().map_or(String::new(), |e| e.to_string());
        if failure != self.last && !failure.is_empty() {
            log::warn!("{}: {failure}", self.what);
        }
        self.last = failure;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_a_sleep() {
        let stopped = AtomicBool::new(false);
        let began = Instant::now();
        assert!(sleep(Duration::from_millis(10), &stopped) && began.elapsed() >= Duration::from_millis(10));
        stopped.store(true, Ordering::Release);
        assert!(!sleep(Duration::from_secs(3600), &stopped));
    }
}
