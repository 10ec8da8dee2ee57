//! Takes the chunks of a chat's reply apart.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::protocol::chunk::{Chunk, Delta};
use crate::protocol::usage::Usage;
use crate::protocol::words::Words;

use super::Untranslatable;

/// Most tools that one reply may call.
const MAX_CALLS: usize = 1024;

/// A part of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// The first chunk has come: nothing is known before, not even that there will be a reply.
    Begin {
        /// Tokens that were read, if the model server tells it so early.
        input: i64,
    },
    /// More of what the model is thinking.
    Reasoning(&'a str),
    /// More of the text.
    Text(&'a str),
    /// More of the reason why it does not answer.
    Refusal(&'a str),
    /// It calls another tool.
    Call {
        /// The id of the call.
        id: &'a str,
        /// The name of the tool.
        name: &'a str,
    },
    /// More of what it calls the latest tool with.
    Arguments(&'a str),
}

/// Why a reply has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The model has ended it.
    Stop,
    /// At this stop sequence.
    Sequence(String),
    /// It is as long as it may be.
    Length,
    /// To call tools.
    Calls,
    /// Something may not be said.
    Filter,
}

/// The reasons that servers give for the end of a reply, in several vendors' words. Any other one is an error.
const STOPS: [&str; 6] = ["stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete"];
const LENGTHS: [&str; 6] =
    ["length", "model_length", "max_tokens", "max_length", "model_context_window_exceeded", "repetition"];
const CALLS: [&str; 4] = ["tool_calls", "tool_call", "function_call", "tool_use"];
const FILTERS: [&str; 4] = ["content_filter", "safety", "sensitive", "recitation"];

/// What is known of a reply so far.
pub(super) struct Pieces {
    id: String,
    has_begun: bool,
    /// The indices of the tools that were called, the latest at the end.
    calls: Vec<u64>,
    /// The id of the latest call, if the server gave it one.
    latest_id: String,
    finish: Option<Finish>,
    /// Whether the reply has ended with an error.
    has_failed: bool,
    /// Tokens, as far as they were reported.
    reasoning: i64,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(default, borrow)]
    name: Option<Cow<'a, str>>,
    /// A text as a rule; some servers send the object itself.
    #[serde(default, borrow)]
    arguments: Option<&'a RawValue>,
}

impl Pieces {
    /// Nothing was read yet.
    pub(super) fn new(id: &str) -> Pieces {
        Pieces {
            id: id.to_owned(),
            has_begun: false,
            calls: Vec::new(),
            latest_id: String::new(),
            finish: None,
            has_failed: false,
            reasoning: 0,
        }
    }

    /// Hands the pieces of a chunk over, in their order.
    pub(super) fn read(
        &mut self,
        chunk: &Chunk<'_>,
        mut take: impl FnMut(Piece<'_>) -> Result<(), Untranslatable>,
    ) -> Result<(), Untranslatable> {
        let usage = chunk.usage.filter(|_| !self.has_begun || has_details(chunk));
        let usage = usage.and_then(|usage| serde_json::from_str::<Option<Usage>>(usage.get()).ok()).flatten();
        if let Some(reasoning) = usage.as_ref().and_then(Usage::reasoning) {
            self.reasoning = reasoning;
        }
        if !self.has_begun {
            self.has_begun = true;
            take(Piece::Begin { input: usage.and_then(|usage| usage.input()).unwrap_or(0) })?;
        }
        // Only one choice is asked for.
        let Some(choice) = chunk.choices.iter().find(|choice| choice.index.unwrap_or(0) == 0) else { return Ok(()) };
        if let Some(delta) = choice.delta.as_ref().or(choice.message.as_ref()) {
            self.read_delta(delta, choice.delta.is_none(), &mut take)?;
        }
        if let Some(reason) = choice.finish_reason.as_deref().filter(|reason| !reason.is_empty()) {
            let is = |known: &[&str]| known.iter().any(|known| known.eq_ignore_ascii_case(reason));
            self.has_failed |= ![&STOPS[..], &LENGTHS, &CALLS, &FILTERS].into_iter().any(is);
            self.finish = Some(match &choice.stop_reason {
                _ if is(&LENGTHS) => Finish::Length,
                _ if is(&FILTERS) => Finish::Filter,
                _ if is(&CALLS) => Finish::Calls,
                Some(Value::String(sequence)) => Finish::Sequence(sequence.clone()),
                _ => Finish::Stop,
            });
        }
        Ok(())
    }

    /// Reads what a chunk adds to the message; all of it if it `is_whole`.
    fn read_delta(
        &mut self,
        delta: &Delta<'_>,
        is_whole: bool,
        take: &mut impl FnMut(Piece<'_>) -> Result<(), Untranslatable>,
    ) -> Result<(), Untranslatable> {
        fn said(words: Option<&Words>) -> Option<&str> {
            words.map(|words| &*words.0).filter(|words| !words.is_empty())
        }

        if let Some(text) = said(delta.reasoning_content.as_ref().or(delta.reasoning.as_ref())) {
            take(Piece::Reasoning(text))?;
        }
        if let Some(text) = said(delta.content.as_ref()) {
            take(Piece::Text(text))?;
        }
        if let Some(text) = said(delta.refusal.as_ref()) {
            take(Piece::Refusal(text))?;
        }
        let Some(calls) = delta.tool_calls.filter(|calls| calls.get() != "null") else { return Ok(()) };
        let calls = serde_json::from_str::<Vec<Call<'_>>>(calls.get());
        let calls = calls.map_err(|_| Untranslatable("The model server sent calls of tools that cannot be read"))?;
        for (place, call) in calls.into_iter().enumerate() {
            // In a whole message they stand in their order, whatever their index.
            let index = call.index.filter(|_| !is_whole).unwrap_or(place as u64);
            self.read_call(index, &call, take)?;
        }
        Ok(())
    }

    fn read_call(
        &mut self,
        index: u64,
        call: &Call<'_>,
        take: &mut impl FnMut(Piece<'_>) -> Result<(), Untranslatable>,
    ) -> Result<(), Untranslatable> {
        let function = call.function.as_ref();
        let own_id = call.id.as_deref().filter(|id| !id.is_empty());
        // Some servers give all calls the same index.
        let has_new_id = own_id.is_some_and(|id| id != self.latest_id);
        let is_same = self.calls.last() == Some(&index) && !has_new_id;
        if !is_same {
            let is_mixed = self.calls.last() != Some(&index) && self.calls.contains(&index);
            if is_mixed || self.calls.len() >= MAX_CALLS {
                return Err(Untranslatable("The model server mixed up its calls of tools"));
            }
            self.calls.push(index);
            own_id.unwrap_or_default().clone_into(&mut self.latest_id);
            let made;
            let id = if let Some(id) = own_id {
                id
            } else {
                made = format!("call_{}_{}", self.id, self.calls.len());
                &made
            };
            take(Piece::Call { id, name: function.and_then(|function| function.name.as_deref()).unwrap_or_default() })?;
        }
        let Some(arguments) = function.and_then(|function| function.arguments).map(RawValue::get) else {
            return Ok(());
        };
        let text = match arguments.starts_with('"') {
            true => serde_json::from_str::<Cow<'_, str>>(arguments).unwrap_or_default(),
            false if arguments == "null" => Cow::Borrowed(""),
            false => Cow::Borrowed(arguments),
        };
        if text.is_empty() { Ok(()) } else { take(Piece::Arguments(&text)) }
    }

    /// Whether the reply has ended with an error.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Why the reply has ended.
    pub(super) fn finish(&mut self) -> Finish {
        match self.finish.take() {
            // Some servers say it of every reply that is not cut.
            None | Some(Finish::Stop) if !self.calls.is_empty() => Finish::Calls,
            finish => finish.unwrap_or(Finish::Stop),
        }
    }

    /// Tokens that went into reasoning.
    pub(super) fn reasoning(&self) -> i64 {
        self.reasoning
    }
}

/// Whether the numbers of a chunk tell more than the usual ones.
fn has_details(chunk: &Chunk<'_>) -> bool {
    chunk.usage.is_some_and(|usage| memchr::memmem::find(usage.get().as_bytes(), b"reasoning_tokens").is_some())
}
