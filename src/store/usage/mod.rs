//! What was used and what it cost: the ledger `usage_events` with its unique ids in `charge_ids`, and the totals of it
//! in `usage_daily` (per user) and `usage_days` (of all users).

pub mod charges;
mod columns;
pub mod days;
mod event;
mod kept;
pub mod lists;
pub mod partitions;
pub mod sums;

pub use charges::Event;
