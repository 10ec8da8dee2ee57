//! The prices of the plans, as Stripe has them.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::objects::Price;
use super::plans::Plan;
use super::{Failure, Form, Stripe};
use crate::config::PaymentConfig;

/// How long prices are kept.
const FRESH: Duration = Duration::from_secs(600);

/// How long it takes after a failure until they are asked for again.
const PAUSE: Duration = Duration::from_secs(5);

/// The prices that were last read.
#[derive(Default)]
pub struct PriceList(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    offers: Vec<Offer>,
    /// When to ask again.
    due: Option<Instant>,
}

/// A plan that is offered.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The plan.
    pub plan: Plan,
    /// What it costs; `None` if that is not known now.
    pub price: Option<Price>,
}

impl PriceList {
    /// The plans that are offered.
    pub(super) fn offers(&self, stripe: &Stripe, config: &PaymentConfig) -> Vec<Offer> {
        {
            let mut kept = self.0.lock();
            if kept.due.is_some_and(|due| Instant::now() < due) {
                return kept.offers.clone();
            }
            // Others use what there is meanwhile.
            kept.due = Some(Instant::now() + PAUSE);
            if kept.offers.is_empty() {
                kept.offers = without_prices(config);
            }
        }
        match read(stripe, config) {
            Ok(offers) => {
                *self.0.lock() = Kept { offers: offers.clone(), due: Some(Instant::now() + FRESH) };
                offers
            }
            Err(e) => {
                log::warn!("prices are not known: {e}");
                self.0.lock().offers.clone()
            }
        }
    }
}

fn without_prices(config: &PaymentConfig) -> Vec<Offer> {
    let offered = Plan::ALL.into_iter().filter(|plan| plan.price(config).is_some());
    offered.map(|plan| Offer { plan, price: None }).collect()
}

fn read(stripe: &Stripe, config: &PaymentConfig) -> Result<Vec<Offer>, Failure> {
    let read = |offer: Offer| {
        let id = offer.plan.price(config).unwrap_or_default();
        let price = stripe.get(&format!("/v1/prices/{id}"), &Form::new())?;
        Ok(Offer { price: Some(price), ..offer })
    };
    without_prices(config).into_iter().map(read).collect()
}

impl Offer {
    /// The price in words, such as `US$ 19.00 a month`; `None` if it is not known.
    pub fn in_words(&self) -> Option<String> {
        let price = self.price.as_ref()?;
        let amount = price.unit_amount?;
        let (whole, cents) = (amount / 100, amount % 100);
        let currency = price.currency.to_uppercase();
        let amount = match currency.as_str() {
            "USD" => format!("${whole}.{cents:02}"),
            // Those without hundredths.
            "JPY" | "KRW" | "VND" | "CLP" => format!("{currency}\u{a0}{amount}"),
            _ => format!("{currency}\u{a0}{whole}.{cents:02}"),
        };
        let Some(recurring) = &price.recurring else { return Some(amount) };
        let count = recurring.interval_count.unwrap_or(1);
        let interval = &recurring.interval;
        Some(if count == 1 {
            format!("{amount} per {interval}")
        } else {
            format!("{amount} every {count} {interval}s")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::Recurring;
    use super::*;

    #[test]
    fn prices_are_shown_plainly() {
        let shown = |currency: &str, amount, interval: Option<(&str, i64)>| {
            let recurring = interval.map(|(interval, count)| Recurring {
                interval: interval.to_owned(),
                interval_count: Some(count),
                meter: String::new(),
            });
            let price =
                Price { id: String::new(), currency: currency.to_owned(), unit_amount: Some(amount), recurring };
            Offer { plan: Plan::Monthly, price: Some(price) }.in_words().unwrap()
        };
        assert_eq!(shown("usd", 1905, Some(("month", 1))), "$19.05 per month");
        assert_eq!(shown("eur", 19_000, Some(("year", 2))), "EUR\u{a0}190.00 every 2 years");
        assert_eq!(shown("jpy", 500, None), "JPY\u{a0}500");
    }
}
