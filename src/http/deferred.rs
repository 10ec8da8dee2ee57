//! Deferred responses: a response that is ready, but must not be sent before something else has happened; and postponed
//! requests, whose handler is called again once something has happened. No thread waits for that.

use std::any::Any;
use std::fmt;
use std::time::Instant;

/// Reports that a deferred response can be completed. It may be called on any thread, at once or later.
pub type Notifier = Box<dyn FnOnce() + Send>;

/// Begins what a deferred response or a postponed request waits for, and must not block. The notifier is called when
/// that has happened.
pub type StartWaiting = Box<dyn FnOnce(Notifier) + Send>;

/// What a handler leaves for itself when it postpones its request.
pub struct Postponed {
    /// When the handler was called first.
    pub since: Instant,
    /// What it has begun.
    pub begun: Box<dyn Any + Send>,
    /// Dropped with the request if its connection ends before its handler is called again.
    pub unanswered: Option<Box<dyn Any + Send>>,
}

impl fmt::Debug for Postponed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Postponed")
    }
}

type Complete<T> = Box<dyn FnOnce(T) -> T + Send>;

/// What a response, of type `T`, waits for. Nothing happens until it is started.
pub struct Deferred<T> {
    start: StartWaiting,
    complete: Complete<T>,
}

/// The second half of a [`Deferred`] that has been started.
pub struct Completion<T>(Complete<T>);

impl<T: 'static> Deferred<T> {
    /// `start` begins what the response waits for, and must not block. `complete` is called with the response once the
    /// notifier was called, or after a time-out; it returns what to send: that response or another.
    pub fn new(
        start: impl FnOnce(Notifier) + Send + 'static,
        complete: impl FnOnce(T) -> T + Send + 'static,
    ) -> Deferred<T> {
        Deferred { start: Box::new(start), complete: Box::new(complete) }
    }

    /// Passes the completed response through `f`.
    #[must_use]
    pub fn map(self, f: impl FnOnce(T) -> T + Send + 'static) -> Deferred<T> {
        let Deferred { start, complete } = self;
        Deferred { start, complete: Box::new(|response| f(complete(response))) }
    }

    /// Starts it. `notifier` is called when [`Completion::complete`] has something to say.
    pub fn start(self, notifier: Notifier) -> Completion<T> {
        (self.start)(notifier);
        Completion(self.complete)
    }
}

impl<T> Completion<T> {
    /// Returns what is to be sent: `response` or one in its place.
    pub fn complete(self, response: T) -> T {
        (self.0)(response)
    }
}

impl<T> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deferred")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;
    use crate::http::Response;

    #[test]
    fn completes_after_the_notification() {
        let done = Arc::new(AtomicBool::new(false));
        let seen = done.clone();
        let start = move |notifier: Notifier| {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                done.store(true, SeqCst);
                notifier();
            });
        };
        let mut response = Response::new(200);
        let deferred = Deferred::new(start, move |_| Response::new(if seen.load(SeqCst) { 201 } else { 503 }));
        response.deferred = Some(deferred.map(|response| response.header("X-More", "yes")));
        let sent = response.wait();
        assert_eq!((sent.status.as_u16(), sent.get_header("x-more")), (201, Some("yes")));
        assert_eq!(Response::new(204).wait().status.as_u16(), 204);
    }
}
