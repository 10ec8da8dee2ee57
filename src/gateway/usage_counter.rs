//! Counts the tokens of a reply: the model server's own `usage` numbers, or an estimate where it sends none.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::usage::{Reported, Usage};
use crate::units::{Unit, Units};

use super::audio_duration::AudioDuration;
use super::estimate::OutputCounter;

/// Most choices of one reply that are told apart.
const MAX_CHOICES: usize = 10_000;

/// How a reply is charged.
#[derive(Clone, Debug)]
pub enum ChargeBasis {
    /// By the tokens of the prompt and of the completion.
    Text,
    /// By the tokens that were embedded.
    Embeddings,
    /// By the duration of a recording, whatever the reply is, and by the tokens that a model server counts.
    Audio(AudioDuration),
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

    /// The text, reasoning and tool calls that this adds.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let message = self.delta.as_ref().or(self.message.as_ref());
        let reasoning = message.and_then(|m| m.reasoning_content.as_deref().or(m.reasoning.as_deref()));
        let calls =
            message.and_then(|m| m.tool_calls).map(RawValue::get).filter(|calls| !matches!(*calls, "null" | "[]"));
        let content = message.and_then(|m| m.content.as_deref());
        [self.text.as_deref(), content, reasoning, calls].into_iter().flatten()
    }
}

/// Counts what a reply used while it passes through.
#[derive(Clone, Debug)]
pub struct UsageCounter {
    basis: ChargeBasis,
    reported: Reported,
    /// Whether anything was made.
    has_output: bool,
    /// What came after the latest numbers.
    unreported: OutputCounter,
    /// How many choices were asked for.
    expected_choices: usize,
    /// Whether each choice that has begun has finished.
    choices: HashMap<u64, bool>,
    /// The model server has sent what comes behind all choices.
    is_over: bool,
}

impl UsageCounter {
    /// Nothing counted yet.
    pub fn new(basis: ChargeBasis) -> UsageCounter {
        UsageCounter {
            basis,
            reported: Reported::default(),
            has_output: false,
            unreported: OutputCounter::default(),
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
        for choice in &chunk.choices {
            if self.choices.len() < MAX_CHOICES || self.choices.contains_key(&choice.index) {
                *self.choices.entry(choice.index).or_default() |= choice.is_last();
            }
        }
        let usage = chunk.usage.filter(|_| self.is_about_all_choices(chunk));
        let usage = usage.and_then(|usage| serde_json::from_str::<Option<Usage>>(usage.get()).ok()).flatten();
        // Numbers cover what came before them, and the text beside them.
        let is_counted = usage.as_ref().is_some_and(Usage::has_output);
        if is_counted {
            self.unreported.clear();
        }
        for choice in &chunk.choices {
            if choice.texts().any(|text| !text.is_empty()) {
                self.has_output = true;
                if !is_counted {
                    self.unreported.add(choice.texts());
                }
            }
        }
        self.has_output |= self.is_audio();
        if let Some(usage) = usage {
            self.reported.update(&usage);
            self.is_over |= chunk.choices.is_empty() && !self.choices.is_empty() && self.reported.output().is_some();
        }
    }

    /// Whether numbers in this chunk are those of the whole reply. vLLM sends with each piece the numbers of that choice
    /// alone.
    fn is_about_all_choices(&self, chunk: &Chunk<'_>) -> bool {
        let is_piece = !chunk.choices.is_empty() && chunk.choices.len() < self.expected_choices;
        !is_piece || self.is_finished()
    }

    /// Counts a chunk that could not be parsed.
    pub fn add_unparsed(&mut self) {
        self.has_output = true;
        if !self.is_finished() {
            self.unreported.add([]);
        }
    }

    /// Whether the model has finished: all choices have, or numbers came on their own behind them.
    pub fn is_finished(&self) -> bool {
        let are_all_finished = || self.choices.values().all(|is_finished| *is_finished);
        self.is_over || (self.choices.len() >= self.expected_choices.max(1) && are_all_finished())
    }

    /// The indices of the choices that have begun and not finished, in order.
    pub fn open_choices(&self) -> Vec<u64> {
        let mut open: Vec<u64> =
            self.choices.iter().filter(|(_, is_over)| !**is_over).map(|(index, _)| *index).collect();
        open.sort_unstable();
        open
    }

    /// Whether there are choices, and all that have begun have finished.
    pub fn are_begun_choices_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.values().all(|is_finished| *is_finished)
    }

    /// Whether nothing was made yet.
    pub fn is_empty(&self) -> bool {
        !self.has_output && self.reported == Reported::default()
    }

    /// Whether it is a recording that is charged, whatever the reply.
    pub fn is_audio(&self) -> bool {
        matches!(self.basis, ChargeBasis::Audio(_))
    }

    /// Whether [`UsageCounter::units`] rests on an estimate, since the model server has not reported all numbers, or has
    /// made more since.
    pub fn is_estimate(&self) -> bool {
        match self.basis {
            ChargeBasis::Audio(duration) => duration.estimated && self.reported.duration_millis().is_none(),
            ChargeBasis::Embeddings => self.reported.input().is_none(),
            ChargeBasis::Text => {
                self.reported.input().is_none() || self.reported.output().is_none() || !self.unreported.is_empty()
            }
        }
    }

    /// What was used: what the model server has reported, and an estimate of what it has not. `prompt_tokens` counts the
    /// prompt, and is called only if that was not reported. To count takes time, so this is not to be called while a lock
    /// is held.
    pub fn units(&self, prompt_tokens: impl FnOnce() -> usize) -> Units {
        let prompt = || self.reported.input().unwrap_or_else(|| whole(prompt_tokens()));
        match &self.basis {
            ChargeBasis::Audio(duration) => duration.reconcile(self.reported.duration_millis()).units(&self.reported),
            ChargeBasis::Embeddings => Units::of([(Unit::EmbeddingTokens, prompt()), (Unit::Requests, 1)]),
            ChargeBasis::Text => {
                let prompt = prompt();
                // What was reported on the way does not cover what came behind it.
                let output = self.reported.output().unwrap_or(0).saturating_add(whole(self.unreported.tokens()));
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

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(chunks: &[&str]) -> Units {
        let mut counter = UsageCounter::new(ChargeBasis::Text);
        for chunk in chunks {
            counter.add(&serde_json::from_str(chunk).unwrap());
        }
        counter.units(|| 5)
    }

    #[test]
    fn the_model_servers_numbers_take_precedence() {
        let word = r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}"#;
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
        let units = count(&[word, word, word, usage]);
        assert_eq!((units[Unit::PromptTokens], units[Unit::CompletionTokens]), (3, 2));
    }

    #[test]
    fn numbers_with_each_piece_spare_the_count_and_are_of_one_choice() {
        let piece = |index: u64, made: u64, end: &str| {
            format!(
                r#"{{"choices":[{{"index":{index},"delta":{{"content":"one two three four"}}{end}}}],
                    "usage":{{"prompt_tokens":3,"completion_tokens":{made}}}}}"#
            )
        };
        let counter = |choices: usize, pieces: &[String]| {
            let mut counter = UsageCounter::new(ChargeBasis::Text).expecting(choices);
            for piece in pieces {
                counter.add(&serde_json::from_str(piece).unwrap());
            }
            let units = counter.units(|| 99);
            (units[Unit::PromptTokens], units[Unit::CompletionTokens], counter.is_estimate())
        };
        assert_eq!(counter(1, &[piece(0, 1, ""), piece(0, 2, "")]), (3, 2, false));
        let two = [piece(0, 1, ""), piece(1, 1, "")];
        let (prompt, output, estimated) = counter(2, &two);
        assert!(prompt == 99 && output >= 8 && estimated, "{output}");
        let end = r#","finish_reason":"stop""#;
        let all = [
            piece(0, 1, end),
            piece(1, 1, end),
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#.to_owned(),
        ];
        assert_eq!(counter(2, &all), (3, 2, false));
    }

    #[test]
    fn without_them_chunks_are_counted() {
        let head = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
        let word = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
        let call = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"a":1}]}}]}"#;
        let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        let units = count(&[head, word, word, end]);
        assert_eq!((units[Unit::PromptTokens], units[Unit::CompletionTokens]), (5, 2));
        assert!((4..=9).contains(&count(&[call])[Unit::CompletionTokens]), "by their text");
        let whole = format!(r#"{{"choices":[{{"message":{{"content":"{}"}}}}]}}"#, "x".repeat(41));
        assert!((5..=41).contains(&count(&[&whole])[Unit::CompletionTokens]));
    }
}
