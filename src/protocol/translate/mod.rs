//! Translation between chats and the other protocols, for model servers that speak only chat.
//!
//! A request becomes a chat: `from_responses` and `from_messages` read it field by field (`fields`) and write a
//! `conversation`. What a chat cannot say is refused; nothing is left out in silence. A chat's reply becomes one in the
//! client's protocol: `pieces` takes its chunks apart, a whole reply as if it were one chunk, and `to_responses` and
//! `to_messages` write what comes of them, the events of a stream and the whole reply alike.

mod conversation;
mod fields;
mod from_messages;
mod from_responses;
mod pieces;
#[cfg(test)]
mod request_tests;
#[cfg(test)]
mod stream_tests;
mod to_messages;
mod to_responses;

use serde_json::{Map, Value};

use super::chunk::Chunk;
use super::dialect::Dialect;
use super::usage::Totals;

pub use fields::Refusal;
use pieces::{Finish, Pieces};
use to_messages::MessageWriter;
use to_responses::ResponseWriter;

/// A request that was translated.
pub struct Translated {
    /// The chat.
    pub chat: Map<String, Value>,
    /// What translates its reply.
    pub reply: ReplyTranslator,
}

/// Translates a request. `id` is what the ids of the reply are made of: letters and digits. `now` is the time, in seconds
/// since 1970.
///
/// # Errors
/// What cannot be translated, by its place in the request.
pub fn to_chat(dialect: Dialect, request: Value, id: &str, now: u64) -> Result<Translated, Refusal> {
    let is_stream = request["stream"] == true;
    match dialect {
        Dialect::Responses => {
            let (chat, echo) = from_responses::chat(request)?;
            let writer = Writer::Response(Box::new(ResponseWriter::new(id, now, is_stream, echo)));
            Ok(Translated { chat, reply: ReplyTranslator::new(id, is_stream, writer) })
        }
        Dialect::Messages => {
            let (chat, style) = from_messages::chat(request)?;
            let writer = Writer::Message(Box::new(MessageWriter::new(id, is_stream, style)));
            Ok(Translated { chat, reply: ReplyTranslator::new(id, is_stream, writer) })
        }
    }
}

/// A reply of a chat cannot be told in the client's protocol: the model server has mixed up its parts, or it is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Untranslatable(pub &'static str);

/// Translates the reply of one chat.
pub struct ReplyTranslator {
    pieces: Pieces,
    writer: Writer,
    /// Whether the client asked for a stream.
    is_stream: bool,
    /// Those of a reply in one piece.
    events: Vec<u8>,
}

/// Writes a reply in the client's protocol.
enum Writer {
    Response(Box<ResponseWriter>),
    Message(Box<MessageWriter>),
}

impl ReplyTranslator {
    fn new(id: &str, is_stream: bool, writer: Writer) -> ReplyTranslator {
        ReplyTranslator { pieces: Pieces::new(id), writer, is_stream, events: Vec::new() }
    }

    /// The protocol into which it translates.
    pub fn dialect(&self) -> Dialect {
        match self.writer {
            Writer::Response(_) => Dialect::Responses,
            Writer::Message(_) => Dialect::Messages,
        }
    }

    /// Adds to `out` the events that a chunk becomes, or a whole reply.
    ///
    /// # Errors
    /// [`Untranslatable`].
    pub fn add(&mut self, chunk: &Chunk<'_>, out: &mut Vec<u8>) -> Result<(), Untranslatable> {
        let ReplyTranslator { pieces, writer, .. } = self;
        pieces.read(chunk, |piece| match writer {
            Writer::Response(writer) => writer.add(piece, out),
            Writer::Message(writer) => writer.add(piece, out),
        })
    }

    /// Adds a reply in one piece.
    ///
    /// # Errors
    /// [`Untranslatable`].
    pub fn add_whole(&mut self, reply: &Chunk<'_>) -> Result<(), Untranslatable> {
        let mut events = std::mem::take(&mut self.events);
        let added = self.add(reply, &mut events);
        self.events = events;
        added
    }

    /// What ends the reply, of which so much was used: the last events of a stream, or all of a reply in one piece. `is_cut`
    /// tells that there may be no more of it.
    pub fn end(&mut self, totals: Totals, is_cut: bool) -> Vec<u8> {
        let finish = if is_cut { Finish::Length } else { self.pieces.finish() };
        let totals = Totals { reasoning: self.pieces.reasoning().min(totals.output), ..totals };
        let mut out = std::mem::take(&mut self.events);
        match (&mut self.writer, self.is_stream) {
            (Writer::Response(writer), true) => writer.end(&finish, &totals, &mut out),
            (Writer::Message(writer), true) => writer.end(&finish, &totals, &mut out),
            (Writer::Response(writer), false) => return writer.whole(&finish, &totals),
            (Writer::Message(writer), false) => return writer.whole(&finish, &totals).to_string().into_bytes(),
        }
        out
    }

    /// Why a reply that is complete cannot be told as one: it has ended with an error.
    pub fn failure(&self) -> Option<Untranslatable> {
        let failure = Untranslatable("The model server ended its reply with an error");
        self.pieces.has_failed().then_some(failure)
    }

    /// Whether it becomes events.
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// The number of the next event, where the protocol numbers them.
    pub fn next_sequence(&self) -> u64 {
        match &self.writer {
            Writer::Response(writer) => writer.next_sequence(),
            Writer::Message(_) => 0,
        }
    }
}
