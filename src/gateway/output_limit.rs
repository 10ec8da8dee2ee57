//! Ends a stream whose model makes more than was asked of it, so that a budget that paid for no more is not passed.

use serde_json::{Value, json};

use crate::http::object::Object;
use crate::units::{Unit, Units};

use crate::protocol::chunk::Chunk;

/// More bytes than these are more than one token.
const MOST_BYTES: u64 = 32;
/// Bytes beyond them that are let through, since a few tokens may be longer.
const SPARE_BYTES: u64 = 1024;

/// How much of a reply may still come. It never ends one that is within its limit: pieces have a token at least.
pub struct OutputLimit {
    tokens: u64,
    pieces: u64,
    bytes: u64,
    is_passed: bool,
}

impl OutputLimit {
    /// At most so many tokens, of all choices together.
    pub(super) fn new(tokens: u64) -> OutputLimit {
        OutputLimit { tokens, pieces: 0, bytes: 0, is_passed: false }
    }

    /// Whether the reply was ended.
    pub(super) fn is_passed(&self) -> bool {
        self.is_passed
    }

    /// What was used: of a reply that was ended, no more than there may be, even where it is estimated.
    pub(super) fn cap(&self, mut units: Units) -> Units {
        if self.is_passed {
            let most = i64::try_from(self.tokens).unwrap_or(i64::MAX);
            units[Unit::CompletionTokens] = units[Unit::CompletionTokens].min(most);
        }
        units
    }

    /// Counts a chunk of the reply. Returns whether it is more than there may be, so that the reply must end before it.
    pub(super) fn is_passed_by(&mut self, chunk: &Chunk<'_>) -> bool {
        for choice in &chunk.choices {
            let bytes: u64 = choice.texts().map(|text| text.len() as u64).sum();
            self.pieces += u64::from(bytes > 0);
            self.bytes = self.bytes.saturating_add(bytes);
        }
        let most_bytes = self.tokens.saturating_mul(MOST_BYTES).saturating_add(SPARE_BYTES);
        self.is_passed = self.pieces > self.tokens || self.bytes > most_bytes;
        if self.is_passed {
            log::warn!("ended a reply: the model server generated more than {} tokens", self.tokens);
        }
        self.is_passed
    }
}

/// The event that ends these choices in place of the one with this chunk.
pub(super) fn last_event(data: &[u8], chunk: &Chunk<'_>, open: &[u64]) -> Vec<u8> {
    let is_chat = !chunk.choices.iter().any(|choice| choice.text.is_some());
    let end = |index: &u64| -> Value {
        match is_chat {
            true => json!({"index": index, "delta": {}, "finish_reason": "length"}),
            false => json!({"index": index, "text": "", "finish_reason": "length"}),
        }
    };
    let Ok(mut object) = Object::parse(data) else { return Vec::new() };
    object.set("choices", &open.iter().map(end).collect::<Vec<Value>>());
    object.remove("usage");
    [b"data: ", &*object.to_bytes(), b"\n\n"].concat()
}

/// The event with the usage of a stream that was ended at the event with this data.
pub(super) fn usage_event(data: &[u8], units: &Units) -> Vec<u8> {
    let made = units[Unit::CompletionTokens];
    let read = units.tokens() - made;
    let Ok(mut object) = Object::parse(data) else { return Vec::new() };
    object.set("choices", &[(); 0]);
    let usage = json!({"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made});
    object.set("usage", &usage);
    [b"data: ", &*object.to_bytes(), b"\n\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_ended_only_beyond_its_limit() {
        let piece = |text: &str| format!(r#"{{"id":"x","choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#);
        let (word, empty, long) = (piece("word"), piece(""), piece(&"x".repeat(2000)));
        let chunk = |json: &'static str| serde_json::from_str::<Chunk<'_>>(json).unwrap();
        let (word, empty, long) = (chunk(word.leak()), chunk(empty.leak()), chunk(long.leak()));
        let mut limit = OutputLimit::new(2);
        assert!(![&empty, &word, &empty, &word, &empty].into_iter().any(|chunk| limit.is_passed_by(chunk)));
        assert!(limit.is_passed_by(&word));
        assert!(OutputLimit::new(5).is_passed_by(&long));
    }

    #[test]
    fn the_last_event_says_that_the_length_ended_it() {
        let data = br#"{"id":"x","choices":[{"index":0,"text":"more"}],"usage":null}"#;
        let chunk = serde_json::from_slice(data).unwrap();
        let event = String::from_utf8(last_event(data, &chunk, &[0, 2])).unwrap();
        let expected = r#"{"id":"x","choices":[{"index":0,"text":"","finish_reason":"length"},{"index":2,"text":"","finish_reason":"length"}]}"#;
        let json = event.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n")).unwrap();
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parsed(json), parsed(expected));
    }
}
