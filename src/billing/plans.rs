//! What can be subscribed to.

use crate::config::PaymentConfig;

/// A plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Paid by the month.
    Monthly,
    /// Paid by the year.
    Annual,
    /// Paid for each instance that the customer hosts.
    SelfHosted,
}

impl Plan {
    /// All of them.
    pub const ALL: [Plan; 3] = [Plan::Monthly, Plan::Annual, Plan::SelfHosted];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Plan::Monthly => "monthly",
            Plan::Annual => "annual",
            Plan::SelfHosted => "self-hosted",
        }
    }

    /// The setting with its price.
    pub const fn setting(self) -> &'static str {
        match self {
            Plan::Monthly => "STRIPE_PRICE_MONTHLY",
            Plan::Annual => "STRIPE_PRICE_ANNUAL",
            Plan::SelfHosted => "STRIPE_PRICE_SELF_HOSTED",
        }
    }

    /// The id of its price, if it is offered.
    pub fn price(self, config: &PaymentConfig) -> Option<&str> {
        let price = match self {
            Plan::Monthly => &config.stripe_price_monthly,
            Plan::Annual => &config.stripe_price_annual,
            Plan::SelfHosted => &config.stripe_price_self_hosted,
        };
        price.as_deref()
    }
}
