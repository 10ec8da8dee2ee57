//! What is done in the background for payments.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::payments::Payments;
use crate::db::Database;
use crate::error::Result;
use crate::store::{checkouts, stripe_events, subscriptions, users};

/// How often it is looked whether there is anything to do.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked whether the grace of a subscription has ended.
const GRACE_INTERVAL: Duration = Duration::from_secs(10);

/// How often old rows are deleted.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

impl Payments {
    /// Until the process is stopped: cancels the subscriptions of deleted accounts, ends those whose payment has failed for
    /// too long, and forgets old events. Several processes can do so at once.
    pub fn follow(&self, db: &Database, stopped: &AtomicBool) {
        let (mut grace_due, mut forget_due) = (Instant::now(), Instant::now());
        while !stopped.load(Ordering::Acquire) {
            thread::sleep(INTERVAL);
            if !db.is_open() {
                continue;
            }
            let is_due = |due: &mut Instant, interval| {
                let now = Instant::now();
                let is_due = now >= *due;
                if is_due {
                    *due = now + interval;
                }
                is_due
            };
            let (grace, forget) = (is_due(&mut grace_due, GRACE_INTERVAL), is_due(&mut forget_due, FORGET_INTERVAL));
            let done = self.cancel_some(db, stopped).and_then(|()| if grace { self.end_grace(db) } else { Ok(()) });
            let done = done.and_then(|()| if forget { forget_old(db) } else { Ok(()) });
            if let Err(e) = done {
                log::debug!("payments were not looked after: {e}");
            }
        }
    }

    fn cancel_some(&self, db: &Database, stopped: &AtomicBool) -> Result<()> {
        while !stopped.load(Ordering::Acquire) && self.cancel_next(db)? {}
        Ok(())
    }

    /// Brings accounts into accordance whose subscription is past due for too long.
    fn end_grace(&self, db: &Database) -> Result<()> {
        let mut session = db.session()?;
        for id in subscriptions::with_changed_grace(&mut session, self.grace_days())? {
            let mut transaction = session.transaction()?;
            if users::lock(&mut transaction, &id)? {
                subscriptions::refresh_account(&mut transaction, &id, self.grace_days())?;
            }
            transaction.commit()?;
        }
        Ok(())
    }
}

fn forget_old(db: &Database) -> Result<()> {
    let mut session = db.session()?;
    stripe_events::forget_old(&mut session)?;
    checkouts::forget_cancelled(&mut session)?;
    Ok(())
}
