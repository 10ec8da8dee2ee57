//! The messages of a chat, as they are put together from the items or blocks of another protocol.

use serde_json::{Map, Value, json};

/// Messages so far.
#[derive(Default)]
pub(super) struct Conversation {
    messages: Vec<Value>,
    /// The model's message that is not complete.
    assistant: Option<Assistant>,
    /// Pictures that a tool has returned. A tool's message has only text, so they follow in one of the user.
    pictures: Vec<Value>,
}

#[derive(Default)]
struct Assistant {
    reasoning: String,
    text: Option<String>,
    refusal: Option<String>,
    calls: Vec<Value>,
}

/// A part of a message that is a text.
pub(super) fn text_part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// A part of a message that is a picture at an address, which may hold all of it.
pub(super) fn picture_part(url: &str, detail: Option<&str>) -> Value {
    let mut picture = json!({ "url": url });
    if let Some(detail) = detail {
        picture["detail"] = detail.into();
    }
    json!({"type": "image_url", "image_url": picture})
}

impl Conversation {
    /// What the model is told beforehand. Several of these at the beginning are one: some models take only one.
    pub(super) fn system(&mut self, text: &str) {
        self.end_message();
        let last = self.messages.last_mut().filter(|last| last["role"] == "system");
        match last.and_then(|last| last.get_mut("content")) {
            Some(Value::String(before)) => {
                before.push_str("\n\n");
                before.push_str(text);
            }
            _ => self.messages.push(json!({"role": "system", "content": text})),
        }
    }

    /// A message of the user, of these parts.
    pub(super) fn user(&mut self, parts: Vec<Value>) {
        self.end_assistant();
        let pictures = std::mem::take(&mut self.pictures);
        let mut parts: Vec<Value> = pictures.into_iter().chain(parts).collect();
        let is_text = matches!(&parts[..], [only] if only["type"] == "text");
        let content = if is_text { parts.remove(0)["text"].take() } else { Value::Array(parts) };
        self.messages.push(json!({"role": "user", "content": content}));
    }

    /// What the model was thinking before it went on.
    pub(super) fn reasoning(&mut self, text: &str) {
        if self.has_text_or_calls() {
            self.end_assistant();
        }
        self.assistant().reasoning.push_str(text);
    }

    /// What the model said.
    pub(super) fn text(&mut self, text: &str) {
        self.assistant().text.get_or_insert_default().push_str(text);
    }

    /// Why the model did not answer.
    pub(super) fn refusal(&mut self, text: &str) {
        self.assistant().refusal.get_or_insert_default().push_str(text);
    }

    /// A call of a tool.
    pub(super) fn call(&mut self, id: &str, name: &str, arguments: &str) {
        let function = json!({"name": name, "arguments": arguments});
        self.assistant().calls.push(json!({"id": id, "type": "function", "function": function}));
    }

    /// What the tool has answered to a call.
    pub(super) fn result(&mut self, id: &str, text: &str, pictures: Vec<Value>) {
        self.end_assistant();
        self.messages.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
        self.pictures.extend(pictures);
    }

    /// The model's message that was begun has text already, or calls of tools.
    pub(super) fn has_text_or_calls(&self) -> bool {
        self.assistant.as_ref().is_some_and(|assistant| assistant.text.is_some() || !assistant.calls.is_empty())
    }

    /// Ends the model's message, if one was begun.
    pub(super) fn end_assistant(&mut self) {
        let Some(Assistant { reasoning, text, refusal, calls }) = self.assistant.take() else { return };
        let mut message = Map::new();
        message.insert("role".to_owned(), "assistant".into());
        message.insert("content".to_owned(), text.into());
        if !reasoning.is_empty() {
            message.insert("reasoning_content".to_owned(), reasoning.into());
        }
        if let Some(refusal) = refusal {
            message.insert("refusal".to_owned(), refusal.into());
        }
        if !calls.is_empty() {
            message.insert("tool_calls".to_owned(), calls.into());
        }
        self.messages.push(message.into());
    }

    /// All messages.
    pub(super) fn finish(mut self) -> Vec<Value> {
        self.end_message();
        self.messages
    }

    fn assistant(&mut self) -> &mut Assistant {
        self.end_pictures();
        self.assistant.get_or_insert_default()
    }

    fn end_message(&mut self) {
        self.end_assistant();
        self.end_pictures();
    }

    fn end_pictures(&mut self) {
        if !self.pictures.is_empty() {
            self.user(Vec::new());
        }
    }
}
