//! Requests to one provider over HTTP.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, SendBody};

use crate::error::{Error, Result};
use crate::traces::Outgoing;
use crate::version;

use super::buffers;
use super::spec::{Protocol, ProviderSpec, Timeouts};
use super::transport::{self, client_left, connector};

/// Idle connections that are kept to one provider.
const IDLE: usize = 256;
/// How long an idle connection is kept; many servers end theirs after five seconds or more.
const IDLE_TIME: Duration = Duration::from_secs(4);
/// Maximum size of a list of models, in bytes.
const MAX_MODEL_LIST: u64 = 4 * 1024 * 1024;
/// How long a list of models may take.
const MODEL_LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// The message for a provider without which nothing can be answered.
pub const UNREACHABLE: &str = "The model server cannot be reached";

/// The connections to one provider, and what every request to it carries.
pub(super) struct HttpClient {
    kept: Agent,
    /// Keeps no connections, nor uses any of those that are kept.
    new: Agent,
    base_url: String,
    /// What follows the path, such as `?api-version=…`; mostly nothing.
    query: String,
    headers: HeaderMap,
    /// The same for the routes of the Messages protocol, which have the key in another header.
    headers_of_messages: HeaderMap,
    timeouts: Timeouts,
}

/// Which connections a request may use.
#[derive(Clone, Copy, Debug)]
pub(super) enum Connections {
    /// One that was kept, if there is any.
    Kept,
    /// Only a new one.
    New,
}

/// What one request carries beside its body and what every request does.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) path: &'a str,
    pub(super) media_type: &'a str,
    pub(super) request_id: Option<&'a str>,
    pub(super) trace: Option<&'a Outgoing>,
    /// Of the request's own protocol.
    pub(super) headers: &'a [(&'static str, String)],
}

/// The body of one request.
pub(super) enum Content<'a> {
    Bytes(&'a [u8]),
    Stream(&'a mut dyn Read),
}

impl HttpClient {
    /// # Errors
    /// What is wrong with the specification.
    pub(super) fn new(spec: &ProviderSpec) -> std::result::Result<HttpClient, String> {
        let (base_url, query) = address(&spec.base_url)?;
        let timeouts = spec.timeouts;
        let tls = match &spec.ca_file {
            Some(file) => TlsConfig::builder().root_certs(certificates(file)?).build(),
            None => TlsConfig::default(),
        };
        let config = |idle| {
            Agent::config_builder()
                .timeout_resolve(Some(timeouts.connect))
                .timeout_connect(Some(timeouts.connect))
                .timeout_recv_response(Some(timeouts.first_byte))
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                // The environment's proxies are for the internet; servers are mostly next door.
                .proxy(None)
                .max_idle_connections_per_host(IDLE)
                .max_idle_age(IDLE_TIME)
                .user_agent(version::USER_AGENT)
                .tls_config(tls.clone())
                .max_idle_connections(idle)
                .input_buffer_size(buffers::MOST)
                .output_buffer_size(buffers::MOST)
                .build()
        };
        let agent = |idle| Agent::with_parts(config(idle), connector(timeouts.idle), AddressResolver::default());
        let headers = headers(spec)?;
        let headers_of_messages = headers_of_messages(spec, &headers);
        Ok(HttpClient { kept: agent(IDLE), new: agent(0), base_url, query, headers, headers_of_messages, timeouts })
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Sends a `POST` and waits for the head of the response.
    pub(super) fn post(
        &self,
        connections: Connections,
        head: &Head<'_>,
        content: &mut Content<'_>,
    ) -> std::result::Result<Response<ureq::Body>, ureq::Error> {
        let Head { path, media_type, request_id, trace, headers } = *head;
        // Base addresses have it.
        let path = path.strip_prefix("/v1").unwrap_or(path);
        let mut request = self.request(path).method("POST").header(header::CONTENT_TYPE, media_type);
        if let Some(id) = request_id {
            request = request.header("X-Request-Id", id);
        }
        for (name, value) in trace.into_iter().flat_map(Outgoing::headers) {
            request = request.header(name, value);
        }
        // What the provider is sent with each request is the operator's choice.
        for (name, value) in headers.iter().filter(|(name, _)| !self.headers.contains_key(*name)) {
            request = request.header(*name, value);
        }
        let agent = match connections {
            Connections::Kept => &self.kept,
            Connections::New => &self.new,
        };
        match content {
            Content::Bytes(bytes) => agent.run(request.body(*bytes)?),
            Content::Stream(reader) => agent.run(request.body(SendBody::from_reader(reader))?),
        }
    }

    /// What the provider sends as its list of models; `None` when it has none for this server. Waits for
    /// [`MODEL_LIST_TIMEOUT`] at most.
    ///
    /// # Errors
    /// 502 or 504 when it does not answer as it should; the client has left.
    pub(super) fn models(&self) -> Result<Option<Vec<u8>>> {
        let time = self.timeouts.first_byte.min(self.timeouts.total).min(MODEL_LIST_TIMEOUT);
        transport::with_deadline(time, || {
            let response = self.kept.run(self.request("/models").body(()).map_err(|e| failure(&e.into()))?);
            let response = response.map_err(|e| failure(&e))?;
            match response.status().as_u16() {
                200 => {}
                400 | 404 | 405 | 501 => return Ok(None),
                // It has a list. Without it, a client could call any of its models at one price.
                403 => return Err(Error::Upstream(502, "The provider's key may not list its models: name the model")),
                401 => return Err(Error::Upstream(502, "The model server does not accept this server's key")),
                _ => return Err(Error::Upstream(502, "The model server does not list its models")),
            }
            let mut bytes = Vec::new();
            let mut body = response.into_body().into_reader().take(MAX_MODEL_LIST + 1);
            body.read_to_end(&mut bytes).map_err(|e| failure(&ureq::Error::Io(e)))?;
            match bytes.len() as u64 > MAX_MODEL_LIST {
                true => Err(Error::Upstream(502, "The model server's list of models is too long")),
                false => Ok(Some(bytes)),
            }
        })
    }

    fn request(&self, path: &str) -> ureq::http::request::Builder {
        let mut request = Request::builder().uri([&self.base_url, path, &self.query].concat());
        let own = if path.starts_with(MESSAGES) { &self.headers_of_messages } else { &self.headers };
        if let Some(headers) = request.headers_mut() {
            headers.extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        request
    }
}

/// The parts of a base address that stand before and behind the path of a request.
fn address(base_url: &str) -> std::result::Result<(String, String), String> {
    let uri: Uri = base_url.parse().map_err(|_| "the address is not valid".to_owned())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err("the address must start with http:// or https:// and name a host".to_owned());
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("the address must not hold a user name or a password, which headers can".to_owned());
    }
    let (before, query) = base_url.split_at(base_url.find('?').unwrap_or(base_url.len()));
    Ok((before.trim_end_matches('/').to_owned(), query.to_owned()))
}

/// Headers that say where a request ends, or what is done with the connection.
const FRAMING: [HeaderName; 5] =
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::EXPECT, header::UPGRADE];

fn headers(spec: &ProviderSpec) -> std::result::Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let value = |text: &str, what: &str| {
        let mut value =
            HeaderValue::from_str(text).map_err(|_| format!("{what} holds characters that no header may have"))?;
        value.set_sensitive(true);
        Ok::<_, String>(value)
    };
    if let Some(key) = &spec.api_key {
        headers.insert(header::AUTHORIZATION, value(&format!("Bearer {}", key.reveal()), "the API key")?);
    }
    for (name, text) in &spec.headers {
        let parsed = name.parse::<HeaderName>().map_err(|_| format!("{name} is no name of a header"))?;
        if FRAMING.contains(&parsed) {
            return Err(format!("the header {name} cannot be set"));
        }
        headers.insert(parsed, value(text.reveal(), name)?);
    }
    Ok(headers)
}

/// The routes of the Messages protocol.
const MESSAGES: &str = "/messages";

/// The same headers with the key in `x-api-key` too, as the Messages protocol has it. A provider that has none of OpenAI's
/// protocols gets it only there: it may refuse a request with two keys.
fn headers_of_messages(spec: &ProviderSpec, headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    let key = spec.api_key.as_ref().and_then(|key| HeaderValue::from_str(key.reveal()).ok());
    let Some(mut key) = key.filter(|_| !headers.contains_key("x-api-key")) else { return headers };
    key.set_sensitive(true);
    headers.insert("x-api-key", key);
    if ![Protocol::Chat, Protocol::Responses].into_iter().any(|openai| spec.protocols.has(openai)) {
        headers.remove(header::AUTHORIZATION);
    }
    headers
}

fn certificates(file: &Path) -> std::result::Result<RootCerts, String> {
    let pem = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| format!("{}: {e}", file.display()))? {
            certificates.push(certificate);
        }
    }
    match certificates.is_empty() {
        true => Err(format!("{} holds no certificate", file.display())),
        false => Ok(RootCerts::new_with_certs(&certificates)),
    }
}

/// What a failed request means to the client.
pub(super) fn failure(e: &ureq::Error) -> Error {
    match e {
        _ if client_left() => Error::ClientLeft,
        _ if is_timeout(e) => Error::Upstream(504, "The model server took too long"),
        ureq::Error::Protocol(_) => Error::Upstream(502, "The model server answered nonsense"),
        _ => Error::Upstream(502, UNREACHABLE),
    }
}

/// Whether the provider took too long.
fn is_timeout(e: &ureq::Error) -> bool {
    match e {
        ureq::Error::Timeout(reason) => *reason != ureq::Timeout::Connect,
        ureq::Error::Io(e) => transport::is_timeout(e),
        _ => false,
    }
}

/// Whether the connection ended, as one that was kept idle may.
pub(super) fn is_disconnect(e: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(e, ureq::Error::Io(e)
        if matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}

/// Whether this process or machine has run out of something.
pub(super) fn is_shortage(e: &ureq::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];
    matches!(e, ureq::Error::Io(e) if shortages.iter().any(|errno| e.raw_os_error() == Some(errno.raw_os_error())))
}

/// Resolves names. An IP address, which is what most servers have, is taken as it is; the usual resolver would start a
/// thread for it.
#[derive(Debug, Default)]
struct AddressResolver(DefaultResolver);

impl Resolver for AddressResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or("").trim_matches(['[', ']']);
        let Ok(ip) = host.parse::<IpAddr>() else { return self.0.resolve(uri, config, timeout) };
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let mut addresses = self.empty();
        addresses.push(SocketAddr::new(ip, uri.port_u16().unwrap_or(usual)));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::Hidden;
    use super::*;

    #[test]
    fn a_path_is_appended_to_the_address() {
        let url = |base: &str| {
            let client = HttpClient::new(&ProviderSpec::new("a", base)).unwrap();
            client.request("/chat/completions").body(()).unwrap().uri().to_string()
        };
        assert_eq!(url("http://h:1/v1"), "http://h:1/v1/chat/completions");
        assert_eq!(url("https://h/v1beta/openai/"), "https://h/v1beta/openai/chat/completions");
        assert_eq!(url("https://h"), "https://h/chat/completions");
        assert_eq!(url("https://h/d?api-version=1"), "https://h/d/chat/completions?api-version=1");
    }

    #[test]
    fn what_cannot_be_called_is_refused_without_a_secret_in_the_message() {
        let problem = |change: &dyn Fn(&mut ProviderSpec)| {
            let mut spec = ProviderSpec::new("a", "http://h/v1");
            change(&mut spec);
            let problem = HttpClient::new(&spec).err().expect("it is refused");
            assert!(!problem.contains("hunter2"), "{problem}");
        };
        for base in ["", "h:1", "ftp://h", "http://", "http:///v1", "http://u:hunter2@h/", "http://a b/"] {
            problem(&|spec| base.clone_into(&mut spec.base_url));
        }
        problem(&|spec| spec.api_key = Some(Hidden::new("hunter2\n")));
        problem(&|spec| spec.headers = vec![("X-Key".into(), Hidden::new("hunter2\r\nHost: x"))]);
        problem(&|spec| spec.headers = vec![("a b".into(), Hidden::new("x"))]);
        problem(&|spec| spec.headers = vec![("Content-Length".into(), Hidden::new("3"))]);
        problem(&|spec| spec.ca_file = Some("/nowhere/ca.pem".into()));
    }

    #[test]
    fn headers_are_sent_and_may_replace_the_key() {
        let mut spec = ProviderSpec::new("a", "http://h/v1");
        spec.api_key = Some(Hidden::new("one"));
        let header = |spec: &ProviderSpec, name: &str| {
            let request = HttpClient::new(spec).unwrap().request("/x").body(()).unwrap();
            request.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(header(&spec, "authorization").as_deref(), Some("Bearer one"));
        spec.headers = vec![("Authorization".into(), Hidden::new("Basic x")), ("X-Team".into(), Hidden::new("y"))];
        assert_eq!(header(&spec, "authorization").as_deref(), Some("Basic x"));
        assert_eq!(header(&spec, "x-team").as_deref(), Some("y"));
    }

    #[test]
    fn messages_have_the_key_in_a_header_of_their_own() {
        let keys = |protocols: &[Protocol], path: &str| {
            let mut spec = ProviderSpec::new("a", "http://h/v1");
            spec.api_key = Some(Hidden::new("one"));
            spec.protocols = protocols.iter().copied().collect();
            let request = HttpClient::new(&spec).unwrap().request(path).body(()).unwrap();
            ["authorization", "x-api-key"]
                .map(|name| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned()))
        };
        let (bearer, bare) = (Some("Bearer one".to_owned()), Some("one".to_owned()));
        assert_eq!(keys(&Protocol::ALL, "/chat/completions"), [bearer.clone(), None]);
        assert_eq!(keys(&Protocol::ALL, "/messages"), [bearer, bare.clone()]);
        assert_eq!(keys(&[Protocol::Messages], "/messages/count_tokens"), [None, bare]);
    }
}
