//! A streamed reply on its way through: each event goes out as soon as it is whole, what the client did not ask for
//! stays here, and the last one waits for the charge.

use std::io::{self, Read, Write};

use crate::engine::{Reply, client_left};
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::http::response::Response;
use crate::http::{Content, sse};

use super::tally::{Piece, Tally};
use super::{Bill, marked};

/// Bytes read at a time.
const PIECE: usize = 16 * 1024;

const DONE: &[u8] = b"[DONE]";

/// A stream, and what is to be known to pass it on.
pub struct Relay {
    /// What the engine sends.
    pub reply: Reply,
    /// Who pays.
    pub bill: Bill,
    /// For which model.
    pub model: String,
    /// For what.
    pub tally: Tally,
    /// Whether the client did not ask for the usage numbers.
    pub hides_usage: bool,
}

/// How the engine's side ended.
enum End {
    /// Whole; the event that said so, if one did.
    Whole(Vec<u8>),
    /// The server failed.
    Broken(Error),
}

impl Relay {
    /// The reply to the client.
    pub fn response(self) -> Response {
        let response = Response::new(200)
            .header("Content-Type", "text/event-stream; charset=utf-8")
            // nginx would gather events otherwise.
            .header("X-Accel-Buffering", "no");
        let mut response = marked(response, self.reply.is_demo);
        response.content = Content::Stream(Box::new(move |out| self.run(out)));
        response
    }

    /// Passes everything on. An error cuts the client's connection.
    fn run(mut self, out: &mut dyn Write) -> io::Result<()> {
        let end = match self.pass_on(out) {
            Ok(end) => end,
            Err(e) => return self.left(e),
        };
        let units = self.tally.units();
        let latency = self.reply.latency_micros();
        let nothing = self.tally.is_empty();
        match end {
            End::Whole(last) => match self.bill.charge(&self.model, units, latency) {
                Ok(_) => {
                    out.write_all(&last)?;
                    self.reply.drain();
                }
                Err(e) => write_error(out, &e)?,
            },
            End::Broken(e) => {
                // Nothing made, nothing charged.
                let charged = if nothing { Ok(()) } else { self.bill.charge(&self.model, units, latency).map(drop) };
                write_error(out, &charged.err().unwrap_or(e))?;
            }
        }
        Ok(())
    }

    /// The client has left: it pays for what was made until then.
    fn left(&self, e: io::Error) -> io::Result<()> {
        if !self.tally.is_empty() {
            let charged = self.bill.charge_part(&self.model, self.tally.units(), self.reply.latency_micros());
            if let Err(e) = charged {
                log::error!("what a client left behind could not be charged: {e}");
            }
        }
        Err(e)
    }

    /// Until the engine's side ends; fails when the client's does.
    fn pass_on(&mut self, out: &mut dyn Write) -> io::Result<End> {
        let mut events = sse::Events::default();
        let mut piece = vec![0; PIECE];
        let mut ready = Vec::with_capacity(PIECE);
        let mut finished = false;
        loop {
            let n = match self.reply.read(&mut piece) {
                Ok(n) => n,
                Err(_) if client_left() => return Err(io::ErrorKind::ConnectionAborted.into()),
                Err(e) => return Ok(End::Broken(self.reply.broken(&e))),
            };
            if n == 0 {
                let early = || self.reply.broken(&io::ErrorKind::UnexpectedEof.into());
                return Ok(match finished || self.tally.is_known() {
                    _ if events.is_cut() => End::Broken(early()),
                    false => End::Broken(early()),
                    true if finished => End::Whole(b"data: [DONE]\n\n".to_vec()),
                    true => End::Whole(Vec::new()),
                });
            }
            if events.push(&piece[..n]).is_err() {
                return Ok(End::Broken(Error::Upstream(502, "The model server sent too long an event")));
            }
            while let Some(event) = events.take() {
                let data = sse::data(event);
                if data.as_deref() == Some(DONE) {
                    let last = event.to_vec();
                    send(out, &mut ready)?;
                    return Ok(End::Whole(last));
                }
                match data {
                    Some(data) => finished |= self.look_at(event, &data, &mut ready),
                    // A comment keeps the connection alive.
                    None => ready.extend_from_slice(event),
                }
            }
            send(out, &mut ready)?;
        }
    }

    /// Counts an event and puts what the client is to see of it into `ready`. True when it says that the answer ends.
    fn look_at(&mut self, event: &[u8], data: &[u8], ready: &mut Vec<u8>) -> bool {
        let Ok(piece) = serde_json::from_slice::<Piece<'_>>(data) else {
            self.tally.count_unknown();
            ready.extend_from_slice(event);
            return false;
        };
        self.tally.count(&piece);
        let finished = piece.choices.iter().any(|choice| choice.finish_reason.is_some());
        // Servers that were asked for the numbers may say `"usage":null` until they have them.
        match self.hides_usage && memchr::memmem::find(data, b"\"usage\"").is_some() {
            false => ready.extend_from_slice(event),
            // The event that has nothing else.
            true if piece.choices.is_empty() && piece.usage.is_some() => {}
            true => {
                if let Ok(mut object) = Object::parse(data) {
                    object.remove("usage");
                    ready.extend_from_slice(b"data: ");
                    ready.extend_from_slice(&object.to_bytes());
                    ready.extend_from_slice(b"\n\n");
                }
            }
        }
        finished
    }
}

fn write_error(out: &mut dyn Write, e: &Error) -> io::Result<()> {
    log::warn!("a stream ended with an error: {e}");
    // In one piece: each write is a chunk of its own.
    out.write_all(format!("data: {}\n\n", e.openai()).as_bytes())
}

fn send(out: &mut dyn Write, ready: &mut Vec<u8>) -> io::Result<()> {
    if !ready.is_empty() {
        out.write_all(ready)?;
        ready.clear();
    }
    Ok(())
}

/// Checks that a reply to a request for a stream is one, or at least JSON.
///
/// # Errors
/// 502.
pub fn is_stream(reply: &Reply) -> Result<bool> {
    match reply.media_type.as_str() {
        sse::MEDIA_TYPE => Ok(true),
        "application/json" => Ok(false),
        other => {
            log::warn!("a model server answered with {other:?}");
            Err(Error::Upstream(502, "The model server answered with something else than JSON"))
        }
    }
}
