//! What the tests are built on: a database for each test, the real binary on free ports, and HTTP clients.

mod at_once;
mod authenticator;
mod bouncer;
mod certificates;
mod charges;
mod client;
mod cluster;
mod database;
mod load;
mod process;
mod proxy;
mod random;
mod raw;
mod scrape;
mod server;
mod signals;
pub mod smtp;
pub mod stripe;
mod upstream;

pub use at_once::{End, at_once, refused_soon, retry_while_unavailable, soon};
pub use authenticator::Authenticator;
pub use bouncer::Bouncer;
pub use certificates::{Authority, Certified};
pub use charges::{charges, final_charges, only_charge};
pub use client::{Address, Client, Reply};
pub use cluster::{Cluster, Standby};
pub use database::{TestDb, admin};
pub use load::{LoadRecord, Way, assert_books_agree};
pub use process::{Outcome, Process, done, refused, run, wait_until};
pub use proxy::{Proxy, RoundTrip};
pub use random::Random;
pub use raw::Raw;
pub use scrape::Scrape;
pub use server::{PASSWORD, Server, User, textgen};
pub use signals::{Signal, is_root, kill};
pub use upstream::{ReceivedRequest, ReplyWriter, Upstream, accept_call};
