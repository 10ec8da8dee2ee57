//! The protocols that model servers speak, as far as textgen looks into them. Pure: no sockets, no database.
//!
//! `usage` reads the numbers that a server reports, `failure` recognises errors that are sent as successes, and `strict`
//! refuses bodies that two readers would read differently.

pub mod failure;
pub mod strict;
pub mod usage;
