//! Billing through [Stripe](https://docs.stripe.com/api): typed requests over HTTP.
//!
//! Nothing here runs without `STRIPE_SECRET_KEY`. No database connection is held while Stripe is called.

mod cancellations;
pub mod checkout;
mod client;
mod customers;
pub mod events;
mod failure;
mod form;
pub mod import;
pub mod objects;
pub mod payments;
pub mod plans;
pub mod prices;
mod purchases;
pub mod signature;
mod subscriptions;
mod upkeep;
pub mod validation_token;
mod webhook;

pub use client::{Stripe, VERSION};
pub use failure::{ApiError, Failure};
pub use form::Form;
