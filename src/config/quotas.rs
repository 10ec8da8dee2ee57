//! The settings for what anybody may create.

use clap::Args;

use super::QUOTAS;
use super::parse::number;

/// How much may be created.
#[derive(Clone, Debug, Args)]
pub struct QuotaConfig {
    /// Accounts that may be created from one address (IPv6: one /64) in an hour, for each web process; further
    /// sign-ups get a 429. 0 = no limit
    #[arg(long, env, default_value = "30", value_parser = number(0_u32..=1_000_000), help_heading = QUOTAS)]
    pub signups_per_address: u32,

    /// The same for the network that the address is in: an IPv4 /24, an IPv6 /48
    #[arg(long, env, default_value = "100", value_parser = number(0_u32..=1_000_000), help_heading = QUOTAS)]
    pub signups_per_network: u32,
}
