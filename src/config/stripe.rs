//! The settings for Stripe. Without a key, there is no billing.

use std::fmt;

use clap::Args;

use super::STRIPE;
use super::parse::{api_key, plain, secret, service_url, text};

/// What connects this server with a Stripe account.
#[derive(Clone, Args)]
pub struct StripeConfig {
    /// Secret key of the Stripe account, or a restricted one. Without it, nothing is sent to Stripe
    #[arg(long, env, hide_env_values = true, value_parser = secret(api_key), help_heading = STRIPE)]
    pub stripe_secret_key: Option<String>,

    /// Address of Stripe's API
    #[arg(long, env, default_value = "https://api.stripe.com", value_parser = plain(service_url), help_heading = STRIPE)]
    pub stripe_api_url: String,

    /// Event name of the meter that usage is reported to, in micro-dollars; STRIPE_PRICE_METERED bills it. Without it, usage
    /// is not reported
    #[arg(long, env, value_parser = plain(text), help_heading = STRIPE)]
    pub stripe_meter_event: Option<String>,
}

impl StripeConfig {
    /// Whether usage is reported.
    pub fn reports_usage(&self) -> bool {
        self.stripe_secret_key.is_some() && self.stripe_meter_event.is_some()
    }
}

/// Leaves out the key.
impl fmt::Debug for StripeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StripeConfig")
            .field("stripe_api_url", &self.stripe_api_url)
            .field("stripe_meter_event", &self.stripe_meter_event)
            .finish_non_exhaustive()
    }
}
