//! Streams of server-sent events. Each event is passed on as soon as it is complete, without the usage numbers unless the
//! client asked for them; the last one is sent once the charge is durable.

use std::io::{self, Write};

use crate::blocking;
use crate::engine::Reply;
use crate::error::Error;
use crate::http::response::Response;
use crate::http::sse;
use crate::protocol::native::End;
use crate::units::Units;

use super::charged::Outcome;
use super::estimate::KeptPrompt;
use super::live_reply::{self, LiveReader, Next};
use super::mark_demo;
use super::output_limit::OutputLimit;
use super::reply_format::{EVENTS, Reading, ReplyFormat, Seen};
use super::reply_kind::disguised_failure;
use super::reply_stream::{ReplyStream, StreamClient, StreamEnd};
use super::usage_counter::UsageCounter;

const DONE: &[u8] = b"[DONE]";

/// A model server's stream of events.
pub struct EventStream {
    /// The name under which the model is charged.
    pub model: String,
    /// The model server's reply.
    pub reply: Reply,
    /// Counts what it uses.
    pub counter: UsageCounter,
    /// What the request gave the model to read.
    pub prompt: KeptPrompt,
    /// What the client gets of it.
    pub format: ReplyFormat,
    /// Ends it where it has more than was asked for.
    pub limit: Option<OutputLimit>,
    /// Whether it is read to its end even if the client leaves.
    pub reads_to_end: bool,
    /// Whether it had an event that was too long to be read: then the model has made something, whatever was counted.
    pub is_unreadable: bool,
    /// The model server's own last event, if that says that it has failed.
    pub failed: Option<Vec<u8>>,
}

impl EventStream {
    /// One that is passed on until the client leaves, however much it has.
    pub fn new(
        model: String,
        reply: Reply,
        counter: UsageCounter,
        prompt: KeptPrompt,
        format: ReplyFormat,
    ) -> EventStream {
        let (limit, failed) = (None, None);
        let (reads_to_end, is_unreadable) = (false, false);
        EventStream { model, reply, counter, prompt, format, limit, reads_to_end, is_unreadable, failed }
    }

    /// The response to the client.
    pub fn into_outcome(self) -> Outcome {
        let media_type = self.format.media_type().unwrap_or(EVENTS);
        let response = Response::new(200)
            .header("Content-Type", media_type)
            // nginx would buffer events otherwise.
            .header("X-Accel-Buffering", "no");
        Outcome::Stream(mark_demo(response, self.reply.is_demo), self.model.clone(), Box::new(self))
    }

    /// Copies events until the model server ends the stream or fails, or the call is to be ended.
    fn copy_events(&mut self, client: &mut Client<'_>) -> StreamEnd {
        let mut events = sse::Events::default();
        let mut reader = LiveReader::new();
        // Whether the client has left, and the rest is read all the same.
        let mut has_left = false;
        loop {
            match reader.next(&mut self.reply, has_left || self.counter.is_finished()) {
                Next::Bytes(bytes) => {
                    if let Err(e) = events.push(bytes) {
                        self.is_unreadable = true;
                        return StreamEnd::Failed(Error::from(e));
                    }
                }
                Next::End if has_left && !self.counter.is_finished() => return disconnected(),
                Next::End => {
                    let end = self.end_without_done(events.is_incomplete(), &mut client.output);
                    client.flush();
                    return end;
                }
                Next::ClientLeft if self.is_rest_needed() => has_left = true,
                Next::ClientLeft => return disconnected(),
                Next::Failed(e) => return StreamEnd::Failed(self.reply.broken(&e)),
            }
            while let Some(event) = events.take() {
                if let Some(end) = self.pass_on(event, &mut client.output) {
                    client.flush();
                    return end;
                }
            }
            if !client.output.is_empty() {
                client.out.note_made(&mut || self.made());
            }
            client.flush();
            if client.gone.is_some() && !has_left && !self.reads_to_end && !self.counter.is_finished() {
                if !self.is_rest_needed() {
                    return disconnected();
                }
                has_left = true;
            }
        }
    }

    /// The stream ended without `[DONE]`. That is an error, unless all its choices were finished, or if it is a stream
    /// of transcripts, which ends like this.
    fn end_without_done(&mut self, is_within_event: bool, output: &mut Vec<u8>) -> StreamEnd {
        match self.counter.are_begun_choices_finished() {
            _ if is_within_event => StreamEnd::Failed(self.ended_early()),
            true => self.complete(None, output),
            false if self.counter.is_audio() => StreamEnd::Complete(Vec::new()),
            false => StreamEnd::Failed(self.ended_early()),
        }
    }

    fn ended_early(&self) -> Error {
        self.reply.broken(&io::ErrorKind::UnexpectedEof.into())
    }

    /// Counts an event and adds to `output` what the client gets of it. Returns how the stream ends, if it ends with it.
    fn pass_on(&mut self, event: &[u8], output: &mut Vec<u8>) -> Option<StreamEnd> {
        let Some(data) = sse::data(event) else {
            self.format.pass_comment(event, output);
            return None;
        };
        if &*data == DONE {
            return Some(self.complete(Some(event), output));
        }
        let seen = match self.format.read(&data) {
            Reading::Piece(seen) => seen,
            Reading::Failure(message) => return Some(StreamEnd::Failed(disguised_failure(&message))),
            Reading::Unknown => {
                self.counter.add_unparsed(&data);
                return self.format.pass_unknown(event, output).err().map(StreamEnd::Failed);
            }
        };
        if self.limit.as_mut().is_some_and(|limit| limit.is_passed_by(&seen.chunk)) {
            let (open, used) = (self.counter.open_choices(), self.used());
            return Some(StreamEnd::Complete(self.format.cut(&data, &seen.chunk, &open, &used)));
        }
        self.count(&seen);
        match seen.end {
            None => {
                let is_finished = self.counter.are_begun_choices_finished();
                self.format.pass(event, &data, &seen, is_finished, output).err().map(StreamEnd::Failed)
            }
            Some(End::Failed | End::Error) => {
                self.failed = Some(event.to_vec());
                Some(StreamEnd::Failed(disguised_failure("a response that has failed")))
            }
            Some(End::Complete) => Some(self.complete(Some(event), output)),
        }
    }

    /// The end of a complete reply, whose last event this is.
    fn complete(&mut self, last: Option<&[u8]>, output: &mut Vec<u8>) -> StreamEnd {
        if let Some(failure) = self.format.failure() {
            return StreamEnd::Failed(failure);
        }
        let EventStream { format, counter, prompt, limit, .. } = self;
        StreamEnd::Complete(format.end(last, || used(counter, prompt, limit.as_ref()), output))
    }

    fn count(&mut self, seen: &Seen<'_>) {
        match &seen.usage {
            Some(usage) => self.counter.add_with(&seen.chunk, Some(usage)),
            None => self.counter.add(&seen.chunk),
        }
    }

    fn is_rest_needed(&self) -> bool {
        live_reply::is_rest_needed(&self.counter, &self.reply, &self.model)
    }

    fn used(&self) -> Units {
        used(&self.counter, &self.prompt, self.limit.as_ref())
    }

    /// As [`EventStream::used`], for a stream that is asked after each piece: its prompt is counted once.
    fn made(&mut self) -> Units {
        self.prompt.count();
        self.used()
    }
}

/// What was used, as far as it is known or may be.
fn used(counter: &UsageCounter, prompt: &KeptPrompt, limit: Option<&OutputLimit>) -> Units {
    let units = counter.units(|| prompt.tokens());
    limit.map_or(units, |limit| limit.cap(units))
}

/// The client is not there any more.
fn disconnected() -> StreamEnd {
    StreamEnd::Disconnected(io::ErrorKind::ConnectionAborted.into())
}

/// The client's side of a stream. Once the client has gone, what it is sent is discarded.
struct Client<'a> {
    out: &'a mut dyn StreamClient,
    /// What is not sent yet.
    output: Vec<u8>,
    /// The error of the write that failed because the client has disconnected.
    gone: Option<io::Error>,
}

impl Client<'_> {
    fn flush(&mut self) {
        if !self.output.is_empty() && self.gone.is_none() {
            self.gone = self.out.write_all(&self.output).err();
        }
        self.output.clear();
    }
}

impl ReplyStream for EventStream {
    fn copy(&mut self, out: &mut dyn StreamClient) -> StreamEnd {
        let _watch = self.reads_to_end.then(|| blocking::set_client(None));
        let mut client = Client { out, output: Vec::new(), gone: None };
        let end = self.copy_events(&mut client);
        let end = match (end, client.gone) {
            // The model has made the whole reply, but the client did not get it.
            (StreamEnd::Complete(_), Some(e)) => StreamEnd::Disconnected(e),
            (end, _) => end,
        };
        let is_cut = matches!(end, StreamEnd::Disconnected(_));
        live_reply::note_hidden_output(&mut self.counter, &self.reply, &self.model, is_cut);
        end
    }

    /// A stream that completes or is cut before its first event is charged for its prompt, which the model has read; one
    /// that fails before is not charged.
    fn units(&self, end: &StreamEnd) -> Option<Units> {
        let is_charged = match end {
            StreamEnd::Complete(_) | StreamEnd::Disconnected(_) => true,
            StreamEnd::Failed(_) => !self.counter.is_empty() || self.is_unreadable,
        };
        is_charged.then(|| self.used()).inspect(|units| self.reply.note_tokens(units))
    }

    fn is_estimate(&self) -> bool {
        self.counter.is_estimate()
    }

    fn latency_micros(&self) -> i64 {
        self.reply.latency_micros()
    }

    fn fail(&mut self, out: &mut dyn Write, e: Error) -> io::Result<()> {
        log::warn!("a stream ended with an error: {e}");
        if !self.format.is_stream() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // In one call, as each write is sent as a chunk of its own.
        out.write_all(&self.failed.take().unwrap_or_else(|| self.format.error(&e)))
    }

    fn finish(&mut self) {
        if !self.limit.as_ref().is_some_and(OutputLimit::is_passed) {
            self.reply.drain();
        }
    }
}
