//! Writes the reply of a chat in the Responses protocol.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::protocol::event;
use crate::protocol::usage::Totals;

use super::Untranslatable;
use super::pieces::{Finish, Piece};

/// The longest reply that is translated, in bytes. The events that end its parts repeat all of it.
const MAX_REPLY: usize = 16 * 1024 * 1024;

/// What an item counts for, in bytes.
const ITEM: usize = 256;

/// Writes one reply.
pub(super) struct ResponseWriter {
    /// What the ids are made of.
    id: String,
    /// When the response was made, in seconds since 1970.
    created_at: u64,
    /// Fields of the request that the response repeats, as JSON.
    echo: String,
    is_stream: bool,
    /// The number of the next event.
    sequence: u64,
    /// What was made. The last of it may be incomplete.
    output: Vec<Item>,
    /// Whether it is, and will grow.
    is_open: bool,
    bytes: usize,
}

/// An item of the output.
struct Item {
    id: String,
    content: Content,
}

enum Content {
    /// What the model was thinking.
    Reasoning(Vec<Part>),
    /// A message, of parts of which the last may grow.
    Message(Vec<Part>),
    /// A call of a tool.
    Call { id: String, name: String, arguments: String },
}

struct Part {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
    Refusal,
}

#[derive(Serialize)]
struct Delta<'a> {
    r#type: &'static str,
    sequence_number: u64,
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    delta: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<[(); 0]>,
}

impl Kind {
    /// The names of the events that add to such a part, and that end it.
    fn events(self) -> (&'static str, &'static str) {
        match self {
            Kind::Reasoning => ("response.reasoning_text.delta", "response.reasoning_text.done"),
            Kind::Text => ("response.output_text.delta", "response.output_text.done"),
            Kind::Refusal => ("response.refusal.delta", "response.refusal.done"),
        }
    }
}

impl Part {
    fn json(&self, text: &str) -> Value {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": text}),
            Kind::Text => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
            Kind::Refusal => json!({"type": "refusal", "refusal": text}),
        }
    }
}

impl Item {
    fn json(&self, status: &str) -> Value {
        let all = |parts: &[Part]| parts.iter().map(|part| part.json(&part.text)).collect::<Vec<_>>();
        match &self.content {
            Content::Reasoning(parts) => {
                json!({"id": self.id, "type": "reasoning", "summary": [], "content": all(parts), "status": status})
            }
            Content::Message(parts) => {
                json!({"id": self.id, "type": "message", "role": "assistant", "status": status, "content": all(parts)})
            }
            Content::Call { id, name, arguments } => {
                json!({"id": self.id, "type": "function_call", "call_id": id, "name": name, "arguments": arguments,
                    "status": status})
            }
        }
    }

    fn parts(&self) -> &[Part] {
        match &self.content {
            Content::Reasoning(parts) | Content::Message(parts) => parts,
            Content::Call { .. } => &[],
        }
    }
}

impl ResponseWriter {
    pub(super) fn new(id: &str, created_at: u64, is_stream: bool, echo: String) -> ResponseWriter {
        let (id, output) = (id.to_owned(), Vec::new());
        ResponseWriter { id, created_at, echo, is_stream, sequence: 0, output, is_open: false, bytes: 0 }
    }

    /// Adds the events that a piece becomes.
    pub(super) fn add(&mut self, piece: Piece<'_>, out: &mut Vec<u8>) -> Result<(), Untranslatable> {
        match piece {
            Piece::Begin { .. } => {
                for kind in ["response.created", "response.in_progress"] {
                    self.response_event(kind, "in_progress", (Value::Null, Value::Null), out);
                }
            }
            Piece::Reasoning(text) => self.add_text(Kind::Reasoning, text, out)?,
            Piece::Text(text) => self.add_text(Kind::Text, text, out)?,
            Piece::Refusal(text) => self.add_text(Kind::Refusal, text, out)?,
            Piece::Call { id, name } => {
                self.close("completed", out);
                let call = Content::Call { id: id.to_owned(), name: name.to_owned(), arguments: String::new() };
                self.open("fc", call, out);
            }
            Piece::Arguments(more) => self.add_arguments(more, out)?,
        }
        Ok(())
    }

    fn add_text(&mut self, kind: Kind, text: &str, out: &mut Vec<u8>) -> Result<(), Untranslatable> {
        let open = self.output.last().filter(|_| self.is_open).map(|item| &item.content);
        let fits = match open {
            Some(Content::Reasoning(_)) => kind == Kind::Reasoning,
            Some(Content::Message(_)) => kind != Kind::Reasoning,
            _ => false,
        };
        if !fits {
            self.close("completed", out);
            match kind {
                Kind::Reasoning => self.open("rs", Content::Reasoning(Vec::new()), out),
                Kind::Text | Kind::Refusal => self.open("msg", Content::Message(Vec::new()), out),
            }
        }
        if self.output.last().and_then(|item| item.parts().last()).map(|part| part.kind) != Some(kind) {
            self.close_part(out);
            self.open_part(kind, out);
        }
        self.grow(text)?;
        let index = self.output.len() - 1;
        let Some(Item { id, content: Content::Reasoning(parts) | Content::Message(parts) }) = self.output.last_mut()
        else {
            return Ok(());
        };
        let content_index = parts.len().checked_sub(1);
        if let Some(part) = parts.last_mut() {
            part.text.push_str(text);
        }
        let logprobs = (kind == Kind::Text).then_some([]);
        let delta = Delta {
            r#type: kind.events().0,
            sequence_number: self.sequence,
            item_id: id,
            output_index: index,
            content_index,
            delta: text,
            logprobs,
        };
        if self.is_stream {
            event::write(out, kind.events().0, &delta);
        }
        self.sequence += 1;
        Ok(())
    }

    fn add_arguments(&mut self, more: &str, out: &mut Vec<u8>) -> Result<(), Untranslatable> {
        self.grow(more)?;
        let index = self.output.len().saturating_sub(1);
        let Some(Item { id, content: Content::Call { arguments, .. } }) = self.output.last_mut() else { return Ok(()) };
        arguments.push_str(more);
        let r#type = "response.function_call_arguments.delta";
        let (sequence_number, item_id) = (self.sequence, id.as_str());
        if self.is_stream {
            let output_index = index;
            let (content_index, logprobs) = (None, None);
            let delta = Delta { r#type, sequence_number, item_id, output_index, content_index, delta: more, logprobs };
            event::write(out, r#type, &delta);
        }
        self.sequence += 1;
        Ok(())
    }

    fn grow(&mut self, more: &str) -> Result<(), Untranslatable> {
        self.bytes += more.len();
        match self.bytes > MAX_REPLY {
            true => Err(Untranslatable("The model server's reply is too long to be translated")),
            false => Ok(()),
        }
    }

    fn open(&mut self, prefix: &str, content: Content, out: &mut Vec<u8>) {
        self.bytes += ITEM;
        let index = self.output.len();
        let item = Item { id: format!("{prefix}_{}_{index}", self.id), content };
        let shown = item.json("in_progress");
        self.output.push(item);
        self.is_open = true;
        self.event("response.output_item.added", json!({"output_index": index, "item": shown}), out);
    }

    fn open_part(&mut self, kind: Kind, out: &mut Vec<u8>) {
        let output_index = self.output.len().saturating_sub(1);
        let Some(Item { id, content: Content::Reasoning(parts) | Content::Message(parts) }) = self.output.last_mut()
        else {
            return;
        };
        let part = Part { kind, text: String::new() };
        let data =
            json!({"item_id": id, "output_index": output_index, "content_index": parts.len(), "part": part.json("")});
        parts.push(part);
        self.event("response.content_part.added", data, out);
    }

    /// Ends the last part of the item that is open, if it has one.
    fn close_part(&mut self, out: &mut Vec<u8>) {
        let output_index = self.output.len().saturating_sub(1);
        let Some(item) = self.output.last().filter(|_| self.is_open && self.is_stream) else { return };
        let Some(part) = item.parts().last() else { return };
        let place = json!({"item_id": item.id, "output_index": output_index, "content_index": item.parts().len() - 1});
        let (mut done, mut whole) = (place.clone(), place);
        done[if part.kind == Kind::Refusal { "refusal" } else { "text" }] = json!(part.text);
        if part.kind == Kind::Text {
            done["logprobs"] = json!([]);
        }
        whole["part"] = part.json(&part.text);
        let name = part.kind.events().1;
        self.event(name, done, out);
        self.event("response.content_part.done", whole, out);
    }

    /// Ends the item that is open, if there is one.
    fn close(&mut self, status: &str, out: &mut Vec<u8>) {
        self.close_part(out);
        let output_index = self.output.len().saturating_sub(1);
        let Some(item) = self.output.last().filter(|_| std::mem::take(&mut self.is_open) && self.is_stream) else {
            return;
        };
        let shown = item.json(status);
        if let Content::Call { name, arguments, .. } = &item.content {
            let done = json!({"item_id": item.id, "output_index": output_index, "name": name, "arguments": arguments});
            self.event("response.function_call_arguments.done", done, out);
        }
        self.event("response.output_item.done", json!({"output_index": output_index, "item": shown}), out);
    }

    /// Adds the events that end the reply.
    pub(super) fn end(&mut self, finish: &Finish, totals: &Totals, out: &mut Vec<u8>) {
        let (status, reason) = status(finish);
        self.close(status, out);
        let kind = if status == "completed" { "response.completed" } else { "response.incomplete" };
        self.response_event(kind, status, (reason, totals.responses()), out);
    }

    /// The whole reply.
    pub(super) fn whole(&self, finish: &Finish, totals: &Totals) -> Vec<u8> {
        let (status, reason) = status(finish);
        self.response(status, (reason, totals.responses())).into_bytes()
    }

    /// The number of the next event.
    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// The response as it is now, as JSON: why it is incomplete, and what was used.
    fn response(&self, status: &str, (incomplete, usage): (Value, Value)) -> String {
        let last = self.output.len().saturating_sub(1);
        let of_item = |index: usize| if index == last { status } else { "completed" };
        let output = self.output.iter().enumerate().map(|(index, item)| item.json(of_item(index)));
        let own = json!({"id": format!("resp_{}", self.id), "object": "response", "created_at": self.created_at,
            "status": status, "error": null, "incomplete_details": incomplete, "output": output.collect::<Vec<_>>(),
            "previous_response_id": null, "store": false, "usage": usage});
        let own = own.to_string();
        [own.strip_suffix('}').unwrap_or(&own), ",", &self.echo, "}"].concat()
    }

    fn response_event(&mut self, kind: &'static str, status: &str, details: (Value, Value), out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Event<'a> {
            r#type: &'static str,
            sequence_number: u64,
            response: &'a RawValue,
        }

        // What was put together of valid JSON is valid.
        if self.is_stream
            && let Ok(response) = RawValue::from_string(self.response(status, details))
        {
            event::write(out, kind, &Event { r#type: kind, sequence_number: self.sequence, response: &response });
        }
        self.sequence += 1;
    }

    fn event(&mut self, kind: &'static str, mut data: Value, out: &mut Vec<u8>) {
        if self.is_stream {
            data["type"] = kind.into();
            data["sequence_number"] = self.sequence.into();
            event::write(out, kind, &data);
        }
        self.sequence += 1;
    }
}

/// The status of a response, and why it is incomplete, if it is.
fn status(finish: &Finish) -> (&'static str, Value) {
    match finish {
        Finish::Stop | Finish::Sequence(_) | Finish::Calls => ("completed", Value::Null),
        Finish::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
        Finish::Filter => ("incomplete", json!({"reason": "content_filter"})),
    }
}
