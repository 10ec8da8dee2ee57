//! What becomes of a reply on its way to the client, in the protocol that it asked in.

use serde_json::json;

use crate::error::{Error, Result};
use crate::protocol::chunk::Chunk;
use crate::protocol::dialect::Dialect;
use crate::protocol::native::{self, End, NativeReader};
use crate::protocol::translate::{ReplyTranslator, Untranslatable};
use crate::protocol::usage::{Totals, Usage};
use crate::protocol::{event, failure};
use crate::units::{Unit, Units};

use super::output_limit;
use super::reply_kind::{disguised_failure, not_json};
use super::stream_usage::UsageFilter;
use super::usage_counter::UsageCounter;

/// The `Content-Type` of a stream.
pub(super) const EVENTS: &str = "text/event-stream; charset=utf-8";

const DONE: &[u8] = b"data: [DONE]\n\n";

/// How a reply is passed on.
pub enum ReplyFormat {
    /// A chat, a completion or a transcript, as it comes, without the usage that the client did not ask for.
    Plain(UsageFilter),
    /// A reply in the client's own protocol, as it comes.
    Native(Box<NativeReader>),
    /// The reply of a chat, as one in the client's own protocol.
    Translated(Box<ReplyTranslator>),
}

/// The meaning of an event.
pub(super) enum Reading<'d> {
    /// It adds this.
    Piece(Seen<'d>),
    /// It is an error, with these words.
    Failure(String),
    /// It is not understood.
    Unknown,
}

/// What an event adds.
pub(super) struct Seen<'d> {
    pub(super) chunk: Chunk<'d>,
    /// The numbers of all so far, where they do not stand in the chunk.
    pub(super) usage: Option<Box<Usage>>,
    /// Whether it ends the reply, and how.
    pub(super) end: Option<End>,
}

impl ReplyFormat {
    /// Whether the model server is asked in OpenAI's older protocols.
    pub(super) fn is_of_chat(&self) -> bool {
        !matches!(self, ReplyFormat::Native(_))
    }

    /// Reads and counts a reply in one piece.
    ///
    /// # Errors
    /// 502 for one that is not JSON, or an error.
    pub(super) fn read_whole(&mut self, bytes: &[u8], counter: &mut UsageCounter) -> Result<()> {
        if let ReplyFormat::Native(reader) = self {
            match native::read_whole(reader.dialect(), bytes) {
                Some(piece) => counter.add_with(&piece.chunk, piece.usage.as_deref()),
                None => return Err(not_a_reply(bytes)),
            }
            return Ok(());
        }
        if let Some(message) = failure::message(bytes) {
            counter.add_odd_numbers(bytes);
            return Err(disguised_failure(&message));
        }
        match serde_json::from_slice::<Chunk<'_>>(bytes) {
            Ok(chunk) => {
                counter.add_whole(&chunk);
                if let ReplyFormat::Translated(translator) = self {
                    translator.add_whole(&chunk).map_err(untranslatable)?;
                }
            }
            Err(_) if matches!(self, ReplyFormat::Translated(_)) => {
                counter.add_odd(bytes);
                return Err(not_a_chat());
            }
            // Its fields may have unexpected types, but it must be JSON.
            Err(e) if e.classify() == serde_json::error::Category::Data => counter.add_unparsed(bytes),
            Err(_) => return Err(not_json()),
        }
        Ok(())
    }

    /// What the client gets of a reply in one piece, which was read and has used so much.
    ///
    /// # Errors
    /// 502 for one that has ended with an error.
    pub(super) fn whole(self, bytes: Vec<u8>, used: &Units) -> Result<Vec<u8>> {
        match self {
            ReplyFormat::Plain(_) | ReplyFormat::Native(_) => Ok(bytes),
            ReplyFormat::Translated(mut translator) => match translator.failure() {
                Some(failure) => Err(untranslatable(failure)),
                None => Ok(translator.end(totals(used), false)),
            },
        }
    }

    /// The error with which a reply that is complete has ended, if it has.
    pub(super) fn failure(&self) -> Option<Error> {
        match self {
            ReplyFormat::Plain(_) | ReplyFormat::Native(_) => None,
            ReplyFormat::Translated(translator) => translator.failure().map(untranslatable),
        }
    }

    /// Reads the data of an event.
    pub(super) fn read<'d>(&mut self, data: &'d [u8]) -> Reading<'d> {
        match self {
            ReplyFormat::Plain(_) | ReplyFormat::Translated(_) => {
                if let Some(message) = failure::message(data) {
                    return Reading::Failure(message);
                }
                let chunk = serde_json::from_slice::<Chunk<'_>>(data);
                chunk.map_or(Reading::Unknown, |chunk| Reading::Piece(Seen { chunk, usage: None, end: None }))
            }
            ReplyFormat::Native(reader) => match reader.read(data) {
                Some(piece) if piece.end == Some(End::Error) => {
                    Reading::Failure(failure::message(data).unwrap_or_else(|| "an error event".to_owned()))
                }
                Some(piece) => Reading::Piece(Seen { chunk: piece.chunk, usage: piece.usage, end: piece.end }),
                None => Reading::Unknown,
            },
        }
    }

    /// Adds to `output` what the client gets of an event that was read. `is_finished` tells whether the model has finished.
    ///
    /// # Errors
    /// 502 for what cannot be translated.
    pub(super) fn pass(
        &mut self,
        event: &[u8],
        data: &[u8],
        seen: &Seen<'_>,
        is_finished: bool,
        output: &mut Vec<u8>,
    ) -> Result<()> {
        match self {
            ReplyFormat::Plain(filter) => filter.pass(event, data, &seen.chunk, is_finished, output),
            ReplyFormat::Native(_) => output.extend_from_slice(event),
            ReplyFormat::Translated(translator) => translator.add(&seen.chunk, output).map_err(untranslatable)?,
        }
        Ok(())
    }

    /// Adds to `output` what the client gets of an event that is not understood.
    ///
    /// # Errors
    /// 502 if it would have to be translated.
    pub(super) fn pass_unknown(&mut self, event: &[u8], output: &mut Vec<u8>) -> Result<()> {
        match self {
            ReplyFormat::Plain(_) | ReplyFormat::Native(_) => output.extend_from_slice(event),
            ReplyFormat::Translated(_) => return Err(not_a_chat()),
        }
        Ok(())
    }

    /// The media type of a reply that is not passed on as it came.
    pub(super) fn media_type(&self) -> Option<&'static str> {
        match self {
            ReplyFormat::Plain(_) | ReplyFormat::Native(_) => None,
            ReplyFormat::Translated(translator) => {
                Some(if translator.is_stream() { EVENTS } else { "application/json" })
            }
        }
    }

    /// Adds a comment to `output`, which keeps the connection alive.
    pub(super) fn pass_comment(&self, event: &[u8], output: &mut Vec<u8>) {
        if self.is_stream() {
            output.extend_from_slice(event);
        }
    }

    /// Whether the client gets events. It may not have asked for them.
    pub(super) fn is_stream(&self) -> bool {
        !matches!(self, ReplyFormat::Translated(translator) if !translator.is_stream())
    }

    /// Adds what comes before the end to `output`, and returns what ends a complete reply: the model server's own last
    /// event, if there is one. `used` tells what was used.
    pub(super) fn end(&mut self, last: Option<&[u8]>, used: impl FnOnce() -> Units, output: &mut Vec<u8>) -> Vec<u8> {
        match self {
            ReplyFormat::Plain(filter) => {
                filter.end(output);
                last.unwrap_or(DONE).to_vec()
            }
            ReplyFormat::Native(reader) => last.map_or_else(|| reader.last_event(), <[u8]>::to_vec),
            ReplyFormat::Translated(translator) => translator.end(totals(&used()), false),
        }
    }

    /// What ends a reply that is as long as it may be, in the place of an event with this data. These choices are not
    /// complete, and so much was used.
    pub(super) fn cut(&mut self, data: &[u8], chunk: &Chunk<'_>, open: &[u64], used: &Units) -> Vec<u8> {
        match self {
            ReplyFormat::Plain(filter) => {
                let mut last = output_limit::last_event(data, chunk, open);
                if filter.is_shown() {
                    last.extend_from_slice(&output_limit::usage_event(data, used));
                }
                last.extend_from_slice(DONE);
                last
            }
            ReplyFormat::Native(reader) => reader.cut(&totals(used)),
            ReplyFormat::Translated(translator) => translator.end(totals(used), true),
        }
    }

    /// The event that tells of an error.
    pub(super) fn error(&self, e: &Error) -> Vec<u8> {
        match self {
            ReplyFormat::Plain(_) => format!("data: {}\n\n", e.openai()).into_bytes(),
            ReplyFormat::Native(reader) => error_event(reader.dialect(), reader.next_sequence(), e),
            ReplyFormat::Translated(translator) => error_event(translator.dialect(), translator.next_sequence(), e),
        }
    }
}

/// The event of a protocol that tells of an error.
fn error_event(dialect: Dialect, sequence: u64, e: &Error) -> Vec<u8> {
    let mut out = Vec::new();
    let data = match dialect {
        Dialect::Responses => {
            let public = e.public();
            json!({"type": "error", "sequence_number": sequence, "code": public.code, "message": public.message,
                "param": null})
        }
        Dialect::Messages => e.messages(),
    };
    event::write(&mut out, "error", &data);
    out
}

/// 502: a reply cannot be translated.
fn untranslatable(Untranslatable(why): Untranslatable) -> Error {
    Error::Upstream(502, why)
}

fn not_a_chat() -> Error {
    Error::Upstream(502, "The model server's reply is no chat")
}

fn not_a_reply(bytes: &[u8]) -> Error {
    match failure::message(bytes) {
        Some(message) => disguised_failure(&message),
        None => not_json(),
    }
}

/// What was used, as a client is told.
fn totals(units: &Units) -> Totals {
    let (cached, cache_write) = (units[Unit::CachedInputTokens], units[Unit::CacheWriteTokens]);
    let input = units[Unit::PromptTokens].saturating_add(cached).saturating_add(cache_write);
    Totals { input, cached, cache_write, output: units[Unit::CompletionTokens], reasoning: 0 }
}
