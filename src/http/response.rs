//! A response, as handlers return it.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

use super::{Deferred, StartWaiting, StatusCode};
use crate::blocking::Refused;
use crate::memory_budget::ReservedBytes;

/// How long [`Response::wait`] may block.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The body of a response that cannot be written.
const FAILED: &[u8] = br#"{"detail":"Internal Server Error"}"#;

/// Writes a body in pieces; each call of `write` is sent to the client at once.
pub type StreamFn = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The body of a response.
#[derive(Default)]
pub enum Content {
    /// None.
    #[default]
    Empty,
    /// Bytes in memory.
    Bytes(Cow<'static, [u8]>),
    /// This many bytes, read from a source.
    Reader(Box<dyn Read + Send>, u64),
    /// A body of unknown length, sent while it is written.
    Stream(StreamFn),
    /// What would be sent if the request were not `HEAD`; how long that is was not found out.
    LeftOut,
}

/// A response: status, headers and body. `Content-Length`, `Transfer-Encoding`, `Connection` and `Date` are the
/// server's.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// Header lines in the order in which they are sent.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body.
    pub content: Content,
    /// Whether to close the connection after this response.
    pub close: bool,
    /// What must happen before any byte of it is sent.
    pub deferred: Option<Deferred<Response>>,
    /// The request is postponed: the handler is called again after this, with the same request, and the response is not
    /// sent. Only a request whose body is [in memory](super::Body::is_buffered) can be postponed.
    pub postponed: Option<StartWaiting>,
}

impl Response {
    /// A response without a body. A `status` that HTTP does not allow (below 100, or above 999) becomes 500.
    pub fn new(status: u16) -> Response {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (headers, content) = (Vec::with_capacity(8), Content::Empty);
        Response { status, headers, content, close: false, deferred: None, postponed: None }
    }

    /// A response with a body of this media type.
    pub fn with_body(status: u16, media_type: &'static str, bytes: impl Into<Cow<'static, [u8]>>) -> Response {
        let mut response = Response::new(status);
        response.headers.push(("Content-Type", Cow::Borrowed(media_type)));
        response.content = Content::Bytes(bytes.into());
        response
    }

    /// A JSON response. A value that cannot be serialised (a map whose keys are not strings) becomes a 500.
    pub fn json(status: u16, value: &impl Serialize) -> Response {
        Response::json_of_size(status, 512, value)
    }

    /// The same for a value that takes about `size` bytes.
    pub fn json_of_size(status: u16, size: usize, value: &impl Serialize) -> Response {
        let mut bytes = Vec::with_capacity(size);
        match serde_json::to_writer(&mut bytes, value) {
            Ok(()) => Response::with_body(status, "application/json", bytes),
            Err(_) => Response::with_body(500, "application/json", FAILED),
        }
    }

    /// A JSON response that may be long: its memory is reserved as it grows, for the request that this thread works on.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn json_reserved(status: u16, value: &impl Serialize) -> Result<Response, Refused> {
        let mut bytes = ReservedBytes::default();
        let written = serde_json::to_writer(&mut bytes, value);
        match (written, bytes.refused()) {
            (Ok(()), _) => Ok(Response::with_body(status, "application/json", bytes.into_bytes())),
            (Err(_), Some(refused)) => Err(refused),
            (Err(_), None) => Ok(Response::with_body(500, "application/json", FAILED)),
        }
    }

    /// An error in the shape of most routes: `{"detail": text}`.
    pub fn detail(status: u16, text: &str) -> Response {
        Response::json(status, &serde_json::json!({ "detail": text }))
    }

    /// A page.
    pub fn html(status: u16, page: String) -> Response {
        Response::with_body(status, "text/html; charset=utf-8", page.into_bytes())
    }

    /// 303 to this address.
    pub fn see_other(location: impl Into<Cow<'static, str>>) -> Response {
        Response::new(303).header("Location", location)
    }

    /// A body of unknown length, sent while it is written.
    pub fn stream(media_type: &'static str, write: StreamFn) -> Response {
        let mut response = Response::new(200).header("Content-Type", media_type);
        response.content = Content::Stream(write);
        response
    }

    /// In place of a response: the request waits for what `start` begins, and is then handled again.
    pub fn postponed(start: StartWaiting) -> Response {
        Response { postponed: Some(start), ..Response::new(503) }
    }

    /// Adds a header. It is left out if the value has control characters, which could begin another header line.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Response {
        let value = value.into();
        let sane = !value.bytes().any(|b| b.is_ascii_control() && b != b'\t');
        debug_assert!(sane, "control character in the value of {name}");
        if sane {
            self.headers.push((name, value));
        }
        self
    }

    /// The first header with this name.
    pub fn get_header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_ref())
    }

    /// Blocks until a deferred response is complete, for a minute at most, and returns what is to be sent. Any other
    /// response is returned as it is.
    #[must_use]
    pub fn wait(mut self) -> Response {
        let Some(deferred) = self.deferred.take() else { return self };
        let (notifier, notified) = mpsc::sync_channel(1);
        let completion = deferred.start(Box::new(move || {
            let _ = notifier.send(());
        }));
        // After a time-out, or if the notifier was dropped, `complete` decides what to send.
        let _ = notified.recv_timeout(WAIT_TIMEOUT);
        completion.complete(self)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}

/// Shows the length of a body, never its bytes.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Empty => f.write_str("Empty"),
            Content::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Content::Reader(_, length) => write!(f, "Reader({length})"),
            Content::Stream(_) => f.write_str("Stream"),
            Content::LeftOut => f.write_str("LeftOut"),
        }
    }
}
