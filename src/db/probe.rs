//! Measures how late notifications arrive: a process notifies itself, over the ways that those of other processes take.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Database, Error, Executor};

/// The channel of these notifications. The payload is the sender and a number.
pub const CHANNEL: &str = "textgen_probe";

/// The notifications of one process to itself.
#[derive(Debug)]
pub struct Probe {
    sender: i64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    number: u64,
    /// When the last one was sent, until it has arrived.
    sent: Option<Instant>,
    last: Option<Duration>,
}

impl Probe {
    /// Those of a process, which the id tells apart from others.
    pub fn new(sender: i64) -> Probe {
        Probe { sender, state: Mutex::default() }
    }

    /// Sends one, unless another is on its way.
    ///
    /// # Errors
    /// The database's.
    pub fn send(&self, db: &Database) -> Result<(), Error> {
        let mut session = db.session()?;
        let Some(payload) = self.begin() else { return Ok(()) };
        let sent = session.query("SELECT pg_notify($1, $2)", &[&CHANNEL, &payload]);
        if sent.is_err() {
            self.state.lock().sent = None;
        }
        sent.map(drop)
    }

    fn begin(&self) -> Option<String> {
        let mut state = self.state.lock();
        if state.sent.is_some() {
            return None;
        }
        state.number += 1;
        state.sent = Some(Instant::now());
        Some(format!("{} {}", self.sender, state.number))
    }

    /// One has arrived, of this process or another.
    pub fn arrived(&self, payload: &str) {
        let mut state = self.state.lock();
        if payload == format!("{} {}", self.sender, state.number)
            && let Some(sent) = state.sent.take()
        {
            state.last = Some(sent.elapsed());
        }
    }

    /// Notifications may have been missed.
    pub fn missed(&self) {
        self.state.lock().sent = None;
    }

    /// How long the last one took, or how long the one that is on its way takes, if that is longer; `None` before the
    /// first.
    pub fn lag(&self) -> Option<Duration> {
        let state = self.state.lock();
        state.last.max(state.sent.map(|sent| sent.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_that_does_not_arrive_grows_late() {
        let probe = Probe::new(-7);
        assert_eq!(probe.lag(), None);
        let payload = probe.begin().unwrap();
        assert_eq!((payload.as_str(), probe.begin()), ("-7 1", None));
        for other in ["", "7 1", "-7 2", "-7"] {
            probe.arrived(other);
        }
        let early = probe.lag().unwrap();
        assert!(probe.lag().unwrap() > early, "it is still on its way");
        probe.arrived(&payload);
        let last = probe.lag().unwrap();
        assert_eq!((probe.lag(), probe.begin().as_deref()), (Some(last), Some("-7 2")));
        probe.missed();
        assert!(probe.begin().is_some(), "another is sent");
    }
}
