//! Who is calling: credentials, the cache of callers, passwords, and what holds guessers back.

pub mod cache;
mod caller;
pub mod client;
pub mod hasher;
pub mod last_used;
pub mod password;
mod resolver;
pub mod revocation;
pub mod secret;
pub mod throttle;
mod unknown;

pub use cache::{Cache, Kind};
pub use caller::{Caller, Via};
pub use hasher::Hasher;
pub use last_used::{LastUsed, is_renewal_due};
pub use resolver::Resolver;
pub use secret::{Digest, Secret};
pub use throttle::Throttle;

#[cfg(test)]
mod measure_tests;
