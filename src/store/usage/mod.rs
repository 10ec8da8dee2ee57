//! What was used and what it cost: the ledger `usage_events` with its unique ids in `charge_ids`, and the totals of it
//! in `usage_daily` (per user), `usage_days` (of all users) and `usage_top` (of those who spent most).

pub mod charges;
mod columns;
pub mod days;
mod event;
mod kept;
pub mod lists;
pub mod partitions;
pub mod sums;
pub mod top;

pub use charges::Event;
