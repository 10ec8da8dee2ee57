//! What is paid at Stripe: the settings for it, and what everything here needs.

use super::plans::Plan;
use super::prices::{Offer, PriceList};
use super::{Failure, Stripe};
use crate::config::{Billing, Config, PaymentConfig};
use crate::error::Error;

/// The connection to Stripe for what is paid there.
pub struct Payments {
    pub(super) stripe: Stripe,
    pub(super) config: PaymentConfig,
    pub(super) price_list: PriceList,
    /// The event name of the meter, if usage is reported.
    pub(super) meter: Option<String>,
    /// Whether anything is paid for out of credit, so that it is sold.
    sells_credit: bool,
    /// Whether `STRIPE_API_URL` is Stripe's.
    api_url: String,
}

impl Payments {
    /// Those of the settings; `None` without `STRIPE_SECRET_KEY`.
    pub fn of(config: &Config) -> Option<Payments> {
        Some(Payments {
            stripe: Stripe::of(&config.stripe)?,
            config: config.payments.clone(),
            price_list: PriceList::default(),
            meter: config.stripe.stripe_meter_event.clone(),
            sells_credit: config.billing != Billing::Metered,
            api_url: config.stripe.stripe_api_url.clone(),
        })
    }

    /// What a server needs beside the key.
    ///
    /// # Errors
    /// A line for the operator.
    pub fn check(config: &Config) -> Result<(), String> {
        if config.stripe.stripe_secret_key.is_none() {
            return Ok(());
        }
        if config.payments.stripe_webhook_secret.is_empty() {
            return Err(
                "STRIPE_SECRET_KEY is set, but STRIPE_WEBHOOK_SECRET is not: without it, payments would not be \
                        noticed. In Stripe's dashboard, add a web-hook endpoint with the URL of this web server and \
                        /api/stripe/webhook, and set STRIPE_WEBHOOK_SECRET to its signing secret (whsec_…)"
                    .to_owned(),
            );
        }
        if config.stripe.reports_usage() && config.billing != Billing::Metered {
            return Err(
                "STRIPE_METER_EVENT is set, but with BILLING=prepaid or subscription usage may be paid for out of \
                        credit, and Stripe would bill it once more. Unset one of them"
                    .to_owned(),
            );
        }
        // Stripe's own address is always https; another is one for tests, on this machine.
        if config.public_url.is_empty() && config.stripe.stripe_api_url.starts_with("https://") {
            return Err(
                "STRIPE_SECRET_KEY is set, but PUBLIC_URL is not: Stripe's pages must lead back to this web server. Set it \
                 to the address that browsers use, such as https://example.com"
                    .to_owned(),
            );
        }
        check_metered_price(config)
    }

    /// How many days a subscription counts whose payment has failed.
    pub fn grace_days(&self) -> i32 {
        self.config.stripe_past_due_days
    }

    /// Whether credit is sold: with `BILLING=metered` nothing is paid for out of it.
    pub fn sells_credit(&self) -> bool {
        self.sells_credit
    }

    /// The secrets that sign web-hooks.
    pub fn webhook_secrets(&self) -> &[String] {
        &self.config.stripe_webhook_secret
    }

    /// The plans that are offered, with their prices. Asks Stripe at most once in ten minutes, and every five seconds while
    /// it does not answer, so it is to be called in a [`block_in_place`](crate::blocking::block_in_place).
    pub fn offers(&self) -> Vec<Offer> {
        self.price_list.offers(&self.stripe, &self.config)
    }

    /// Where pages of ours lead to: hosts whose pages are Stripe's, as sources for a content security policy.
    pub fn page_hosts(&self) -> String {
        // Those who pay for it have their own host for Stripe's pages, so its name is not known.
        match self.api_url.strip_prefix("http://") {
            Some(host) => format!("https: http://{}", host.split('/').next().unwrap_or_default()),
            None => "https:".to_owned(),
        }
    }
}

/// Whether what is reported is also billed to those who subscribe.
fn check_metered_price(config: &Config) -> Result<(), String> {
    let sells_plans = Plan::ALL.into_iter().any(|plan| plan.price(&config.payments).is_some());
    match (config.stripe.reports_usage(), &config.payments.stripe_price_metered) {
        (true, None) if sells_plans => Err(
            "STRIPE_METER_EVENT is set and plans are sold, but STRIPE_PRICE_METERED is not set: usage of subscribers \
             would be reported, but never billed. In Stripe's dashboard, add a metered price of this meter, and set \
             STRIPE_PRICE_METERED to its id (price_…)"
                .to_owned(),
        ),
        (false, Some(_)) => Err(
            "STRIPE_PRICE_METERED is set, but STRIPE_METER_EVENT is not: no usage would be reported, so the price would \
             bill nothing. Unset it, or set both"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

/// The result of a request to Stripe.
pub(super) type Asked<T> = std::result::Result<T, Failure>;

/// What a request ends with that Stripe has not carried out.
pub(super) fn failed(e: Failure) -> Error {
    match e.may_pass() || matches!(e, Failure::Malformed(_)) {
        true => Error::PaymentsUnavailable(e.to_string()),
        false => Error::Internal(e.to_string()),
    }
}
