//! Model servers, spoken to in OpenAI's HTTP protocol, and the demo engine that stands in for them on a bare machine.
//!
//! `balance` chooses among several servers, `upstream` calls one, `transport` has the sockets, `reply` is what comes
//! back. `fetch` and `address` get what a client's `audio_url` points to, and nothing from the inner network.

pub mod address;
mod balance;
mod demo;
pub mod fetch;
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

use balance::Balance;
use upstream::Caller;

pub use demo::MODEL as DEMO_MODEL;
pub use fetch::Fetcher;
pub use reply::Reply;
pub(crate) use transport::client_left;

/// The header of a reply that the demo engine made.
pub const MARK: (&str, &str) = ("X-Textgen-Engine", "demo");

/// How long the list of a server's models holds.
const MODELS_HOLD: Duration = Duration::from_secs(30);
/// Largest list of models, in bytes.
const LARGEST_LIST: usize = 4 * 1024 * 1024;

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
    /// Gets what `audio_url` points to.
    pub fetcher: Fetcher,
}

/// What answers requests for one purpose.
pub struct Engine {
    config: EngineConfig,
    /// The model's name where a request names none and the server lists none.
    last_resort: &'static str,
    kind: Kind,
    models: Mutex<Option<(Instant, Arc<Vec<Value>>)>>,
}

enum Kind {
    None,
    Demo,
    Servers(Balance, Caller),
}

/// What a call sends.
pub struct Ask<'a> {
    /// The path, from `/v1/` on.
    pub path: &'static str,
    /// The body's media type.
    pub media_type: &'a str,
    /// The body.
    pub body: Body<'a>,
}

/// The body of a call.
pub enum Body<'a> {
    /// None: it is a `GET`.
    None,
    /// Bytes, which can be sent again to another server.
    Bytes(&'a [u8]),
    /// What is read while it is sent. Once it has been read from, no other server can be tried.
    Stream(&'a mut dyn Read),
}

impl Engines {
    /// The engines that the settings name. Nothing is called yet.
    pub fn new(config: &Config) -> Engines {
        let caller = Caller::new(config.upstream_connect_timeout, config.upstream_timeout);
        let engine = |of: &EngineConfig, last_resort| {
            let kind = match (of.urls.is_empty(), config.demo_engine) {
                (false, _) => Kind::Servers(Balance::new(&of.urls), caller.with_key(of.api_key.clone())),
                (true, true) => Kind::Demo,
                (true, false) => Kind::None,
            };
            Engine { config: of.clone(), last_resort, kind, models: Mutex::default() }
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
    /// Fails if there is no engine for this, before anything is done.
    ///
    /// # Errors
    /// 503 with the setting's name.
    pub fn check(&self) -> Result<()> {
        match self.kind {
            Kind::None => Err(Error::NotConfigured(self.config.variable)),
            _ => Ok(()),
        }
    }

    /// Whether there is one at all.
    pub fn is_configured(&self) -> bool {
        self.check().is_ok()
    }

    /// Calls it; returns with the head of its reply, whatever its status, and waits for that: to be called in a
    /// [`blocking::block_in_place`](crate::blocking::block_in_place).
    ///
    /// # Errors
    /// 503 without an engine, 502 when no server answers, 504 when none does in time; the client has left.
    pub fn send(&self, ask: Ask<'_>) -> Result<Reply> {
        match &self.kind {
            Kind::None => Err(Error::NotConfigured(self.config.variable)),
            Kind::Demo => demo::answer(ask),
            Kind::Servers(balance, caller) => upstream::send(balance, caller, ask),
        }
    }

    /// Runs what waits for a server, in a [`blocking::block_in_place`](crate::blocking::block_in_place). Nobody waits for the demo
    /// engine.
    ///
    /// # Errors
    /// [`Busy`](crate::blocking::Busy).
    pub fn wait<R>(&self, work: impl FnOnce() -> R) -> std::result::Result<R, crate::blocking::Busy> {
        if let Kind::Demo = self.kind { Ok(work()) } else { crate::blocking::block_in_place(work) }
    }

    /// The model of requests that name none. May ask the server.
    pub fn default_model(&self) -> String {
        if let Some(model) = &self.config.model {
            return model.clone();
        }
        let models = self.models().unwrap_or_default();
        let first = models.iter().find_map(|model| model["id"].as_str());
        first.unwrap_or(self.last_resort).to_owned()
    }

    /// The models that the server lists, as it lists them. May ask the server.
    ///
    /// # Errors
    /// As [`Engine::send`].
    pub fn models(&self) -> Result<Arc<Vec<Value>>> {
        if let Some((at, models)) = &*self.models.lock()
            && at.elapsed() < MODELS_HOLD
        {
            return Ok(Arc::clone(models));
        }
        let models = Arc::new(crate::blocking::block_in_place(|| self.ask_for_models())??);
        *self.models.lock() = Some((Instant::now(), Arc::clone(&models)));
        Ok(models)
    }

    fn ask_for_models(&self) -> Result<Vec<Value>> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Value>,
        }
        let reply = self.send(Ask { path: "/v1/models", media_type: "", body: Body::None })?;
        // whisper.cpp's server, for one, has no list.
        if reply.status != 200 {
            return Ok(Vec::new());
        }
        let bytes = reply.into_bytes(LARGEST_LIST)?;
        Ok(serde_json::from_slice::<List>(&bytes).map_or_else(|_| Vec::new(), |list| list.data))
    }
}
