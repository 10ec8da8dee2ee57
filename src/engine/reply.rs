//! What a model server answered: the head, and a body that is still on its way.

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::blocking::Refused;
use crate::error::{Error, Relayed, Result};
use crate::memory_budget;
use crate::units::Units;

use super::health::InFlight;
use super::transport;

/// Most bytes of an error that are read.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// The first piece of a reply that memory is taken for.
const FIRST_PIECE: usize = 8 * 1024;
/// Bytes of a reply that are not refused when there is no memory: the model has done its work, and nearly all replies are
/// shorter.
pub const UNREFUSED: usize = 1024 * 1024;
/// Bytes that are kept of the end of a reply for which there was no memory: what was used stands there.
const KEPT_END: usize = 16 * 1024;
/// Most characters of an error's words that are passed on.
const MAX_ERROR_CHARS: usize = 2000;
/// How long the end of a stream is waited for once its last event came. If it does not come, the connection is not
/// used again.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(50);

/// A reply; to read from it is to wait for the server. Dropped before its end, it ends the call.
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The media type, lower-cased, without parameters.
    pub media_type: String,
    /// `Content-Type` as it came.
    pub content_type: String,
    /// Whether the demo engine made it.
    pub is_demo: bool,
    pub(super) retry_after: Option<Duration>,
    pub(super) began: Instant,
    pub(super) body: Box<dyn Read + Send>,
    pub(super) in_flight: Option<InFlight>,
    /// When all of it must have come; `None` for a stream, which may last.
    pub(super) deadline: Option<Instant>,
    /// It is a stream of which nothing was read so far.
    pub(super) awaits_first_piece: bool,
    /// When that was read.
    pub(super) first_piece: Option<Instant>,
    /// How long the next piece of it may take.
    pub(super) idle: Duration,
    /// The id of the request that it answers, for the log.
    pub(super) request_id: Option<Arc<str>>,
}

impl Reply {
    /// How long the call has taken so far, in microseconds.
    pub fn latency_micros(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// Takes the whole body into memory. What it takes beyond [`UNREFUSED`] bytes is reserved before it is read; of that,
    /// `reserved` bytes are already.
    ///
    /// # Errors
    /// [`ReadError::NoMemory`]; [`ReadError::TooLong`] beyond `limit` bytes; 502 when it ends early, 504 when it takes too long; the
    /// client has left.
    pub fn read_all(&mut self, limit: usize, reserved: usize) -> std::result::Result<Vec<u8>, ReadError> {
        let (mut bytes, taken) = (Vec::new(), Cell::new(0_usize));
        let take = |more: usize| {
            let all = taken.get().saturating_add(more);
            let missing = all.saturating_sub(reserved.max(taken.get()));
            match all <= UNREFUSED {
                true => memory_budget::count(missing),
                false => memory_budget::reserve_in_time(missing).map_err(Stop::Refused)?,
            }
            taken.set(all);
            Ok(())
        };
        match memory_budget::read_up_to(self, &mut bytes, (FIRST_PIECE, limit.saturating_add(1)), take) {
            Ok(()) if bytes.len() > limit => Err(ReadError::TooLong),
            Ok(()) => Ok(bytes),
            Err(Stop::Failed(e)) => Err(self.broken(&e).into()),
            Err(Stop::Refused(refused)) => {
                let mut unread = Unread::of(&bytes, refused);
                drop(bytes);
                memory_budget::release(taken.get().max(reserved));
                self.skim(&mut unread, limit)?;
                Err(ReadError::NoMemory(unread))
            }
        }
    }

    /// Reads on to the end of a reply that is not kept.
    fn skim(&mut self, unread: &mut Unread, limit: usize) -> std::result::Result<(), ReadError> {
        let mut piece = vec![0; KEPT_END];
        loop {
            match self.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => unread.add(&piece[..n]),
                Err(e) => return Err(self.broken(&e).into()),
            }
            if unread.length > limit {
                return Err(ReadError::TooLong);
            }
        }
    }

    /// Why reading failed: the client has left, or the server failed, which is noted.
    pub fn broken(&self, e: &io::Error) -> Error {
        if transport::client_left() {
            return Error::ClientLeft;
        }
        if let Some(in_flight) = &self.in_flight {
            let (millis, id) = (in_flight.began().elapsed().as_millis(), self.request_id.as_deref().unwrap_or("-"));
            in_flight.failed(None, Instant::now());
            in_flight.count_broken();
            log::warn!("provider {} failed in its reply after {millis} ms: {e} (request {id})", in_flight.name());
        }
        match transport::is_timeout(e) {
            true => Error::Upstream(504, "The model server took too long"),
            false => Error::Upstream(502, "The model server ended its reply early"),
        }
    }

    /// Reads as [`Read::read`] does, until this time at the latest.
    ///
    /// # Errors
    /// As there.
    pub fn read_before(&mut self, out: &mut [u8], end: Option<Instant>) -> io::Result<usize> {
        let idle = Instant::now().checked_add(self.idle);
        let end = transport::earlier(transport::earlier(self.deadline, idle), end);
        let read = transport::with_deadline_at(end, || self.body.read(out))?;
        if self.awaits_first_piece && read > 0 {
            self.awaits_first_piece = false;
            self.first_piece = Some(Instant::now());
            self.in_flight.iter().for_each(InFlight::note_first_piece);
        }
        Ok(read)
    }

    /// Counts what the reply has used, now that it has ended.
    pub fn note_tokens(&self, units: &Units) {
        if let Some(call) = &self.in_flight {
            call.note_tokens(units, self.first_piece.map(|at| at.elapsed()));
        }
    }

    /// Remembers for the provider that the model of this name has made so many tokens that it does not show.
    pub fn note_hidden_output(&self, model: &str, tokens: i64) {
        if let Some(call) = &self.in_flight {
            call.hidden_output().note(model, tokens);
        }
    }

    /// The most tokens that the model of this name is known to have made in one reply without showing them; `None` if it
    /// has not told of a reply yet. It is known since the provider was set up.
    pub fn most_hidden_output(&self, model: &str) -> Option<i64> {
        self.in_flight.as_ref().and_then(|call| call.hidden_output().most(model))
    }

    /// Waits a moment for the end of a body of which nothing more is wanted, so that its connection can be used again.
    pub fn drain(&mut self) {
        let _ = transport::with_deadline(DRAIN_TIMEOUT, || self.body.read(&mut [0; 64]));
    }

    /// Takes a reply that is no success apart.
    ///
    /// # Errors
    /// Always, unless the status is 2xx: what the server says of the request, or that it failed.
    pub fn successful(mut self) -> Result<Reply> {
        match self.status {
            200..=299 => Ok(self),
            401..=403 | 407 => Err(Error::Upstream(502, "The model server refused this server's credentials")),
            400..=499 | 503 => Err(self.refusal()),
            _ => Err(Error::Upstream(502, "The model server failed")),
        }
    }

    /// Servers write `{"error": {"message"}}`, `{"error": text}`, `{"detail"}`, `{"message"}` or plain text.
    fn refusal(&mut self) -> Error {
        let mut bytes = Vec::new();
        if let Err(e) = self.by_ref().take(MAX_ERROR_BODY).read_to_end(&mut bytes) {
            return self.broken(&e);
        }
        let body: Option<Value> = serde_json::from_slice(&bytes).ok();
        let text = body.as_ref().and_then(|body| {
            let nested = [&body["error"]["message"], &body["error"], &body["detail"], &body["message"]];
            nested.into_iter().find_map(Value::as_str).map(str::to_owned)
        });
        let text = text.or_else(|| body.as_ref().map(|body| body.get("detail").unwrap_or(body).to_string()));
        let message = text.unwrap_or_else(|| format!("The model server refused the request ({})", self.status));
        let message = message.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect();
        let body = body.filter(|body| body["error"]["message"].is_string());
        Error::Relayed(Box::new(Relayed {
            status: self.status,
            body,
            message,
            retry_after: self.retry_after.map(whole_seconds),
        }))
    }
}

/// Why reading into memory stopped.
enum Stop {
    Failed(io::Error),
    Refused(Refused),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Stop {
        Stop::Failed(e)
    }
}

/// Why a reply was not taken into memory.
#[derive(Debug)]
pub enum ReadError {
    /// There was no memory for it. It was read to its end all the same, as the model has made it.
    NoMemory(Unread),
    /// It was made, but is longer than may be.
    TooLong,
    /// It could not be read.
    Failed(Error),
}

impl ReadError {
    /// What is known of a reply for which there was no memory.
    ///
    /// # Errors
    /// Why it was not read, if that was something else.
    pub fn into_unread(self) -> Result<Unread> {
        match self {
            ReadError::NoMemory(unread) => Ok(unread),
            other => Err(other.into()),
        }
    }
}

impl From<Error> for ReadError {
    fn from(e: Error) -> ReadError {
        ReadError::Failed(e)
    }
}

/// For those to whom it is the same.
impl From<ReadError> for Error {
    fn from(e: ReadError) -> Error {
        match e {
            ReadError::NoMemory(unread) => Error::from(unread.refused),
            ReadError::TooLong => Error::Upstream(502, "The model server's reply is too long"),
            ReadError::Failed(e) => e,
        }
    }
}

/// What is known of a reply for which there was no memory.
#[derive(Debug)]
pub struct Unread {
    /// Why there was none.
    pub refused: Refused,
    /// How many bytes it has.
    pub length: usize,
    /// Its last bytes.
    pub end: Vec<u8>,
}

impl Unread {
    /// Of a reply that begins with these bytes.
    pub fn of(bytes: &[u8], refused: Refused) -> Unread {
        let mut unread = Unread { refused, length: 0, end: Vec::new() };
        unread.add(bytes);
        unread
    }

    fn add(&mut self, bytes: &[u8]) {
        self.length = self.length.saturating_add(bytes.len());
        self.end.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT_END)..]);
        self.end.drain(..self.end.len().saturating_sub(KEPT_END));
    }
}

impl Read for Reply {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read_before(out, None)
    }
}

/// Rounded up: whoever comes back after that must not be refused again.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}
