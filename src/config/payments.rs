//! The settings for what is paid at Stripe: subscriptions and credit.

use std::fmt;

use clap::Args;

use super::STRIPE;
use super::parse::{Secrets, number, plain, secret, secrets, stripe_id};

/// What is sold, and how the news of payments is known to be Stripe's.
#[derive(Clone, Args)]
pub struct PaymentConfig {
    /// Signing secret of the web-hook endpoint (`whsec_…`) at `/api/stripe/webhook`; several, comma-separated, while one is
    /// replaced. Required with STRIPE_SECRET_KEY
    #[arg(long, env, default_value = "", hide_env_values = true, value_parser = secret(secrets), help_heading = STRIPE)]
    pub stripe_webhook_secret: Secrets,

    /// Price (`price_…`) of a monthly subscription; not offered without one
    #[arg(long, env, value_parser = plain(stripe_id), help_heading = STRIPE)]
    pub stripe_price_monthly: Option<String>,

    /// Price of an annual subscription; not offered without one
    #[arg(long, env, value_parser = plain(stripe_id), help_heading = STRIPE)]
    pub stripe_price_annual: Option<String>,

    /// Price of a self-hosted instance; not offered without one
    #[arg(long, env, value_parser = plain(stripe_id), help_heading = STRIPE)]
    pub stripe_price_self_hosted: Option<String>,

    /// Metered price of the meter of STRIPE_METER_EVENT, at 0.0001 cents per unit. It becomes a further item of every
    /// subscription, by which Stripe bills usage. Required with STRIPE_METER_EVENT where subscriptions are sold
    #[arg(long, env, value_parser = plain(stripe_id), help_heading = STRIPE)]
    pub stripe_price_metered: Option<String>,

    /// Days for which a subscription still counts after a payment has failed, while Stripe tries again
    #[arg(long, env, default_value = "7", value_parser = number(0_i32..=365), help_heading = STRIPE)]
    pub stripe_past_due_days: i32,

    /// Key of the tokens of `/api/validation-token`, for other programs that check them. Defaults to a random one in the
    /// database
    #[arg(long, env, hide_env_values = true, value_parser = secret(super::parse::text), help_heading = STRIPE)]
    pub backend_validation_secret: Option<String>,
}

/// Leaves out the secrets.
impl fmt::Debug for PaymentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaymentConfig")
            .field("stripe_price_monthly", &self.stripe_price_monthly)
            .field("stripe_price_annual", &self.stripe_price_annual)
            .field("stripe_price_self_hosted", &self.stripe_price_self_hosted)
            .field("stripe_price_metered", &self.stripe_price_metered)
            .field("stripe_past_due_days", &self.stripe_past_due_days)
            .finish_non_exhaustive()
    }
}
