//! The parts of the model servers' protocols that textgen parses. No I/O happens here.
//!
//! `chunk` has the parts of a reply that matter for its charge, with the `words` that a `json_walk` finds in odd places, and
//! `usage` the numbers that a server reports. `dialect` names the protocols beside chat, `native` reads their replies, and
//! `event` writes their events. `allowed` has what their requests may hold, as a table, and `shape` checks that. `translate`
//! turns requests into chats, and the replies of chats back. `failure` recognises errors with a success status, and `strict`
//! refuses JSON that different parsers would interpret differently.

pub mod allowed;
pub mod chunk;
pub mod dialect;
pub mod event;
pub mod failure;
pub mod json_walk;
pub mod native;
pub mod shape;
pub mod strict;
pub mod translate;
pub mod usage;
pub mod words;
