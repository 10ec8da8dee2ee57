//! Budgets that hold. `docs/limits.md` explains it.
//!
//! A process admits requests out of [`Lease`]s, the parts of budgets that the database has set aside for it. [`model`]
//! says what the database does with each message; `store::leases` does it. A seeded simulation (`simulation_tests`)
//! runs both through crashes, lost messages, window ends and clock steps.
//!
//! From the bottom up: `lease` (one lease), `held` (all leases of a process), `waiting` (requests that wait), all without
//! a clock or I/O, `forgetting` (of leases that are not used), `lowered` (limits below what is set aside); `service` (what
//! requests use), with its threads `leasing` (asks the database for leases) and `settling` (settles what was charged, as
//! `settle_schedule` says); `admission` (what is set aside for one request).
//!
//! Rate limits are built in the same way, of permits: `cooling` (those that were used lately), `permits` (what is
//! held of one limit), `held_rates` (of all), `rates` (the thread, and what a request uses), [`permit_book`] (what the database
//! does). `asking` is what both threads share, and `refusals` counts.

mod admission;
mod asking;
mod budgets;
mod cooling;
mod credit_model;
mod forgetting;
mod held;
mod held_rates;
mod kinds;
mod lease;
mod leasing;
mod lowered;
pub mod model;
pub mod permit_book;
mod permits;
mod rates;
mod refusals;
mod service;
mod settle_schedule;
mod settling;
mod waiting;

use std::time::Duration;

pub use admission::{Admission, LimitWatch, Settled};
pub use budgets::Budgets;
pub use held::Refusal;
pub use kinds::{Kind, RateIds, RateStatus};
pub use lease::{Ask, Grant, Lease, Reservation, reserve};
pub use permits::{PermitAsk, PermitGrant, Permits};
pub use rates::{Permit, RateLimits, RateRefusal};
pub use refusals::Refusals;
pub use service::{CHANNEL, Limits, RATE_PREFIX};

/// An amount of money in picodollars (10⁻¹² US$), in which every charge is a whole number.
pub type Picos = i128;

/// A time in microseconds since 1970, or since any other fixed time where only differences matter.
pub type Micros = i64;

/// How long the database may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod rate_simulation_tests;
#[cfg(test)]
mod simulation_tests;
