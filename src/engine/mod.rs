//! Providers: model servers, spoken to in OpenAI's HTTP protocol, and the demo engine that stands in for them on a bare
//! machine.
//!
//! `spec` says what a provider is, `provider` keeps its connections (`client`) and its `health`, and asks for its
//! `model_list`. `routes` picks one for a call, `attempts` tries it and then others, each with an `attempt` through the
//! sockets of `transport` and their `buffers`; `decoding` undoes what compresses a reply, and `reply` is what comes back.
//! `refused` remembers what a provider does not know, and `hidden_output` what its models do not show; `calls` counts how
//! calls ended. `fetch` downloads a client's `audio_url`, and `address` keeps it
//! from reaching the internal network.

pub mod address;
mod attempt;
mod attempts;
mod buffers;
pub mod calls;
mod client;
mod decoding;
mod demo;
pub mod fetch;
mod health;
mod hidden_output;
mod model_list;
pub mod post;
mod provider;
mod refused;
mod reply;
mod request;
mod retry_after;
mod routes;
#[cfg(test)]
mod routes_tests;

mod spec;
mod transport;
mod upload;

pub use attempts::send;
pub use client::UNREACHABLE;
pub use demo::MODEL as DEMO_MODEL;
pub use fetch::Fetcher;
pub use model_list::{ListedModel, MAX_MODEL_NAME, is_model_name};
pub use post::Poster;
pub use provider::Provider;
pub use reply::{ReadError, Reply, UNREFUSED, Unread};
pub use request::{
    Body, CONTINUOUS_USAGE, COUNT_TOKENS, Extensions, Form, INCLUDE_USAGE, StreamedForm, USAGE_WITH_EACH_PIECE,
    UpstreamRequest, Variant,
};
pub use routes::{Route, Routes};
pub use spec::{Hidden, Protocol, Protocols, ProviderSpec, Timeouts};
pub(crate) use transport::client_left;

/// Name and value of the header that marks a response of the demo engine.
pub const DEMO_HEADER: (&str, &str) = ("X-Textgen-Engine", "demo");
