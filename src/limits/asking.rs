//! What the threads that ask the database have in common: the one for leases, and the one for permits.

use std::time::Duration;

use super::Micros;
use crate::db::{self, Session};
use crate::store::leases;

/// How often a thread looks for what is to be asked while requests wait.
const WAITING_INTERVAL: Duration = Duration::from_millis(10);

/// The same while nothing is held.
pub(super) const IDLE_INTERVAL: Duration = Duration::from_secs(60);

/// The pause after a question that was not answered.
pub(super) const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// When all that the process holds is looked at, and handed back if it is idle.
pub(super) struct Sweeps {
    interval: Micros,
    last: Micros,
}

impl Sweeps {
    pub(super) fn new(interval: Micros, now: Micros) -> Sweeps {
        Sweeps { interval, last: now }
    }

    /// Whether it is time to do so.
    pub(super) fn is_due(&mut self, now: Micros) -> bool {
        let is_due = now - self.last >= self.interval;
        if is_due {
            self.last = now;
        }
        is_due
    }

    /// How long the thread sleeps if there is nothing to ask now, while requests wait, or something is held, or nothing.
    pub(super) fn pause(&self, has_waiting: bool, holds_something: bool, now: Micros) -> Duration {
        match (has_waiting, holds_something) {
            (true, _) => WAITING_INTERVAL,
            (false, true) => Duration::from_micros((self.interval - (now - self.last)).max(1).unsigned_abs()),
            (false, false) => IDLE_INTERVAL,
        }
    }
}

/// Logs that the database does not answer, once for each reason, and that it answers again.
pub(super) struct FailureLog {
    limits: &'static str,
    /// What that means.
    consequence: &'static str,
    reason: String,
}

impl FailureLog {
    pub(super) fn new(limits: &'static str, consequence: &'static str) -> FailureLog {
        FailureLog { limits, consequence, reason: String::new() }
    }

    pub(super) fn note<T>(&mut self, answered: &Result<T, db::Error>) {
        let reason = answered.as_ref().err().map(ToString::to_string).unwrap_or_default();
        if reason == self.reason {
            return;
        }
        let FailureLog { limits, consequence, .. } = self;
        match reason.is_empty() {
            true => log::info!("{limits}: the database answers again"),
            false => log::warn!("{limits}: {consequence}, trying again: {reason}"),
        }
        self.reason = reason;
    }
}

/// Asks as a holder that the database knows. If it is not known yet, it is made known; `registered` is called when that was
/// done. Returns `None` if the holder has ended, or the database has lost it, as it may when a standby takes over: then it
/// does not know either what the holder holds, so nothing more may be admitted out of that.
///
/// # Errors
/// Those of `ask` and of the database.
pub(super) fn ask_registered<A>(
    session: &mut Session,
    holder: &str,
    is_registered: bool,
    registered: impl FnOnce(),
    ask: impl FnOnce(&mut Session) -> Result<Vec<Option<A>>, db::Error>,
) -> Result<Option<Vec<Option<A>>>, db::Error> {
    if !is_registered {
        if !leases::register(session, holder)? {
            return Ok(None);
        }
        registered();
    }
    let answers = ask(session)?;
    // No answer means that the limit is gone, or the holder.
    if answers.iter().all(Option::is_some) {
        return Ok(Some(answers));
    }
    Ok(leases::lives(session, holder)?.then_some(answers))
}
