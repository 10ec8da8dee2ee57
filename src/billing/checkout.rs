//! Stripe's pages: checkouts, on which people pay, and the portal, on which they manage what they have subscribed to.

use std::thread;
use std::time::Duration;

use super::customers::{is_key_reused, reread};
use super::objects::{CheckoutSession, PortalSession, Subscription};
use super::payments::{Asked, Payments, failed};
use super::plans::Plan;
use super::{Failure, Form};
use crate::accounts::new_id;
use crate::db::Database;
use crate::error::{Conflicting, Error, Result};
use crate::store::checkouts::{self, Checkout};
use crate::store::{User, subscriptions};

/// How often a checkout is tried to be made while another request makes one for the same account.
const ATTEMPTS: u32 = 10;

/// The pause between them.
const PAUSE: Duration = Duration::from_millis(200);

/// What is to be paid.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// A subscription, with so many instances.
    Plan(Plan, i64),
    /// Credit of so many cents.
    Credits(i64),
}

/// Where the page is shown, and what it leads back to.
#[derive(Clone, Debug)]
pub struct Return {
    /// The address of the web server.
    pub web: String,
    /// Whether it is a part of a page of ours.
    pub is_embedded: bool,
    /// Who has sent the customer; noted with the payment.
    pub referral: String,
}

/// What became of an order.
#[derive(Debug)]
pub enum Opened {
    /// The page to pay on.
    Page(Box<CheckoutSession>),
    /// The account has a subscription already, which it can manage in the portal.
    Subscribed,
}

impl Payments {
    /// Opens the page for an order. An account has one for subscriptions at a time, and none while it has a subscription,
    /// however many requests come at once. Waits for Stripe, so it is to be called in a
    /// [`block_in_place`](crate::blocking::block_in_place).
    ///
    /// # Errors
    /// 503 if the plan is not offered, or Stripe does not answer; 409 while another request opens a page.
    pub fn check_out(&self, db: &Database, user_id: &str, order: Order, back: &Return) -> Result<Opened> {
        match order {
            Order::Credits(cents) => {
                let form = credits_form(user_id, cents, back);
                let key = new_id("credits:")?;
                Ok(Opened::Page(Box::new(self.open(db, user_id, &form, &key)?.map_err(failed)?)))
            }
            Order::Plan(plan, quantity) => {
                let price = plan.price(&self.config).ok_or(Error::PaymentsNotConfigured(plan.setting()))?;
                let items = with_metered(plan_items(price, quantity), self.config.stripe_price_metered.as_deref());
                // What a page that is open already must have been opened for, to be used again.
                let order =
                    format!("{} {} {} {} {}", plan.name(), items.encoded(), back.is_embedded, back.web, back.referral);
                let form = plan_form(items, user_id, &order, back);
                self.subscribe(db, user_id, &form, &order)
            }
        }
    }

    /// Makes a session. The inner result is Stripe's.
    fn open(&self, db: &Database, user_id: &str, form: &Form, key: &str) -> Result<Asked<CheckoutSession>> {
        self.with_customer(db, user_id, |customer| {
            let form = form.clone().with("customer", customer);
            match self.stripe.post("/v1/checkout/sessions", &form, key) {
                Err(e) if is_key_reused(&e) || matches!(e, Failure::InUse(_) | Failure::Server(_)) => Ok(Err(e)),
                made => made.map(Ok),
            }
        })
    }

    fn subscribe(&self, db: &Database, user_id: &str, form: &Form, order: &str) -> Result<Opened> {
        for attempt in 1..=ATTEMPTS {
            let (is_subscribed, checkout) = {
                let mut session = db.session()?;
                (subscriptions::has_any(&mut session, user_id)?, checkouts::open(&mut session, user_id)?)
            };
            if is_subscribed {
                return Ok(Opened::Subscribed);
            }
            let Checkout { generation, session_id } = checkout;
            if let Some(id) = session_id {
                if let Some(opened) = self.reopen(db, user_id, &id, order)? {
                    return Ok(opened);
                }
                checkouts::closed(&mut db.session()?, user_id, generation, Some(&id))?;
                continue;
            }
            match self.open(db, user_id, form, &format!("checkout:{user_id}:{generation}"))? {
                Ok(made) => {
                    if checkouts::made(&mut db.session()?, user_id, generation, &made.id)? {
                        return Ok(Opened::Page(Box::new(made)));
                    }
                    // It took so long that another request has given it up, and makes the next one.
                    self.close_page(&made.id, &new_id("expire:")?).map_err(failed)?;
                }
                Err(e @ Failure::Server(_)) => {
                    // Stripe repeats this to the same key for a day.
                    checkouts::closed(&mut db.session()?, user_id, generation, None)?;
                    return Err(failed(e));
                }
                Err(e) => {
                    log::debug!("another checkout of {user_id} is being made: {e}");
                    thread::sleep(PAUSE);
                    if attempt == ATTEMPTS / 2 {
                        // Whoever made it has not noted it, and will not.
                        checkouts::closed(&mut db.session()?, user_id, generation, None)?;
                    }
                }
            }
        }
        Err(Error::Conflict("Another checkout is being opened, try again", Conflicting::default()))
    }

    /// The page that was opened before, if it can still be used for this order. If it cannot, it is closed.
    fn reopen(&self, db: &Database, user_id: &str, id: &str, order: &str) -> Result<Option<Opened>> {
        let found: CheckoutSession = match self.stripe.get(&format!("/v1/checkout/sessions/{id}"), &Form::new()) {
            Err(e) if e.is_not_found() => return Ok(None),
            found => found.map_err(failed)?,
        };
        match found.status.as_str() {
            "open" => {
                let fits = found.metadata.get("order").is_some_and(|text| *text == noted(order));
                if fits && (found.url.is_some() || found.client_secret.is_some()) {
                    return Ok(Some(Opened::Page(Box::new(found))));
                }
                match self.close_page(id, &new_id("expire:")?).map_err(failed)? {
                    true => Ok(None),
                    // It was paid just now.
                    false => Ok(self.was_paid(db, user_id, id)?.then_some(Opened::Subscribed)),
                }
            }
            "complete" => Ok(self.was_paid(db, user_id, id)?.then_some(Opened::Subscribed)),
            _ => Ok(None),
        }
    }

    /// Closes a page for a payment. Returns whether it was open until now; `key` is that of the request.
    ///
    /// # Errors
    /// Stripe did not answer.
    pub(super) fn close_page(&self, id: &str, key: &str) -> Asked<bool> {
        let path = format!("/v1/checkout/sessions/{id}/expire");
        match self.stripe.post::<CheckoutSession>(&path, &Form::new(), key) {
            Err(Failure::Refused(_) | Failure::NotFound(_)) => Ok(false),
            closed => closed.map(|_| true),
        }
    }

    /// Whether a session has made a subscription. The news of it may still be on the way.
    fn was_paid(&self, db: &Database, user_id: &str, id: &str) -> Result<bool> {
        let fetch = subscriptions::begin_fetch(&mut db.session()?)?;
        let session: CheckoutSession =
            self.stripe.get(&format!("/v1/checkout/sessions/{id}"), &Form::new()).map_err(failed)?;
        if session.subscription.is_empty() {
            return Ok(false);
        }
        let path = format!("/v1/subscriptions/{}", session.subscription);
        let subscription: Subscription = self.stripe.get(&path, &Form::new()).map_err(failed)?;
        let mut connection = db.session()?;
        let mut transaction = connection.transaction()?;
        self.apply_subscription(&mut transaction, &subscription, user_id, fetch)?;
        transaction.commit()?;
        Ok(subscriptions::has_any(&mut connection, user_id)?)
    }

    /// Opens the portal, and returns its address. Waits for Stripe, as above.
    ///
    /// # Errors
    /// 400 for an account without a customer; 503 if Stripe does not answer.
    pub fn portal(&self, db: &Database, user_id: &str, web: &str) -> Result<String> {
        let user: User = reread(db, user_id)?;
        let customer = user.stripe_id.filter(|id| !id.is_empty()).ok_or(Error::bad("No Stripe customer ID found"))?;
        let form = Form::new().with("customer", customer).with("return_url", format!("{web}/account"));
        let made: PortalSession =
            self.stripe.post("/v1/billing_portal/sessions", &form, &new_id("portal:")?).map_err(failed)?;
        Ok(made.url)
    }
}

/// What is common to all sessions. `subject` is what is paid for, for the page that it leads back to.
fn session_form(items: Form, mode: &str, user_id: &str, back: &Return) -> Form {
    let Return { web, is_embedded, referral } = back;
    let form = items
        .with("mode", mode)
        .with("client_reference_id", user_id)
        .with("metadata[user_id]", user_id)
        .with_some("metadata[referral]", Some(referral).filter(|text| !text.is_empty()));
    let done = format!("{web}/subscribe?done={mode}");
    match is_embedded {
        true => form.with("ui_mode", "embedded").with("return_url", done),
        false => form.with("success_url", done).with("cancel_url", format!("{web}/subscribe")),
    }
}

fn plan_items(price: &str, quantity: i64) -> Form {
    Form::new().with("line_items[0][price]", price).with("line_items[0][quantity]", quantity)
}

/// Adds what bills usage. A metered item has no quantity: Stripe refuses one. Its interval may be another than the plan's,
/// for which the billing mode must be `flexible`.
fn with_metered(items: Form, price: Option<&str>) -> Form {
    match price {
        Some(price) => {
            items.with("line_items[1][price]", price).with("subscription_data[billing_mode][type]", "flexible")
        }
        None => items,
    }
}

fn plan_form(items: Form, user_id: &str, order: &str, back: &Return) -> Form {
    session_form(items, "subscription", user_id, back)
        .with("metadata[order]", noted(order))
        .with("subscription_data[metadata][user_id]", user_id)
}

fn credits_form(user_id: &str, cents: i64, back: &Return) -> Form {
    let items = Form::new()
        .with("line_items[0][price_data][currency]", "usd")
        .with("line_items[0][price_data][unit_amount]", cents)
        .with("line_items[0][price_data][product_data][name]", "Credit")
        .with("line_items[0][quantity]", 1);
    session_form(items, "payment", user_id, back)
        .with("metadata[purchase_type]", "credits")
        .with("metadata[quantity]", cents)
}

/// An order as far as it fits into the metadata, whose values have at most 500 characters.
fn noted(order: &str) -> String {
    order.chars().take(500).collect()
}
