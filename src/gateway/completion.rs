//! Asks a chat model for text and ends it at a stop sequence or after a number of sentences, whether or not the model
//! server supports those. The reply is streamed, and the call is ended as soon as the rest is not needed. Where the model
//! server has not told yet what it used, the rest is needed for that.

use std::collections::BTreeMap;
use std::time::Instant;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};

use crate::blocking::unwatched;
use crate::catalogue::ResolvedModel;
use crate::engine::{Reply, UpstreamRequest};
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::http::sse;
use crate::memory_budget::{self, Growth};
use crate::protocol::failure;
use crate::units::Units;

use super::MAX_REPLY;
use super::estimate::Prompt;
use super::live_reply::{self, LiveReader, Next};
use super::output_limit::OutputLimit;
use super::reply_kind::{disguised_failure, is_event_stream};
use super::sentences::Sentences;
use super::stream_usage::request_usage;
use super::unread_reply;
use super::usage_counter::{ChargeBasis, UsageCounter};
use super::worst_case;
use crate::protocol::chunk::{Choice, Chunk};

/// Most stop sequences.
const MAX_SEQUENCES: usize = 256;
/// Most bytes of one.
const MAX_SEQUENCE: usize = 1000;

/// Bytes of texts that are reserved at a time, but for the first: there may be a thousand such replies of one request.
const TEXTS_STEP: usize = 8 * 1024;
/// Times the memory of a text that it takes with its copies in the response.
const TEXT_COPIES: usize = 4;

/// What ends a completion, beside its length.
#[derive(Clone, Debug, Default)]
pub struct StopConditions {
    /// The text ends before the first of these that occurs. None is empty.
    sequences: Vec<String>,
    /// The text ends after this many sentences.
    pub max_sentences: Option<usize>,
}

impl StopConditions {
    /// Empty sequences are ignored.
    ///
    /// # Errors
    /// 400 for more sequences, or longer ones, than are looked for.
    pub fn new(mut sequences: Vec<String>, max_sentences: Option<usize>) -> Result<StopConditions> {
        sequences.retain(|one| !one.is_empty());
        if sequences.len() > MAX_SEQUENCES || sequences.iter().any(|one| one.len() > MAX_SEQUENCE) {
            return Err(Error::bad("There must be at most 256 stop sequences of at most 1000 bytes"));
        }
        // Of those that begin at the same place, the first one in the order of their bytes is the one that is named.
        sequences.sort_unstable();
        Ok(StopConditions { sequences, max_sentences })
    }
}

/// Finds where [`StopConditions`] are met. It takes several times their memory, so there is one only for each call that
/// is under way.
struct StopFinder {
    sequences: Option<AhoCorasick>,
    /// Bytes of the longest sequence.
    longest: usize,
    max_sentences: Option<usize>,
}

impl StopFinder {
    fn new(stop: &StopConditions) -> Result<StopFinder> {
        let StopConditions { sequences, max_sentences } = stop;
        let build = || {
            let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(sequences);
            built.map_err(|e| Error::Internal(format!("stop sequences cannot be looked for: {e}")))
        };
        Ok(StopFinder {
            sequences: if sequences.is_empty() { None } else { Some(build()?) },
            longest: sequences.iter().map(String::len).max().unwrap_or(0),
            max_sentences: *max_sentences,
        })
    }
}

/// One completion of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// The text.
    pub text: String,
    /// The model's reasoning, if it sends that.
    pub reasoning: Option<String>,
    /// Why it ended: the stop sequence, `max_sentences`, `max_length`, or `stop` if the model ended it.
    pub stop_reason: Option<String>,
    sentences: Sentences,
}

/// All completions of a prompt.
pub struct Completions {
    /// In the order of their index.
    pub completions: Vec<Completion>,
    /// What they used.
    pub units: Units,
    /// Whether that is an estimate, since the model server gave no numbers.
    pub estimated: bool,
    /// How long the model server took, in microseconds.
    pub latency_micros: i64,
    /// Whether the demo engine made them.
    pub is_demo: bool,
    /// Why the model's work ended early, if it did: the client has disconnected, or the model server has failed. These
    /// are what it had made.
    pub broken_off: Option<Error>,
}

/// Sends a chat `request`, without `model` and `stream`, and collects its completions. A client that disconnects
/// ends the model's work. It blocks, so call it inside [`block_in_place`](crate::blocking::block_in_place).
///
/// # Errors
/// Those of [`ResolvedModel::send`]; the model server's refusal; 502 for a reply that is an error, or ends before its
/// first piece; the client has disconnected before a model server had the request.
pub fn complete(model: &ResolvedModel, request: &Map<String, Value>, stop: &StopConditions) -> Result<Completions> {
    let mut request = request.clone();
    let choices = request.get("n").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    request.insert("model".to_owned(), model.requested_name().into());
    request.insert("stream".to_owned(), true.into());
    let mut object = Object::of(&Value::Object(request));
    model.limit_output(&mut object)?;
    request_usage(&mut object);
    let limit = worst_case::set_aside_text(model, &mut object, "messages", choices)?.map(OutputLimit::new);
    let ask = UpstreamRequest::json("/v1/chat/completions", &[], &object);
    let finder = StopFinder::new(stop)?;
    let counter = UsageCounter::new(ChargeBasis::Text).expecting(choices, 1);
    let mut collector = Collector {
        model: model.name(),
        stop: finder,
        completions: BTreeMap::new(),
        counter,
        limit,
        texts: Growth::new(TEXTS_STEP, TEXT_COPIES),
        is_unread: false,
    };
    let began = Instant::now();
    let mut reply = match model.send(ask).and_then(Reply::successful) {
        // The model server has the prompt, and may have read it.
        Err(Error::ClientLeftModel) => None,
        reply => Some(reply?),
    };
    let (broken_off, is_demo) = match &mut reply {
        Some(reply) => (collector.read(reply)?, reply.is_demo),
        None => (Some(Error::ClientLeft), false),
    };
    let Collector { completions, counter, limit, .. } = collector;
    let completions = completions.into_values().collect();
    let prompt_tokens = || Prompt::of_request(&object, "messages").tokens();
    let (units, estimated) = (counter.units(prompt_tokens), counter.is_estimate());
    let units = limit.map_or(units, |limit| limit.cap(units));
    if let Some(reply) = reply {
        reply.note_tokens(&units);
    }
    let latency_micros = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX);
    Ok(Completions { completions, units, estimated, latency_micros, is_demo, broken_off })
}

/// Collects completions from the chunks of a reply.
struct Collector<'a> {
    /// The name under which the model is charged.
    model: &'a str,
    stop: StopFinder,
    /// By their index.
    completions: BTreeMap<u64, Completion>,
    counter: UsageCounter,
    /// Ends the reply where it has more than was asked for.
    limit: Option<OutputLimit>,
    /// The memory of its texts.
    texts: Growth,
    /// There was no memory for the reply.
    is_unread: bool,
}

impl Collector<'_> {
    /// Reads a reply. Returns why it ended early, if it did and there is something to charge.
    fn read(&mut self, reply: &mut Reply) -> Result<Option<Error>> {
        let broken_off = self.read_body(reply)?;
        let is_cut = matches!(broken_off, Some(Error::ClientLeft)) || self.are_all_stopped_here();
        if !self.is_unread {
            live_reply::note_hidden_output(&mut self.counter, reply, self.model, is_cut);
        }
        Ok(broken_off)
    }

    fn read_body(&mut self, reply: &mut Reply) -> Result<Option<Error>> {
        if is_event_stream(reply)? {
            return match self.read_stream(reply) {
                Ok(()) => Ok(None),
                // The client has all that it asked for.
                Err(_) if self.are_all_stopped_here() => Ok(None),
                Err(e) if self.counter.is_empty() && !matches!(e, Error::ClientLeft) => Err(e),
                Err(e) => Ok(Some(e)),
            };
        }
        let bytes = match unwatched(|| reply.read_all(MAX_REPLY, 0)) {
            Ok(bytes) => bytes,
            Err(e) => {
                let unread = e.into_unread()?;
                unread_reply::count(&unread, &mut self.counter);
                self.is_unread = true;
                return Ok(Some(Error::from(unread.refused)));
            }
        };
        if let Some(message) = failure::message(&bytes) {
            return Err(disguised_failure(&message));
        }
        let chunk = serde_json::from_slice(&bytes);
        let chunk = chunk.map_err(|_| Error::Upstream(502, "The model server sent an invalid reply"))?;
        self.counter.add_whole(&chunk);
        Ok(self.hold(&chunk).map(|()| self.complete(&chunk)).err())
    }

    /// Reads events until all of the completions have ended, and what they used is known. A model server that sends its
    /// usage only at the end may have made much that it does not show, so the rest is read, for as long as a
    /// [`LiveReader`] waits for one, unless the model is known to show all. It is not asked to end at the stop sequences
    /// itself: it would not say at which.
    fn read_stream(&mut self, reply: &mut Reply) -> Result<()> {
        let mut events = sse::Events::default();
        let mut reader = LiveReader::new();
        // Whether the client has left, and the rest is read all the same.
        let mut has_left = false;
        loop {
            let is_rest = has_left || self.counter.is_finished() || self.are_all_stopped_here();
            let pushed = match reader.next(reply, is_rest) {
                Next::Bytes(bytes) => events.push(bytes),
                Next::End if self.are_all_ended() => return Ok(()),
                Next::End if has_left => return Err(Error::ClientLeft),
                Next::End => return Err(reply.broken(&std::io::ErrorKind::UnexpectedEof.into())),
                Next::ClientLeft if live_reply::is_rest_needed(&self.counter, reply, self.model) => {
                    has_left = true;
                    continue;
                }
                Next::ClientLeft => return Err(Error::ClientLeft),
                Next::Failed(e) => return Err(reply.broken(&e)),
            };
            pushed?;
            while let Some(event) = events.take() {
                let Some(data) = sse::data(event) else { continue };
                if &*data == b"[DONE]" {
                    reply.drain();
                    return Ok(());
                }
                if let Some(message) = failure::message(&data) {
                    return Err(disguised_failure(&message));
                }
                match serde_json::from_slice(&data) {
                    Ok(chunk) if self.limit.as_mut().is_some_and(|limit| limit.is_passed_by(&chunk)) => {
                        for completion in self.completions.values_mut() {
                            completion.stop_reason.get_or_insert_with(|| "max_length".to_owned());
                        }
                        return Ok(());
                    }
                    Ok(chunk) => self.add(&chunk)?,
                    Err(_) => self.counter.add_unparsed(&data),
                }
            }
            // Dropping the reply ends the call, so that the model server stops generating.
            let shows_all = || reply.most_hidden_output(self.model) == Some(0);
            if !self.counter.is_finished()
                && self.are_all_stopped_here()
                && (!self.counter.is_estimate() || shows_all())
            {
                return Ok(());
            }
        }
    }

    fn are_all_ended(&self) -> bool {
        !self.completions.is_empty() && self.completions.values().all(|c| c.stop_reason.is_some())
    }

    /// Whether each was ended by a stop condition. Then only the usage is of interest in the rest of the reply.
    fn are_all_stopped_here(&self) -> bool {
        let by_condition = |c: &Completion| c.stop_reason.as_deref().is_some_and(|r| r != "stop" && r != "max_length");
        self.are_all_ended() && self.completions.values().all(by_condition)
    }

    /// Adds a chunk of a stream.
    ///
    /// # Errors
    /// There is no memory for its texts. They are counted.
    fn add(&mut self, chunk: &Chunk<'_>) -> Result<()> {
        self.counter.add(chunk);
        self.hold(chunk)?;
        self.complete(chunk);
        Ok(())
    }

    /// Reserves what the texts of a chunk take, and their copies in the response.
    fn hold(&mut self, chunk: &Chunk<'_>) -> Result<()> {
        let bytes = chunk.choices.iter().flat_map(Choice::texts).map(str::len).sum();
        Ok(self.texts.add(bytes, memory_budget::reserve_in_time)?)
    }

    fn complete(&mut self, chunk: &Chunk<'_>) {
        for choice in &chunk.choices {
            let completion = self.completions.entry(choice.index.unwrap_or(0)).or_default();
            if completion.stop_reason.is_none() {
                completion.add(choice, &self.stop);
            }
        }
    }
}

impl Completion {
    fn add(&mut self, choice: &Choice<'_>, stop: &StopFinder) {
        if let Some(message) = choice.delta.as_ref().or(choice.message.as_ref()) {
            if let Some(reasoning) = message.reasoning_content.as_ref().or(message.reasoning.as_ref()) {
                self.reasoning.get_or_insert_default().push_str(&reasoning.0);
            }
            if let Some(text) = &message.content {
                self.add_text(&text.0, stop);
            }
        }
        if self.stop_reason.is_none()
            && let Some(reason) = &choice.finish_reason
        {
            let reason = if reason == "length" { "max_length" } else { "stop" };
            self.stop_reason = Some(reason.to_owned());
        }
    }

    /// Adds text, and ends the completion where a condition is met.
    fn add_text(&mut self, text: &str, stop: &StopFinder) {
        // A stop sequence may have begun in the text before.
        let mut from = self.text.len().saturating_sub(stop.longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        let begin = self.text.len();
        self.text.push_str(text);
        let found = stop.sequences.as_ref().and_then(|sequences| sequences.find(&self.text[from..]));
        let sequence = found.map(|found| (from + found.start(), self.text[from..][found.range()].to_owned()));
        let sentence = stop.max_sentences.and_then(|number| self.sentences.find_end(text, number));
        let sentence = sentence.map(|at| (begin + at, "max_sentences".to_owned()));
        if let Some((at, reason)) = [sequence, sentence].into_iter().flatten().min_by_key(|(at, _)| *at) {
            self.stop_reason = Some(reason);
            self.text.truncate(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(chunks: &[&str], sequences: &[&str], max_sentences: Option<usize>) -> (String, Option<String>) {
        let sequences: Vec<_> = sequences.iter().map(|s| (*s).to_owned()).collect();
        let stop = StopFinder::new(&StopConditions::new(sequences, max_sentences).unwrap()).unwrap();
        let mut completion = Completion::default();
        for chunk in chunks {
            completion.add_text(chunk, &stop);
            if completion.stop_reason.is_some() {
                break;
            }
        }
        (completion.text, completion.stop_reason)
    }

    #[test]
    fn ends_at_a_stop_sequence_that_is_split_between_chunks() {
        assert_eq!(complete(&["ab", "c#", "#", "d"], &["##"], None), ("abc".into(), Some("##".into())));
        assert_eq!(complete(&["aé#é"], &["é", "#"], None), ("a".into(), Some("é".into())));
        assert_eq!(complete(&["abc"], &["x", ""], None), ("abc".into(), None));
        assert_eq!(complete(&["abcd"], &["cd", "bcd", "bc"], None), ("a".into(), Some("bc".into())));
    }

    #[test]
    fn stop_sequences_are_bounded() {
        let of = |count: usize, length: usize| StopConditions::new(vec!["x".repeat(length); count], None);
        assert!(of(MAX_SEQUENCES, MAX_SEQUENCE).is_ok());
        for (count, length) in [(MAX_SEQUENCES + 1, 1), (1, MAX_SEQUENCE + 1)] {
            assert_eq!(of(count, length).err().map(|e| e.status()), Some(400));
        }
    }

    #[test]
    fn ends_after_a_sentence() {
        assert_eq!(complete(&["No", " end yet."], &[], Some(1)), ("No end yet.".into(), None));
        let (text, reason) = ("A. B.".into(), Some("max_sentences".into()));
        assert_eq!(complete(&["A. B", ". C."], &[], Some(2)), (text, reason));
        assert_eq!(complete(&["A. B. C"], &["B"], Some(2)), ("A. ".into(), Some("B".into())));
    }
}
