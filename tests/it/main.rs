//! Black-box tests: the real binary over HTTP against real PostgreSQL, a database per test.

// Not every test binary uses all of the harness, and tests may panic.
#![allow(missing_docs, unreachable_pub, dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

mod account;
mod addresses;
mod admin;
mod bad_input;
mod bouncer;
mod browsing;
mod catalogue;
mod chaos;
mod credentials;
mod crowds;
mod demo;
mod documents;
mod documents_at_once;
mod documents_limits;
mod engines;
mod exact_usage;
mod exactness;
mod extensions;
mod failover;
mod faults;
mod frozen;
mod generate;
mod harness;
mod house;
mod idempotency;
mod kept_replies;
mod kept_secret;
mod keys;
mod leases;
mod leaving;
mod lifecycle;
mod login;
mod migration;
mod openapi;
mod operations;
mod operator;
mod origins;
mod outage;
mod pages;
mod plans;
mod recordings;
mod replies;
mod retention;
mod revocation;
mod round_trips;
mod routing;
mod sessions;
mod signup;
mod smoke;
mod streams;
mod throttle;
mod tls;
mod usage;
