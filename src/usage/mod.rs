//! Charges: what a request costs. It is charged exactly once, even across crashes, retries and outages.
//!
//! A handler calls [`Meter::admit`] before it does any work, and [`Meter::charge`] before the last byte of its reply;
//! or it has the reply deferred until the charge is durable ([`Meter::charge_deferred`]). The `writer` thread commits
//! the charges of all waiting requests in one transaction (group commit). While the database is down, charges go to the
//! `journal`, a file that is synced before the reply ends. The `maintenance` thread replays journals when the database
//! is back, also those of processes that died, and recomputes the totals of each day.
//!
//! From the bottom up: `event` (a charge as a row of the ledger), `price`, `price_list`, `record` (an event as bytes),
//! `journal` and `recovery` (files), `aside` (charges that are refused for good), `charged` (sums for operators), `holder` (by which other processes see
//! that this one lives), `connections`, `queue`, `doubts` (charges that may have been made), `state` (what the threads
//! share), `commit` (events to the database), `claims` (keys whose first request is running), `spill`, `acknowledge`,
//! `replay`, `folder` (backups), `day_totals`, `writer`, `maintenance`, `meter`.

mod acknowledge;
mod aside;
mod charged;
mod claims;
mod commit;
mod connections;
mod day_totals;
mod doubts;
mod event;
pub mod folder;
mod holder;
mod journal;
mod kept_bytes;
mod maintenance;
mod meter;
mod price;
mod price_list;
mod queue;
pub mod record;
mod recovery;
mod replay;
mod spill;
mod state;
mod writer;

pub use charged::ModelTotal;
pub use claims::{Claim, Claiming, Claims, KeyState};
pub use connections::Connections;
pub use meter::{Meter, Stats};
pub use price::{Prices, cost, picos_each};
pub use state::Aside;

use std::sync::Arc;

use crate::limits::Admission;
use crate::store::replies::KeptReply;
use crate::units::Units;

/// The id of a charge. However often a charge is retried, it is made once for each id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChargeId {
    /// Generated for this charge by [`new_id`]. This is the cheapest kind for the database.
    Generated(String),
    /// Derived from an idempotency key, which a later charge may repeat: the first one is made, the others are
    /// duplicates. It must include the user's id, or clients could block each other's charges.
    ClientSupplied(String),
}

/// What is to be charged.
#[derive(Clone, Debug)]
pub struct Charge {
    /// Its unique id.
    pub id: ChargeId,
    /// The account that pays.
    pub user_id: String,
    /// The API key that was used; `None` for a session.
    pub key_id: Option<String>,
    /// The server that did the work.
    pub server: &'static str,
    /// The route as it is declared, such as `/v1/engines/{name}/completions`.
    pub route: &'static str,
    /// The model that did the work.
    pub model: String,
    /// The amount used.
    pub units: Units,
    /// Whether `units` is an estimate, since the model server gave no numbers.
    pub estimated: bool,
    /// How long the model took, in microseconds.
    pub latency_micros: i64,
    /// The reply to keep for repetitions of the request, if it had an `Idempotency-Key`: it is kept if and only if this
    /// charge is made, and the charge is made only if no reply is kept under the key.
    pub keep: Option<Keep>,
    /// What was set aside for it, if its account or key has a budget.
    pub admission: Option<Arc<Admission>>,
    /// What other models did of the same request, for at most [`MAX_MODELS`] models in all. It is charged with this or
    /// not at all, in rows of their own.
    pub parts: Vec<ModelUsage>,
}

impl Charge {
    /// What it used of each model.
    fn used(&mut self) -> impl Iterator<Item = (&str, &mut Units)> {
        let parts = self.parts.iter_mut().map(|part| (&*part.model, &mut part.units));
        std::iter::once((&*self.model, &mut self.units)).chain(parts)
    }
}

/// Most models that one charge can name, so that it fits into a record of the journal.
pub const MAX_MODELS: usize = 16;

/// What a request used of one model.
#[derive(Clone, Debug)]
pub struct ModelUsage {
    /// The model.
    pub model: String,
    /// What was used.
    pub units: Units,
    /// Whether that is an estimate, since the model server gave no numbers.
    pub estimated: bool,
    /// How long the model server took, in microseconds.
    pub latency_micros: i64,
}

/// A reply to keep with its charge.
#[derive(Clone, Debug)]
pub struct Keep {
    /// The reply.
    pub reply: KeptReply,
    /// The claim to its key, which is held until the charge is decided.
    pub claim: Arc<Claim>,
}

/// The outcome of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What it costs, in whole micro-dollars; for a duplicate, what the first one cost.
    pub cost_micros: i64,
    /// Whether a charge with the same id was made before. While the database is down this is unknown and `false`; the
    /// duplicate is dropped when the journal is replayed.
    pub duplicate: bool,
}

/// A new unique id. Ids made later sort later (UUID version 7), which keeps index inserts cheap.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}
