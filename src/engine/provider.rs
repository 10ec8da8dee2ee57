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
        self.models_at(Instant::now())
    }

    fn models_at(&self, now: Instant) -> Result<Arc<Vec<Value>>> {
        let Some(client) = &self.client else { return Ok(Arc::new(demo::models())) };
        let last = self.models.lock().clone();
        if let Some(last) = last.as_ref().filter(|last| now < last.fresh_until) {
            return Ok(Arc::clone(&last.models));
        }
        let keep = |models: Arc<Vec<Value>>, ttl| {
            let list = ModelList { models: Arc::clone(&models), fresh_until: now + ttl };
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with this list of models, and is not there any more then.
    fn list_once(body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            drop(listener);
            let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
            assert_eq!(head.next().unwrap().unwrap(), "GET /v1/models HTTP/1.1");
            while !head.next().unwrap().unwrap().is_empty() {}
            let length = body.len();
            write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
        });
        url
    }

    #[test]
    fn the_last_list_of_models_is_used_while_there_is_no_other() {
        let provider = Provider::new(ProviderSpec::new("a", list_once(r#"{"data":[{"id":"m"}]}"#))).unwrap();
        let now = Instant::now();
        let is_known = |models: Result<Arc<Vec<Value>>>| models.unwrap()[0]["id"] == "m";
        assert!(is_known(provider.models_at(now)));
        assert!(is_known(provider.models_at(now + MODELS_TTL / 2)), "cached");
        assert!(is_known(provider.models_at(now + 2 * MODELS_TTL)), "stale");
        assert!(is_known(provider.models_at(now + 100 * MODELS_TTL)), "still");
    }

    #[test]
    fn without_a_list_there_are_no_models_and_without_a_server_an_error() {
        let provider = Provider::new(ProviderSpec::new("a", list_once("<html>"))).unwrap();
        let now = Instant::now();
        assert!(provider.models_at(now).unwrap().is_empty());
        let provider = Provider::new(ProviderSpec::new("b", "http://127.0.0.1:1/v1")).unwrap();
        assert_eq!(provider.models_at(now).unwrap_err().status(), 502);
    }
}
