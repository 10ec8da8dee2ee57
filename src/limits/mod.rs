//! Budgets that hold. `docs/limits.md` explains it.
//!
//! A process admits requests out of [`Lease`]s, the parts of budgets that the database has set aside for it. [`model`] says
//! what the database does with each message; `store::leases` does it. A seeded simulation (`simulation_tests`) runs both
//! through crashes, lost messages, window ends and clock steps.
//!
//! From the bottom up: `lease` (one lease), `held` (all leases of a process, and the requests that wait), both without a
//! clock or I/O; `service` (the thread that asks the database), `admission` (what is set aside for one request).

mod admission;
mod budgets;
mod held;
mod lease;
pub mod model;
mod service;

pub use admission::{Admission, Settled};
pub use budgets::Budgets;
pub use held::Refusal;
pub use lease::{Ask, Grant, Lease, Reservation, reserve};
pub use service::{CHANNEL, Limits};

/// An amount of money in picodollars (10⁻¹² US$), in which every charge is a whole number.
pub type Picos = i128;

/// A time in microseconds since 1970, or since any other fixed time where only differences matter.
pub type Micros = i64;

#[cfg(test)]
mod simulation_tests;
