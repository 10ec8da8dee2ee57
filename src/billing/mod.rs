//! Billing through [Stripe](https://docs.stripe.com/api): typed requests over HTTP, and reporting of usage.
//! `docs/billing.md` explains it.
//!
//! Nothing here runs without `STRIPE_SECRET_KEY`. No database connection is held while Stripe is called.

mod check;
mod client;
mod delivery;
mod failure;
mod form;
mod meters;
mod parallel;
mod sender;
mod service;

pub use check::{CheckError, Report, check};
pub use client::{Stripe, VERSION};
pub use failure::{ApiError, Failure};
pub use form::Form;
pub use meters::{Meter, MeterEvent};
pub use sender::Sender;
pub use service::{check_daily, report_usage};
