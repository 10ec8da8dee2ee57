//! Authentication: credentials, the cache of callers, passwords, and the throttles of guesses, sign-ups and mails.

pub mod cache;
mod caller;
pub mod client;
mod credential;
mod epochs;
pub mod hasher;
pub mod last_used;
mod mail_requests;
mod negative;
pub mod password;
mod resolver;
pub mod revocation;
mod scope;
pub mod secret;
mod shard;
pub mod sign_ups;
mod single_flight;
pub mod throttle;
pub mod totp;

pub use cache::Cache;
pub use caller::{ACCOUNT_ELSEWHERE, Caller, Via};
pub use credential::{Kind, Validity};
pub use hasher::Hasher;
pub use last_used::{LastUsed, is_renewal_due};
pub use mail_requests::MailRequests;
pub use resolver::{Resolver, Standing};
pub use scope::{Permission, Scope};
pub use secret::{Digest, Secret};
pub use sign_ups::SignUps;
pub use throttle::Throttle;

#[cfg(test)]
mod measure_tests;
