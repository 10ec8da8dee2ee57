//! Customers: each account has at most one, made when it first wants to pay.

use std::thread;
use std::time::Duration;

use super::objects::Customer;
use super::payments::{Asked, Payments, failed};
use super::{Failure, Form};
use crate::auth::Digest;
use crate::db::Database;
use crate::error::{Error, NOT_AUTHENTICATED, Result};
use crate::hex;
use crate::store::{User, subscriptions, users};

/// How often it is tried to make a customer while another request makes the same one.
const ATTEMPTS: u32 = 10;

/// The pause between them.
const PAUSE: Duration = Duration::from_millis(200);

impl Payments {
    /// Does `work` with the account's customer, which is made first if it has none, or if Stripe does not know it any more.
    ///
    /// # Errors
    /// Those of `work` and of Stripe; 401 if the account is gone.
    pub(super) fn with_customer<T>(&self, db: &Database, user_id: &str, work: impl Fn(&str) -> Asked<T>) -> Result<T> {
        let user = reread(db, user_id)?;
        let customer = match user.stripe_id.as_deref() {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ => self.make_customer(db, &user, user_id)?,
        };
        match work(&customer) {
            Err(e) if is_customer_missing(&e) => {
                log::warn!("{customer} is unknown to Stripe: creating a new customer");
                subscriptions::forget_customer(&mut db.session()?, user_id, &customer)?;
                let user = reread(db, user_id)?;
                let customer = self.make_customer(db, &user, &format!("{user_id}:{customer}"))?;
                work(&customer).map_err(failed)
            }
            done => done.map_err(failed),
        }
    }

    /// Two that make one at the same time use the same key, so that they get the same customer.
    fn make_customer(&self, db: &Database, user: &User, key: &str) -> Result<String> {
        let mut made = self.create_customer(user, key);
        for attempt in 1..=ATTEMPTS {
            made = match made {
                // Another request makes the same one.
                Err(Failure::InUse(_)) => {
                    thread::sleep(PAUSE);
                    self.create_customer(user, key)
                }
                // Stripe repeats this to the same key for a day, whether or not there is a customer now.
                Err(e @ Failure::Server(_)) => match self.find_customer(user) {
                    Ok(None) if attempt < ATTEMPTS => self.create_customer(user, &format!("{key}:{attempt}")),
                    Ok(Some(found)) => Ok(found),
                    _ => Err(e),
                },
                done => {
                    made = done;
                    break;
                }
            };
        }
        let id = made.map_err(failed)?.id;
        let set = subscriptions::set_customer(&mut db.session()?, &user.id, &id)?;
        set.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))
    }

    /// The customer that says that it is this account's. The e-mail address only shortens the list.
    fn find_customer(&self, user: &User) -> Asked<Option<Customer>> {
        let mut found = None;
        self.stripe.list("/v1/customers", &Form::new().with("email", &user.email), |customer: Customer| {
            if customer.metadata.get("user_id") == Some(&user.id) {
                found = Some(customer);
            }
            found.is_none()
        })?;
        Ok(found)
    }

    fn create_customer(&self, user: &User, key: &str) -> Asked<Customer> {
        let form = Form::new()
            .with("email", &user.email)
            .with_some("name", user.name.as_ref().filter(|name| !name.is_empty()))
            .with("metadata[user_id]", &user.id);
        match self.stripe.post("/v1/customers", &form, key) {
            // One was made with another address, and its id was lost.
            Err(e) if is_key_reused(&e) => {
                let digest = hex::encode(&Digest::of(&form.encoded()).0);
                self.stripe.post("/v1/customers", &form, &format!("{key}:{digest}"))
            }
            made => made,
        }
    }
}

/// The account, from the database and not the cache.
pub(super) fn reread(db: &Database, user_id: &str) -> Result<User> {
    users::by_id(&mut db.session()?, user_id)?.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))
}

fn is_customer_missing(e: &Failure) -> bool {
    e.api_error().is_some_and(|e| e.code == "resource_missing" && e.param == "customer")
}

/// Whether a request with this `Idempotency-Key` but other parameters was made before.
pub(super) fn is_key_reused(e: &Failure) -> bool {
    matches!(e, Failure::Refused(e) if e.kind == "idempotency_error")
}
