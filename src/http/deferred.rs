//! Deferred responses: a response that is ready, but must not be sent before something else has happened. No thread
//! waits for that.

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use super::Response;

/// How long [`Response::wait`] blocks at most.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Reports that a deferred response can be completed. It may be called on any thread, at once or later.
pub type Notifier = Box<dyn FnOnce() + Send>;

type Complete = Box<dyn FnOnce(Response) -> Response + Send>;

/// What a response waits for. Nothing happens until it is started.
pub struct Deferred {
    start: Box<dyn FnOnce(Notifier) + Send>,
    complete: Complete,
}

/// The second half of a [`Deferred`] that has been started.
pub struct Completion(Complete);

impl Deferred {
    /// `start` begins what the response waits for, and must not block. `complete` is called with the response once the
    /// notifier was called, or after a time-out; it returns what to send: that response or another.
    pub fn new(
        start: impl FnOnce(Notifier) + Send + 'static,
        complete: impl FnOnce(Response) -> Response + Send + 'static,
    ) -> Deferred {
        Deferred { start: Box::new(start), complete: Box::new(complete) }
    }

    /// Passes the completed response through `f`.
    #[must_use]
    pub fn map(self, f: impl FnOnce(Response) -> Response + Send + 'static) -> Deferred {
        let Deferred { start, complete } = self;
        Deferred { start, complete: Box::new(|response| f(complete(response))) }
    }

    /// Starts it. `notifier` is called when [`Completion::complete`] has something to say.
    pub fn start(self, notifier: Notifier) -> Completion {
        (self.start)(notifier);
        Completion(self.complete)
    }
}

impl Completion {
    /// Returns what is to be sent: `response` or one in its place.
    pub fn complete(self, response: Response) -> Response {
        (self.0)(response)
    }
}

impl Response {
    /// Blocks until a deferred response is complete, for a minute at most, and returns what is to be sent. Any other
    /// response is returned as it is.
    #[must_use]
    pub fn wait(mut self) -> Response {
        let Some(deferred) = self.deferred.take() else { return self };
        let (notifier, notified) = mpsc::sync_channel(1);
        let completion = deferred.start(Box::new(move || {
            let _ = notifier.send(());
        }));
        // After a time-out, or if the notifier was dropped, `complete` decides by what it knows.
        let _ = notified.recv_timeout(WAIT_TIMEOUT);
        completion.complete(self)
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deferred")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;

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
        assert_eq!((sent.status.0, sent.get_header("x-more")), (201, Some("yes")));
        assert_eq!(Response::new(204).wait().status.0, 204);
    }
}
