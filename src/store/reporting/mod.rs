//! Tables `stripe_reporting`, `stripe_usage` and `stripe_outbox`: what accounts have used, as it is reported to Stripe.

pub mod aside;
pub mod check;
pub mod closing;
pub mod outbox;
pub mod sender;
