//! Streams of server-sent events. Each event is passed on as soon as it is complete, without the usage numbers unless the
//! client asked for them; the last one is sent once the charge is durable.

use std::io::{self, Read, Write};

use crate::engine::{Reply, client_left};
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::http::response::Response;
use crate::http::sse;
use crate::protocol::failure;
use crate::units::Units;

use super::charged::Outcome;
use super::mark_demo;
use super::reply_stream::{ReplyStream, StreamEnd};
use super::usage_counter::{Chunk, UsageCounter};

/// Bytes read at a time.
const READ_SIZE: usize = 16 * 1024;

const DONE: &[u8] = b"[DONE]";

/// A model server's stream of events.
pub struct EventStream {
    /// The model server's reply.
    pub reply: Reply,
    /// Counts what it uses.
    pub counter: UsageCounter,
    /// Whether usage numbers are removed, because the client did not ask for them.
    pub hides_usage: bool,
}

impl EventStream {
    /// The response to the client, charged for `model`.
    pub fn into_outcome(self, model: String) -> Outcome {
        let response = Response::new(200)
            .header("Content-Type", "text/event-stream; charset=utf-8")
            // nginx would buffer events otherwise.
            .header("X-Accel-Buffering", "no");
        Outcome::Stream(mark_demo(response, self.reply.is_demo), model, Box::new(self))
    }

    /// Copies events until the model server ends the stream or fails. An error is the client's: it disconnected.
    fn copy_events(&mut self, out: &mut dyn Write) -> io::Result<StreamEnd> {
        let mut events = sse::Events::default();
        let mut buffer = vec![0; READ_SIZE];
        let mut output = Vec::with_capacity(READ_SIZE);
        let mut is_finished = false;
        loop {
            let n = match self.reply.read(&mut buffer) {
                Ok(n) => n,
                Err(_) if client_left() => return Err(io::ErrorKind::ConnectionAborted.into()),
                Err(e) => return Ok(StreamEnd::Failed(self.reply.broken(&e))),
            };
            if n == 0 {
                return Ok(self.end_without_done(is_finished, events.is_incomplete()));
            }
            if events.push(&buffer[..n]).is_err() {
                return Ok(StreamEnd::Failed(Error::Upstream(502, "The model server sent an event that is too long")));
            }
            while let Some(event) = events.take() {
                let data = sse::data(event);
                if data.as_deref() == Some(DONE) {
                    let last = event.to_vec();
                    flush(out, &mut output)?;
                    return Ok(StreamEnd::Complete(last));
                }
                if let Some(message) = data.as_deref().and_then(failure::message) {
                    flush(out, &mut output)?;
                    return Ok(StreamEnd::Failed(disguised_failure(&message)));
                }
                match data {
                    Some(data) => is_finished |= self.pass_on(event, &data, &mut output),
                    // A comment keeps the connection alive.
                    None => output.extend_from_slice(event),
                }
            }
            flush(out, &mut output)?;
        }
    }

    /// The stream ended without `[DONE]`. That is an error, unless all its choices were finished, or if it is a stream
    /// of transcripts, which ends like this.
    fn end_without_done(&self, is_finished: bool, is_within_event: bool) -> StreamEnd {
        match is_finished {
            _ if is_within_event => StreamEnd::Failed(self.ended_early()),
            true => StreamEnd::Complete(b"data: [DONE]\n\n".to_vec()),
            false if self.counter.is_fixed() => StreamEnd::Complete(Vec::new()),
            false => StreamEnd::Failed(self.ended_early()),
        }
    }

    fn ended_early(&self) -> Error {
        self.reply.broken(&io::ErrorKind::UnexpectedEof.into())
    }

    /// Counts an event and adds to `output` what the client gets of it. True if the event finishes a choice.
    fn pass_on(&mut self, event: &[u8], data: &[u8], output: &mut Vec<u8>) -> bool {
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            self.counter.add_unparsed();
            output.extend_from_slice(event);
            return false;
        };
        self.counter.add(&chunk);
        let finishes = chunk.choices.iter().any(|choice| choice.finish_reason.is_some());
        // Servers that were asked for usage numbers may send `"usage":null` until they have them.
        match self.hides_usage && memchr::memmem::find(data, b"\"usage\"").is_some() {
            false => output.extend_from_slice(event),
            // This event holds nothing else.
            true if chunk.choices.is_empty() && chunk.usage.is_some() => {}
            true => {
                if let Ok(mut object) = Object::parse(data) {
                    object.remove("usage");
                    output.extend_from_slice(b"data: ");
                    output.extend_from_slice(&object.to_bytes());
                    output.extend_from_slice(b"\n\n");
                }
            }
        }
        finishes
    }
}

impl ReplyStream for EventStream {
    fn copy(&mut self, out: &mut dyn Write) -> StreamEnd {
        self.copy_events(out).unwrap_or_else(StreamEnd::Disconnected)
    }

    /// A stream that completes without any event is charged for its prompt; one that fails or is cut before its first
    /// event is not charged.
    fn units(&self, end: &StreamEnd) -> Option<Units> {
        let is_charged = matches!(end, StreamEnd::Complete(_)) || !self.counter.is_empty();
        is_charged.then(|| self.counter.units())
    }

    fn is_estimate(&self) -> bool {
        self.counter.is_estimate()
    }

    fn latency_micros(&self) -> i64 {
        self.reply.latency_micros()
    }

    fn fail(&mut self, out: &mut dyn Write, e: Error) -> io::Result<()> {
        log::warn!("a stream ended with an error: {e}");
        // In one call, as each write is sent as a chunk of its own.
        out.write_all(format!("data: {}\n\n", e.openai()).as_bytes())
    }

    fn finish(&mut self) {
        self.reply.drain();
    }
}

fn flush(out: &mut dyn Write, output: &mut Vec<u8>) -> io::Result<()> {
    if !output.is_empty() {
        out.write_all(output)?;
        output.clear();
    }
    Ok(())
}

/// Whether a reply is a stream of events; if not, it is JSON.
///
/// # Errors
/// 502 for a reply that is neither.
pub fn is_event_stream(reply: &Reply) -> Result<bool> {
    match reply.media_type.as_str() {
        sse::MEDIA_TYPE => Ok(true),
        "application/json" => Ok(false),
        other => {
            log::warn!("a model server replied with the media type {other:?}");
            Err(not_json())
        }
    }
}

/// 502: a model server sent an error as if it were a reply. Its words are for the log only, as they may tell of the
/// server.
pub fn disguised_failure(message: &str) -> Error {
    log::warn!("a model server sent an error as a reply: {message}");
    Error::Upstream(502, "The model server failed")
}

/// 502: a model server's reply is not JSON, as it should be.
pub fn not_json() -> Error {
    Error::Upstream(502, "The model server's reply is not JSON")
}
