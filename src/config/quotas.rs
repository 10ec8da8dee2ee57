//! The settings for what anybody may create.

use clap::Args;

use super::QUOTAS;
use super::parse::number;

/// What an account's documents may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentQuota {
    /// How many there may be; [`i64::MAX`] for any number.
    pub documents: i64,
    /// Bytes of their titles and texts; [`i64::MAX`] for any number.
    pub bytes: i64,
}

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

    /// Documents of one account, and as many again that it has deleted and can restore, of which the oldest make room.
    /// 0 = no limit
    #[arg(long, env, default_value = "10000", value_parser = number(0_i64..=1_000_000_000), help_heading = QUOTAS)]
    pub documents_per_account: i64,

    /// Bytes of the titles and texts of one account's documents, and as many again of deleted ones. 0 = no limit
    #[arg(long, env, default_value = "1073741824", value_parser = number(0_i64..=1 << 50), help_heading = QUOTAS)]
    pub document_bytes_per_account: i64,

    /// Sessions of one account; those that have not been used for longest end
    #[arg(long, env, default_value = "100", value_parser = number(1_i64..=1000), help_heading = QUOTAS)]
    pub sessions_per_account: i64,

    /// Active keys of one account; a rotated key counts until its grace period is over
    #[arg(long, env, default_value = "100", value_parser = number(1_i64..=100_000), help_heading = QUOTAS)]
    pub keys_per_account: i64,
}

impl QuotaConfig {
    /// What an account's documents may take.
    pub fn of_documents(&self) -> DocumentQuota {
        let or_any = |limit| if limit == 0 { i64::MAX } else { limit };
        let (documents, bytes) = (or_any(self.documents_per_account), or_any(self.document_bytes_per_account));
        DocumentQuota { documents, bytes }
    }
}
