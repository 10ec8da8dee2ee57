//! What goes out: the head of a reply, and bytes that the client has not taken yet.

use std::borrow::Cow;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::sync::Arc;

use crate::http::{Head, Method, Response, StatusCode};

use super::clock::millis;
use super::incoming::{Share, Total, deadline, retry};
use super::settings::Settings;

/// What the client can take, as its request said.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) no_body: bool,
    pub(super) http_10: bool,
    pub(super) keep_alive: bool,
}

impl Terms {
    pub(super) fn of(head: &Head) -> Terms {
        Terms { no_body: *head.method() == Method::Head, http_10: head.is_http_10(), keep_alive: head.keep_alive() }
    }
}

/// How the client learns where the body ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Framed {
    Length(u64),
    Chunked,
    ByClose,
}

/// Whether a reply of this status never has a body.
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    matches!(status.0, 100..=199 | 204 | 304)
}

/// Writes the head of a reply to `out`.
pub(super) fn write_head(
    out: &mut Vec<u8>,
    response: &Response,
    framed: Framed,
    terms: Terms,
    close: bool,
    date: &str,
) {
    let status = response.status;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status.0).as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.default_reason_phrase().as_bytes());
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(date.as_bytes());
    for (name, value) in response.headers.iter().filter(|(name, value)| is_sendable(name, value)) {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    match framed {
        _ if is_bodiless(status) => {}
        Framed::Length(n) => {
            out.extend_from_slice(b"\r\nContent-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
        }
        Framed::Chunked => out.extend_from_slice(b"\r\nTransfer-Encoding: chunked"),
        Framed::ByClose => {}
    }
    if close {
        out.extend_from_slice(b"\r\nConnection: close");
    } else if terms.http_10 {
        out.extend_from_slice(b"\r\nConnection: keep-alive");
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Leaves out what is the server's to say, and what would start a line of its own.
fn is_sendable(name: &str, value: &str) -> bool {
    let ours = match name.len() {
        4 => name.eq_ignore_ascii_case("date"),
        10 => name.eq_ignore_ascii_case("connection"),
        14 => name.eq_ignore_ascii_case("content-length"),
        17 => name.eq_ignore_ascii_case("transfer-encoding"),
        _ => false,
    };
    !ours && !name.is_empty() && memchr::memchr3(b'\r', b'\n', 0, value.as_bytes()).is_none()
}

/// What the socket has not taken yet: bytes that were put together, and behind them a body that was never copied.
#[derive(Default)]
pub(super) struct Unsent {
    bytes: Vec<u8>,
    body: Cow<'static, [u8]>,
    /// Of both together.
    sent: usize,
    /// What the system took at once says nothing about how fast the client reads.
    taken_at_once: usize,
    started: u64,
    last: u64,
    /// Held for as long as the memory is.
    _share: Option<Share>,
}

impl Unsent {
    /// Keeps what was not sent, and counts its memory to `total`.
    pub(super) fn new(
        bytes: Vec<u8>,
        mut body: Cow<'static, [u8]>,
        sent: usize,
        now: u64,
        total: &Arc<Total>,
    ) -> Unsent {
        let mut share = Share::of(total);
        if let Cow::Owned(body) = &mut body {
            // It may be there for a while, and was often made by doubling.
            body.shrink_to_fit();
            share.set(bytes.capacity() + body.capacity());
        }
        Unsent { bytes, body, sent, taken_at_once: sent, started: now, last: now, _share: Some(share) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len() + self.body.len()
    }

    /// Sends what the socket takes; true when nothing is left.
    pub(super) fn send(&mut self, socket: &TcpStream, now: u64) -> io::Result<bool> {
        let before = self.sent;
        self.sent = send(socket, &self.bytes, &self.body, before)?;
        if self.sent > before {
            self.last = now;
        }
        let done = self.is_empty();
        if done {
            *self = Unsent::default();
        }
        Ok(done)
    }

    pub(super) fn deadline(&self, settings: &Settings) -> u64 {
        let taken = self.sent - self.taken_at_once;
        deadline(millis(settings.write_timeout), settings.min_rate, self.started, self.last, taken)
    }
}

/// Sends `head` and `body` from the byte `sent` on until the socket takes no more; returns how far it came.
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

    fn head(response: &Response, framed: Framed, close: bool, http_10: bool) -> String {
        let mut out = Vec::new();
        let terms = Terms { no_body: false, http_10, keep_alive: true };
        write_head(&mut out, response, framed, terms, close, "now");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_heads() {
        let mut response = Response::html(200, "x".into());
        response.headers.push(("content-length", "7".into()));
        response.headers.push(("X", "a\r\nSet-Cookie: b".into()));
        assert_eq!(
            head(&response, Framed::Length(1), false, false),
            "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 1\r\n\r\n"
        );
        let none = Response::new(304);
        assert_eq!(
            head(&none, Framed::Length(0), true, false),
            "HTTP/1.1 304 Not Modified\r\nDate: now\r\nConnection: close\r\n\r\n"
        );
        assert!(head(&Response::new(200), Framed::Length(0), false, true).contains("Connection: keep-alive"));
        assert!(head(&Response::new(200), Framed::Chunked, false, false).contains("Transfer-Encoding: chunked"));
    }
}
