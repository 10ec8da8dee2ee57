//! Budgets that hold: the part of the protocol that needs neither a clock nor a database. `docs/limits.md` explains it.
//!
//! A process admits requests out of [`Lease`]s, the parts of budgets that the database has set aside for it. [`model`] says
//! what the database does with each message; `store::leases` does it. A seeded simulation (`simulation_tests`) runs both
//! through crashes, lost messages, window ends and clock steps.

mod lease;
pub mod model;

pub use lease::{Ask, Grant, Lease, Reservation, reserve};

/// An amount of money in picodollars (10⁻¹² US$), in which every charge is a whole number.
pub type Picos = i128;

/// A time in microseconds since 1970.
pub type Micros = i64;

#[cfg(test)]
mod simulation_tests;
