//! Black-box tests: the real binary over HTTP against real PostgreSQL, a database per test.

mod harness;
mod smoke;
