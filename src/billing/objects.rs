//! Stripe's objects, as far as they are needed. Fields that are missing or null are empty.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

/// A customer.
#[derive(Clone, Debug, Deserialize)]
pub struct Customer {
    /// `cus_…`.
    pub id: String,
    /// What we have noted.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: HashMap<String, String>,
}

/// A subscription.
#[derive(Clone, Debug, Deserialize)]
pub struct Subscription {
    /// `sub_…`.
    pub id: String,
    /// The customer's id.
    #[serde(default, deserialize_with = "reference")]
    pub customer: String,
    /// `active`, `trialing`, `past_due`, `canceled`, `unpaid`, `incomplete`, `incomplete_expired` or `paused`.
    pub status: String,
    /// Whether it ends with the period.
    #[serde(default, deserialize_with = "or_default")]
    pub cancel_at_period_end: bool,
    /// When it ends, if that was decided, in seconds since 1970.
    #[serde(default)]
    pub cancel_at: Option<i64>,
    /// The end of the period; newer versions have it in the items.
    #[serde(default)]
    pub current_period_end: Option<i64>,
    /// What is paid for.
    #[serde(default, deserialize_with = "or_default")]
    pub items: List<Item>,
    /// What we have noted.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: HashMap<String, String>,
}

/// A part of a subscription.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    /// `si_…`.
    pub id: String,
    /// Its price.
    #[serde(default, deserialize_with = "or_default")]
    pub price: Price,
    /// How many.
    #[serde(default)]
    pub quantity: Option<i64>,
    /// The end of its period, in seconds since 1970.
    #[serde(default)]
    pub current_period_end: Option<i64>,
}

/// A price.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Price {
    /// `price_…`.
    pub id: String,
    /// Such as `usd`.
    #[serde(default, deserialize_with = "or_default")]
    pub currency: String,
    /// In hundredths of the currency, for most of them.
    #[serde(default)]
    pub unit_amount: Option<i64>,
    /// How often it is paid; nothing if once.
    #[serde(default)]
    pub recurring: Option<Recurring>,
}

/// How often a price is paid.
#[derive(Clone, Debug, Deserialize)]
pub struct Recurring {
    /// `day`, `week`, `month` or `year`.
    #[serde(default, deserialize_with = "or_default")]
    pub interval: String,
    /// Every so many of them.
    #[serde(default)]
    pub interval_count: Option<i64>,
    /// The meter whose usage is paid; empty unless the price is metered.
    #[serde(default, deserialize_with = "or_default")]
    pub meter: String,
}

/// A page on which something is paid.
#[derive(Clone, Debug, Deserialize)]
pub struct CheckoutSession {
    /// `cs_…`.
    pub id: String,
    /// `payment`, `subscription` or `setup`.
    #[serde(default, deserialize_with = "or_default")]
    pub mode: String,
    /// `open`, `complete` or `expired`.
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    /// `paid`, `unpaid` or `no_payment_required`.
    #[serde(default, deserialize_with = "or_default")]
    pub payment_status: String,
    /// The account's id.
    #[serde(default, deserialize_with = "or_default")]
    pub client_reference_id: String,
    /// The customer's id.
    #[serde(default, deserialize_with = "reference")]
    pub customer: String,
    /// The subscription's id.
    #[serde(default, deserialize_with = "reference")]
    pub subscription: String,
    /// The payment's id.
    #[serde(default, deserialize_with = "reference")]
    pub payment_intent: String,
    /// What is paid, taxes included, in hundredths of the currency.
    #[serde(default)]
    pub amount_total: Option<i64>,
    /// What we have noted.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: HashMap<String, String>,
    /// Its address; nothing once it is closed.
    #[serde(default)]
    pub url: Option<String>,
    /// What an embedded one is shown with.
    #[serde(default)]
    pub client_secret: Option<String>,
}

/// A page on which a customer manages subscriptions.
#[derive(Clone, Debug, Deserialize)]
pub struct PortalSession {
    /// Its address.
    pub url: String,
}

/// A charge of a card or the like.
#[derive(Clone, Debug, Deserialize)]
pub struct Charge {
    /// `ch_…`.
    pub id: String,
    /// The payment's id.
    #[serde(default, deserialize_with = "reference")]
    pub payment_intent: String,
    /// How much of it was refunded, in hundredths of the currency.
    #[serde(default, deserialize_with = "or_default")]
    pub amount_refunded: i64,
}

/// A dispute: the bank of a customer has taken a payment back, or may.
#[derive(Clone, Debug, Deserialize)]
pub struct Dispute {
    /// `dp_…` or `du_…`.
    pub id: String,
    /// The payment's id.
    #[serde(default, deserialize_with = "reference")]
    pub payment_intent: String,
    /// How much, in hundredths of the currency.
    #[serde(default, deserialize_with = "or_default")]
    pub amount: i64,
    /// `needs_response`, `under_review`, `won`, `lost` and others.
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
}

/// A list that is part of an object.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    /// The first ones.
    #[serde(default = "Vec::new")]
    pub data: Vec<T>,
}

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List { data: Vec::new() }
    }
}

impl Subscription {
    /// When it ends if that was decided, else the end of the period of the plan.
    pub fn period_end(&self) -> Option<OffsetDateTime> {
        let ends = |item: &Item| item.current_period_end;
        if self.ends() {
            // With the period that ends first, also if that is not the plan's.
            let first = || self.items.data.iter().filter_map(ends).min().or(self.current_period_end);
            return OffsetDateTime::from_unix_timestamp(self.cancel_at.or_else(first)?).ok();
        }
        // Usage may be billed at other times than the plan.
        let has_plan = self.items.data.iter().any(|item| !item.is_metered());
        let items = self.items.data.iter().filter(|item| !(has_plan && item.is_metered()));
        let end = self.current_period_end.or_else(|| items.filter_map(ends).max())?;
        OffsetDateTime::from_unix_timestamp(end).ok()
    }

    /// Whether it was decided that it ends.
    pub fn ends(&self) -> bool {
        self.cancel_at_period_end || self.cancel_at.is_some()
    }

    /// Whether it is over for good.
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "canceled" | "incomplete_expired")
    }
}

impl Item {
    /// Whether it is paid by what a meter has counted.
    pub fn is_metered(&self) -> bool {
        self.price.recurring.as_ref().is_some_and(|recurring| !recurring.meter.is_empty())
    }
}

impl CheckoutSession {
    /// Whether nothing is left to pay.
    pub fn is_paid(&self) -> bool {
        matches!(self.payment_status.as_str(), "paid" | "no_payment_required")
    }

    /// The credit that it buys, in whole cents.
    pub fn credit_cents(&self) -> Option<i64> {
        let is_purchase = self.metadata.get("purchase_type").is_some_and(|text| text == "credits");
        let cents = self.metadata.get("quantity").and_then(|text| text.parse().ok());
        cents.filter(|cents| *cents > 0 && is_purchase && self.mode == "payment")
    }
}

impl Dispute {
    /// How much the bank has taken. An inquiry (`warning_…`) takes nothing.
    pub fn taken(&self) -> i64 {
        match self.status.as_str() {
            "needs_response" | "under_review" | "lost" => self.amount,
            _ => 0,
        }
    }
}

/// The id of another object, also if that is there as a whole.
fn reference<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Reference {
        Id(String),
        Object { id: String },
    }
    Ok(match Option::<Reference>::deserialize(from)? {
        Some(Reference::Id(id) | Reference::Object { id }) => id,
        None => String::new(),
    })
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn subscriptions_of_older_and_newer_versions_are_read() {
        let older = json!({"id": "sub_1", "customer": "cus_1", "status": "active", "current_period_end": 1_800_000_000,
            "items": {"data": [{"id": "si_1", "price": {"id": "price_1"}, "quantity": 1}]}});
        let newer = json!({"id": "sub_1", "customer": {"id": "cus_1"}, "status": "active", "metadata": null,
            "cancel_at_period_end": null, "cancel_at": 1_800_000_000,
            "items": {"data": [{"id": "si_1", "price": {"id": "price_1"}, "current_period_end": 1_800_000_000}]}});
        for (object, ends) in [(older, false), (newer, true)] {
            let read: Subscription = from_value(object).unwrap();
            assert_eq!((read.customer.as_str(), read.ends()), ("cus_1", ends));
            assert_eq!(read.period_end().map(OffsetDateTime::unix_timestamp), Some(1_800_000_000));
        }
    }

    #[test]
    fn a_subscription_with_two_intervals_ends_with_the_first_or_when_it_was_said() {
        let item = |id: &str, meter: &str, end: i64| json!({"id": id, "price": {"id": id, "recurring": {"interval": "", "meter": meter}}, "current_period_end": end});
        let end = |at_period_end: bool, cancel_at: Option<i64>| {
            let items = [item("si_plan", "", 3000), item("si_usage", "mtr_1", 2000)];
            let object = json!({"id": "sub_1", "status": "active", "cancel_at_period_end": at_period_end,
                "cancel_at": cancel_at, "items": {"data": items}});
            from_value::<Subscription>(object).unwrap().period_end().map(OffsetDateTime::unix_timestamp)
        };
        let ends = [end(false, None), end(true, None), end(true, Some(2000)), end(false, Some(2500))];
        assert_eq!(ends, [Some(3000), Some(2000), Some(2000), Some(2500)]);
    }

    #[test]
    fn only_sessions_that_say_so_buy_credit() {
        let session = |mode: &str, kind: &str, quantity: &str| -> Option<i64> {
            let metadata = json!({"purchase_type": kind, "quantity": quantity});
            from_value::<CheckoutSession>(json!({"id": "cs_1", "mode": mode, "metadata": metadata}))
                .unwrap()
                .credit_cents()
        };
        assert_eq!(session("payment", "credits", "2500"), Some(2500));
        for (mode, kind, quantity) in [
            ("subscription", "credits", "1"),
            ("payment", "", "1"),
            ("payment", "credits", "-1"),
            ("payment", "credits", "x"),
        ] {
            assert_eq!(session(mode, kind, quantity), None);
        }
    }

    #[test]
    fn an_inquiry_is_no_dispute() {
        let taken =
            |status: &str| from_value::<Dispute>(json!({"id": "dp_1", "amount": 5, "status": status})).unwrap().taken();
        assert_eq!(["lost", "needs_response", "won", "warning_needs_response"].map(taken), [5, 5, 0, 0]);
    }
}
