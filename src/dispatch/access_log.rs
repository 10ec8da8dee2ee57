//! What is recorded of a request once its reply is complete: its figures, and a line in the access log. A stream is recorded
//! at its end, and a request whose connection ends while its reply waits as one with the status 499.

use std::any::Any;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::Level;

use super::shown_path::shown;
use crate::app::App;
use crate::auth::client;
use crate::call::Role;
use crate::http::{Content, Method, Request, Response};
use crate::logging;
use crate::telemetry::{LEFT, RequestMetrics};
use crate::traces::{self, Description, RequestTrace};

/// The target of its lines.
const TARGET: &str = "access";

/// Whether the access log is written.
pub(super) fn is_enabled() -> bool {
    log::log_enabled!(target: TARGET, Level::Info)
}

/// A request that is to be recorded.
pub(super) struct Entry {
    metrics: &'static RequestMetrics,
    began: Instant,
    id: Arc<str>,
    trace: Option<Box<RequestTrace>>,
    /// Its line, if the log is enabled.
    line: Option<Line>,
    is_recorded: bool,
}

/// A line in the making. It never has the query, a header or a body, which may hold secrets; nor what looks like one in the
/// path.
struct Line {
    server: &'static str,
    method: Method,
    path: String,
    client: String,
    user: String,
    /// Tokens that were charged.
    tokens: u64,
}

/// What dispatching has found out about a request for its record.
pub(super) struct Measured {
    /// What is counted of its operation.
    pub(super) metrics: &'static RequestMetrics,
    /// The caller's account, if the log needs it.
    pub(super) user_id: Option<String>,
}

/// What was sent of a reply.
#[derive(Default)]
struct Sent {
    /// Bytes of the body.
    bytes: u64,
    /// When the first of them was there, if it was not with the last.
    first: Option<Instant>,
    is_cut: bool,
}

impl Entry {
    /// For a request that arrived at `began`.
    pub(super) fn new(
        app: &App,
        role: Role,
        request: &Request,
        began: Instant,
        id: Arc<str>,
        trace: Option<Box<RequestTrace>>,
        Measured { metrics, user_id }: Measured,
    ) -> Entry {
        let tokens = logging::take_tokens();
        let line = is_enabled().then(|| Line {
            server: role.name(),
            method: request.method().clone(),
            path: shown(request.path()).into_owned(),
            client: client::address(request, &app.config.trusted_proxies).to_string(),
            user: user_id.unwrap_or_else(|| "-".to_owned()),
            tokens,
        });
        Entry { metrics, began, id, trace, line, is_recorded: false }
    }

    /// Records nothing of a request that is handled again, in the same trace.
    pub(super) fn forget(unanswered: Option<Box<dyn Any + Send>>) -> Option<Box<RequestTrace>> {
        let mut unanswered = unanswered?;
        let entry = unanswered.downcast_mut::<Entry>()?;
        entry.is_recorded = true;
        entry.trace.take()
    }

    /// Records the request: now, or at the end of a reply that is produced while it is sent.
    pub(super) fn follow(mut self, response: Response) -> Response {
        let status = response.status.as_u16();
        let bytes = match response.content {
            Content::Stream(write) => {
                let write = move |out: &mut dyn Write| {
                    let _id = logging::set_request_id(Some(self.id.clone()));
                    let _trace = traces::enter(self.trace.as_ref().map(|trace| trace.current()));
                    let mut counted = Counted { out, sent: Sent::default() };
                    let written = write(&mut counted);
                    let sent = Sent { is_cut: written.is_err(), ..counted.sent };
                    if let Some(line) = &mut self.line {
                        line.tokens += logging::take_tokens();
                    }
                    self.record(status, &sent);
                    written
                };
                return Response { content: Content::Stream(Box::new(write)), ..response };
            }
            Content::Empty | Content::LeftOut => 0,
            Content::Bytes(ref bytes) => bytes.len() as u64,
            Content::Reader(_, length) => length,
        };
        self.record(status, &Sent { bytes, ..Sent::default() });
        response
    }

    fn record(&mut self, status: u16, sent: &Sent) {
        self.is_recorded = true;
        let (took, first_byte) = (self.began.elapsed(), sent.first.map(|at| at.duration_since(self.began)));
        self.metrics.add(status, took, first_byte);
        if let Some(trace) = self.trace.take() {
            trace.end(|span| self.describe(span, status, sent, first_byte));
        }
        if let Some(line) = &self.line {
            line.write(&self.id, status, sent, took, first_byte.unwrap_or(took));
        }
    }

    /// Names are of OpenTelemetry's conventions for HTTP servers.
    fn describe(&self, span: &mut Description<'_>, status: u16, sent: &Sent, first_byte: Option<Duration>) {
        let operation = self.metrics.operation();
        span.name(operation.to_owned());
        span.attribute("textgen.server", self.metrics.server());
        span.attribute("textgen.request_id", self.id.to_string());
        if let Some((method, route)) = operation.split_once(' ') {
            span.attribute("http.request.method", method.to_owned());
            span.attribute("http.route", route.to_owned());
        }
        span.attribute("http.response.status_code", i64::from(status));
        span.attribute("http.response.body.size", i64::try_from(sent.bytes).unwrap_or(i64::MAX));
        if let Some(first_byte) = first_byte {
            span.event("first byte", (SystemTime::now() - self.began.elapsed()).checked_add(first_byte));
        }
        if status >= 500 {
            span.failed("status");
        } else if sent.is_cut {
            span.failed("the reply was not sent to its end");
        }
    }
}

impl Line {
    fn write(&self, id: &str, status: u16, sent: &Sent, took: Duration, first_byte: Duration) {
        let Line { server, method, path, client, user, tokens } = self;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (micros, first_byte_micros) = (micros(took), micros(first_byte));
        let (method, path, client) = (method.as_str(), path.as_str(), client.as_str());
        let (user, bytes, tokens, request) = (user.as_str(), sent.bytes, *tokens, id);
        let cut = if sent.is_cut { " cut" } else { "" };
        log::info!(target: TARGET, server = *server, method, path, status, micros, client, user, request, bytes, tokens,
            first_byte_micros, is_cut = sent.is_cut;
            "{server} {method} {path} {status} {micros}us {client} {user} {request} {bytes}B {tokens} tokens, first byte \
             after {first_byte_micros}us{cut}");
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_recorded {
            self.record(LEFT, &Sent { is_cut: true, ..Sent::default() });
        }
    }
}

/// Counts what passes through.
struct Counted<'o> {
    out: &'o mut dyn Write,
    sent: Sent,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sent.bytes += written as u64;
        if written > 0 {
            self.sent.first.get_or_insert_with(Instant::now);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
