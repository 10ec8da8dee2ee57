//! What is done in the background for payments.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::payments::Payments;
use crate::db::Database;
use crate::error::Result;
use crate::store::reporting::{closing, sender};
use crate::store::{checkouts, stripe_events, subscriptions, users};

/// How often it is looked whether there is anything to do.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked whether the grace of a subscription has ended.
const GRACE_INTERVAL: Duration = Duration::from_secs(10);

/// How many seconds before a subscription ends its usage is put into the outbox.
const ENDING_SECONDS: i32 = 15;

/// How often old rows are deleted.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

impl Payments {
    /// Until the process is stopped: cancels the subscriptions of deleted accounts, refunds what they have paid since, and
    /// tells Stripe of addresses that have changed. Several processes can do so at once.
    pub fn tell_stripe(&self, db: &Database, stopped: &AtomicBool) {
        while !stopped.load(Ordering::Acquire) {
            thread::sleep(INTERVAL);
            if db.is_open()
                && let Err(e) = self.do_some(db, stopped)
            {
                log::debug!("Stripe was not told: {e}");
            }
        }
    }

    /// Until the process is stopped: closes the usage of subscriptions that end, ends those whose payment has failed for too
    /// long, and forgets old events. It never waits for Stripe, so that it misses no end. Several processes can do so at
    /// once.
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
            let done = self.close_ending(db);
            let done = done.and_then(|()| if grace { self.end_grace(db) } else { Ok(()) });
            let done = done.and_then(|()| if forget { forget_old(db) } else { Ok(()) });
            if let Err(e) = done {
                log::debug!("payments were not looked after: {e}");
            }
        }
    }

    fn do_some(&self, db: &Database, stopped: &AtomicBool) -> Result<()> {
        while !stopped.load(Ordering::Acquire) && self.cancel_next(db)? {}
        while !stopped.load(Ordering::Acquire) && self.refund_next(db)? {}
        while !stopped.load(Ordering::Acquire) && self.tell_next(db)? {}
        Ok(())
    }

    /// Puts into the outbox what accounts have used whose subscription ends in some seconds, so that it is on its last invoice.
    /// Otherwise it would be after the end of the hour, and so of the subscription.
    fn close_ending(&self, db: &Database) -> Result<()> {
        let Some(meter) = &self.meter else { return Ok(()) };
        let mut session = db.session()?;
        if sender::held(&mut session)?.is_some() {
            return Ok(());
        }
        loop {
            let mut transaction = session.transaction()?;
            let Some(user_id) = subscriptions::take_ending(&mut transaction, ENDING_SECONDS)? else { return Ok(()) };
            closing::close_account(&mut transaction, &user_id, meter)?;
            transaction.commit()?;
        }
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
