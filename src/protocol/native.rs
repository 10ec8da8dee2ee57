//! Replies in the Responses and the Messages protocol, as far as they matter for a charge: what each event adds, and the
//! numbers that come with it. Everything else is passed on unread.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::chunk::{Choice, Chunk, Delta};
use super::dialect::Dialect;
use super::event;
use super::json_walk::{Walk, Walker};
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
    /// Bytes of text that came piece by piece.
    read: usize,
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
    output: Option<Made>,
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
    output: Option<Made>,
    content: Option<Made>,
}

/// What a model has made: the texts of an output or a content, without what the server adds to them.
struct Made(Words);

impl<'de> Deserialize<'de> for Made {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Made, D::Error> {
        let mut made = Made(Words::default());
        Walk(&mut made).deserialize(deserializer)?;
        Ok(made)
    }
}

impl Walker for Made {
    fn text(&mut self, text: &str) {
        self.0.0.push_str(text);
    }
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "type" | "id" | "call_id" | "status" | "role" | "phase" => map.next_value::<IgnoredAny>().map(drop),
            // What a tool is called with may have any names.
            "input" => map.next_value::<Words>().map(|words| self.0.0.push_str(&words.0)),
            _ => map.next_value_seed(Walk(self)),
        }
    }
}

impl NativeReader {
    /// Nothing was read yet.
    pub fn new(dialect: Dialect) -> NativeReader {
        NativeReader { dialect, usage: Usage::default(), response: json!({}), sequence: 0, open_block: None, read: 0 }
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
            let whole = head.output.take().filter(|_| is_last && usage.is_none());
            text = text.or(whole.and_then(|Made(words)| words.behind(self.read)));
        }
        self.read += text.as_ref().map_or(0, |text| text.0.len());
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
                    write_block_stop(index, &mut out);
                }
                write_message_end(&json!({"stop_reason": "max_tokens", "stop_sequence": null}), totals, &mut out);
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
    Some(Piece { chunk: chunk(made.map(|made| made.0), true), usage: usage.map(Box::new), end: Some(End::Complete) })
}

/// The event that ends a block of a message.
pub(super) fn write_block_stop(index: impl Into<Value>, out: &mut Vec<u8>) {
    let kind = "content_block_stop";
    event::write(out, kind, &json!({"type": kind, "index": index.into()}));
}

/// The events that end a message: why, what it has used, and that this is all.
pub(super) fn write_message_end(delta: &Value, totals: &Totals, out: &mut Vec<u8>) {
    let kind = "message_delta";
    event::write(out, kind, &json!({"type": kind, "delta": delta, "usage": totals.messages()}));
    write_message_stop(out);
}

fn write_message_stop(out: &mut Vec<u8>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::usage::Reported;

    /// Tokens read, of these from the cache and written to it, and tokens written.
    type Numbers = (Option<i64>, i64, i64, Option<i64>);

    /// The texts, what was reported, and the end.
    fn read(dialect: Dialect, events: &[Value]) -> (String, Numbers, Option<End>, NativeReader) {
        let (mut reader, mut text, mut end) = (NativeReader::new(dialect), String::new(), None);
        let mut reported = Reported::default();
        for event in events {
            let piece = reader.read(event.to_string().as_bytes()).unwrap();
            text.extend(
                piece.chunk.choices.iter().flat_map(|choice| choice.texts().map(str::to_owned).collect::<Vec<_>>()),
            );
            if let Some(usage) = &piece.usage {
                reported.update(usage);
            }
            end = piece.end.or(end);
        }
        let numbers = (reported.input(), reported.cached(), reported.cache_write(), reported.output());
        (text, numbers, end, reader)
    }

    fn start(usage: &Value) -> Value {
        json!({"type": "message_start", "message": {"id": "m", "content": [], "usage": usage}})
    }

    #[test]
    fn the_numbers_of_a_message_replace_each_other_field_by_field() {
        let first = json!({"input_tokens": 10, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30, "output_tokens": 4});
        let delta =
            |usage: Value| json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage});
        let numbers = |events: &[Value]| read(Dialect::Messages, events).1;
        assert_eq!(numbers(&[start(&first)]), (Some(100), 60, 30, None), "its output is only a beginning");
        assert_eq!(numbers(&[start(&first), delta(json!({"output_tokens": 9}))]), (Some(100), 60, 30, Some(9)));
        let again = json!({"input_tokens": 10, "cache_read_input_tokens": null, "output_tokens": 9});
        assert_eq!(
            numbers(&[start(&first), delta(again)]),
            (Some(100), 60, 30, Some(9)),
            "the cache is still beside it"
        );
        let late = json!({"input_tokens": 11, "cache_read_input_tokens": 5, "output_tokens": 9});
        assert_eq!(
            numbers(&[start(&json!({"input_tokens": 0, "output_tokens": 0})), delta(late)]),
            (Some(16), 5, 0, Some(9))
        );
        let twice = [start(&first), delta(json!({"output_tokens": 5})), delta(json!({"output_tokens": 9}))];
        assert_eq!(numbers(&twice).3, Some(9), "never added");
    }

    #[test]
    fn what_a_message_adds_is_counted_once() {
        let delta = |delta: Value| json!({"type": "content_block_delta", "index": 0, "delta": delta});
        let (text, _, end, mut reader) = read(
            Dialect::Messages,
            &[
                start(&json!({"input_tokens": 1})),
                json!({"type": "ping"}),
                json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}),
                delta(json!({"type": "thinking_delta", "thinking": "a"})),
                delta(json!({"type": "signature_delta", "signature": "unread"})),
                json!({"type": "content_block_stop", "index": 0}),
                delta(json!({"type": "text_delta", "text": "b"})),
                json!({"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "name": "c"}}),
                delta(json!({"type": "input_json_delta", "partial_json": "{}"})),
                json!({"type": "some_day", "delta": {"new": 1}}),
            ],
        );
        assert_eq!((text.as_str(), end), ("abc{}", None));
        let cut = String::from_utf8(reader.cut(&Totals { input: 5, output: 3, ..Totals::default() })).unwrap();
        assert!(
            cut.starts_with("event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":2}\n\n"),
            "{cut}"
        );
        assert!(
            cut.contains("\"max_tokens\"")
                && cut.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
        );
        assert_eq!(reader.read(b"{\"type\":\"error\"}").unwrap().end, Some(End::Error));
        assert!(reader.read(b"no JSON").is_none());
    }

    #[test]
    fn what_a_response_adds_is_counted_once() {
        let usage = json!({"input_tokens": 100, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 60}});
        let output = json!([{"type": "message", "content": [{"type": "output_text", "text": "ab"}]}]);
        let response =
            |usage: &Value| json!({"id": "r", "model": "m", "created_at": 1, "usage": usage, "output": output});
        let events = |last: &str, usage: &Value| {
            vec![
                json!({"type": "response.created", "sequence_number": 0, "response": {"id": "r", "usage": null, "output": []}}),
                json!({"type": "response.output_item.added", "sequence_number": 1, "item": {"type": "function_call", "name": "f"}}),
                json!({"type": "response.function_call_arguments.delta", "sequence_number": 2, "delta": "a"}),
                json!({"type": "response.output_text.delta", "sequence_number": 3, "delta": "b"}),
                json!({"type": "response.output_text.done", "sequence_number": 4, "text": "b"}),
                json!({"type": "response.output_item.done", "sequence_number": 5, "item": output[0]}),
                json!({"type": last, "sequence_number": 6, "response": response(usage)}),
            ]
        };
        for (last, end) in [
            ("response.completed", End::Complete),
            ("response.incomplete", End::Complete),
            ("response.failed", End::Failed),
        ] {
            let (text, numbers, ended, reader) = read(Dialect::Responses, &events(last, &usage));
            assert_eq!((text.as_str(), numbers, ended), ("fab", (Some(100), 60, 0, Some(9)), Some(end)));
            assert_eq!(reader.next_sequence(), 7);
        }
        let (text, numbers, _, _) =
            read(Dialect::Responses, &[events("response.completed", &Value::Null).pop().unwrap()]);
        assert_eq!((text.as_str(), numbers.3), ("ab", None), "all at the end, and without numbers");
        let (text, numbers, _, _) = read(Dialect::Responses, &events("response.completed", &Value::Null));
        assert_eq!((text.as_str(), numbers.3), ("fab", None), "piece by piece, and no more of it at the end");
    }

    #[test]
    fn whole_replies_are_told_from_errors() {
        let is_reply = |dialect, json: Value| read_whole(dialect, json.to_string().as_bytes()).is_some();
        assert!(is_reply(Dialect::Responses, json!({"object": "response", "output": [], "error": null})));
        assert!(is_reply(
            Dialect::Responses,
            json!({"status": "failed", "error": {"code": "x"}, "output": [], "usage": {}})
        ));
        assert!(is_reply(Dialect::Messages, json!({"type": "message", "content": [], "usage": null})));
        for error in
            [json!({"error": {"message": "m"}}), json!({"type": "error", "error": {"type": "api_error"}}), json!([])]
        {
            assert!(!is_reply(Dialect::Responses, error.clone()) && !is_reply(Dialect::Messages, error));
        }
        assert!(read_whole(Dialect::Messages, b"<html>").is_none());
    }
}
