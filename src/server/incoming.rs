//! What comes in: the bytes a worker has read and not used yet, and a body that is gathered piece by piece without a
//! thread waiting for it.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::http::{Body, Framing, Request};

use super::chunked::{Chunked, Malformed};
use super::clock::millis;
use super::settings::Settings;

/// Bytes that are received at once, at most: what a client sends ahead of its turn stays with the system.
const AT_ONCE: usize = 32 * 1024;

/// A worker's own buffer, of which `start..end` is received and not used yet. A connection whose request is not whole
/// takes that part along when the worker leaves it, so that an idle connection has no buffer at all.
pub(super) struct Window {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Window {
    /// A window that has room for a head of `max_head` bytes and as much again.
    pub(super) fn new(max_head: usize) -> Window {
        Window { buffer: vec![0; (2 * max_head).max(32 * 1024)], start: 0, end: 0 }
    }

    /// Forgets what is there and starts with what a connection has left over.
    pub(super) fn load(&mut self, left_over: &mut Vec<u8>) {
        (self.start, self.end) = (0, left_over.len());
        if self.end > 0 {
            if self.buffer.len() < 2 * self.end {
                self.buffer.resize(2 * self.end, 0);
            }
            self.buffer[..self.end].copy_from_slice(left_over);
            *left_over = Vec::new();
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Takes out what is there.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let bytes = if self.is_empty() { Vec::new() } else { self.bytes().to_vec() };
        self.consume(bytes.len());
        bytes
    }

    /// Receives once. Returns the new bytes, none at the end of the stream, and whether the socket is empty now as far
    /// as can be told: it gave less than there was room for.
    pub(super) fn fill(&mut self, mut socket: &TcpStream) -> io::Result<(&[u8], bool)> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let (from, to) = (self.end, self.buffer.len().min(self.end + AT_ONCE));
        let n = retry(|| socket.read(&mut self.buffer[from..to]))?;
        self.end += n;
        Ok((&self.buffer[from..self.end], self.end < to))
    }

    /// Receives once and throws it away.
    pub(super) fn discard(&mut self, mut socket: &TcpStream) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        retry(|| socket.read(&mut self.buffer))
    }
}

/// Calls again while a signal interrupts.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Where a body ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Coding {
    /// So many bytes are still to come.
    Length(u64),
    /// Where the chunks say so.
    Chunked(Chunked),
}

impl Coding {
    pub(super) fn of(framing: Framing) -> Coding {
        match framing {
            Framing::None => Coding::Length(0),
            Framing::Length(n) => Coding::Length(n),
            Framing::Chunked => Coding::Chunked(Chunked::default()),
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        match self {
            Coding::Length(left) => *left == 0,
            Coding::Chunked(decoder) => decoder.is_finished(),
        }
    }

    /// Appends to `body` what `input` holds of it, up to `limit` bytes in all; returns how much input it used.
    pub(super) fn decode(&mut self, input: &[u8], body: &mut Vec<u8>, limit: usize) -> Result<usize, Malformed> {
        match self {
            Coding::Length(left) => {
                let room = limit.saturating_sub(body.len());
                let n = input.len().min(room).min(usize::try_from(*left).unwrap_or(usize::MAX));
                body.extend_from_slice(&input[..n]);
                *left -= n as u64;
                Ok(n)
            }
            Coding::Chunked(decoder) => decoder.decode(input, body, limit),
        }
    }
}

/// The memory that bytes of one kind take together: bodies that are gathered, replies that are not sent yet.
#[derive(Default)]
pub(super) struct Total(AtomicUsize);

impl Total {
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// A request whose body is on its way.
pub(super) struct Gathering {
    pub(super) request: Request,
    pub(super) coding: Coding,
    pub(super) body: Vec<u8>,
    share: Share,
    started: u64,
    last: u64,
}

/// How much of the total is this one's.
pub(super) struct Share(Arc<Total>, usize);

impl Share {
    /// None yet.
    pub(super) fn of(total: &Arc<Total>) -> Share {
        Share(Arc::clone(total), 0)
    }

    pub(super) fn set(&mut self, bytes: usize) {
        self.0.0.fetch_add(bytes.wrapping_sub(self.1), Relaxed);
        self.1 = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What a piece of a body led to.
pub(super) enum Gathered {
    Part,
    Whole,
    /// It is longer than what is gathered.
    TooMuch,
}

impl Gathering {
    pub(super) fn new(request: Request, total: &Arc<Total>, now: u64) -> Gathering {
        let coding = Coding::of(request.head.framing());
        let share = Share(Arc::clone(total), 0);
        Gathering { request, coding, body: Vec::new(), share, started: now, last: now }
    }

    /// Takes what belongs to the body out of the window, which is empty afterwards unless there was more.
    pub(super) fn feed(&mut self, window: &mut Window, now: u64, limit: usize) -> Result<Gathered, Malformed> {
        let used = self.coding.decode(window.bytes(), &mut self.body, limit)?;
        window.consume(used);
        self.share.set(self.body.capacity());
        self.last = now;
        if self.coding.is_finished() {
            Ok(Gathered::Whole)
        } else if window.is_empty() {
            Ok(Gathered::Part)
        } else {
            Ok(Gathered::TooMuch)
        }
    }

    /// The request with its body.
    pub(super) fn finish(mut self) -> Request {
        self.request.body = Body::from_bytes(self.body);
        self.request
    }

    pub(super) fn deadline(&self, settings: &Settings) -> u64 {
        deadline(millis(settings.body_timeout), settings.min_rate, self.started, self.last, self.body.len())
    }
}

/// When something must have gone on, in milliseconds: within `pause` of the last time, and at `rate` bytes a second
/// once `pause` has passed.
pub(super) fn deadline(pause: u64, rate: u64, started: u64, last: u64, bytes: usize) -> u64 {
    let earned = (bytes as u64).saturating_mul(1000) / rate.max(1);
    (last + pause).min((started + pause).saturating_add(earned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_body_runs_out_of_time_although_it_goes_on() {
        assert_eq!(deadline(30_000, 1024, 0, 29_000, 29), 30_028);
        assert_eq!(deadline(30_000, 1024, 0, 29_000, 1 << 20), 59_000);
    }

    #[test]
    fn a_window_grows_for_what_was_left() {
        let mut window = Window::new(10);
        let mut left = vec![7; 100_000];
        window.load(&mut left);
        assert!(left.is_empty() && window.len() == 100_000);
        window.consume(99_999);
        assert_eq!(window.take(), [7]);
        assert!(window.is_empty());
    }
}
