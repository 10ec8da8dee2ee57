//! The access log: one line per request, once its reply is complete: a stream has its line at its end, and a request whose
//! connection ends while its reply waits has one with the status 499.

use std::any::Any;
use std::io::{self, Write};
use std::time::Instant;

use log::Level;

use super::shown_path::shown;
use crate::app::App;
use crate::auth::client;
use crate::call::Role;
use crate::http::{Content, Method, Request, Response};
use crate::logging;

/// The target of its lines.
const TARGET: &str = "access";

/// The status in the line of a request whose client is gone before its reply begins. It is never sent.
const CLIENT_LEFT: u16 = 499;

/// Whether the access log is written.
pub(super) fn is_enabled() -> bool {
    log::log_enabled!(target: TARGET, Level::Info)
}

/// A line in the making. It never has the query, a header or a body, which may hold secrets; nor what looks like one in the
/// path.
pub(super) struct Entry {
    server: &'static str,
    method: Method,
    path: String,
    client: String,
    user: String,
    id: String,
    began: Instant,
    /// Tokens that were charged.
    tokens: u64,
    is_written: bool,
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
    /// For a request that arrived at `began`, if the log is enabled.
    pub(super) fn new(
        app: &App,
        role: Role,
        request: &Request,
        began: Instant,
        id: &str,
        user: Option<String>,
    ) -> Option<Entry> {
        let tokens = logging::take_tokens();
        is_enabled().then(|| Entry {
            server: role.name(),
            method: request.method().clone(),
            path: shown(request.path()).into_owned(),
            client: client::address(request, &app.config.trusted_proxies).to_string(),
            user: user.unwrap_or_else(|| "-".to_owned()),
            id: id.to_owned(),
            began,
            tokens,
            is_written: false,
        })
    }

    /// Writes no line for a request that is handled again.
    pub(super) fn forget(unanswered: Option<Box<dyn Any + Send>>) {
        let Some(mut unanswered) = unanswered else { return };
        if let Some(entry) = unanswered.downcast_mut::<Entry>() {
            entry.is_written = true;
        }
    }

    /// Writes the line: now, or at the end of a reply that is produced while it is sent.
    pub(super) fn follow(mut self, response: Response) -> Response {
        let status = response.status.as_u16();
        let bytes = match response.content {
            Content::Stream(write) => {
                let write = move |out: &mut dyn Write| {
                    let mut counted = Counted { out, sent: Sent::default() };
                    let written = write(&mut counted);
                    let sent = Sent { is_cut: written.is_err(), ..counted.sent };
                    self.tokens += logging::take_tokens();
                    self.write(status, &sent);
                    written
                };
                return Response { content: Content::Stream(Box::new(write)), ..response };
            }
            Content::Empty => 0,
            Content::Bytes(ref bytes) => bytes.len() as u64,
            Content::Reader(_, length) => length,
        };
        self.write(status, &Sent { bytes, ..Sent::default() });
        response
    }

    fn write(&mut self, status: u16, sent: &Sent) {
        self.is_written = true;
        let Entry { server, method, path, client, user, id, began, tokens, .. } = &*self;
        let since = |at: Instant| u64::try_from(at.duration_since(*began).as_micros()).unwrap_or(u64::MAX);
        let micros = since(Instant::now());
        let first_byte_micros = sent.first.map_or(micros, since);
        let (method, path, client) = (method.as_str(), path.as_str(), client.as_str());
        let (user, bytes, tokens, request) = (user.as_str(), sent.bytes, *tokens, id.as_str());
        let cut = if sent.is_cut { " cut" } else { "" };
        log::info!(target: TARGET, server = *server, method, path, status, micros, client, user, request, bytes, tokens,
            first_byte_micros, is_cut = sent.is_cut;
            "{server} {method} {path} {status} {micros}us {client} {user} {request} {bytes}B {tokens} tokens, first byte \
             after {first_byte_micros}us{cut}");
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_written {
            self.write(CLIENT_LEFT, &Sent { is_cut: true, ..Sent::default() });
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
