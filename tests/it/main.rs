//! Black-box tests: the real binary over HTTP against real PostgreSQL, a database per test.

// A harness is for all tests, and a failed expectation is what a test is for.
#![allow(missing_docs, unreachable_pub, dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod harness;
mod openapi;
mod pages;
mod smoke;
