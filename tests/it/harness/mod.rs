//! What the tests stand on: a database per test, the real binary on free ports, and clients with an identity.

mod at_once;
mod client;
mod database;
mod server;

pub use at_once::{at_once, patiently, refused_soon, soon};
pub use client::{Address, Client, Reply};
pub use database::TestDb;
pub use server::{PASSWORD, Server, User, textgen};
