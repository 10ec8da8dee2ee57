//! What the tests stand on: a database per test, the real binary on free ports, and clients with an identity.

mod charges;
mod client;
mod database;
mod raw;
mod server;
mod upstream;

pub use charges::{charges, only_charge};
pub use client::{Address, Client, Reply};
pub use database::TestDb;
pub use raw::Raw;
pub use server::{PASSWORD, Server, User, textgen};
pub use upstream::{Seen, Upstream, Wire};
