//! Charges are exact: the library's meter on a real database, with everything going wrong that can.

// A failed expectation is what a test is for.
#![allow(missing_docs, unreachable_pub, dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

#[path = "metering/bench.rs"]
mod bench;
#[path = "metering/budgets.rs"]
mod budgets;
#[path = "metering/crash.rs"]
mod crash;
#[path = "metering/exact.rs"]
mod exact;
#[path = "it/harness/mod.rs"]
mod harness;
#[path = "metering/journals.rs"]
mod journals;
#[path = "metering/keys.rs"]
mod keys;
#[path = "metering/outage.rs"]
mod outage;
#[path = "metering/proxy.rs"]
mod proxy;
#[path = "metering/support.rs"]
mod support;
#[path = "metering/totals.rs"]
mod totals;
