//! What a web-hook event leads to: its object is fetched from Stripe, and what that says is stored together with the event,
//! in one transaction. So an event that comes twice, late or out of order does no harm, and one whose process dies is as if
//! it had not come: Stripe repeats it.

use super::Form;
use super::events::{Event, Subject};
use super::meter_errors;
use super::objects::{Charge, CheckoutSession, Dispute, List, Subscription};
use super::payments::{Asked, Payments, failed};
use super::purchases::{self, Return};
use crate::accounts::credits;
use crate::db::Database;
use crate::error::{Error, Result};
use crate::store::reporting::check;
use crate::store::{purchases as stored, stripe_events, subscriptions};

/// What Stripe told of an event's object.
enum Fetched {
    /// A subscription, and the account's id that was given to its checkout.
    Subscription(Box<Subscription>, String),
    /// A purchase of credit.
    Purchase(Box<CheckoutSession>),
    /// A payment went back, or a part of it; with its checkout if that is not known here yet.
    Return(Return, Option<Box<CheckoutSession>>),
    /// Usage that was not counted, in words.
    MeterError(String),
    /// Nothing that matters here.
    Nothing,
}

impl Payments {
    /// Handles an event once. Returns the account that has changed, if one has. Waits for Stripe, so it is to be called in a
    /// [`block_in_place`](crate::blocking::block_in_place); no connection is held meanwhile.
    ///
    /// # Errors
    /// 503 if Stripe or the database does not answer: nothing was done then, and Stripe repeats the event.
    pub fn handle(&self, db: &Database, event: &Event) -> Result<Option<String>> {
        let Some(subject) = &event.subject else { return Ok(None) };
        let fetch = {
            let mut session = db.session()?;
            if stripe_events::is_handled(&mut session, &event.id)? {
                return Ok(None);
            }
            subscriptions::begin_fetch(&mut session)?
        };
        let fetched = self.fetch(db, subject)?;
        let mut session = db.session()?;
        let mut transaction = session.transaction()?;
        let Event { id, kind, created, .. } = event;
        if !stripe_events::insert(&mut transaction, id, kind, subject.id(), *created)? {
            return Ok(None);
        }
        let changed = match fetched {
            Fetched::Subscription(subscription, reference) => {
                self.apply_subscription(&mut transaction, &subscription, &reference, fetch)?
            }
            Fetched::Purchase(checkout) => purchases::grant(&mut transaction, &checkout)?,
            Fetched::Return(returned, checkout) => {
                if let Some(checkout) = checkout {
                    purchases::grant(&mut transaction, &checkout)?;
                }
                purchases::take_back(&mut transaction, &returned, id, fetch)?
            }
            Fetched::MeterError(problem) => {
                log::error!("billing: Stripe has not counted usage that it had taken: {problem}");
                check::note_uncounted(&mut transaction, id, &problem)?;
                None
            }
            Fetched::Nothing => None,
        };
        transaction.commit()?;
        Ok(changed)
    }

    fn fetch(&self, db: &Database, subject: &Subject) -> Result<Fetched> {
        let fetched = match subject {
            Subject::Subscription(id) => self.fetch_subscription(id, ""),
            Subject::Checkout(id) => self.fetch_checkout(id),
            Subject::MeterError(id) => meter_errors::fetch(&self.stripe, id).map(Fetched::MeterError),
            Subject::Charge(id) => self.get(&format!("/v1/charges/{id}")).map(|charge: Charge| {
                let Charge { id, payment_intent, amount_refunded } = charge;
                Fetched::Return(Return { id, payment_intent, cents: amount_refunded }, None)
            }),
            Subject::Dispute(id) => self.get(&format!("/v1/disputes/{id}")).map(|dispute: Dispute| {
                let cents = dispute.taken();
                Fetched::Return(Return { id: dispute.id, payment_intent: dispute.payment_intent, cents }, None)
            }),
        };
        match fetched {
            Ok(Fetched::Return(returned, _)) => self.with_checkout(db, returned),
            Ok(fetched) => Ok(fetched),
            // Of another mode or account, most likely since the wrong key is set: the event must not be lost by that.
            Err(e) if e.is_not_found() => {
                log::error!("an event names what STRIPE_SECRET_KEY cannot see: {}", subject.id());
                Err(Error::PaymentsUnavailable(e.to_string()))
            }
            // Also where the key was revoked: Stripe repeats the event until there is a new one.
            Err(e) => Err(Error::PaymentsUnavailable(e.to_string())),
        }
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Asked<T> {
        self.stripe.get(path, &Form::new())
    }

    fn fetch_subscription(&self, id: &str, reference: &str) -> Asked<Fetched> {
        let subscription = self.get(&format!("/v1/subscriptions/{id}"))?;
        Ok(Fetched::Subscription(Box::new(subscription), reference.to_owned()))
    }

    fn fetch_checkout(&self, id: &str) -> Asked<Fetched> {
        let checkout: CheckoutSession = self.get(&format!("/v1/checkout/sessions/{id}"))?;
        match checkout.mode.as_str() {
            "subscription" if !checkout.subscription.is_empty() => {
                self.fetch_subscription(&checkout.subscription, &checkout.client_reference_id)
            }
            "payment" => Ok(Fetched::Purchase(Box::new(checkout))),
            _ => Ok(Fetched::Nothing),
        }
    }

    /// Finds the checkout of a payment that is not known here, as the news of it may come later; and has processes hand
    /// back what they hold of the credit.
    fn with_checkout(&self, db: &Database, returned: Return) -> Result<Fetched> {
        if returned.payment_intent.is_empty() {
            return Ok(Fetched::Nothing);
        }
        let known = stored::by_payment(&mut db.session()?, &returned.payment_intent)?;
        if let Some(purchase) = known {
            if returned.cents > 0 {
                credits::wait_for_leases(db, &purchase.user_id, purchase.amount_micros)?;
            }
            return Ok(Fetched::Return(returned, None));
        }
        let query = Form::new().with("payment_intent", &returned.payment_intent).with("limit", 1);
        let found: List<CheckoutSession> = self.stripe.get("/v1/checkout/sessions", &query).map_err(failed)?;
        let checkout = found.data.into_iter().find(|checkout| checkout.credit_cents().is_some());
        Ok(checkout.map_or(Fetched::Nothing, |checkout| Fetched::Return(returned, Some(Box::new(checkout)))))
    }
}
