//! Sending: the head of a response, and data that the socket has not accepted yet.

use std::borrow::Cow;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::sync::Arc;

use crate::http::{Head, Method, Response, StatusCode};
use crate::memory_budget::Reservation;

use super::budget::{ByteCount, Counted};
use super::incoming::retry;
use super::transfer::Pace;

/// What the client supports, according to its request.
#[derive(Clone, Copy)]
pub(super) struct ClientCapabilities {
    /// It wants the head only (`HEAD`).
    pub(super) no_body: bool,
    pub(super) http_10: bool,
    pub(super) keep_alive: bool,
}

impl ClientCapabilities {
    pub(super) fn new(head: &Head) -> ClientCapabilities {
        let no_body = *head.method() == Method::HEAD;
        ClientCapabilities { no_body, http_10: head.is_http_10(), keep_alive: head.keep_alive() }
    }
}

/// How the end of a response's body is indicated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseFraming {
    Length(u64),
    Chunked,
    ByClose,
    /// There is none, as it answers `HEAD`, and its length is not known.
    Unknown,
}

/// Whether a response with this status never has a body (RFC 9110, section 6.4.1).
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    matches!(status.as_u16(), 100..=199 | 204 | 304)
}

/// Writes the head of a response to `out`.
pub(super) fn write_head(
    out: &mut Vec<u8>,
    response: &Response,
    framing: ResponseFraming,
    client: ClientCapabilities,
    close: bool,
    date: &str,
) {
    let status = response.status;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status.as_u16()).as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(date.as_bytes());
    for (name, value) in response.headers.iter().filter(|(name, value)| is_sendable(name, value)) {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    match framing {
        _ if is_bodiless(status) => {}
        ResponseFraming::Length(n) => {
            out.extend_from_slice(b"\r\nContent-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
        }
        ResponseFraming::Chunked => out.extend_from_slice(b"\r\nTransfer-Encoding: chunked"),
        ResponseFraming::ByClose | ResponseFraming::Unknown => {}
    }
    if close {
        out.extend_from_slice(b"\r\nConnection: close");
    } else if client.http_10 {
        out.extend_from_slice(b"\r\nConnection: keep-alive");
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// False for headers that only the server may set, and for values that contain line breaks.
fn is_sendable(name: &str, value: &str) -> bool {
    let is_reserved = match name.len() {
        4 => name.eq_ignore_ascii_case("date"),
        10 => name.eq_ignore_ascii_case("connection"),
        14 => name.eq_ignore_ascii_case("content-length"),
        17 => name.eq_ignore_ascii_case("transfer-encoding"),
        _ => false,
    };
    !is_reserved && !name.is_empty() && memchr::memchr3(b'\r', b'\n', 0, value.as_bytes()).is_none()
}

/// Data that the socket has not accepted yet: bytes of the output buffer, followed by a body that was not copied.
#[derive(Default)]
pub(super) struct Unsent {
    bytes: Vec<u8>,
    body: Cow<'static, [u8]>,
    /// How many bytes of both together have been sent.
    sent: usize,
    /// By the server's clock; `None` if there is nothing. Bytes that went into the kernel's buffers at once do not count:
    /// they say nothing about how fast the client reads.
    pace: Option<Pace>,
    _memory: Option<(Reservation, Counted)>,
}

impl Unsent {
    /// Keeps what was not sent. `memory` is what was reserved for the request; it becomes what this takes, and `count`
    /// counts it too.
    pub(super) fn new(
        bytes: Vec<u8>,
        mut body: Cow<'static, [u8]>,
        sent: usize,
        pace: Pace,
        mut memory: Reservation,
        count: &Arc<ByteCount>,
    ) -> Unsent {
        let mut size = bytes.capacity();
        if let Cow::Owned(body) = &mut body {
            // It may be kept for a while, and a vector that has grown may have twice the capacity that it needs.
            body.shrink_to_fit();
            size += body.capacity();
        }
        memory.set(size);
        let memory = Some((memory, Counted::new(count, size)));
        Unsent { bytes, body, sent, pace: Some(pace), _memory: memory }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len() + self.body.len()
    }

    /// Sends as much as the socket accepts. Returns how many bytes it has accepted.
    pub(super) fn send(&mut self, socket: &TcpStream, now: u64) -> io::Result<usize> {
        let before = self.sent;
        self.sent = send(socket, &self.bytes, &self.body, before)?;
        let accepted = self.sent - before;
        if let Some(pace) = &mut self.pace {
            pace.note(accepted, now);
        }
        if self.is_empty() {
            *self = Unsent::default();
        }
        Ok(accepted)
    }

    /// When the client must have read more, in milliseconds of the server's clock.
    pub(super) fn deadline(&self) -> u64 {
        self.pace.map_or(0, |pace| pace.deadline())
    }
}

/// Sends `head` and `body`, without the first `sent` bytes, until the socket accepts no more. Returns how many bytes
/// have been sent in total.
pub(super) fn send(mut socket: &TcpStream, head: &[u8], body: &[u8], mut sent: usize) -> io::Result<usize> {
    while sent < head.len() + body.len() {
        let result = if sent >= head.len() {
            retry(|| socket.write(&body[sent - head.len()..]))
        } else if body.is_empty() {
            retry(|| socket.write(&head[sent..]))
        } else {
            retry(|| socket.write_vectored(&[IoSlice::new(&head[sent..]), IoSlice::new(body)]))
        };
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => sent += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(response: &Response, framing: ResponseFraming, close: bool, http_10: bool) -> String {
        let mut out = Vec::new();
        let client = ClientCapabilities { no_body: false, http_10, keep_alive: true };
        write_head(&mut out, response, framing, client, close, "now");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_heads() {
        let mut response = Response::html(200, "x".into());
        response.headers.push(("content-length", "7".into()));
        response.headers.push(("X", "a\r\nSet-Cookie: b".into()));
        assert_eq!(
            head(&response, ResponseFraming::Length(1), false, false),
            "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 1\r\n\r\n"
        );
        let none = Response::new(304);
        assert_eq!(
            head(&none, ResponseFraming::Length(0), true, false),
            "HTTP/1.1 304 Not Modified\r\nDate: now\r\nConnection: close\r\n\r\n"
        );
        assert!(head(&Response::new(200), ResponseFraming::Length(0), false, true).contains("Connection: keep-alive"));
        assert!(
            head(&Response::new(200), ResponseFraming::Chunked, false, false).contains("Transfer-Encoding: chunked")
        );
    }
}
