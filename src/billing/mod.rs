//! Billing through [Stripe](https://docs.stripe.com/api): typed requests over HTTP, and reporting of usage.
//! `docs/billing.md` explains it.
//!
//! Nothing here runs without `STRIPE_SECRET_KEY`. No database connection is held while Stripe is called.

mod cancellations;
mod check;
pub mod checkout;
mod client;
mod customers;
mod delivery;
pub mod events;
mod failure;
mod form;
pub mod import;
mod meter_errors;
mod meters;
pub mod objects;
mod parallel;
pub mod payments;
pub mod plans;
pub mod prices;
mod purchases;
mod refunds;
mod sender;
mod service;
pub mod signature;
mod subscriptions;
mod upkeep;
pub mod validation_token;
mod webhook;

pub use check::{CheckError, Checker, Report};
pub use client::{Stripe, VERSION};
pub use failure::{ApiError, Failure};
pub use form::Form;
pub use meters::{Meter, MeterEvent};
pub use sender::Sender;
pub use service::{Outbox, check_daily, report_usage};
