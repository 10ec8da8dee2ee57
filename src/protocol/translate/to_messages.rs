//! Writes the reply of a chat in the Messages protocol.

use serde::Serialize;
use serde_json::{Value, json};

use crate::protocol::event;
use crate::protocol::native::{write_block_stop, write_message_end};
use crate::protocol::usage::Totals;

use super::Untranslatable;
use super::from_messages::Style;
use super::pieces::{Finish, Piece};

/// The longest reply in one piece that is translated, in bytes.
const MAX_WHOLE: usize = 64 * 1024 * 1024;

/// Pieces of thinking that are not shown, for each event that is sent in their place.
const HIDDEN_PIECES: u64 = 16;

/// What a content block counts for, in bytes.
const BLOCK: usize = 256;

/// Writes one reply.
pub(super) struct MessageWriter {
    id: String,
    style: Style,
    /// Content blocks that have begun.
    blocks: usize,
    /// The kind of the last one, if it is not complete.
    open: Option<Kind>,
    /// Whether there will be events. If not, the blocks are collected.
    is_whole: bool,
    collected: Vec<Block>,
    bytes: usize,
    /// Pieces of thinking that were not shown.
    hidden: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    Call,
}

/// A content block of a reply in one piece.
struct Block {
    kind: Kind,
    text: String,
    id: String,
    name: String,
}

#[derive(Serialize)]
struct DeltaEvent<'a> {
    r#type: &'static str,
    index: usize,
    delta: BlockDelta<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum BlockDelta<'a> {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

impl MessageWriter {
    pub(super) fn new(id: &str, is_stream: bool, style: Style) -> MessageWriter {
        let id = format!("msg_{id}");
        let is_whole = !is_stream;
        MessageWriter { id, style, blocks: 0, open: None, is_whole, collected: Vec::new(), bytes: 0, hidden: 0 }
    }

    /// Adds the events that a piece becomes.
    pub(super) fn add(&mut self, piece: Piece<'_>, out: &mut Vec<u8>) -> Result<(), Untranslatable> {
        match piece {
            Piece::Begin { input } => self.begin(input, out),
            Piece::Reasoning(_) if !self.style.shows_thinking => self.ping(out),
            Piece::Reasoning(thinking) => {
                self.open(Kind::Thinking, || json!({"type": "thinking", "thinking": "", "signature": ""}), out);
                self.delta(BlockDelta::Thinking { thinking }, thinking, out)?;
            }
            Piece::Text(text) | Piece::Refusal(text) => {
                self.open(Kind::Text, || json!({"type": "text", "text": ""}), out);
                self.delta(BlockDelta::Text { text }, text, out)?;
            }
            Piece::Call { id, name } => {
                self.close(out);
                self.open(Kind::Call, || json!({"type": "tool_use", "id": id, "name": name, "input": {}}), out);
                if let Some(block) = self.collected.last_mut() {
                    (block.id, block.name) = (id.to_owned(), name.to_owned());
                }
            }
            Piece::Arguments(partial_json) => {
                self.delta(BlockDelta::InputJson { partial_json }, partial_json, out)?;
            }
        }
        Ok(())
    }

    /// Now and then, something is sent while the model thinks and does not show it: so the client knows that it is at work,
    /// and it is noticed if the client has left.
    fn ping(&mut self, out: &mut Vec<u8>) {
        if !self.is_whole && self.hidden.is_multiple_of(HIDDEN_PIECES) {
            event::write(out, "ping", &json!({"type": "ping"}));
        }
        self.hidden += 1;
    }

    fn begin(&mut self, input: i64, out: &mut Vec<u8>) {
        if !self.is_whole {
            let usage = Totals { input, ..Totals::default() };
            let message = self.message(json!([]), (Value::Null, Value::Null), &usage);
            event::write(out, "message_start", &json!({"type": "message_start", "message": message}));
        }
    }

    /// Makes sure that a block of this kind is open.
    fn open(&mut self, kind: Kind, block: impl FnOnce() -> Value, out: &mut Vec<u8>) {
        if self.open == Some(kind) {
            return;
        }
        self.close(out);
        self.open = Some(kind);
        self.blocks += 1;
        if self.is_whole {
            self.bytes += BLOCK;
            self.collected.push(Block { kind, text: String::new(), id: String::new(), name: String::new() });
            return;
        }
        let kind = "content_block_start";
        event::write(out, kind, &json!({"type": kind, "index": self.blocks - 1, "content_block": block()}));
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() && !self.is_whole {
            write_block_stop(self.blocks - 1, out);
        }
    }

    fn delta(&mut self, delta: BlockDelta<'_>, text: &str, out: &mut Vec<u8>) -> Result<(), Untranslatable> {
        let Some(index) = self.blocks.checked_sub(1) else { return Ok(()) };
        if !self.is_whole {
            let r#type = "content_block_delta";
            event::write(out, r#type, &DeltaEvent { r#type, index, delta });
            return Ok(());
        }
        self.bytes += text.len();
        if self.bytes > MAX_WHOLE {
            return Err(Untranslatable("The model server's reply is too long"));
        }
        if let Some(block) = self.collected.last_mut() {
            block.text.push_str(text);
        }
        Ok(())
    }

    /// Adds the events that end the reply.
    pub(super) fn end(&mut self, finish: &Finish, totals: &Totals, out: &mut Vec<u8>) {
        self.close(out);
        let (stop_reason, stop_sequence) = stop(finish);
        write_message_end(&json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence}), totals, out);
    }

    /// The whole reply.
    pub(super) fn whole(&self, finish: &Finish, totals: &Totals) -> Value {
        let content = self.collected.iter().map(|block| match block.kind {
            Kind::Thinking => json!({"type": "thinking", "thinking": block.text, "signature": ""}),
            Kind::Text => json!({"type": "text", "text": block.text}),
            Kind::Call => {
                json!({"type": "tool_use", "id": block.id, "name": block.name, "input": input(&block.text)})
            }
        });
        self.message(content.collect(), stop(finish), totals)
    }

    fn message(&self, content: Value, (stop_reason, stop_sequence): (Value, Value), totals: &Totals) -> Value {
        json!({"id": self.id, "type": "message", "role": "assistant", "model": self.style.model, "content": content,
            "stop_reason": stop_reason, "stop_sequence": stop_sequence, "usage": totals.messages()})
    }
}

/// What a tool is called with, which is an object. What a model writes that is none is kept as a text in one.
fn input(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(input)) => Value::Object(input),
        _ if arguments.trim().is_empty() => json!({}),
        _ => json!({ "arguments": arguments }),
    }
}

fn stop(finish: &Finish) -> (Value, Value) {
    match finish {
        Finish::Stop => (json!("end_turn"), Value::Null),
        Finish::Sequence(sequence) => (json!("stop_sequence"), json!(sequence)),
        Finish::Length => (json!("max_tokens"), Value::Null),
        Finish::Calls => (json!("tool_use"), Value::Null),
        Finish::Filter => (json!("refusal"), Value::Null),
    }
}
