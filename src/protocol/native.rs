//! Replies in the Responses and the Messages protocol, as far as they matter for a charge: what each event adds, and the
//! numbers that come with it. Everything else is passed on unread.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::chunk::{Choice, Chunk, Delta};
use super::dialect::Dialect;
use super::event;
use super::usage::{Totals, Usage};
use super::words::Words;

/// What an event, or a whole reply, says.
#[derive(Debug)]
pub struct Piece<'a> {
    /// What it adds, as a chunk of a chat with one choice and without numbers.
    pub chunk: Chunk<'a>,
    /// The numbers of all that came so far.
    pub usage: Option<Box<Usage>>,
    /// Whether it ends the reply, and how.
    pub end: Option<End>,
}

/// How a reply ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Complete,
    /// With a response that has failed, which has numbers nevertheless.
    Failed,
    /// With an error in the place of the rest.
    Error,
}

/// Reads the events of one reply, in order.
#[derive(Debug)]
pub struct NativeReader {
    dialect: Dialect,
    /// The numbers so far. Those of an event replace the ones before, each for itself.
    usage: Usage,
    /// The id, the model and the time of a response, to end it in its name.
    response: Value,
    /// The number of the latest event.
    sequence: u64,
    /// The content block of a message that is not complete.
    open_block: Option<u64>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(default, borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default, borrow)]
    delta: Option<&'a RawValue>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    response: Option<ResponseHead>,
    #[serde(default, borrow)]
    message: Option<&'a RawValue>,
    #[serde(default)]
    item: Option<Named>,
    #[serde(default)]
    content_block: Option<Named>,
    #[serde(default)]
    sequence_number: Option<u64>,
    #[serde(default)]
    index: Option<u64>,
}

/// The fields of a response that it takes to end it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponseHead {
    id: Value,
    model: Value,
    created_at: Value,
    usage: Option<Usage>,
    output: Option<Words>,
}

#[derive(Deserialize)]
struct MessageHead {
    #[serde(default)]
    usage: Option<Usage>,
}

/// The name of a tool that is called.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: Option<Words>,
}

/// What is added to a content block, or told at the end of a message.
#[derive(Default, Deserialize)]
#[serde(default)]
struct MessageDelta {
    text: Option<Words>,
    thinking: Option<Words>,
    partial_json: Option<Words>,
    stop_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Whole {
    usage: Option<Usage>,
    output: Option<Words>,
    content: Option<Words>,
}

impl NativeReader {
    /// Nothing was read yet.
    pub fn new(dialect: Dialect) -> NativeReader {
        NativeReader { dialect, usage: Usage::default(), response: json!({}), sequence: 0, open_block: None }
    }

    /// Reads the data of an event; `None` if it is none of the protocol.
    pub fn read(&mut self, data: &[u8]) -> Option<Piece<'static>> {
        let event = serde_json::from_slice::<Event<'_>>(data).ok()?;
        match self.dialect {
            Dialect::Responses => Some(self.read_response(event)),
            Dialect::Messages => Some(self.read_message(event)),
        }
    }

    fn read_response(&mut self, event: Event<'_>) -> Piece<'static> {
        let Event { kind, delta, response, item, sequence_number, .. } = event;
        self.sequence = sequence_number.unwrap_or(self.sequence);
        let end = match &*kind {
            "response.completed" | "response.incomplete" => Some(End::Complete),
            "response.failed" => Some(End::Failed),
            "error" => Some(End::Error),
            _ => None,
        };
        let is_last = end.is_some_and(|end| end != End::Error);
        let mut text = match &*kind {
            // The events that end a part repeat all of it.
            kind if kind.strip_suffix(".delta").is_some() => delta.and_then(words),
            "response.output_item.added" => item.and_then(|item| item.name),
            _ => None,
        };
        let mut usage = None;
        if let Some(mut head) = response {
            if self.response["id"].is_null() {
                self.response = json!({"id": head.id, "model": head.model, "created_at": head.created_at});
            }
            usage = head.usage.take();
            // Some servers send all at the end.
            text = text.or(head.output.take().filter(|_| is_last && usage.is_none()));
        }
        Piece { chunk: chunk(text, is_last), usage: usage.map(Box::new), end }
    }

    fn read_message(&mut self, event: Event<'_>) -> Piece<'static> {
        let Event { kind, delta, usage, message, content_block, index, .. } = event;
        let mut delta =
            delta.and_then(|delta| serde_json::from_str::<MessageDelta>(delta.get()).ok()).unwrap_or_default();
        let mut newer = usage.filter(|_| kind == "message_delta");
        match &*kind {
            "message_start" => {
                let head = message.and_then(|message| serde_json::from_str::<MessageHead>(message.get()).ok());
                // Its output is no more than the beginning.
                newer = head.and_then(|head| head.usage).map(Usage::without_output);
            }
            "content_block_start" => {
                self.open_block = index;
                delta.text = content_block.and_then(|block| block.name);
            }
            "content_block_stop" => self.open_block = None,
            _ => {}
        }
        let usage = newer.map(|newer| {
            self.usage.update(newer);
            Box::new(self.usage.clone())
        });
        let is_finished = delta.stop_reason.is_some() || kind == "message_stop";
        let text = [delta.text, delta.thinking, delta.partial_json].into_iter().flatten().next();
        let end = match &*kind {
            "message_stop" => Some(End::Complete),
            "error" => Some(End::Error),
            _ => None,
        };
        Piece { chunk: chunk(text, is_finished), usage, end }
    }

    /// The events that end the reply because it is as long as it may be.
    pub fn cut(&self, totals: &Totals) -> Vec<u8> {
        let mut out = Vec::new();
        match self.dialect {
            Dialect::Responses => {
                let mut response = self.response.clone();
                let more = json!({"object": "response", "status": "incomplete", "output": [], "error": null,
                    "incomplete_details": {"reason": "max_output_tokens"}, "usage": totals.responses()});
                if let (Some(response), Value::Object(more)) = (response.as_object_mut(), more) {
                    response.extend(more);
                }
                let kind = "response.incomplete";
                let data = json!({"type": kind, "sequence_number": self.sequence + 1, "response": response});
                event::write(&mut out, kind, &data);
            }
            Dialect::Messages => {
                if let Some(index) = self.open_block {
                    let kind = "content_block_stop";
                    event::write(&mut out, kind, &json!({"type": kind, "index": index}));
                }
                let (kind, delta) = ("message_delta", json!({"stop_reason": "max_tokens", "stop_sequence": null}));
                event::write(&mut out, kind, &json!({"type": kind, "delta": delta, "usage": totals.messages()}));
                write_message_stop(&mut out);
            }
        }
        out
    }

    /// What ends a stream whose model server has left out its last event.
    pub fn last_event(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.dialect == Dialect::Messages {
            write_message_stop(&mut out);
        }
        out
    }

    /// The number of the event behind those that were read.
    pub fn next_sequence(&self) -> u64 {
        self.sequence + 1
    }

    /// The protocol.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }
}

/// Reads a reply in one piece; `None` if it is not JSON, or says no more than that the model server has failed.
pub fn read_whole(dialect: Dialect, bytes: &[u8]) -> Option<Piece<'static>> {
    let Whole { usage, output, content } = serde_json::from_slice(bytes).ok()?;
    let made = match dialect {
        Dialect::Responses => output,
        Dialect::Messages => content,
    };
    if made.is_none() && usage.is_none() {
        return None;
    }
    Some(Piece { chunk: chunk(made, true), usage: usage.map(Box::new), end: Some(End::Complete) })
}

pub(super) fn write_message_stop(out: &mut Vec<u8>) {
    event::write(out, "message_stop", &json!({"type": "message_stop"}));
}

fn words(json: &RawValue) -> Option<Words> {
    serde_json::from_str(json.get()).ok()
}

fn chunk(text: Option<Words>, is_finished: bool) -> Chunk<'static> {
    let delta = text.map(|text| Delta { content: Some(text), ..Delta::default() });
    if delta.is_none() && !is_finished {
        return Chunk { usage: None, choices: Vec::new() };
    }
    let finish_reason = is_finished.then(|| "stop".to_owned());
    Chunk { usage: None, choices: vec![Choice { delta, finish_reason, ..Choice::default() }] }
}
