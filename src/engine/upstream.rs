//! One call of a model server over HTTP, and of the next one when it fails before it has begun to answer.

use std::cell::Cell;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::{HeaderMap, Request, Response, Uri, header};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, SendBody, Timeout};

use crate::error::{Error, Result};

use super::load_balancer::{InFlight, LoadBalancer};
use super::reply::Reply;
use super::transport::{client_left, connector};
use super::{Body, UpstreamRequest};

/// Idle connections that are kept, in all and to one server.
const IDLE: usize = 1024;
const IDLE_PER_SERVER: usize = 256;
/// How long an idle connection is kept; many servers end theirs after five seconds or more.
const IDLE_TIME: Duration = Duration::from_secs(4);

const UNREACHABLE: &str = "The model server cannot be reached";

/// What calls servers: the connections, and the key.
#[derive(Clone)]
pub(super) struct Caller {
    agent: Agent,
    authorization: Option<String>,
}

impl Caller {
    pub(super) fn new(connect_timeout: Duration, timeout: Duration) -> Caller {
        let config = Agent::config_builder()
            .timeout_connect(Some(connect_timeout))
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The environment's proxies are for the internet; servers are mostly next door.
            .proxy(None)
            .max_idle_connections(IDLE)
            .max_idle_connections_per_host(IDLE_PER_SERVER)
            .max_idle_age(IDLE_TIME)
            .user_agent(concat!("textgen/", env!("CARGO_PKG_VERSION")))
            .build();
        Caller { agent: Agent::with_parts(config, connector(), Numbers::default()), authorization: None }
    }

    /// The same connections with a key.
    pub(super) fn with_key(&self, key: Option<String>) -> Caller {
        Caller { agent: self.agent.clone(), authorization: key.map(|key| format!("Bearer {key}")) }
    }

    fn call(
        &self,
        url: &str,
        media_type: &str,
        body: &mut Body<'_>,
    ) -> std::result::Result<Response<ureq::Body>, ureq::Error> {
        let mut request = Request::builder().uri(url);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if !media_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        match body {
            Body::None => self.agent.run(request.method("GET").body(())?),
            Body::Bytes(bytes) => self.agent.run(request.method("POST").body(*bytes)?),
            Body::Stream(reader) => self.agent.run(request.method("POST").body(SendBody::from_reader(reader))?),
        }
    }
}

/// Calls the least busy server, and another one for as long as one fails before it answers.
pub(super) fn send(balancer: &LoadBalancer, caller: &Caller, request: UpstreamRequest<'_>) -> Result<Reply> {
    let touched = Cell::new(false);
    let mut tracked;
    let mut body = match request.body {
        Body::Stream(reader) => {
            tracked = Tracked { reader, touched: &touched };
            Body::Stream(&mut tracked)
        }
        Body::Bytes(bytes) => Body::Bytes(bytes),
        Body::None => Body::None,
    };
    let mut failed = Vec::new();
    // A connection that was kept may have ended just now: with one server, a new connection tells.
    let mut again = balancer.len() == 1;
    let mut last = Error::Upstream(502, UNREACHABLE);
    while let Some(in_flight) = balancer.choose(&failed) {
        let began = Instant::now();
        let outcome = caller.call(&format!("{}{}", in_flight.base(), request.path), request.media_type, &mut body);
        failed.push(in_flight.index);
        let may_go_on = failed.len() < balancer.len() && !touched.get();
        match outcome {
            Ok(response) => {
                let reply = reply(response, began, in_flight);
                if !(may_go_on && is_unable(&reply)) {
                    return Ok(reply);
                }
            }
            Err(_) if client_left() => return Err(Error::ClientLeft),
            Err(e) if !touched.get() && is_disconnect(&e) && std::mem::take(&mut again) => failed.clear(),
            Err(e) => {
                in_flight.failed(&e);
                last = failure(&e);
                if touched.get() || is_late(&e) {
                    break;
                }
            }
        }
    }
    Err(last)
}

fn reply(response: Response<ureq::Body>, began: Instant, in_flight: InFlight) -> Reply {
    let status = response.status().as_u16();
    match status {
        502..=504 => in_flight.failed(&format_args!("status {status}")),
        _ => in_flight.succeeded(),
    }
    let text = |headers: &HeaderMap, name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let content_type = text(response.headers(), header::CONTENT_TYPE).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let retry_after = text(response.headers(), header::RETRY_AFTER).and_then(|v| v.parse().ok());
    let body = Box::new(response.into_body().into_reader());
    Reply { status, media_type, content_type, is_demo: false, retry_after, began, body, in_flight: Some(in_flight) }
}

/// Whether another server may be able to do what this one is not able to do now.
fn is_unable(reply: &Reply) -> bool {
    matches!(reply.status, 429 | 502..=504)
}

/// Whether the time for the whole call is over.
fn is_late(e: &ureq::Error) -> bool {
    matches!(e, ureq::Error::Timeout(reason) if *reason != Timeout::Connect)
}

fn is_disconnect(e: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(e, ureq::Error::Io(e)
        if matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}

fn failure(e: &ureq::Error) -> Error {
    match e {
        _ if is_late(e) => Error::Upstream(504, "The model server took too long"),
        ureq::Error::Protocol(_) => Error::Upstream(502, "The model server answered nonsense"),
        _ => Error::Upstream(502, UNREACHABLE),
    }
}

/// A body that knows whether it was read from.
struct Tracked<'a> {
    reader: &'a mut dyn Read,
    touched: &'a Cell<bool>,
}

impl Read for Tracked<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.touched.set(true);
        self.reader.read(out)
    }
}

/// Names to addresses. An address in numbers, which is what most servers have, is taken as it is; the usual resolver
/// would start a thread for it.
#[derive(Debug, Default)]
struct Numbers(DefaultResolver);

impl Resolver for Numbers {
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
