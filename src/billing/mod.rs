//! Billing through [Stripe](https://docs.stripe.com/api): typed requests over HTTP.
//!
//! Nothing here runs without `STRIPE_SECRET_KEY`. No database connection is held while Stripe is called.

mod client;
mod failure;
mod form;

pub use client::{Stripe, VERSION};
pub use failure::{ApiError, Failure};
pub use form::Form;
