//! The connection layer alone, over real sockets, with closures for handlers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::option_option, unreachable_pub, missing_docs)]

mod bodies;
mod client;
mod deadlines;
mod deferred;
mod garbage;
mod limits;
mod memory;
mod protocol;
mod scheduling;
mod stop;
mod strict;
