//! What there is to charge for text: the server's own numbers, or an estimate where it gives none.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::usage::Units;

/// Bytes of a token, where nobody counts them.
const BYTES_OF_A_TOKEN: usize = 4;

/// What a reply is charged as.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Tokens of a prompt and of its answer.
    Text,
    /// Tokens that were embedded.
    Embeddings,
    /// Something known otherwise.
    Known(Units),
}

/// `usage`, as the protocol has it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Usage {
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
}

/// A piece of a streamed answer, as far as it is looked at.
#[derive(Debug, Deserialize)]
pub struct Piece<'a> {
    /// The numbers so far.
    #[serde(default, borrow)]
    pub usage: Option<&'a RawValue>,
    /// The pieces of the choices.
    #[serde(default, borrow)]
    pub choices: Vec<Choice<'a>>,
}

/// A piece of one choice.
#[derive(Debug, Deserialize)]
pub struct Choice<'a> {
    /// Which one.
    #[serde(default)]
    pub index: u64,
    /// Text of a completion.
    #[serde(default)]
    pub text: Option<String>,
    /// What a chat adds.
    #[serde(default, borrow)]
    pub delta: Option<Delta<'a>>,
    /// The same in a reply that is not streamed.
    #[serde(default, borrow)]
    pub message: Option<Delta<'a>>,
    /// Why it ended.
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// What a message says, or adds.
#[derive(Debug, Default, Deserialize)]
pub struct Delta<'a> {
    /// Text.
    #[serde(default)]
    pub content: Option<String>,
    /// Thoughts, as vLLM and llama.cpp call them.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// Thoughts, as others call them.
    #[serde(default)]
    pub reasoning: Option<String>,
    #[serde(default, borrow)]
    tool_calls: Option<&'a RawValue>,
}

impl Choice<'_> {
    /// Bytes of what it says.
    fn bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let message = self.delta.as_ref().or(self.message.as_ref());
        length(&self.text)
            + message.map_or(0, |m| {
                let calls = m.tool_calls.map_or(0, |calls| if calls.get() == "null" { 0 } else { calls.get().len() });
                length(&m.content) + length(&m.reasoning_content).max(length(&m.reasoning)) + calls
            })
    }
}

/// Counts along.
#[derive(Clone, Debug)]
pub struct Tally {
    kind: Kind,
    prompt_estimate: usize,
    usage: Option<Usage>,
    pieces: usize,
    bytes: usize,
}

impl Tally {
    /// Nothing counted. The prompt has so many tokens unless the server says otherwise.
    pub fn new(kind: Kind, prompt_estimate: usize) -> Tally {
        Tally { kind, prompt_estimate, usage: None, pieces: 0, bytes: 0 }
    }

    /// Counts a piece, or a whole reply.
    pub fn count(&mut self, piece: &Piece<'_>) {
        for bytes in piece.choices.iter().map(Choice::bytes).filter(|bytes| *bytes > 0) {
            self.pieces += 1;
            self.bytes += bytes;
        }
        if self.is_known() {
            self.pieces += 1;
        }
        let usage = piece.usage.and_then(|usage| serde_json::from_str::<Option<Usage>>(usage.get()).ok().flatten());
        self.usage = usage.or(self.usage);
    }

    /// Counts a piece that says something not understood.
    pub fn count_unknown(&mut self) {
        self.pieces += 1;
    }

    /// Whether anything was made.
    pub fn is_empty(&self) -> bool {
        self.pieces == 0 && self.usage.is_none()
    }

    /// Whether the charge does not depend on what is counted. Such a stream is over when it ends; those of text say so.
    pub fn is_known(&self) -> bool {
        matches!(self.kind, Kind::Known(_))
    }

    /// The sum. Servers send about a token at a time; one that sends more at a time is charged by the length.
    pub fn units(&self) -> Units {
        let usage = self.usage.unwrap_or_default();
        let or =
            |said: Option<i64>, estimate: usize| said.map_or(i64::try_from(estimate).unwrap_or(i64::MAX), |n| n.max(0));
        let prompt = or(usage.prompt_tokens, self.prompt_estimate);
        match &self.kind {
            Kind::Known(units) => units.clone(),
            Kind::Embeddings => Units { embedding_tokens: prompt, requests: 1, ..Units::default() },
            Kind::Text => {
                let made = self.pieces.max(self.bytes.div_ceil(BYTES_OF_A_TOKEN));
                let completion_tokens = or(usage.completion_tokens, made);
                Units { prompt_tokens: prompt, completion_tokens, requests: 1, ..Units::default() }
            }
        }
    }
}

/// About how many tokens the texts in a JSON value have. Pictures in it (`data:` addresses) count for nothing here, and
/// a number, which is how tokens themselves are sent, for one.
pub fn estimate(value: &RawValue) -> usize {
    serde_json::from_str::<Texts>(value.get()).map_or(0, |texts| texts.0.div_ceil(BYTES_OF_A_TOKEN))
}

/// The bytes of all texts.
struct Texts(usize);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        struct Sum;
        impl<'de> Visitor<'de> for Sum {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(if text.starts_with("data:") { 0 } else { text.len() }))
            }
            fn visit_unit<E>(self) -> Result<Texts, E> {
                Ok(Texts(0))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Texts, E> {
                Ok(Texts(0))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Texts, E> {
                Ok(Texts(BYTES_OF_A_TOKEN))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Texts, E> {
                Ok(Texts(BYTES_OF_A_TOKEN))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Texts, E> {
                Ok(Texts(BYTES_OF_A_TOKEN))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut sum = 0;
                while let Some(Texts(bytes)) = seq.next_element()? {
                    sum += bytes;
                }
                Ok(Texts(sum))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut sum = 0;
                while let Some((serde::de::IgnoredAny, Texts(bytes))) = map.next_entry()? {
                    sum += bytes;
                }
                Ok(Texts(sum))
            }
        }
        deserializer.deserialize_any(Sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(pieces: &[&str]) -> Units {
        let mut tally = Tally::new(Kind::Text, 9);
        for piece in pieces {
            tally.count(&serde_json::from_str(piece).unwrap());
        }
        tally.units()
    }

    #[test]
    fn the_servers_numbers_hold() {
        let word = r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}"#;
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
        let units = tally(&[word, word, word, usage]);
        assert_eq!((units.prompt_tokens, units.completion_tokens), (3, 2));
    }

    #[test]
    fn without_them_pieces_are_counted() {
        let head = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
        let word = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
        let call = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"a":1}]}}]}"#;
        let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        let units = tally(&[head, word, word, end]);
        assert_eq!((units.prompt_tokens, units.completion_tokens), (9, 2));
        assert_eq!(tally(&[call]).completion_tokens, 3, "by its length");
        let whole = format!(r#"{{"choices":[{{"message":{{"content":"{}"}}}}]}}"#, "x".repeat(41));
        assert_eq!(tally(&[&whole]).completion_tokens, 11);
    }

    #[test]
    fn estimates_leave_pictures_out() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        assert_eq!(estimate(&raw(r#""12345678""#)), 2);
        assert_eq!(estimate(&raw("[1,2,3]")), 3);
        let parts =
            r#"[{"content":[{"text":"12345678"},{"image_url":{"url":"data:image/png;base64,AAAAAAAAAAAAAAAA"}}]}]"#;
        assert_eq!(estimate(&raw(parts)), 2);
    }
}
