//! The parts of the model servers' protocols that textgen parses. No I/O happens here.
//!
//! `usage` reads the usage that a server reports, `failure` recognises errors with a success status, and `strict`
//! refuses JSON that different parsers would interpret differently.

pub mod failure;
pub mod strict;
pub mod usage;
