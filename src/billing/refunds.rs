//! Payments for credit of accounts that are gone are refunded; and Stripe is told of addresses that have changed.

use serde::de::IgnoredAny;

use super::Failure;
use super::Form;
use super::objects::CheckoutSession;
use super::payments::{Asked, Payments};
use super::subscriptions::STRIPE;
use crate::db::{Database, Executor};
use crate::error::Result;
use crate::store::customer_changes::{self, Change};
use crate::store::refunds::{self, Refund};
use crate::store::{audit, users};

/// Characters that are stored of a problem.
const MAX_PROBLEM: usize = 500;

/// Records that a session has paid for credit that cannot be granted, in the transaction of its event. With `problem`, an
/// operator decides what becomes of it.
///
/// # Errors
/// Those of the database.
pub(super) fn note(db: &mut impl Executor, session: &CheckoutSession, problem: &str) -> Result<()> {
    if session.payment_intent.is_empty() {
        // Nothing was paid.
        return Ok(());
    }
    let new = Refund {
        session_id: session.id.clone(),
        payment_intent: session.payment_intent.clone(),
        customer: session.customer.clone(),
        user_id: session.client_reference_id.clone(),
        cents: session.amount_total.unwrap_or(0),
        put_aside: !problem.is_empty(),
        attempts: 0,
        key_number: 0,
        problem: problem.to_owned(),
    };
    match refunds::insert(db, &new)? {
        Some(refund) if refund.put_aside => log::error!(
            "{} has paid for credit that was not granted, and is not refunded unless `textgen billing refund` says so",
            session.id
        ),
        Some(_) => log::warn!("{} has paid for credit of an account that was deleted: it will be refunded", session.id),
        None => {}
    }
    Ok(())
}

impl Payments {
    /// Refunds one payment. Returns whether there was one to do.
    ///
    /// # Errors
    /// Those of the database. What Stripe does not do is logged, and tried again later.
    pub(super) fn refund_next(&self, db: &Database) -> Result<bool> {
        let Some(due) = refunds::take(&mut db.session()?)? else { return Ok(false) };
        let refunded = self.refund(&due);
        let mut session = db.session()?;
        if let Err(e) = refunded {
            log::error!("{} is not refunded yet, attempt {}: {e}", due.session_id, due.attempts);
            let problem: String = e.to_string().chars().take(MAX_PROBLEM).collect();
            refunds::failed(&mut session, &due.session_id, &problem, matches!(e, Failure::Server(_)))?;
            return Ok(true);
        }
        let mut transaction = session.transaction()?;
        if refunds::done(&mut transaction, &due.session_id)? {
            let details = format!("{} hundredths ({}, {})", due.cents, due.session_id, due.customer);
            audit::insert_for_deleted(&mut transaction, STRIPE, "refund", &due.user_id, "", &details)?;
        }
        transaction.commit()?;
        Ok(true)
    }

    /// Refunds what is left of a payment. However often it is tried, no more than the payment goes back.
    fn refund(&self, due: &Refund) -> Asked<()> {
        let form = Form::new()
            .with("payment_intent", &due.payment_intent)
            .with("metadata[session]", &due.session_id)
            .with("metadata[user_id]", &due.user_id);
        let key = format!("refund:{}:{}", due.session_id, due.key_number);
        match self.stripe.post::<IgnoredAny>("/v1/refunds", &form, &key) {
            Err(Failure::Refused(e)) if e.code == "charge_already_refunded" => Ok(()),
            refunded => refunded.map(drop),
        }
    }

    /// Tells Stripe the address and name of one customer that have changed. Returns whether there was one to do.
    ///
    /// # Errors
    /// Those of the database. What Stripe does not do is tried again later.
    pub(super) fn tell_next(&self, db: &Database) -> Result<bool> {
        let Some(due) = customer_changes::take(&mut db.session()?)? else { return Ok(false) };
        let user = users::by_id(&mut db.session()?, &due.user_id)?;
        if let Some(user) = user.filter(|user| user.stripe_id.as_deref() == Some(&due.customer_id)) {
            let Change { customer_id, generation, attempts, .. } = &due;
            // An empty name removes it.
            let form = Form::new().with("email", &user.email).with("name", user.name.unwrap_or_default());
            let key = format!("tell:{customer_id}:{generation}:{attempts}");
            match self.stripe.post::<IgnoredAny>(&format!("/v1/customers/{customer_id}"), &form, &key) {
                // There is nobody to be told of.
                Err(Failure::NotFound(_)) | Ok(_) => {}
                Err(e) => {
                    log::warn!("Stripe was not told the address of {customer_id} yet, attempt {attempts}: {e}");
                    return Ok(true);
                }
            }
        }
        customer_changes::done(&mut db.session()?, &due)?;
        Ok(true)
    }
}
