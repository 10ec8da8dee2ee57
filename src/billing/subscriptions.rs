//! Applies what Stripe tells of subscriptions.

use super::objects::Subscription;
use super::payments::Payments;
use super::plans::Plan;
use crate::db::Executor;
use crate::error::Result;
use crate::store::audit::{self, Actor};
use crate::store::{checkouts, subscriptions, users};

/// The actor in the audit log.
pub(super) const STRIPE: Actor<'static> = Actor { id: "", name: "Stripe", address: "" };

/// The most self-hosted instances that are counted.
const MOST_INSTANCES: i64 = 1_000_000;

impl Payments {
    /// Stores a subscription as a fetch with this number told it, and brings its account into accordance. `reference` is
    /// the account's id as it was given to the checkout, if that is known. Returns the account's id, if there is one. To be
    /// called in a transaction.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) fn apply_subscription(
        &self,
        db: &mut impl Executor,
        subscription: &Subscription,
        reference: &str,
        fetch: i64,
    ) -> Result<Option<String>> {
        let noted = subscription.metadata.get("user_id").map_or("", String::as_str);
        let reference = if reference.is_empty() { noted } else { reference };
        let customer = subscription.customer.as_str();
        let owner = subscriptions::owner(db, customer, reference)?;
        let Some(user_id) = owner else {
            if !subscription.is_over() && checkouts::cancel_again(db, customer)? {
                log::warn!("{} belongs to an account that was deleted: it will be cancelled", subscription.id);
            }
            return Ok(None);
        };
        if !users::lock(db, &user_id)? {
            return Ok(None);
        }
        let (is_stored, before) = subscriptions::put(db, &self.as_stored(subscription, &user_id), fetch)?;
        if !is_stored {
            return Ok(None);
        }
        if !customer.is_empty() {
            subscriptions::set_customer(db, &user_id, customer)?;
        }
        subscriptions::refresh_account(db, &user_id, self.grace_days())?;
        if before.as_ref() != Some(&subscription.status)
            && let Some(user) = users::by_id(db, &user_id)?
        {
            let before = before.map(|before| format!("{before} to ")).unwrap_or_default();
            let details = format!("{before}{} ({})", subscription.status, subscription.id);
            audit::insert(db, STRIPE, "subscription", &user, &details)?;
        }
        Ok(Some(user_id))
    }

    fn as_stored(&self, subscription: &Subscription, user_id: &str) -> subscriptions::Subscription {
        let items = &subscription.items.data;
        let of_plan = |plan: Plan| {
            let price = plan.price(&self.config)?;
            items.iter().find(|item| item.price.id == price)
        };
        let known = Plan::ALL.into_iter().find_map(|plan| of_plan(plan).map(|item| (plan.name(), item)));
        let other = || items.iter().find(|item| !item.is_metered()).or(items.first());
        let (plan, item) = known.map_or_else(|| ("other", other()), |(plan, item)| (plan, Some(item)));
        let instances = of_plan(Plan::SelfHosted).map_or(0, |item| item.quantity.unwrap_or(1).clamp(0, MOST_INSTANCES));
        subscriptions::Subscription {
            id: subscription.id.clone(),
            user_id: user_id.to_owned(),
            item_id: item.map(|item| item.id.clone()).unwrap_or_default(),
            plan: plan.to_owned(),
            state: subscription.status.clone(),
            instances: i32::try_from(instances).unwrap_or_default(),
            period_end: subscription.period_end(),
            cancel_at_period_end: subscription.ends(),
        }
    }
}
