//! Reads the state of every customer from Stripe, once: for databases of the older system, which did not keep it.

use std::thread;
use std::time::{Duration, Instant};

use super::objects::Subscription;
use super::payments::Payments;
use super::{Failure, Form};
use crate::db::Database;
use crate::error::Error;
use crate::store::{checkouts, subscriptions, users};

/// The pause from one request to the next: Stripe's own limit is 25 a second for new accounts.
const PACE: Duration = Duration::from_millis(50);

/// How often a request is tried that fails for now.
const ATTEMPTS: u32 = 6;

/// What was read so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Imported {
    /// Accounts that were looked at.
    pub accounts: u64,
    /// Those of them that are subscribed.
    pub subscribed: u64,
    /// Those whose customer Stripe does not know.
    pub unknown: u64,
}

/// Why it has stopped. What was read is stored, and the next run goes on after it.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// Stripe does not answer, or refuses.
    #[error("{0}")]
    Stripe(#[from] Failure),
    /// The database.
    #[error("{0}")]
    Ours(#[from] Error),
}

impl From<crate::db::Error> for Stopped {
    fn from(e: crate::db::Error) -> Stopped {
        Stopped::Ours(e.into())
    }
}

impl Payments {
    /// Reads the subscriptions of every account with a customer, from where the last run has stopped. At most 20 requests
    /// a second. `progress` is called after each account.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub fn import(&self, db: &Database, mut progress: impl FnMut(&Imported)) -> Result<Imported, Stopped> {
        let mut imported = Imported::default();
        let mut after = checkouts::import_position(&mut db.session()?)?;
        let mut pace = Pace::default();
        loop {
            let customers = checkouts::customers_after(&mut db.session()?, &after)?;
            if customers.is_empty() {
                break;
            }
            for (user_id, customer) in customers {
                self.import_one(db, &user_id, &customer, &mut imported, &mut pace)?;
                checkouts::set_import_position(&mut db.session()?, &user_id)?;
                progress(&imported);
                after = user_id;
            }
        }
        // The next run begins anew.
        checkouts::set_import_position(&mut db.session()?, "")?;
        Ok(imported)
    }

    fn import_one(
        &self,
        db: &Database,
        user_id: &str,
        customer: &str,
        imported: &mut Imported,
        pace: &mut Pace,
    ) -> Result<(), Stopped> {
        let fetch = subscriptions::begin_fetch(&mut db.session()?)?;
        let found = match retried(pace, || self.subscriptions_of(customer)) {
            Err(e) if is_unknown(&e) => {
                imported.unknown += 1;
                Vec::new()
            }
            found => found?,
        };
        let mut session = db.session()?;
        let mut transaction = session.transaction()?;
        if users::lock(&mut transaction, user_id)? {
            for subscription in &found {
                // Of those that are over, only what was thought to be alive matters.
                if !subscription.is_over() || subscriptions::is_known(&mut transaction, &subscription.id)? {
                    self.apply_subscription(&mut transaction, subscription, user_id, fetch)?;
                }
            }
            subscriptions::refresh_account(&mut transaction, user_id, self.grace_days())?;
        }
        let user = users::by_id(&mut transaction, user_id)?;
        transaction.commit()?;
        imported.accounts += 1;
        imported.subscribed += u64::from(user.is_some_and(|user| user.is_subscribed));
        Ok(())
    }

    fn subscriptions_of(&self, customer: &str) -> Result<Vec<Subscription>, Failure> {
        let mut found = Vec::new();
        let query = Form::new().with("customer", customer).with("status", "all");
        self.stripe.list("/v1/subscriptions", &query, |subscription| {
            found.push(subscription);
            true
        })?;
        Ok(found)
    }
}

/// Keeps requests apart.
#[derive(Default)]
struct Pace(Option<Instant>);

impl Pace {
    fn wait(&mut self) {
        let now = Instant::now();
        let next = self.0.unwrap_or(now).max(now);
        thread::sleep(next - now);
        self.0 = Some(next + PACE);
    }
}

fn retried<T>(pace: &mut Pace, request: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut pause = Duration::from_millis(500);
    for attempt in 1.. {
        pace.wait();
        match request() {
            Err(e) if e.may_pass() && attempt < ATTEMPTS => {
                let asked = if let Failure::RateLimited(_, after) = &e { *after } else { None };
                thread::sleep(asked.unwrap_or(pause).min(Duration::from_secs(60)));
                pause *= 2;
            }
            done => return done,
        }
    }
    unreachable!("the last attempt returns")
}

fn is_unknown(e: &Failure) -> bool {
    e.is_not_found() || e.api_error().is_some_and(|e| e.code == "resource_missing")
}
