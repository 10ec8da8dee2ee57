//! The demo engine's text: it says what it was told, in so many words.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::super::spec::Protocol;
use super::DemoReply;

/// Most words of the prompt that are repeated.
const REPEATED: usize = 200;
/// Most choices.
const MOST_CHOICES: u64 = 128;

/// What was asked of it, as both protocols have it.
pub(super) struct Wish<'a> {
    request: &'a Value,
    prompt: String,
    words: Vec<String>,
    finish: &'static str,
}

impl<'a> Wish<'a> {
    pub(super) fn new(request: &'a Value, prompt: String) -> Wish<'a> {
        let said = prompt.split_whitespace().take(REPEATED).collect::<Vec<_>>().join(" ");
        let answer = match is_json_wanted(request) {
            true => json!({"demo": true, "prompt": said}).to_string(),
            false => format!("This is the demo engine. You said: {said}"),
        };
        let mut words: Vec<_> = answer.split_inclusive(' ').map(str::to_owned).collect();
        let stops = match request.get("stop").unwrap_or(&request["stop_sequences"]) {
            Value::String(one) => vec![one.as_str()],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if let Some(at) = stops.iter().filter(|s| !s.is_empty()).filter_map(|stop| answer.find(stop)).min() {
            words = answer[..at].split_inclusive(' ').map(str::to_owned).collect();
        }
        let limit = Protocol::OUTPUT_LIMITS.into_iter().find_map(|name| request[name].as_u64());
        let limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let finish = if words.len() > limit { "length" } else { "stop" };
        words.truncate(limit);
        Wish { request, prompt, words, finish }
    }

    fn choices(&self) -> u64 {
        self.request["n"].as_u64().unwrap_or(1).clamp(1, MOST_CHOICES)
    }

    /// The answer.
    pub(super) fn text(&self) -> String {
        self.words.concat()
    }

    /// Its pieces.
    pub(super) fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether it is shorter than it would be, as there may not be more.
    pub(super) fn is_cut(&self) -> bool {
        self.finish == "length"
    }

    pub(super) fn model(&self) -> &str {
        self.request["model"].as_str().unwrap_or(super::MODEL)
    }

    /// The tokens of the prompt, and of the answer.
    pub(super) fn used(&self) -> (u64, u64) {
        (self.prompt.split_whitespace().count() as u64, self.words.len() as u64 * self.choices())
    }

    fn usage(&self) -> Value {
        let (prompt, made) = self.used();
        json!({"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made})
    }

    fn head(&self, id: &str, object: &str) -> Value {
        json!({"id": id, "object": object, "created": now(), "model": self.model()})
    }
}

/// Answers a chat.
pub(super) fn chat(request: &Value) -> DemoReply {
    let Some(messages) = request["messages"].as_array() else {
        return DemoReply::error(400, "messages is required");
    };
    let last = messages.iter().rev().find(|m| m["role"] == "user").or(messages.last());
    let wish = Wish::new(request, last.map_or_else(String::new, |m| text_of(&m["content"])));
    let choice = |index, message: Value| json!({"index": index, "message": message, "logprobs": null, "finish_reason": wish.finish});
    let piece = |index, delta: Value, finish: Value| json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish});
    if request["stream"] != true {
        let message = json!({"role": "assistant", "content": wish.words.concat()});
        return whole(&wish, "chat.completion", "chatcmpl-demo", |index| choice(index, message.clone()));
    }
    stream(&wish, "chat.completion.chunk", "chatcmpl-demo", |index, place| match place {
        Place::Start => Some(piece(index, json!({"role": "assistant", "content": ""}), Value::Null)),
        Place::Word(word) => Some(piece(index, json!({ "content": word }), Value::Null)),
        Place::End => Some(piece(index, json!({}), json!(wish.finish))),
    })
}

/// Continues a prompt, or each of several.
pub(super) fn complete(request: &Value) -> DemoReply {
    let prompt = match &request["prompt"] {
        Value::String(one) => one.clone(),
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        _ => return DemoReply::error(400, "prompt is required"),
    };
    let wish = Wish::new(request, prompt);
    let choice = |index, text: &str, finish: Value| json!({"text": text, "index": index, "logprobs": null, "finish_reason": finish});
    if request["stream"] != true {
        let echo = if request["echo"] == true { wish.prompt.as_str() } else { "" };
        let text = echo.to_owned() + &wish.words.concat();
        return whole(&wish, "text_completion", "cmpl-demo", |index| choice(index, &text, json!(wish.finish)));
    }
    stream(&wish, "text_completion", "cmpl-demo", |index, place| match place {
        Place::Start => None,
        Place::Word(word) => Some(choice(index, word, Value::Null)),
        Place::End => Some(choice(index, "", json!(wish.finish))),
    })
}

fn whole(wish: &Wish<'_>, object: &str, id: &str, choice: impl Fn(u64) -> Value) -> DemoReply {
    let mut reply = wish.head(id, object);
    reply["choices"] = (0..wish.choices()).map(choice).collect();
    reply["usage"] = wish.usage();
    DemoReply::json(200, &reply)
}

enum Place<'a> {
    Start,
    Word(&'a str),
    End,
}

fn stream(wish: &Wish<'_>, object: &str, id: &str, piece: impl Fn(u64, Place<'_>) -> Option<Value>) -> DemoReply {
    let head = wish.head(id, object);
    let with = |choices: Value| {
        let mut event = head.clone();
        event["choices"] = choices;
        event
    };
    let places = std::iter::once(Place::Start).chain(wish.words.iter().map(|w| Place::Word(w))).chain([Place::End]);
    let mut events = Vec::new();
    for place in places {
        for index in 0..wish.choices() {
            let place = match &place {
                Place::Start => Place::Start,
                Place::Word(word) => Place::Word(word),
                Place::End => Place::End,
            };
            events.extend(piece(index, place).map(|choice| with(json!([choice])).to_string()));
        }
    }
    if wish.request["stream_options"]["include_usage"] == true {
        let mut event = with(json!([]));
        event["usage"] = wish.usage();
        events.push(event.to_string());
    }
    events.push("[DONE]".to_owned());
    DemoReply::data_events(&events)
}

fn is_json_wanted(request: &Value) -> bool {
    let formats = [&request["response_format"], &request["text"]["format"], &request["output_config"]["format"]];
    formats.iter().any(|format| matches!(format["type"].as_str(), Some("json_object" | "json_schema")))
}

/// The text of a message, without its pictures.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
