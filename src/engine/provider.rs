//! A provider as it runs: its connections, its health, and its list of models.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;

use crate::error::Result;

use super::client::HttpClient;
use super::demo;
use super::health::Health;
use super::model_list::{self, ListedModel};
use super::refused::Refused;
use super::spec::ProviderSpec;

/// Who answers requests: an API server, or the demo engine.
pub struct Provider {
    spec: ProviderSpec,
    health: Arc<Health>,
    client: Option<HttpClient>,
    refused: Refused,
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
        Arc::new(Provider { spec, health, client, refused: Refused::default() })
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

    /// What keeps it from being called now, if anything does; for the operator.
    pub fn problem(&self) -> Option<String> {
        let left = self.health.cool_down(Instant::now())?;
        Some(format!("it failed, and is tried again in {} s", left.as_secs() + 1))
    }

    /// When it failed last since this process started, and how; for the operator.
    pub fn last_error(&self) -> Option<(OffsetDateTime, String)> {
        self.health.last_error()
    }

    /// How many of its calls are in flight.
    pub fn in_flight(&self) -> u32 {
        self.health.in_flight()
    }

    /// Asks for its list of models; `None` where it has none, or keeps it from this server. Waits for the provider, for ten
    /// seconds at most.
    ///
    /// # Errors
    /// 502 or 504 when it does not answer as it should.
    pub fn models(&self) -> Result<Option<Vec<ListedModel>>> {
        match &self.client {
            Some(client) => Ok(client.models()?.and_then(|bytes| model_list::parse(&bytes))),
            None => Ok(model_list::parse(demo::models().as_bytes())),
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("spec", &self.spec).field("health", &self.health).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request for a list of models with this status and body.
    fn list_once(status: u16, body: &'static str) -> Arc<Provider> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
            assert_eq!(head.next().unwrap().unwrap(), "GET /v1/models HTTP/1.1");
            while !head.next().unwrap().unwrap().is_empty() {}
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close", body.len());
            write!(&stream, "{head}\r\n\r\n{body}").unwrap();
        });
        Provider::new(ProviderSpec::new("a", url)).unwrap()
    }

    #[test]
    fn a_list_no_list_and_no_answer_are_told_apart() {
        let list = r#"{"data":[{"id":"m"}]}"#;
        assert_eq!(list_once(200, list).models().unwrap().unwrap()[0].id, "m");
        assert!(list_once(200, r#"{"data":[]}"#).models().unwrap().unwrap().is_empty());
        for (status, body) in [(200, "<html>"), (404, list), (405, ""), (501, "")] {
            assert!(list_once(status, body).models().unwrap().is_none(), "{status}");
        }
        for status in [401, 403, 429, 500, 502] {
            assert_eq!(list_once(status, list).models().unwrap_err().status(), 502, "{status}");
        }
        let nobody = Provider::new(ProviderSpec::new("b", "http://127.0.0.1:1/v1")).unwrap();
        assert_eq!(nobody.models().unwrap_err().status(), 502);
        assert_eq!(Provider::demo().models().unwrap().unwrap()[0].id, demo::MODEL);
    }
}
