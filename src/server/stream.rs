//! Bodies that a thread waits for: a request's, read by its handler as it comes, and a reply's, written as it is made.
//! All of it happens inside [`blocking::block_in_place`](crate::blocking::block_in_place), on a socket that blocks for that time.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::Connection;
use super::incoming::{Coding, retry};
use super::settings::Settings;

/// The line that lets a waiting client send its body.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Most bytes moved by one system call, so that deadlines are looked at now and then.
const PIECE: usize = 64 * 1024;

/// Makes a socket block until it is dropped.
pub(super) struct Blocking<'a>(&'a Connection);

impl Blocking<'_> {
    pub(super) fn start<'a>(connection: &'a Connection, settings: &Settings) -> io::Result<Blocking<'a>> {
        connection.set_blocking(Some((settings.body_timeout, settings.write_timeout)))?;
        Ok(Blocking(connection))
    }
}

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        if self.0.set_blocking(None).is_err() {
            // A socket that may block must not get back among those that never do.
            let _ = self.0.socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// How long a client has kept a thread waiting, and for how much.
struct Pace {
    pause: Duration,
    min_rate: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(pause: Duration, min_rate: u64) -> Pace {
        Pace { pause, min_rate: min_rate.max(1), waited: Duration::ZERO, bytes: 0 }
    }

    /// One call on the socket; an error of kind `TimedOut` when it took too long, or all of them together did.
    fn wait(&mut self, call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        let started = Instant::now();
        let result = retry(call);
        self.waited += started.elapsed();
        let n = match result {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            result => result?,
        };
        self.bytes += n as u64;
        let earned = Duration::from_millis(self.bytes.saturating_mul(1000) / self.min_rate);
        if self.waited > self.pause + earned { Err(io::ErrorKind::TimedOut.into()) } else { Ok(n) }
    }
}

/// A request's body that is read from the socket on demand. The handler has a [`FeedReader`] of it, the server keeps
/// the feed itself, to see afterwards how far the handler came.
pub(super) struct Feed {
    /// Gone once the request is over, whatever the handler did with the reader.
    connection: Option<Arc<Connection>>,
    coding: Coding,
    /// Received, not decoded.
    raw: Vec<u8>,
    /// Decoded, not read.
    decoded: Vec<u8>,
    continue_due: bool,
    pace: Pace,
    max_body: u64,
    failed: bool,
}

/// The reading end of a [`Feed`].
pub(super) struct FeedReader(pub(super) Arc<Mutex<Feed>>);

impl Read for FeedReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.lock().read(out)
    }
}

impl Feed {
    pub(super) fn new(
        connection: Arc<Connection>,
        coding: Coding,
        raw: Vec<u8>,
        continue_due: bool,
        settings: &Settings,
    ) -> Feed {
        let pace = Pace::new(settings.body_timeout, settings.min_rate);
        let (decoded, max_body) = (Vec::new(), settings.max_body);
        Feed { connection: Some(connection), coding, raw, decoded, continue_due, pace, max_body, failed: false }
    }

    /// Whether the whole body has been received, if not read.
    pub(super) fn is_finished(&self) -> bool {
        !self.failed && self.coding.is_finished()
    }

    /// Ends it; returns what was received beyond the body's end.
    pub(super) fn close(&mut self) -> Vec<u8> {
        self.connection = None;
        std::mem::take(&mut self.raw)
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.failed {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let result = self.read_some(out);
        self.failed = result.is_err();
        result
    }

    fn read_some(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.decoded.is_empty() {
                let n = self.decoded.len().min(out.len());
                out[..n].copy_from_slice(&self.decoded[..n]);
                self.decoded.drain(..n);
                return Ok(n);
            }
            match &mut self.coding {
                coding if coding.is_finished() => return Ok(0),
                Coding::Length(left) if self.raw.is_empty() => {
                    let most = out.len().min(PIECE).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let n = self.receive(&mut out[..most])?;
                    self.coding = Coding::Length(self.coding_left().saturating_sub(n as u64));
                    return Ok(n);
                }
                _ if self.raw.is_empty() => {
                    let mut raw = vec![0; 16 * 1024];
                    let n = self.receive(&mut raw)?;
                    raw.truncate(n);
                    self.raw = raw;
                }
                coding => {
                    let used = coding.decode(&self.raw, &mut self.decoded, PIECE);
                    let used = used.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                    self.raw.drain(..used);
                }
            }
        }
    }

    fn coding_left(&self) -> u64 {
        if let Coding::Length(left) = self.coding { left } else { 0 }
    }

    /// Waits for bytes; at least one comes, or an error.
    fn receive(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(connection) = &self.connection else {
            return Err(io::Error::other("the request is over"));
        };
        let mut socket = &connection.socket;
        if std::mem::take(&mut self.continue_due) {
            socket.write_all(CONTINUE)?;
        }
        let n = self.pace.wait(|| socket.read(out))?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.pace.bytes > self.max_body { Err(io::ErrorKind::InvalidData.into()) } else { Ok(n) }
    }
}

/// The writing end of a reply's body: what one call writes is sent before it returns, as one chunk where chunks are
/// wanted.
pub(super) struct PieceWriter<'a> {
    connection: &'a Connection,
    chunked: bool,
    pace: Pace,
    /// What the client has not taken, or half of it: it must not get anything further.
    pub(super) failed: bool,
}

impl PieceWriter<'_> {
    pub(super) fn new<'a>(connection: &'a Connection, chunked: bool, settings: &Settings) -> PieceWriter<'a> {
        let pace = Pace::new(settings.write_timeout, settings.min_rate);
        PieceWriter { connection, chunked, pace, failed: false }
    }

    /// Sends bytes as they are.
    pub(super) fn send(&mut self, parts: [&[u8]; 3]) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut slices = parts.map(IoSlice::new);
        let mut left: &mut [IoSlice<'_>] = &mut slices;
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let mut socket = &self.connection.socket;
            match self.pace.wait(|| socket.write_vectored(left)) {
                Ok(n) if n > 0 => IoSlice::advance_slices(&mut left, n),
                other => {
                    self.failed = true;
                    return Err(other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                }
            }
        }
        Ok(())
    }

    /// Says that the body is whole.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.chunked { self.send([b"0\r\n\r\n", b"", b""]) } else { Ok(()) }
    }
}

impl Write for PieceWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        match piece {
            // An empty chunk would end the body.
            [] => {}
            _ if self.chunked => {
                let size = format!("{:x}\r\n", piece.len());
                self.send([size.as_bytes(), piece, b"\r\n"])?;
            }
            _ => self.send([piece, b"", b""])?,
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies exactly `length` bytes of `from`, or fails.
pub(super) fn copy(from: &mut dyn Read, length: u64, to: &mut PieceWriter<'_>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
    let mut left = length;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = retry(|| from.read(&mut buffer[..most]))?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&buffer[..n])?;
        left -= n as u64;
    }
    Ok(())
}
