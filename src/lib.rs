//! textgen: accounts, API keys, documents and exact usage metering behind AI API servers.
//!
//! Three servers (web, inference, audio) over one PostgreSQL database. A request goes one way: `server` reads it,
//! `http` parses it, a role's router picks a handler, `auth` names the caller, the handler asks `store` through a
//! `db` session, and a reply goes back. A module imports only from those above it in this list.

pub mod blocking;
pub mod http;
pub mod server;
