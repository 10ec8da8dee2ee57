//! A provider as it runs: its connections, its health, and its list of models.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

use super::client::HttpClient;
use super::demo;
use super::health::Health;
use super::refused::Refused;
use super::spec::ProviderSpec;

/// How long a list of models is used before it is asked for again.
const MODELS_TTL: Duration = Duration::from_secs(30);
/// The same, of the last known list, while the provider does not answer.
const STALE_MODELS_TTL: Duration = Duration::from_secs(5);

/// Who answers requests: an API server, or the demo engine.
pub struct Provider {
    spec: ProviderSpec,
    health: Arc<Health>,
    client: Option<HttpClient>,
    models: Mutex<Option<ModelList>>,
    refused: Refused,
}

#[derive(Clone)]
struct ModelList {
    models: Arc<Vec<Value>>,
    fresh_until: Instant,
}

impl Provider {
    /// Prepares an API server for calls, without contacting it.
    ///
    /// # Errors
    /// What is wrong with the specification, for the operator: the address, a header, or the file of certificates.
    pub fn new(spec: ProviderSpec) -> std::result::Result<Arc<Provider>, String> {
        let client = HttpClient::new(&spec).map_err(|e| format!("provider {}: {e}", spec.name))?;
        Ok(Provider::with(spec, Some(client)))
    }

    /// The built-in demo engine.
    pub fn demo() -> Arc<Provider> {
        Provider::with(ProviderSpec::new("demo", ""), None)
    }

    fn with(spec: ProviderSpec, client: Option<HttpClient>) -> Arc<Provider> {
        let health = Health::new(&spec.name, spec.max_concurrent);
        Arc::new(Provider { spec, health, client, models: Mutex::default(), refused: Refused::default() })
    }

    /// What it was made from.
    pub fn spec(&self) -> &ProviderSpec {
        &self.spec
    }

    /// Whether it is the demo engine.
    pub fn is_demo(&self) -> bool {
        self.client.is_none()
    }

    /// What calls it; the demo engine has none.
    pub(super) fn client(&self) -> Option<&HttpClient> {
        self.client.as_ref()
    }

    /// What it has refused before.
    pub(super) fn refused(&self) -> &Refused {
        &self.refused
    }

    pub(super) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Its list of models as it sent it, cached; empty where it has none. While it does not answer, the last known list.
    /// May wait for the provider, so it is to be called in [`block_in_place`](crate::blocking::block_in_place).
    ///
    /// # Errors
    /// 502 or 504 when it does not answer and never has; the client has left.
    pub fn models(&self) -> Result<Arc<Vec<Value>>> {
        let Some(client) = &self.client else { return Ok(Arc::new(demo::models())) };
        let last = self.models.lock().clone();
        if let Some(last) = last.as_ref().filter(|last| Instant::now() < last.fresh_until) {
            return Ok(Arc::clone(&last.models));
        }
        let keep = |models: Arc<Vec<Value>>, ttl| {
            let list = ModelList { models: Arc::clone(&models), fresh_until: Instant::now() + ttl };
            *self.models.lock() = Some(list);
            models
        };
        match (client.models().map(|bytes| parse(&bytes)), last) {
            (Ok(models), _) => Ok(keep(Arc::new(models), MODELS_TTL)),
            (Err(Error::ClientLeft), _) => Err(Error::ClientLeft),
            (Err(e), Some(last)) => {
                log::warn!("provider {} does not list its models, the last list is used: {e}", self.spec.name);
                Ok(keep(last.models, STALE_MODELS_TTL))
            }
            (Err(e), None) => Err(e),
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("spec", &self.spec).field("health", &self.health).finish_non_exhaustive()
    }
}

/// The models of a list; none of what is no list, since not every server has one (whisper.cpp's, for one).
fn parse(bytes: &[u8]) -> Vec<Value> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Value>,
    }
    serde_json::from_slice::<List>(bytes).map_or_else(|_| Vec::new(), |list| list.data)
}
