//! Model servers, spoken to in OpenAI's HTTP protocol, and the demo engine that stands in for them on a bare machine.
//!
//! `load_balancer` picks a server, `upstream` calls it through the sockets of `transport`, and `reply` is its response.
//! `fetch` downloads a client's `audio_url`, and `address` keeps it from reaching the internal network.

pub mod address;
mod demo;
pub mod fetch;
mod load_balancer;
mod reply;
mod transport;
mod upstream;

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, EngineConfig};
use crate::error::{Error, Result};

use load_balancer::LoadBalancer;
use upstream::Caller;

pub use demo::MODEL as DEMO_MODEL;
pub use fetch::Fetcher;
pub use reply::Reply;
pub(crate) use transport::client_left;

/// Name and value of the header that marks a response of the demo engine.
pub const DEMO_HEADER: (&str, &str) = ("X-Textgen-Engine", "demo");

/// How long a server's list of models is cached.
const MODELS_TTL: Duration = Duration::from_secs(30);
/// Maximum size of a list of models, in bytes.
const MAX_MODEL_LIST: usize = 4 * 1024 * 1024;

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

/// The backend of one kind of request: model servers, the demo engine, or none.
pub struct Engine {
    config: EngineConfig,
    /// The model's name where a request names none and the server lists none.
    fallback_model: &'static str,
    kind: Kind,
    models: Mutex<Option<(Instant, Arc<Vec<Value>>)>>,
}

enum Kind {
    None,
    Demo,
    Servers(LoadBalancer, Caller),
}

/// A request to a model server.
pub struct UpstreamRequest<'a> {
    /// The path, from `/v1/` on.
    pub path: &'static str,
    /// The body's media type.
    pub media_type: &'a str,
    /// The body.
    pub body: Body<'a>,
}

/// The body of an [`UpstreamRequest`].
pub enum Body<'a> {
    /// No body: the request is a `GET`.
    None,
    /// In memory, so it can be sent again to another server.
    Bytes(&'a [u8]),
    /// Read while it is sent. After the first read, no other server can be tried.
    Stream(&'a mut dyn Read),
}

impl Engines {
    /// Creates the configured engines, without contacting any server.
    pub fn new(config: &Config) -> Engines {
        let caller = Caller::new(config.upstream_connect_timeout, config.upstream_timeout);
        let engine = |of: &EngineConfig, fallback_model| {
            let kind = match (of.urls.is_empty(), config.demo_engine) {
                (false, _) => Kind::Servers(LoadBalancer::new(&of.urls), caller.with_key(of.api_key.clone())),
                (true, true) => Kind::Demo,
                (true, false) => Kind::None,
            };
            Engine { config: of.clone(), fallback_model, kind, models: Mutex::default() }
        };
        Engines {
            inference: engine(&config.engines.inference, "default"),
            embeddings: engine(&config.engines.embeddings, "default"),
            transcribe: engine(&config.engines.transcribe, "whisper-1"),
            speech: engine(&config.engines.speech, "tts-1"),
            fetcher: Fetcher::new(&config.audio_url_allow, config.upstream_connect_timeout),
        }
    }
}

impl Engine {
    /// Checks that the engine is configured.
    ///
    /// # Errors
    /// 503 with the setting's name.
    pub fn check(&self) -> Result<()> {
        match self.kind {
            Kind::None => Err(Error::NotConfigured(self.config.variable)),
            _ => Ok(()),
        }
    }

    /// Whether this engine has servers, or the demo engine.
    pub fn is_configured(&self) -> bool {
        self.check().is_ok()
    }

    /// Sends a request and blocks until the head of the response arrives, whatever its status. Call it in
    /// [`blocking::block_in_place`](crate::blocking::block_in_place).
    ///
    /// # Errors
    /// 503 without an engine, 502 when no server answers, 504 when none does in time; the client has left.
    pub fn send(&self, request: UpstreamRequest<'_>) -> Result<Reply> {
        match &self.kind {
            Kind::None => Err(Error::NotConfigured(self.config.variable)),
            Kind::Demo => demo::answer(request),
            Kind::Servers(balancer, caller) => upstream::send(balancer, caller, request),
        }
    }

    /// Runs `work`, which waits for a server, in [`blocking::block_in_place`](crate::blocking::block_in_place); directly for
    /// the demo engine, which never waits.
    ///
    /// # Errors
    /// [`Busy`](crate::blocking::Busy).
    pub fn block_in_place<R>(&self, work: impl FnOnce() -> R) -> std::result::Result<R, crate::blocking::Busy> {
        if let Kind::Demo = self.kind { Ok(work()) } else { crate::blocking::block_in_place(work) }
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

    /// The server's list of models, unchanged and cached. May query the server.
    ///
    /// # Errors
    /// As [`Engine::send`].
    pub fn models(&self) -> Result<Arc<Vec<Value>>> {
        if let Some((at, models)) = &*self.models.lock()
            && at.elapsed() < MODELS_TTL
        {
            return Ok(Arc::clone(models));
        }
        let models = Arc::new(crate::blocking::block_in_place(|| self.fetch_models())??);
        *self.models.lock() = Some((Instant::now(), Arc::clone(&models)));
        Ok(models)
    }

    fn fetch_models(&self) -> Result<Vec<Value>> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Value>,
        }
        let reply = self.send(UpstreamRequest { path: "/v1/models", media_type: "", body: Body::None })?;
        // whisper.cpp's server, for one, has no list.
        if reply.status != 200 {
            return Ok(Vec::new());
        }
        let bytes = reply.into_bytes(MAX_MODEL_LIST)?;
        Ok(serde_json::from_slice::<List>(&bytes).map_or_else(|_| Vec::new(), |list| list.data))
    }
}
