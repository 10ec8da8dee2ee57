//! Counts the tokens of a reply: the model server's own `usage` numbers, or an estimate where it sends none.

use std::collections::HashMap;

use crate::protocol::usage::{Reported, Usage};
use crate::units::{Unit, Units, amount};

use super::audio_duration::AudioDuration;
use super::estimate::OutputCounter;
use crate::protocol::chunk::{Choice, Chunk, Numbers};
use crate::protocol::words::Words;

/// Most choices of one reply that are told apart.
const MAX_CHOICES: usize = 10_000;

/// Tokens that a model may make beside what it shows without hiding anything: they mark ends, roles and calls of tools.
const MOST_MARKERS: i64 = 16;

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

/// What is known of a choice that has begun.
#[derive(Clone, Copy, Debug, Default)]
struct ChoiceState {
    is_finished: bool,
    /// The tokens that came as numbers of this choice alone.
    output: i64,
    /// Whether its latest piece came with them.
    has_numbers: bool,
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
    /// How many prompts were sent.
    prompts: usize,
    /// The choices that have begun.
    choices: HashMap<u64, ChoiceState>,
    /// The latest numbers that came with a piece of one of several choices.
    of_one: Reported,
    /// The tokens of the first choice that came before those in `unreported`, if there are several choices.
    covered: i64,
    /// The model server has sent what comes behind all choices.
    is_over: bool,
    /// The tokens of the first numbers for all of the reply that nothing of what had come by then can have been.
    hidden: i64,
    /// What is added to an estimate of the output for what may not have been shown.
    assumed_hidden: i64,
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
            prompts: 1,
            choices: HashMap::new(),
            of_one: Reported::default(),
            covered: 0,
            is_over: false,
            hidden: 0,
            assumed_hidden: 0,
        }
    }

    /// Says how many choices were asked for, of how many prompts, if that is not one.
    #[must_use]
    pub fn expecting(mut self, choices: usize, prompts: usize) -> UsageCounter {
        (self.expected_choices, self.prompts) = (choices, prompts);
        self
    }

    /// Counts a whole reply.
    pub fn add_whole(&mut self, reply: &Chunk<'_>) {
        self.add_numbered(reply, numbers_of(reply).as_ref(), false);
    }

    /// Counts a part of the one choice of a reply whose numbers, of all of it, are given.
    pub fn add_with(&mut self, chunk: &Chunk<'_>, usage: Option<&Usage>) {
        self.add_numbered(chunk, usage, false);
    }

    /// Counts a chunk.
    pub fn add(&mut self, chunk: &Chunk<'_>) {
        // vLLM sends with each piece the numbers of that choice alone.
        let is_of_one = chunk.choices.len() == 1 && self.expected_choices > 1;
        self.add_numbered(chunk, numbers_of(chunk).as_ref(), is_of_one);
    }

    /// With `is_of_one`, the numbers may be those of the chunk's choice alone.
    fn add_numbered(&mut self, chunk: &Chunk<'_>, usage: Option<&Usage>, is_of_one: bool) {
        let numbers = usage.map(Reported::of);
        let output = numbers.and_then(|numbers| numbers.output());
        for choice in &chunk.choices {
            let index = choice.index.unwrap_or(0);
            if self.choices.len() < MAX_CHOICES || self.choices.contains_key(&index) {
                let state = self.choices.entry(index).or_default();
                state.is_finished |= choice.is_last();
                state.has_numbers = is_of_one && output.is_some();
                state.output = output.filter(|_| is_of_one).unwrap_or(0).max(state.output);
            }
        }
        if let Some(output) = output
            && !is_of_one
            && !self.has_output_numbers()
        {
            self.hidden = self.hidden_of(output, chunk);
        }
        // Numbers cover what came before them, and the text beside them.
        let is_counted = output.is_some() && (!is_of_one || self.choices.len() == 1);
        if is_counted {
            self.unreported.clear();
            self.covered = output.filter(|_| is_of_one).unwrap_or(0);
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
            if is_of_one { &mut self.of_one } else { &mut self.reported }.update(usage);
            self.is_over |= chunk.choices.is_empty() && !self.choices.is_empty() && self.reported.output().is_some();
        }
    }

    /// How many of so many tokens were not shown, by what has come until this chunk. To count that takes time, so it is
    /// done only for a stream that has fewer pieces than tokens; the text in the chunk itself, which may be all of a reply,
    /// has at most as many as bytes.
    fn hidden_of(&self, output: i64, chunk: &Chunk<'_>) -> i64 {
        let beside = chunk.choices.iter().flat_map(Choice::texts).map(str::len).sum::<usize>();
        let beyond = |shown: usize| output.saturating_sub(amount(shown.saturating_add(beside)));
        let is_hidden = |tokens: &i64| *tokens > MOST_MARKERS;
        let at_most = Some(beyond(self.unreported.pieces())).filter(is_hidden);
        at_most.map(|_| beyond(self.unreported.tokens())).filter(is_hidden).unwrap_or(0)
    }

    /// How many tokens the reply had, by its numbers, beside those that were shown.
    pub fn hidden_output(&self) -> i64 {
        self.hidden
    }

    /// Whether the model server has said, of a part of the reply at least, how many tokens were written.
    pub fn has_output_numbers(&self) -> bool {
        self.reported.output().is_some() || self.of_one.output().is_some()
    }

    /// Adds so many tokens to the estimate of a reply without numbers, for what the model may have made and not shown.
    pub fn assume_hidden(&mut self, tokens: i64) {
        self.assumed_hidden = tokens;
    }

    /// The tokens written, if only numbers of single choices came; and whether they cover all that came.
    fn output_by_choice(&self) -> Option<(i64, bool)> {
        let numbered = || self.choices.values().filter(|choice| choice.output > 0);
        let sum = numbered().fold(0_i64, |sum, choice| sum.saturating_add(choice.output));
        // Numbers that come only once, with the last piece of all, are about all choices.
        let is_complete =
            self.choices.values().all(|choice| choice.has_numbers) || (self.is_finished() && numbered().count() == 1);
        (sum > 0).then_some((sum, is_complete))
    }

    /// The tokens written, and whether that rests on an estimate.
    fn output(&self) -> (i64, bool) {
        let unreported = || amount(self.unreported.tokens());
        match (self.reported.output(), self.output_by_choice()) {
            // What was reported on the way does not cover what came behind it, which may have numbers of its own.
            (Some(output), by_choice) => {
                let reported = output.saturating_add(unreported());
                let by_choice = by_choice.map_or(0, |(output, _)| output);
                let is_more = by_choice > reported && !self.is_over;
                (if is_more { by_choice } else { reported }, is_more || !self.unreported.is_empty())
            }
            (None, Some((output, true))) => (output, false),
            (None, Some((output, false))) => (output.max(self.covered.saturating_add(unreported())), true),
            (None, None) => (unreported().saturating_add(self.assumed_hidden), true),
        }
    }

    /// The report of what was read, if there is one.
    fn input(&self) -> Option<&Reported> {
        let of_one = Some(&self.of_one).filter(|_| self.prompts <= 1);
        [Some(&self.reported), of_one].into_iter().flatten().find(|reported| reported.input().is_some())
    }

    /// Counts a chunk, or a whole reply, that is JSON but not as expected: its numbers if it has some, else all of its
    /// texts.
    pub fn add_unparsed(&mut self, data: &[u8]) {
        self.has_output = true;
        if let Ok(Numbers { usage: Some(usage) }) = serde_json::from_slice::<Numbers>(data)
            && usage.has_output()
        {
            self.unreported.clear();
            self.reported.update(&usage);
        } else if !self.is_finished() {
            let words = serde_json::from_slice::<Words>(data).unwrap_or_default();
            self.unreported.add([&*words.0]);
        }
    }

    /// Counts a whole reply that is not as expected, if the model has made something: it may be no reply at all.
    pub fn add_odd(&mut self, data: &[u8]) {
        let has_words = || serde_json::from_slice::<Words>(data).is_ok_and(|words| !words.0.is_empty());
        if !self.add_odd_numbers(data) && has_words() {
            self.add_unparsed(data);
        }
    }

    /// Counts the numbers of what is no reply, if it has some, and says whether it does.
    pub fn add_odd_numbers(&mut self, data: &[u8]) -> bool {
        let numbers = serde_json::from_slice::<Numbers>(data).ok().and_then(|Numbers { usage }| usage);
        let has_numbers = numbers.is_some_and(|usage| usage.has_output());
        if has_numbers {
            self.add_unparsed(data);
        }
        has_numbers
    }

    /// Whether the model has finished: all choices have, or numbers came on their own behind them.
    pub fn is_finished(&self) -> bool {
        let are_all_finished = || self.choices.values().all(|choice| choice.is_finished);
        self.is_over || (self.choices.len() >= self.expected_choices.max(1) && are_all_finished())
    }

    /// The indices of the choices that have begun and not finished, in order.
    pub fn open_choices(&self) -> Vec<u64> {
        let mut open: Vec<u64> =
            self.choices.iter().filter(|(_, choice)| !choice.is_finished).map(|(index, _)| *index).collect();
        open.sort_unstable();
        open
    }

    /// Whether there are choices, and all that have begun have finished.
    pub fn are_begun_choices_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.values().all(|choice| choice.is_finished)
    }

    /// Whether nothing was made yet, though it may be known what is read for it.
    pub fn is_empty(&self) -> bool {
        !self.has_output && !self.has_output_numbers()
    }

    /// Whether it is a recording that is charged, whatever the reply.
    pub fn is_audio(&self) -> bool {
        matches!(self.basis, ChargeBasis::Audio(_))
    }

    /// Whether it is text that is charged.
    pub fn is_text(&self) -> bool {
        matches!(self.basis, ChargeBasis::Text)
    }

    /// Whether [`UsageCounter::units`] rests on an estimate, since the model server has not reported all numbers, or has
    /// made more since.
    pub fn is_estimate(&self) -> bool {
        match self.basis {
            ChargeBasis::Audio(duration) => duration.estimated && self.reported.duration_millis().is_none(),
            ChargeBasis::Embeddings => self.reported.input().is_none(),
            ChargeBasis::Text => {
                let (_, is_output_estimated) = self.output();
                self.input().is_none() || is_output_estimated
            }
        }
    }

    /// What was used: what the model server has reported, and an estimate of what it has not. `prompt_tokens` counts the
    /// prompt, and is called only if that was not reported. To count takes time, so this is not to be called while a lock
    /// is held.
    pub fn units(&self, prompt_tokens: impl FnOnce() -> usize) -> Units {
        let reported = self.input();
        let prompt = || reported.and_then(Reported::input).unwrap_or_else(|| amount(prompt_tokens()));
        match &self.basis {
            ChargeBasis::Audio(duration) => duration.reconcile(self.reported.duration_millis()).units(&self.reported),
            ChargeBasis::Embeddings => Units::of([(Unit::EmbeddingTokens, prompt()), (Unit::Requests, 1)]),
            ChargeBasis::Text => {
                let prompt = prompt();
                let (output, _) = self.output();
                let (cached, cache_write) = reported.map_or((0, 0), |read| (read.cached(), read.cache_write()));
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

/// The numbers of a chunk, unless they have an unusual form.
fn numbers_of(chunk: &Chunk<'_>) -> Option<Usage> {
    chunk.usage.and_then(|usage| serde_json::from_str::<Option<Usage>>(usage.get()).ok()).flatten()
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
            let mut counter = UsageCounter::new(ChargeBasis::Text).expecting(choices, 1);
            for piece in pieces {
                counter.add(&serde_json::from_str(piece).unwrap());
            }
            let units = counter.units(|| 99);
            (units[Unit::PromptTokens], units[Unit::CompletionTokens], counter.is_estimate())
        };
        assert_eq!(counter(1, &[piece(0, 1, ""), piece(0, 2, "")]), (3, 2, false));
        // Each choice has its own, and they may hide what was not shown.
        let two = [piece(0, 1, ""), piece(1, 700, ""), piece(0, 30, "")];
        assert_eq!(counter(2, &two), (3, 730, false));
        assert_eq!(counter(2, &two[..1]), (3, 1, false), "the other has not begun");
        let bare = r#"{"choices":[{"index":1,"delta":{"content":"one two three four"}}]}"#.to_owned();
        let (_, output, estimated) = counter(2, &[two[1].clone(), two[2].clone(), bare.clone()]);
        assert_eq!((output, estimated), (730, true), "more was made, but not so much");
        let (_, output, estimated) = counter(2, &[two[0].clone(), bare.clone(), bare.clone()]);
        assert!(output >= 9 && estimated, "{output}");
        let end = r#","finish_reason":"stop""#;
        let all = [
            piece(0, 1, end),
            piece(1, 1, end),
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}"#.to_owned(),
        ];
        assert_eq!(counter(2, &all), (3, 9, false), "those of all");
        let nothing = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":0}}"#.to_owned();
        assert_eq!(counter(2, &[nothing, piece(0, 700, "")]), (3, 700, true), "what came behind them");
        // Of a server that makes one choice, whatever it was asked for; and of one that sends them once, for both.
        assert_eq!(counter(2, &[bare.replace(":1,", ":0,"), piece(0, 9, end)]), (3, 9, false));
        assert_eq!(counter(2, &[bare.replace("}}", r#"},"finish_reason":"stop"}"#), piece(0, 9, end)]), (3, 9, false));
    }

    #[test]
    fn odd_replies_are_counted_by_their_numbers_or_their_texts() {
        let whole = |choices: usize, reply: &str| {
            let mut counter = UsageCounter::new(ChargeBasis::Text).expecting(choices, 1);
            match serde_json::from_str(reply) {
                Ok(chunk) => counter.add_whole(&chunk),
                Err(_) => counter.add_unparsed(reply.as_bytes()),
            }
            let units = counter.units(|| 99);
            (units[Unit::PromptTokens], units[Unit::CompletionTokens], counter.is_estimate())
        };
        let usage = r#""usage":{"prompt_tokens":20000,"completion_tokens":3000}"#;
        for choices in [
            r#"[{"message":{"content":"short"}}]"#,
            r#"[{"message":{"content":[{"type":"text","text":"short"}]}}]"#,
            r#"[{"index":null,"message":{"content":null}}]"#,
            r#"[{"index":"0","message":{"content":"short"}}]"#,
            r#"{"0":{"message":"short"}}"#,
            "null",
        ] {
            for n in [1, 2] {
                assert_eq!(whole(n, &format!(r#"{{"choices":{choices},{usage}}}"#)), (20000, 3000, false), "{choices}");
            }
        }
        let (_, output, estimated) = whole(1, r#"{"choices":{"0":{"message":"one two three four five"}}}"#);
        assert!((5..12).contains(&output) && estimated, "{output}");
        for message in [r#"{"refusal":"one two three"}"#, r#"{"function_call":{"name":"x","arguments":"{}"}}"#] {
            let (_, output, _) = whole(1, &format!(r#"{{"choices":[{{"message":{message}}}]}}"#));
            assert!(output >= 3, "{message}: {output}");
        }
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
