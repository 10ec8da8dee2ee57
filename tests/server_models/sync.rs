//! The files of `src/server/sync`, on the primitives of `loom`.

#[path = "../../src/server/sync/completion.rs"]
mod completion;
#[path = "../../src/server/sync/generation.rs"]
mod generation;
#[path = "../../src/server/sync/idle_threads.rs"]
mod idle_threads;
#[path = "../../src/server/sync/load.rs"]
mod load;
#[path = "../../src/server/sync/ownership.rs"]
mod ownership;
#[path = "../../src/server/sync/parking.rs"]
mod parking;
#[path = "../../src/server/sync/ready_queue.rs"]
mod ready_queue;

#[path = "primitives.rs"]
mod primitives;

pub(crate) use completion::CompletionFlag;
pub(crate) use generation::{Generation, is_in_handler};
pub(crate) use idle_threads::IdleThreads;
pub(crate) use load::LoadCounters;
pub(crate) use ownership::Ownership;
pub(crate) use parking::{ParkedThreads, Parker};
pub(crate) use ready_queue::ReadyQueue;
