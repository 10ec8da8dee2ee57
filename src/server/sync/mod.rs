//! The server's own synchronisation, in types small enough to be model-checked.
//!
//! `tests/server_models` compiles these same files against the `loom` crate's version of [`primitives`] and runs them
//! through every interleaving that the C11 memory model allows. So they take atomics, locks and fences from
//! `primitives` only. Loom knows no sequentially consistent accesses, but does know sequentially consistent fences;
//! where an order between two variables matters, a fence makes it.

mod completion;
mod generation;
mod idle_threads;
mod load;
mod ownership;
mod parking;
mod primitives;
mod ready_queue;

pub(super) use completion::CompletionFlag;
pub(super) use generation::{Generation, is_in_handler};
pub(super) use idle_threads::IdleThreads;
pub(super) use load::LoadCounters;
pub(super) use ownership::Ownership;
pub(super) use parking::{ParkedThreads, Parker};
pub(super) use ready_queue::ReadyQueue;
