//! Receiving: the read buffer of a worker, and request bodies that are collected in memory without a waiting thread.

use std::io::{self, Read};
use std::net::TcpStream;

use crate::blocking::Refused;
use crate::http::{Body, Framing, Request};
use crate::memory_budget::Reservation;

use super::chunked::{Chunked, Malformed};
use super::settings::Settings;
use super::transfer::Pace;

/// Maximum number of bytes received by one system call. The rest stays in the socket's buffer until the next turn.
const MAX_READ: usize = 32 * 1024;

/// The read buffer of a worker; `start..end` is received but not processed yet. Between turns, a connection keeps a
/// copy of that part, so that an idle connection has no buffer at all.
pub(super) struct ReadBuffer {
    /// Empty until it is needed.
    buffer: Vec<u8>,
    size: usize,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    /// A buffer with room for a head of `max_head` bytes and as much again.
    pub(super) fn new(max_head: usize) -> ReadBuffer {
        ReadBuffer { buffer: Vec::new(), size: (2 * max_head).max(32 * 1024), start: 0, end: 0 }
    }

    /// Gives the memory back before the worker is busy for long with one request, unless bytes of the next one are in
    /// it.
    pub(super) fn free(&mut self) {
        if self.is_empty() {
            (self.buffer, self.start, self.end) = (Vec::new(), 0, 0);
        }
    }

    fn allocate(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.size];
        }
    }

    /// Replaces the contents by the unprocessed bytes of a connection, which are moved.
    pub(super) fn load(&mut self, left_over: &mut Vec<u8>) {
        (self.start, self.end) = (0, left_over.len());
        if self.end > 0 {
            self.allocate();
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

    /// Takes the contents out.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let bytes = if self.is_empty() { Vec::new() } else { self.bytes().to_vec() };
        self.consume(bytes.len());
        bytes
    }

    /// Receives once. Returns the new bytes (none at the end of the stream), and whether the socket is probably empty
    /// now, as it returned less than there was room for.
    pub(super) fn fill(&mut self, mut socket: &TcpStream) -> io::Result<(&[u8], bool)> {
        self.allocate();
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let (from, to) = (self.end, self.buffer.len().min(self.end + MAX_READ));
        let n = retry(|| socket.read(&mut self.buffer[from..to]))?;
        self.end += n;
        Ok((&self.buffer[from..self.end], self.end < to))
    }

    /// Receives once, and discards these bytes and the contents of the buffer. Returns the number of bytes received.
    pub(super) fn discard(&mut self, mut socket: &TcpStream) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        self.allocate();
        retry(|| socket.read(&mut self.buffer))
    }
}

/// Repeats a call that was interrupted by a signal.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Decodes the body of a request, and finds its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum BodyDecoder {
    /// This many bytes are still to come.
    Length(u64),
    Chunked(Chunked),
}

impl BodyDecoder {
    pub(super) fn new(framing: Framing) -> BodyDecoder {
        match framing {
            Framing::None => BodyDecoder::Length(0),
            Framing::Length(n) => BodyDecoder::Length(n),
            Framing::Chunked => BodyDecoder::Chunked(Chunked::default()),
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        match self {
            BodyDecoder::Length(left) => *left == 0,
            BodyDecoder::Chunked(decoder) => decoder.is_finished(),
        }
    }

    /// Appends the data in `input` to `body`, which grows to `limit` bytes at most. Returns how many bytes of the input
    /// were used.
    pub(super) fn decode(&mut self, input: &[u8], body: &mut Vec<u8>, limit: usize) -> Result<usize, Malformed> {
        match self {
            BodyDecoder::Length(left) => {
                let room = limit.saturating_sub(body.len());
                let n = input.len().min(room).min(usize::try_from(*left).unwrap_or(usize::MAX));
                body.extend_from_slice(&input[..n]);
                *left -= n as u64;
                Ok(n)
            }
            BodyDecoder::Chunked(decoder) => decoder.decode(input, body, limit),
        }
    }
}

/// A request whose body is being received.
pub(super) struct BodyAccumulator {
    pub(super) request: Request,
    pub(super) decoder: BodyDecoder,
    /// The data received so far.
    pub(super) body: Vec<u8>,
    pub(super) memory: Reservation,
    /// By the server's clock.
    pace: Pace,
}

/// How much of a body has been received.
pub(super) enum BodyProgress {
    Partial,
    Complete,
    /// It is too long to be collected in memory.
    TooLong,
    /// There is no memory for it.
    Refused,
}

impl BodyAccumulator {
    pub(super) fn new(request: Request, memory: Reservation, settings: &Settings, now: u64) -> BodyAccumulator {
        let decoder = BodyDecoder::new(request.head.framing());
        let pace = Pace::new(settings.body_timeout, settings.min_rate, now);
        BodyAccumulator { request, decoder, body: Vec::new(), memory, pace }
    }

    /// Takes what belongs to the body out of the read buffer, which is empty afterwards unless more follows the body.
    pub(super) fn feed(&mut self, input: &mut ReadBuffer, now: u64, limit: usize) -> Result<BodyProgress, Malformed> {
        if self.make_room(input.len(), limit).is_err() {
            return Ok(BodyProgress::Refused);
        }
        let used = self.decoder.decode(input.bytes(), &mut self.body, limit)?;
        input.consume(used);
        self.pace.note(used, now);
        if self.decoder.is_finished() {
            Ok(BodyProgress::Complete)
        } else if input.is_empty() {
            Ok(BodyProgress::Partial)
        } else {
            Ok(BodyProgress::TooLong)
        }
    }

    /// Reserves memory for so many bytes more, and then takes it: twice as much as there is, but no more than the body
    /// can need.
    fn make_room(&mut self, more: usize, limit: usize) -> Result<(), Refused> {
        let (length, capacity) = (self.body.len(), self.body.capacity());
        let most = match self.decoder {
            BodyDecoder::Length(left) => usize::try_from(left).map_or(limit, |left| limit.min(length + left)),
            BodyDecoder::Chunked(_) => limit,
        };
        let needed = most.min(length + more);
        if needed > capacity {
            let wanted = most.min(needed.max(2 * capacity));
            self.memory.grow(wanted - capacity)?;
            self.body.reserve_exact(wanted - length);
        }
        Ok(())
    }

    /// The request with its body, and the memory that it takes.
    pub(super) fn into_request(mut self) -> (Request, Reservation) {
        self.request.body = Body::from_bytes(self.body);
        (self.request, self.memory)
    }

    /// When more of the body must have come, in milliseconds of the server's clock.
    pub(super) fn deadline(&self) -> u64 {
        self.pace.deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_buffer_grows_for_what_was_left_over() {
        let mut input = ReadBuffer::new(10);
        let mut left = vec![7; 100_000];
        input.load(&mut left);
        assert!(left.is_empty() && input.len() == 100_000);
        input.consume(99_999);
        input.free();
        assert_eq!(input.take(), [7], "what is in it is kept");
        input.free();
        assert!(input.is_empty() && input.buffer.capacity() == 0);
        input.load(&mut vec![8]);
        assert_eq!(input.take(), [8]);
    }
}
