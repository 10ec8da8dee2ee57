//! Charges: what a request costs, and that it is charged exactly once whatever stops or races.
//!
//! A handler asks [`Meter::admit`] before it works and calls [`Meter::charge`] before its reply's last byte, or has the
//! reply held ([`Meter::hold`]). A writer thread commits the charges of all requests that wait in one transaction; once
//! that is durable, a request goes on. While the database is away they go to the journal, a file that a thread in the
//! background brings to the database when it is back. The same thread computes what all charges of a day come to.

mod connections;
mod event;
mod journal;
mod meter;
mod price;
mod queue;
mod record;
mod recovery;
mod replay;
mod totals;
mod writer;

pub use connections::Connections;
pub use meter::{Meter, Stats};
pub use price::{Prices, cost};

/// What a request used. A negative number counts as 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Tokens read.
    pub prompt_tokens: i64,
    /// Tokens written.
    pub completion_tokens: i64,
    /// Tokens embedded.
    pub embedding_tokens: i64,
    /// Milliseconds of audio heard.
    pub audio_millis: i64,
    /// Characters spoken.
    pub characters: i64,
    /// Requests: 1, or how many a bulk request stands for.
    pub requests: i64,
}

/// The id of a charge. Of all charges with one id, one is made, whatever is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// Made for this charge: [`new_id`]. The database has the least work with it.
    New(String),
    /// An idempotency key, which another charge may have: the first is made, for ever. It must hold the user's id, or
    /// clients could spoil each other's.
    Chosen(String),
}

/// What is to be charged.
#[derive(Clone, Debug)]
pub struct Charge {
    /// What tells it from every other.
    pub id: Id,
    /// Who pays.
    pub user_id: String,
    /// The key that was used.
    pub key_id: Option<String>,
    /// The server that did the work.
    pub server: &'static str,
    /// The route that was asked, without what stands for its segments.
    pub route: &'static str,
    /// The model that did the work.
    pub model: String,
    /// What was used.
    pub units: Units,
    /// How long the model took, in microseconds.
    pub latency_micros: i64,
}

/// That a charge was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What it costs, in micro-dollars; for a duplicate, what the first one cost.
    pub cost_micros: i64,
    /// Whether a charge with the same id was made before. It is not known while the database is away: then it is
    /// `false`, and the duplicate is found and dropped later.
    pub duplicate: bool,
}

/// An id that no other charge has. Ids made later sort later (UUID version 7), which the index of ids likes.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}
