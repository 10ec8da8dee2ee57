//! What the tests stand on: a database per test, the real binary on free ports, and clients with an identity.

mod at_once;
mod client;
mod database;
mod process;
mod proxy;
mod server;

pub use at_once::{at_once, patiently, refused_soon, soon};
pub use client::{Address, Client, Reply};
pub use database::{TestDb, admin};
pub use process::{Outcome, Process, run, wait_until};
pub use proxy::{Proxy, Trip};
pub use server::{PASSWORD, Server, User, textgen};
