//! textgen: accounts, API keys, documents and exact usage metering behind AI API servers.
//!
//! Three servers (web, inference, audio) over one PostgreSQL database. A request goes one way: `server` reads it,
//! `http` parses it, a role's router picks a handler, `auth` names the caller, the handler asks `store` through a
//! `db` session, and a reply goes back. A module imports only from those above it in this list.

pub mod blocking;

pub mod memory_budget;

pub mod csv;
pub mod hex;
pub mod http;
pub mod memory;
pub mod repeating;
pub mod sealing;
pub mod system_limits;
pub mod version;
pub mod wav;

pub mod media;

pub mod config;

pub mod telemetry;

pub mod traces;

pub mod db;

pub mod money;
pub mod units;

pub mod server;

pub mod store;

pub mod protocol;

pub mod logging;

pub mod error;

pub mod limits;

pub mod auth;
pub mod usage;

pub mod mail;

pub mod accounts;

pub mod billing;

pub mod engine;

pub mod catalogue;

pub mod webhooks;

pub mod background;
pub mod notifications;

pub mod app;

pub mod call;

pub mod operation;

pub mod gateway;
pub mod openapi;

pub mod audio;
pub mod common;
pub mod inference;
pub mod web;

pub mod api;

pub mod dispatch;

pub mod scrape;

pub mod startup;

pub mod backup;
pub mod doctor;

pub mod cli;
