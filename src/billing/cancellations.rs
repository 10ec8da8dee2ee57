//! The subscriptions of deleted accounts are cancelled. A trigger records the customer in the transaction that deletes the
//! account, so it happens even if Stripe does not answer then.

use super::objects::Subscription;
use super::payments::{Asked, Payments};
use super::subscriptions::STRIPE;
use super::{Failure, Form};
use crate::db::Database;
use crate::error::Result;
use crate::store::audit;
use crate::store::checkouts::{self, Cancellation};

impl Payments {
    /// Cancels the subscriptions of one customer whose account was deleted. Returns whether there was one to do.
    ///
    /// # Errors
    /// Those of the database. What Stripe does not do is logged, and tried again later.
    pub(super) fn cancel_next(&self, db: &Database) -> Result<bool> {
        let Some(due) = checkouts::take_cancellation(&mut db.session()?)? else { return Ok(false) };
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

    /// Returns the ids of what was cancelled.
    fn cancel_all(&self, due: &Cancellation) -> Asked<Vec<String>> {
        if let Some(id) = &due.session_id {
            self.close_page(id, &format!("gone:{id}:{}", due.attempts))?;
        }
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
