//! The thread that settles what was charged, and lets the database forget leases that are not used. No request waits for
//! it: while it fails or is held up, leases are granted all the same, and what is not settled stays set aside.

use std::sync::Arc;

use super::asking::{FAILURE_PAUSE, FailureLog};
use super::service::Limits;
use super::settle_schedule::Work;
use super::{Picos, RESPONSE_TIMEOUT};
use crate::db::{self, Session};
use crate::store::leases;

/// After so many rows of settled charges, nobody reads them any more, and their space is made free.
const TIDY_AFTER: i64 = 2000;

impl Limits {
    /// Settles charges, and lets the database forget leases, until [`Limits::stop`].
    pub fn run_settlements(&self) {
        let mut failures = FailureLog::new("budgets", "charges are not settled");
        // Rows that were settled and are read still.
        let mut settled_rows = 0;
        while let Some(work) = self.settling.next() {
            let Some(holder) = self.holder() else { continue };
            let done = self.settle_and_forget(&holder, work, &mut settled_rows);
            failures.note(&done);
            if done.is_err() {
                self.settling.again(work);
                std::thread::sleep(FAILURE_PAUSE);
            }
            let mut state = self.state.lock();
            if work.settles {
                state.held.note_settled();
            }
            let (has_waiting, has_due) = (state.held.has_waiting(), state.held.has_due());
            drop(state);
            if has_waiting {
                self.settling.hurry();
            }
            if has_due {
                self.work.notify_one();
            }
        }
    }

    fn settle_and_forget(&self, holder: &Arc<str>, work: Work, settled_rows: &mut i64) -> Result<(), db::Error> {
        let mut session = self.db.session()?;
        session.set_timeout(RESPONSE_TIMEOUT);
        if work.settles {
            let settled = leases::settle_deferred(&mut session, holder)?;
            *settled_rows += settled.rows;
            if !settled.is_covered {
                self.holder_ended(holder);
                return Ok(());
            }
        }
        if *settled_rows >= TIDY_AFTER {
            leases::skip_settled(&mut session, holder)?;
            leases::tidy_settled(&mut session)?;
            *settled_rows = 0;
        }
        if work.forgets { self.forget(&mut session, holder) } else { Ok(()) }
    }

    fn forget(&self, session: &mut Session, holder: &Arc<str>) -> Result<(), db::Error> {
        let asked = {
            let state = self.state.lock();
            if state.holder.as_ref() == Some(holder) { state.held.to_forget() } else { Vec::new() }
        };
        if asked.is_empty() {
            return Ok(());
        }
        let known: Vec<(&str, Picos)> = asked.iter().map(|(id, granted)| (&**id, *granted)).collect();
        let forgotten = leases::forget(session, holder, &known)?;
        let mut state = self.state.lock();
        if state.holder.as_ref() == Some(holder) {
            state.held.forgotten(&asked, &forgotten, self.now());
            drop(state);
            self.work.notify_one();
        }
        Ok(())
    }
}
