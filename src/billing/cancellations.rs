//! The subscriptions of deleted accounts are cancelled. A trigger records the customer in the transaction that deletes the
//! account, so it happens even if Stripe does not answer then.

use super::objects::{CheckoutSession, Subscription};
use super::payments::{Asked, Payments};
use super::subscriptions::STRIPE;
use super::{Failure, Form};
use crate::db::Database;
use crate::error::Result;
use crate::store::audit;
use crate::store::checkouts::{self, Cancellation};
use crate::store::reporting::{closing, outbox, sender};

/// How often usage is waited for that is not sent yet, two seconds each.
const WAITS: i32 = 30;

impl Payments {
    /// Cancels the subscriptions of one customer whose account was deleted. Returns whether there was one to do.
    ///
    /// # Errors
    /// Those of the database. What Stripe does not do is logged, and tried again later.
    pub(super) fn cancel_next(&self, db: &Database) -> Result<bool> {
        let Some(due) = checkouts::take_cancellation(&mut db.session()?)? else { return Ok(false) };
        if due.attempts <= WAITS && self.has_usage_to_send(db, &due)? {
            checkouts::postpone_cancellation(&mut db.session()?, &due.customer_id)?;
            return Ok(true);
        }
        let cancelled = match self.cancel_all(&due) {
            Ok(cancelled) => cancelled,
            Err(e) => {
                let Cancellation { customer_id, attempts, .. } = &due;
                log::warn!("the subscriptions of {customer_id} are not cancelled yet, attempt {attempts}: {e}");
                return Ok(true);
            }
        };
        let mut session = db.session()?;
        let mut transaction = session.transaction()?;
        checkouts::cancelled(&mut transaction, &due.customer_id, due.attempts)?;
        if !cancelled.is_empty() {
            let details = cancelled.join(", ");
            let (id, email) = (&due.user_id, &due.user_email);
            audit::insert_for_deleted(&mut transaction, STRIPE, "cancel subscription", id, email, &details)?;
        }
        transaction.commit()?;
        Ok(true)
    }

    /// Puts what the account has used into the outbox. Returns whether that is not sent yet: it is, within seconds, so that it
    /// is on the last invoice.
    fn has_usage_to_send(&self, db: &Database, due: &Cancellation) -> Result<bool> {
        let Some(meter) = &self.meter else { return Ok(false) };
        let mut session = db.session()?;
        if sender::held(&mut session)?.is_some() {
            return Ok(false);
        }
        closing::close_account(&mut session, &due.user_id, meter)?;
        Ok(outbox::has_unsent(&mut session, &due.customer_id)?)
    }

    /// Closes all pages on which the customer could still pay, for a subscription or for credit.
    fn close_pages(&self, due: &Cancellation) -> Asked<()> {
        let mut open: Vec<String> = due.session_id.iter().cloned().collect();
        let query = Form::new().with("customer", &due.customer_id).with("status", "open");
        let listed = self.stripe.list("/v1/checkout/sessions", &query, |session: CheckoutSession| {
            open.push(session.id);
            true
        });
        match listed {
            Err(e) if e.is_not_found() || is_missing(&e) => {}
            listed => listed?,
        }
        open.sort();
        open.dedup();
        for id in open {
            self.close_page(&id, &format!("gone:{id}:{}", due.attempts))?;
        }
        Ok(())
    }

    /// Returns the ids of what was cancelled.
    fn cancel_all(&self, due: &Cancellation) -> Asked<Vec<String>> {
        self.close_pages(due)?;
        let mut found = Vec::new();
        let query = Form::new().with("customer", &due.customer_id);
        let listed = self.stripe.list("/v1/subscriptions", &query, |subscription: Subscription| {
            found.push(subscription);
            true
        });
        match listed {
            Err(e) if e.is_not_found() || is_missing(&e) => return Ok(Vec::new()),
            listed => listed?,
        }
        let mut cancelled = Vec::new();
        for subscription in found.into_iter().filter(|subscription| !subscription.is_over()) {
            // What was used is still billed.
            match self.stripe.delete::<Subscription>(&format!("/v1/subscriptions/{}?invoice_now=true", subscription.id))
            {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => cancelled.push(subscription.id),
            }
        }
        Ok(cancelled)
    }
}

fn is_missing(e: &Failure) -> bool {
    e.api_error().is_some_and(|e| e.code == "resource_missing")
}
