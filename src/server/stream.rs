//! Streamed bodies: that of a request, which the handler reads while it arrives, and that of a response, which is sent
//! while it is produced. Meanwhile the thread blocks, inside [`block_in_place`](crate::blocking::block_in_place), and
//! the socket is in blocking mode.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::clock::millis;
use super::connection::Connection;
use super::incoming::{BodyDecoder, retry};
use super::settings::Settings;
use super::transfer::Pace;

/// Tells a client that waits for it to send its body (RFC 9110, section 10.1.1).
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Maximum number of bytes per system call, so that deadlines are checked regularly.
const MAX_PIECE: usize = 64 * 1024;
/// Longest time that a thread waits for a client before it looks whether the transfer is to end.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// Makes a socket blocking until it is dropped.
pub(super) struct BlockingSocket<'a>(&'a Connection);

impl BlockingSocket<'_> {
    pub(super) fn start<'a>(connection: &'a Connection, settings: &Settings) -> io::Result<BlockingSocket<'a>> {
        connection.set_blocking(Some((settings.body_timeout.min(MAX_WAIT), settings.write_timeout.min(MAX_WAIT))))?;
        Ok(BlockingSocket(connection))
    }
}

impl Drop for BlockingSocket<'_> {
    fn drop(&mut self) {
        if self.0.set_blocking(None).is_err() {
            // A socket in blocking mode would block a worker in a later turn.
            let _ = self.0.socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Aborts a transfer if the client is too slow. The time counts that was spent waiting for it.
struct MinRateTimer {
    pace: Pace,
    waited: Duration,
    bytes: u64,
}

impl MinRateTimer {
    fn new(timeout: Duration, min_rate: u64) -> MinRateTimer {
        MinRateTimer { pace: Pace::new(timeout, min_rate, 0), waited: Duration::ZERO, bytes: 0 }
    }

    /// Transfers bytes by calls on the socket. The error is of kind `TimedOut` if that takes too long, or if others need
    /// the memory.
    fn measure(&mut self, connection: &Connection, mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        loop {
            connection.begin_wait();
            let started = Instant::now();
            let result = retry(&mut call);
            self.waited += started.elapsed();
            let n = *result.as_ref().unwrap_or(&0);
            let (waited, is_evicted) = (millis(self.waited), connection.end_wait(n));
            self.pace.note(n, waited);
            self.bytes += n as u64;
            if is_evicted || waited > self.pace.deadline() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match result {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// A request's body that is read from the socket on demand. The handler has a [`StreamedBodyReader`]; the server keeps
/// the body itself, to see afterwards how far the handler has read.
pub(super) struct StreamedBody {
    /// `None` once the request is over, even if the handler has kept the reader.
    connection: Option<Arc<Connection>>,
    decoder: BodyDecoder,
    /// Bytes received but not decoded yet.
    raw: Vec<u8>,
    /// Bytes decoded but not read yet.
    decoded: Vec<u8>,
    continue_due: bool,
    timer: MinRateTimer,
    max_body: u64,
    failed: bool,
}

/// The reading end of a [`StreamedBody`].
pub(super) struct StreamedBodyReader(pub(super) Arc<Mutex<StreamedBody>>);

impl Read for StreamedBodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.lock().read(out)
    }
}

impl StreamedBody {
    pub(super) fn new(
        connection: Arc<Connection>,
        decoder: BodyDecoder,
        raw: Vec<u8>,
        continue_due: bool,
        settings: &Settings,
    ) -> StreamedBody {
        let timer = MinRateTimer::new(settings.body_timeout, settings.min_rate);
        let (decoded, max_body) = (Vec::new(), settings.max_body);
        StreamedBody {
            connection: Some(connection),
            decoder,
            raw,
            decoded,
            continue_due,
            timer,
            max_body,
            failed: false,
        }
    }

    /// Whether the whole body has been received, even if the handler has not read it.
    pub(super) fn is_finished(&self) -> bool {
        !self.failed && self.decoder.is_finished()
    }

    /// Closes the body. Returns the bytes received after its end.
    pub(super) fn close(&mut self) -> Vec<u8> {
        self.end_transfer();
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
        if self.failed || self.decoder.is_finished() {
            self.end_transfer();
        }
        result
    }

    /// Nothing more is expected of the client.
    fn end_transfer(&self) {
        if let Some(connection) = &self.connection {
            connection.end_transfer();
        }
    }

    fn read_some(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.decoded.is_empty() {
                let n = self.decoded.len().min(out.len());
                out[..n].copy_from_slice(&self.decoded[..n]);
                self.decoded.drain(..n);
                return Ok(n);
            }
            match &mut self.decoder {
                decoder if decoder.is_finished() => return Ok(0),
                BodyDecoder::Length(left) if self.raw.is_empty() => {
                    let most = out.len().min(MAX_PIECE).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let n = self.receive(&mut out[..most])?;
                    self.decoder = BodyDecoder::Length(self.length_left().saturating_sub(n as u64));
                    return Ok(n);
                }
                _ if self.raw.is_empty() => {
                    let mut raw = vec![0; 16 * 1024];
                    let n = self.receive(&mut raw)?;
                    raw.truncate(n);
                    self.raw = raw;
                }
                decoder => {
                    let used = decoder.decode(&self.raw, &mut self.decoded, MAX_PIECE);
                    let used = used.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                    self.raw.drain(..used);
                }
            }
        }
    }

    fn length_left(&self) -> u64 {
        if let BodyDecoder::Length(left) = self.decoder { left } else { 0 }
    }

    /// Waits for bytes; returns at least one, or an error.
    fn receive(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(connection) = &self.connection else {
            return Err(io::Error::other("the request has ended"));
        };
        let mut socket = &connection.socket;
        if std::mem::take(&mut self.continue_due) {
            socket.write_all(CONTINUE)?;
        }
        let n = self.timer.measure(connection, || socket.read(out))?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.timer.bytes > self.max_body { Err(io::ErrorKind::InvalidData.into()) } else { Ok(n) }
    }
}

/// Writes the body of a response. Each call sends its data before it returns, as one chunk if the body is chunked.
pub(super) struct BodyWriter<'a> {
    connection: &'a Connection,
    chunked: bool,
    timer: MinRateTimer,
    /// A write failed, perhaps after a part was sent: nothing more must be sent.
    pub(super) failed: bool,
}

impl BodyWriter<'_> {
    pub(super) fn new<'a>(connection: &'a Connection, chunked: bool, settings: &Settings) -> BodyWriter<'a> {
        let timer = MinRateTimer::new(settings.write_timeout, settings.min_rate);
        BodyWriter { connection, chunked, timer, failed: false }
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
            match self.timer.measure(self.connection, || socket.write_vectored(left)) {
                Ok(n) if n > 0 => IoSlice::advance_slices(&mut left, n),
                other => {
                    self.failed = true;
                    return Err(other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                }
            }
        }
        Ok(())
    }

    /// Marks the end of the body.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.chunked { self.send([b"0\r\n\r\n", b"", b""]) } else { Ok(()) }
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MAX_PIECE)];
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

/// Copies exactly `length` bytes from `from`, or fails.
pub(super) fn copy(from: &mut dyn Read, length: u64, to: &mut BodyWriter<'_>) -> io::Result<()> {
    let mut buffer = vec![0; MAX_PIECE.min(usize::try_from(length).unwrap_or(MAX_PIECE))];
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
