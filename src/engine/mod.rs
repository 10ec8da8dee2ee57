//! Providers: model servers, spoken to in OpenAI's HTTP protocol, and the demo engine that stands in for them on a bare
//! machine.
//!
//! `spec` says what a provider is, `provider` keeps its connections (`client`) and its `health`. `routes` picks one for a
//! call, `attempts` tries it and then others, each with an `attempt` through the sockets of `transport`; `reply` is what
//! comes back. `refused` remembers what a provider does not know. `fetch`
//! downloads a client's `audio_url`, and `address` keeps it from reaching the internal network.

pub mod address;
mod attempt;
mod attempts;
mod client;
mod demo;
pub mod fetch;
mod health;
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

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::config::{Config, EngineConfig};
use crate::error::{Error, Result};

pub use attempts::send;
pub use demo::MODEL as DEMO_MODEL;
pub use fetch::Fetcher;
pub use provider::Provider;
pub use reply::Reply;
pub use request::{
    Body, Extensions, Form, StreamedForm, USAGE_AT_THE_END, USAGE_WITH_EACH_PIECE, UpstreamRequest, Variant,
};
pub use routes::{Route, Routes};
pub use spec::{Hidden, Protocol, Protocols, ProviderSpec, Timeouts};
pub(crate) use transport::client_left;

/// Name and value of the header that marks a response of the demo engine.
pub const DEMO_HEADER: (&str, &str) = ("X-Textgen-Engine", "demo");

/// The engines of one process.
pub struct Engines {
    /// Text.
    pub inference: Engine,
    /// Vectors.
    pub embeddings: Engine,
    /// Speech to text.
    pub transcribe: Engine,
    /// Text to speech.
    pub speech: Engine,
    /// Downloads the files that `audio_url` points to.
    pub fetcher: Fetcher,
}

/// The backend of one kind of request: the routes to the configured servers or to the demo engine, or none.
pub struct Engine {
    config: EngineConfig,
    /// The model's name where a request names none and the server lists none.
    fallback_model: &'static str,
    routes: Routes,
}

impl Engines {
    /// Creates the configured engines, without contacting any server.
    ///
    /// # Errors
    /// What is wrong with a server's address, for the operator.
    pub fn new(config: &Config) -> std::result::Result<Engines, String> {
        let engine = |of: &EngineConfig, fallback_model| {
            let routes = Routes::new(routes(config, of)?);
            Ok::<_, String>(Engine { config: of.clone(), fallback_model, routes })
        };
        Ok(Engines {
            inference: engine(&config.engines.inference, "default")?,
            embeddings: engine(&config.engines.embeddings, "default")?,
            transcribe: engine(&config.engines.transcribe, "whisper-1")?,
            speech: engine(&config.engines.speech, "tts-1")?,
            fetcher: Fetcher::new(&config.audio_url_allow, config.upstream_connect_timeout),
        })
    }
}

fn routes(config: &Config, engine: &EngineConfig) -> std::result::Result<Vec<Route>, String> {
    if engine.urls.is_empty() {
        return Ok(config.demo_engine.then(|| Route::to(Provider::demo())).into_iter().collect());
    }
    let timeouts = Timeouts {
        connect: config.upstream_connect_timeout,
        first_byte: match config.upstream_first_byte_timeout {
            Duration::ZERO => config.upstream_timeout,
            time => time,
        },
        idle: config.upstream_idle_timeout,
        total: config.upstream_timeout,
    };
    let route = |url: &String| {
        let mut spec = ProviderSpec::new(url, base_url(url));
        spec.api_key = engine.api_key.clone().map(Hidden::new);
        spec.ca_file.clone_from(&config.upstream_ca_file);
        spec.timeouts = timeouts;
        spec.max_concurrent = Some(config.upstream_max_concurrent).filter(|most| *most > 0);
        Ok(Route::to(Provider::new(spec).map_err(|e| format!("{}: {e}", engine.variable))?))
    };
    engine.urls.iter().map(route).collect()
}

/// The base address of a configured server. One that names a version, such as `…/v1beta/openai`, is taken as it is;
/// `/v1` is appended to others.
fn base_url(url: &str) -> String {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let is_version = |part: &str| {
        part.strip_prefix('v').is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit()))
    };
    if path.split('/').any(is_version) { url.to_owned() } else { format!("{url}/v1") }
}

impl Engine {
    /// Checks that the engine is configured.
    ///
    /// # Errors
    /// 503 with the setting's name.
    pub fn check(&self) -> Result<()> {
        if self.routes.is_empty() { Err(Error::NotConfigured(self.config.variable)) } else { Ok(()) }
    }

    /// Whether this engine has servers, or the demo engine.
    pub fn is_configured(&self) -> bool {
        self.check().is_ok()
    }

    /// Sends a request and blocks until the head of the response arrives, whatever its status. Call it in
    /// [`blocking::block_in_place`](crate::blocking::block_in_place).
    ///
    /// # Errors
    /// 503 without an engine; those of [`send`].
    pub fn send(&self, request: UpstreamRequest<'_>) -> Result<Reply> {
        self.check()?;
        send(&self.routes, request)
    }

    /// Runs `work`, which waits for a server, in [`blocking::block_in_place`](crate::blocking::block_in_place); directly for
    /// the demo engine, which never waits.
    ///
    /// # Errors
    /// [`Busy`](crate::blocking::Busy).
    pub fn block_in_place<R>(&self, work: impl FnOnce() -> R) -> std::result::Result<R, crate::blocking::Busy> {
        match self.routes.iter().all(|route| route.provider.is_demo()) {
            true => Ok(work()),
            false => crate::blocking::block_in_place(work),
        }
    }

    /// The model for requests that name none. May query the server.
    pub fn default_model(&self) -> String {
        if let Some(model) = &self.config.model {
            return model.clone();
        }
        let models = self.models().unwrap_or_default();
        let first = models.iter().find_map(|model| model["id"].as_str());
        first.unwrap_or(self.fallback_model).to_owned()
    }

    /// The servers' list of models: that of the first one that answers, unchanged and cached. May query the servers.
    ///
    /// # Errors
    /// As [`Engine::send`].
    pub fn models(&self) -> Result<Arc<Vec<Value>>> {
        self.check()?;
        let mut last = Error::Busy;
        for route in self.routes.iter() {
            match self.block_in_place(|| route.provider.models())? {
                Err(e) if !matches!(e, Error::ClientLeft) => last = e,
                outcome => return outcome,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_in_an_address_is_kept() {
        for (url, base) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
            ("https://h/openai", "https://h/openai/v1"),
            ("https://h/v1beta/openai", "https://h/v1beta/openai"),
            ("https://h/api/v4", "https://h/api/v4"),
            ("https://v2.example.com/vision", "https://v2.example.com/vision/v1"),
        ] {
            assert_eq!(base_url(url), base);
        }
    }
}
