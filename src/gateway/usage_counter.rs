//! Counts the tokens of a reply: the model server's own `usage` numbers, or an estimate where it sends none.

use std::collections::HashMap;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::protocol::usage::{Reported, Usage};
use crate::units::{Unit, Units};

/// Bytes per token that are assumed where tokens are not counted.
const BYTES_PER_TOKEN: usize = 4;

/// Most choices of one reply that are told apart.
const MAX_CHOICES: usize = 10_000;

/// How a reply is charged.
#[derive(Clone, Debug)]
pub enum ChargeBasis {
    /// By the tokens of the prompt and of the completion.
    Text,
    /// By the tokens that were embedded.
    Embeddings,
    /// By these units, whatever the reply is.
    Fixed(Units),
}

/// A chunk of a streamed completion, or a whole reply; only the fields that matter here.
#[derive(Debug, Deserialize)]
pub struct Chunk<'a> {
    /// The numbers so far, unparsed: an unusual form of them must not make the chunk invalid.
    #[serde(default, borrow)]
    pub usage: Option<&'a RawValue>,
    /// What the chunk adds to each choice.
    #[serde(default, borrow)]
    pub choices: Vec<Choice<'a>>,
}

/// What a chunk adds to one choice.
#[derive(Debug, Deserialize)]
pub struct Choice<'a> {
    /// The index of the choice.
    #[serde(default)]
    pub index: u64,
    /// The text, on the completions route.
    #[serde(default)]
    pub text: Option<String>,
    /// The message, in a chunk of a streamed chat.
    #[serde(default, borrow)]
    pub delta: Option<Delta<'a>>,
    /// The message, in a chat reply that is not streamed.
    #[serde(default, borrow)]
    pub message: Option<Delta<'a>>,
    /// Why the choice ended, if it did.
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// A message, or what a chunk adds to one.
#[derive(Debug, Default, Deserialize)]
pub struct Delta<'a> {
    /// The text.
    #[serde(default)]
    pub content: Option<String>,
    /// The reasoning, as vLLM and llama.cpp name it.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// The reasoning, as other servers name it.
    #[serde(default)]
    pub reasoning: Option<String>,
    #[serde(default, borrow)]
    tool_calls: Option<&'a RawValue>,
}

impl Choice<'_> {
    /// Whether this is the last of the choice.
    fn is_last(&self) -> bool {
        self.finish_reason.as_ref().is_some_and(|reason| !reason.is_empty())
    }

    /// How many bytes of text, reasoning and tool calls this adds.
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

/// Counts what a reply used while it passes through.
#[derive(Clone, Debug)]
pub struct UsageCounter {
    basis: ChargeBasis,
    prompt_estimate: usize,
    reported: Reported,
    chunks: usize,
    bytes: usize,
    /// Pieces that came after the latest numbers.
    unreported: usize,
    /// How many choices were asked for.
    expected_choices: usize,
    /// Whether each choice that has begun has finished.
    choices: HashMap<u64, bool>,
    /// The model server has sent what comes behind all choices.
    is_over: bool,
}

impl UsageCounter {
    /// Nothing counted yet. `prompt_estimate` is the number of the prompt's tokens unless the model server reports it.
    pub fn new(basis: ChargeBasis, prompt_estimate: usize) -> UsageCounter {
        UsageCounter {
            basis,
            prompt_estimate,
            reported: Reported::default(),
            chunks: 0,
            bytes: 0,
            unreported: 0,
            expected_choices: 1,
            choices: HashMap::new(),
            is_over: false,
        }
    }

    /// Says how many choices were asked for, if that is not one.
    #[must_use]
    pub fn expecting(mut self, choices: usize) -> UsageCounter {
        self.expected_choices = choices;
        self
    }

    /// Counts a chunk, or a whole reply.
    pub fn add(&mut self, chunk: &Chunk<'_>) {
        for bytes in chunk.choices.iter().map(Choice::bytes).filter(|bytes| *bytes > 0) {
            self.chunks += 1;
            self.unreported += 1;
            self.bytes += bytes;
        }
        for choice in &chunk.choices {
            if self.choices.len() < MAX_CHOICES || self.choices.contains_key(&choice.index) {
                *self.choices.entry(choice.index).or_default() |= choice.is_last();
            }
        }
        if self.is_fixed() {
            self.chunks += 1;
        }
        if let Some(usage) =
            chunk.usage.and_then(|usage| serde_json::from_str::<Option<Usage>>(usage.get()).ok()).flatten()
        {
            self.reported.update(&usage);
            self.unreported = 0;
            self.is_over |= chunk.choices.is_empty() && !self.choices.is_empty() && self.reported.output().is_some();
        }
    }

    /// Counts a chunk that could not be parsed.
    pub fn add_unparsed(&mut self) {
        self.chunks += 1;
        self.unreported += usize::from(!self.is_finished());
    }

    /// Whether the model has finished: all choices have, or numbers came on their own behind them.
    pub fn is_finished(&self) -> bool {
        let are_all_finished = || self.choices.values().all(|is_finished| *is_finished);
        self.is_over || (self.choices.len() >= self.expected_choices.max(1) && are_all_finished())
    }

    /// Whether there are choices, and all that have begun have finished.
    pub fn are_begun_choices_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.values().all(|is_finished| *is_finished)
    }

    /// Whether nothing was made yet.
    pub fn is_empty(&self) -> bool {
        self.chunks == 0 && self.reported == Reported::default()
    }

    /// Whether the charge does not depend on the reply.
    pub fn is_fixed(&self) -> bool {
        matches!(self.basis, ChargeBasis::Fixed(_))
    }

    /// Whether [`UsageCounter::units`] rests on an estimate, since the model server has not reported all numbers, or has
    /// made more since.
    pub fn is_estimate(&self) -> bool {
        match self.basis {
            ChargeBasis::Fixed(_) => false,
            ChargeBasis::Embeddings => self.reported.input().is_none(),
            ChargeBasis::Text => {
                self.reported.input().is_none() || self.reported.output().is_none() || self.unreported > 0
            }
        }
    }

    /// What was used. Without the model server's numbers, each chunk counts as a token, or more if it is long.
    pub fn units(&self) -> Units {
        let prompt = reported_or(self.reported.input(), self.prompt_estimate);
        match &self.basis {
            ChargeBasis::Fixed(units) => *units,
            ChargeBasis::Embeddings => Units::of([(Unit::EmbeddingTokens, prompt), (Unit::Requests, 1)]),
            ChargeBasis::Text => {
                let estimate = self.chunks.max(estimate_tokens(self.bytes));
                let output = reported_or(self.reported.output(), estimate);
                // What was reported on the way does not cover what came behind it.
                let output = if self.unreported > 0 { output.max(reported_or(None, estimate)) } else { output };
                let (cached, cache_write) = (self.reported.cached(), self.reported.cache_write());
                Units::of([
                    (Unit::PromptTokens, prompt - cached - cache_write),
                    (Unit::CachedInputTokens, cached),
                    (Unit::CacheWriteTokens, cache_write),
                    (Unit::CompletionTokens, output),
                    (Unit::Requests, 1),
                ])
            }
        }
    }
}

fn reported_or(reported: Option<i64>, estimate: usize) -> i64 {
    reported.unwrap_or_else(|| i64::try_from(estimate).unwrap_or(i64::MAX))
}

/// About how many tokens a text of this length, in bytes, has.
pub fn estimate_tokens(bytes: usize) -> usize {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// About how many tokens the strings in a JSON value have. A number counts as one token, as prompts may be sent as token
/// ids; images (`data:` URLs) count as nothing.
pub fn estimate_json_tokens(value: &RawValue) -> usize {
    serde_json::from_str::<TextBytes>(value.get()).map_or(0, |bytes| estimate_tokens(bytes.0))
}

/// The bytes of all strings in a JSON value.
struct TextBytes(usize);

impl<'de> Deserialize<'de> for TextBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TextBytes, D::Error> {
        struct Sum;
        impl<'de> Visitor<'de> for Sum {
            type Value = TextBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_str<E>(self, text: &str) -> Result<TextBytes, E> {
                Ok(TextBytes(if text.starts_with("data:") { 0 } else { text.len() }))
            }
            fn visit_unit<E>(self) -> Result<TextBytes, E> {
                Ok(TextBytes(0))
            }
            fn visit_bool<E>(self, _: bool) -> Result<TextBytes, E> {
                Ok(TextBytes(0))
            }
            fn visit_u64<E>(self, _: u64) -> Result<TextBytes, E> {
                Ok(TextBytes(BYTES_PER_TOKEN))
            }
            fn visit_i64<E>(self, _: i64) -> Result<TextBytes, E> {
                Ok(TextBytes(BYTES_PER_TOKEN))
            }
            fn visit_f64<E>(self, _: f64) -> Result<TextBytes, E> {
                Ok(TextBytes(BYTES_PER_TOKEN))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TextBytes, A::Error> {
                let mut sum = 0;
                while let Some(TextBytes(bytes)) = seq.next_element()? {
                    sum += bytes;
                }
                Ok(TextBytes(sum))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextBytes, A::Error> {
                let mut sum = 0;
                while let Some((serde::de::IgnoredAny, TextBytes(bytes))) = map.next_entry()? {
                    sum += bytes;
                }
                Ok(TextBytes(sum))
            }
        }
        deserializer.deserialize_any(Sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(chunks: &[&str]) -> Units {
        let mut counter = UsageCounter::new(ChargeBasis::Text, 9);
        for chunk in chunks {
            counter.add(&serde_json::from_str(chunk).unwrap());
        }
        counter.units()
    }

    #[test]
    fn the_model_servers_numbers_take_precedence() {
        let word = r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}"#;
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
        let units = count(&[word, word, word, usage]);
        assert_eq!((units[Unit::PromptTokens], units[Unit::CompletionTokens]), (3, 2));
    }

    #[test]
    fn without_them_chunks_are_counted() {
        let head = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
        let word = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
        let call = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"a":1}]}}]}"#;
        let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        let units = count(&[head, word, word, end]);
        assert_eq!((units[Unit::PromptTokens], units[Unit::CompletionTokens]), (9, 2));
        assert_eq!(count(&[call])[Unit::CompletionTokens], 3, "by their length");
        let whole = format!(r#"{{"choices":[{{"message":{{"content":"{}"}}}}]}}"#, "x".repeat(41));
        assert_eq!(count(&[&whole])[Unit::CompletionTokens], 11);
    }

    #[test]
    fn estimates_ignore_images() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        assert_eq!(estimate_json_tokens(&raw(r#""12345678""#)), 2);
        assert_eq!(estimate_json_tokens(&raw("[1,2,3]")), 3);
        let parts =
            r#"[{"content":[{"text":"12345678"},{"image_url":{"url":"data:image/png;base64,AAAAAAAAAAAAAAAA"}}]}]"#;
        assert_eq!(estimate_json_tokens(&raw(parts)), 2);
    }
}
