//! Replies of model servers, as far as they matter here.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::usage::Usage;
use super::words::Words;

/// A chunk of a streamed completion, or a whole reply; only the fields that matter here.
#[derive(Debug, Deserialize)]
pub struct Chunk<'a> {
    /// The numbers so far, unparsed: an unusual form of them must not make the chunk invalid.
    #[serde(default, borrow)]
    pub usage: Option<&'a RawValue>,
    /// What the chunk adds to each choice.
    #[serde(default, borrow, deserialize_with = "null_as_default")]
    pub choices: Vec<Choice<'a>>,
}

/// What a chunk adds to one choice.
#[derive(Debug, Default, Deserialize)]
pub struct Choice<'a> {
    /// The index of the choice.
    #[serde(default)]
    pub index: Option<u64>,
    /// The text, on the completions route.
    #[serde(default)]
    pub text: Option<Words>,
    /// The message, in a chunk of a streamed chat.
    #[serde(default, borrow)]
    pub delta: Option<Delta<'a>>,
    /// The message, in a chat reply that is not streamed.
    #[serde(default, borrow)]
    pub message: Option<Delta<'a>>,
    /// Why the choice ended, if it did.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// The stop sequence that ended it, as some servers tell.
    #[serde(default)]
    pub stop_reason: Option<Value>,
}

/// A message, or what a chunk adds to one.
#[derive(Debug, Default, Deserialize)]
pub struct Delta<'a> {
    /// The text.
    #[serde(default)]
    pub content: Option<Words>,
    /// The reasoning, as vLLM and llama.cpp name it.
    #[serde(default)]
    pub reasoning_content: Option<Words>,
    /// The reasoning, as other servers name it.
    #[serde(default)]
    pub reasoning: Option<Words>,
    /// Why it says nothing else.
    #[serde(default)]
    pub refusal: Option<Words>,
    /// The calls of tools, unparsed.
    #[serde(default, borrow)]
    pub tool_calls: Option<&'a RawValue>,
    /// What preceded `tool_calls`.
    #[serde(default, borrow)]
    pub function_call: Option<&'a RawValue>,
}

impl Choice<'_> {
    /// Whether this is the last of the choice.
    pub fn is_last(&self) -> bool {
        self.finish_reason.as_ref().is_some_and(|reason| !reason.is_empty())
    }

    /// The text, reasoning and tool calls that this adds.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        fn words(field: Option<&Words>) -> Option<&str> {
            field.map(|words| &*words.0)
        }
        fn calls(field: Option<&RawValue>) -> Option<&str> {
            field.map(RawValue::get).filter(|calls| !matches!(*calls, "null" | "[]"))
        }
        let message = self.delta.as_ref().or(self.message.as_ref());
        let reasoning = message.and_then(|m| words(m.reasoning_content.as_ref()).or(words(m.reasoning.as_ref())));
        let (tools, function) = message.map_or((None, None), |m| (calls(m.tool_calls), calls(m.function_call)));
        let content = message.and_then(|m| words(m.content.as_ref()));
        let refusal = message.and_then(|m| words(m.refusal.as_ref()));
        [words(self.text.as_ref()), content, reasoning, refusal, tools, function].into_iter().flatten()
    }
}

/// The numbers of a reply of which nothing else is understood.
#[derive(Deserialize)]
pub struct Numbers {
    /// The numbers.
    pub usage: Option<Usage>,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
