//! What the tests stand on: a database per test, the real binary on free ports, and clients with an identity.

mod client;
mod database;
mod server;

pub use client::{Address, Client, Reply};
pub use database::TestDb;
pub use server::{PASSWORD, Server, User, textgen};
