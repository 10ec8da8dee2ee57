//! A reply that is ready and may not leave yet: something else must come first, and no thread waits for that.

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use super::Response;

/// How long a thread waits for a signal.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says that it is decided whether a reply may leave. It may be given on any thread, at once or later.
pub type Signal = Box<dyn FnOnce() + Send>;

/// What a reply waits for. Nothing happens until it is begun.
pub struct Hold {
    begin: Box<dyn FnOnce(Signal) + Send>,
    decide: Box<dyn FnOnce(Response) -> Response + Send>,
}

/// A hold that has begun.
pub struct Held(Box<dyn FnOnce(Response) -> Response + Send>);

impl Hold {
    /// `begin` starts what the reply waits for and must not wait itself. `decide` is called once the signal was given,
    /// or when it takes too long, with the reply; it returns what is to be sent: the reply, or another.
    pub fn new(
        begin: impl FnOnce(Signal) + Send + 'static,
        decide: impl FnOnce(Response) -> Response + Send + 'static,
    ) -> Hold {
        Hold { begin: Box::new(begin), decide: Box::new(decide) }
    }

    /// Has `more` done with what is sent in the end.
    #[must_use]
    pub fn then(self, more: impl FnOnce(Response) -> Response + Send + 'static) -> Hold {
        let Hold { begin, decide } = self;
        Hold { begin, decide: Box::new(|response| more(decide(response))) }
    }

    /// Starts it.
    pub fn begin(self, signal: Signal) -> Held {
        (self.begin)(signal);
        Held(self.decide)
    }
}

impl Held {
    /// What is to be sent.
    pub fn decide(self, response: Response) -> Response {
        (self.0)(response)
    }
}

impl Response {
    /// Waits here until the reply may leave, a minute at most; returns what may.
    #[must_use]
    pub fn settled(mut self) -> Response {
        let Some(hold) = self.hold.take() else { return self };
        let (decided, wait) = mpsc::sync_channel(1);
        let held = hold.begin(Box::new(move || {
            let _ = decided.send(());
        }));
        // A signal that is lost counts as one that was given: what is decided is seen next.
        let _ = wait.recv_timeout(PATIENCE);
        held.decide(self)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;

    #[test]
    fn waits_for_the_signal_and_sends_what_was_decided() {
        let done = Arc::new(AtomicBool::new(false));
        let seen = done.clone();
        let begin = move |signal: Signal| {
            std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                done.store(true, SeqCst);
                signal();
            });
        };
        let mut response = Response::new(200);
        let hold = Hold::new(begin, move |_| Response::new(if seen.load(SeqCst) { 201 } else { 503 }));
        response.hold = Some(hold.then(|response| response.header("X-More", "yes")));
        let settled = response.settled();
        assert_eq!((settled.status.0, settled.get_header("x-more")), (201, Some("yes")));
        assert_eq!(Response::new(204).settled().status.0, 204);
    }
}
