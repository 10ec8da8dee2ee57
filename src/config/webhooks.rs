//! The settings for web-hooks of the operator's.

use clap::Args;

use super::WEBHOOKS;
use super::parse::{Networks, networks, plain};

/// Where web-hooks may lead.
#[derive(Clone, Debug, Args)]
pub struct WebhookConfig {
    /// Private networks that web-hooks may reach, comma-separated, beside the public internet
    #[arg(long, env, default_value = "", value_parser = plain(networks), help_heading = WEBHOOKS)]
    pub webhook_allow: Networks,
}
