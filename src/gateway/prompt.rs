//! Asks a chat model for text, reads it as it is made, and ends it where it should end: at a stop sequence or after so
//! many sentences, whatever the server knows of those.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Map, Value};

use crate::engine::{Ask, Body, Engine, Reply};
use crate::error::{Error, Result};
use crate::http::sse;
use crate::usage::Units;

use super::tally::{Choice, Kind, Piece, Tally};
use super::{LARGEST_REPLY, events};

/// Bytes read at a time.
const PIECE: usize = 16 * 1024;

/// What ends an answer, beside its length.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The text ends before the first of these.
    pub stops: Vec<String>,
    /// The text ends behind so many sentences.
    pub sentences: Option<usize>,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// What the model thought before, if it says so.
    pub thoughts: Option<String>,
    /// Why it ended: the stop sequence, `max_sentences`, `max_length`, or `stop` where the model itself saw the end.
    pub stop_reason: Option<String>,
}

/// Answers, and what they cost.
pub struct Answers {
    /// By their index.
    pub answers: Vec<Answer>,
    /// For the charge.
    pub units: Units,
    /// What the call took.
    pub latency_micros: i64,
    /// Whether the demo engine made them.
    pub is_demo: bool,
}

/// Sends `request` (a chat's, without `stream`) and gathers the answers. Waits, so it is to be called in a
/// [`blocking::block_in_place`](crate::blocking::block_in_place).
///
/// # Errors
/// As [`Engine::send`]; what the server says is wrong with the request; 502 for a reply that ends early.
pub fn ask(engine: &Engine, request: &Map<String, Value>, limits: &Limits, prompt_estimate: usize) -> Result<Answers> {
    let mut request = request.clone();
    request.insert("stream".to_owned(), true.into());
    request.insert("stream_options".to_owned(), serde_json::json!({"include_usage": true}));
    let sent = Value::Object(request).to_string();
    let ask = Ask { path: "/v1/chat/completions", media_type: "application/json", body: Body::Bytes(sent.as_bytes()) };
    let mut reply = engine.send(ask)?.successful()?;
    let mut gathering = Gathering { limits, answers: BTreeMap::new(), tally: Tally::new(Kind::Text, prompt_estimate) };
    if events::is_stream(&reply)? {
        gathering.stream(&mut reply)?;
    } else {
        let bytes = reply.read_all(LARGEST_REPLY)?;
        let piece = serde_json::from_slice(&bytes);
        gathering.take(&piece.map_err(|_| Error::Upstream(502, "The model server answered nonsense"))?);
    }
    let Gathering { answers, tally, .. } = gathering;
    let (latency_micros, is_demo) = (reply.latency_micros(), reply.is_demo);
    Ok(Answers { answers: answers.into_values().collect(), units: tally.units(), latency_micros, is_demo })
}

struct Gathering<'a> {
    limits: &'a Limits,
    answers: BTreeMap<u64, Answer>,
    tally: Tally,
}

impl Gathering<'_> {
    fn stream(&mut self, reply: &mut Reply) -> Result<()> {
        let mut events = sse::Events::default();
        let mut piece = vec![0; PIECE];
        loop {
            let n = reply.read(&mut piece).map_err(|e| reply.broken(&e))?;
            if n == 0 {
                return match self.are_all_ended() {
                    true => Ok(()),
                    false => Err(reply.broken(&std::io::ErrorKind::UnexpectedEof.into())),
                };
            }
            events.push(&piece[..n]).map_err(|_| Error::Upstream(502, "The model server sent too long an event"))?;
            while let Some(event) = events.take() {
                let Some(data) = sse::data(event) else { continue };
                if &*data == b"[DONE]" {
                    reply.drain();
                    return Ok(());
                }
                match serde_json::from_slice(&data) {
                    Ok(piece) => self.take(&piece),
                    Err(_) => self.tally.count_unknown(),
                }
            }
            // Cut here: dropping the reply ends the call, and the server makes no more.
            if self.are_all_cut() {
                return Ok(());
            }
        }
    }

    fn are_all_ended(&self) -> bool {
        !self.answers.is_empty() && self.answers.values().all(|a| a.stop_reason.is_some())
    }

    /// Whether each was ended here, so that not even the numbers are worth waiting for.
    fn are_all_cut(&self) -> bool {
        let own = |a: &Answer| a.stop_reason.as_deref().is_some_and(|r| r != "stop" && r != "max_length");
        self.are_all_ended() && self.answers.values().all(own)
    }

    fn take(&mut self, piece: &Piece<'_>) {
        self.tally.count(piece);
        for choice in &piece.choices {
            let answer = self.answers.entry(choice.index).or_default();
            if answer.stop_reason.is_none() {
                add(answer, choice, self.limits);
            }
        }
    }
}

fn add(answer: &mut Answer, choice: &Choice<'_>, limits: &Limits) {
    let message = choice.delta.as_ref().or(choice.message.as_ref());
    if let Some(message) = message {
        if let Some(thought) = message.reasoning_content.as_ref().or(message.reasoning.as_ref()) {
            answer.thoughts.get_or_insert_default().push_str(thought);
        }
        if let Some(text) = &message.content {
            let before = answer.text.len();
            answer.text.push_str(text);
            cut(answer, before, limits);
        }
    }
    if answer.stop_reason.is_none()
        && let Some(reason) = &choice.finish_reason
    {
        let reason = if reason == "length" { "max_length" } else { "stop" };
        answer.stop_reason = Some(reason.to_owned());
    }
}

/// Ends the text where the limits say, in what came from `before` on.
fn cut(answer: &mut Answer, before: usize, limits: &Limits) {
    let longest = limits.stops.iter().map(String::len).max().unwrap_or(0);
    let mut from = before.saturating_sub(longest);
    while !answer.text.is_char_boundary(from) {
        from -= 1;
    }
    let stops = limits.stops.iter().filter(|stop| !stop.is_empty());
    let stop =
        stops.filter_map(|stop| answer.text[from..].find(stop.as_str()).map(|at| (from + at, stop.as_str()))).min();
    let sentences =
        limits.sentences.and_then(|most| end_of_sentence(&answer.text, most)).map(|at| (at, "max_sentences"));
    if let Some((at, reason)) = [stop, sentences].into_iter().flatten().min_by_key(|(at, _)| *at) {
        answer.text.truncate(at);
        answer.stop_reason = Some(reason.to_owned());
    }
}

/// Where the sentence of this number ends, if it is known to: what follows is a blank.
fn end_of_sentence(text: &str, number: usize) -> Option<usize> {
    let mut characters = text.char_indices().peekable();
    let mut count = 0;
    while let Some((_, c)) = characters.next() {
        if !matches!(c, '.' | '!' | '?' | '…' | '。' | '！' | '？') {
            continue;
        }
        // Quotation marks and brackets belong to the sentence they close.
        while characters
            .next_if(|(_, c)| matches!(c, '.' | '!' | '?' | '"' | '\'' | ')' | ']' | '”' | '’' | '」'))
            .is_some()
        {}
        let needs_blank = c.is_ascii() || c == '…';
        let ends = characters.peek().is_some_and(|(_, next)| next.is_whitespace() || !needs_blank);
        count += usize::from(ends);
        if ends && count == number {
            return characters.peek().map(|(at, _)| *at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(pieces: &[&str], stops: &[&str], sentences: Option<usize>) -> (String, Option<String>) {
        let limits = Limits { stops: stops.iter().map(|s| (*s).to_owned()).collect(), sentences };
        let mut answer = Answer::default();
        for piece in pieces {
            let before = answer.text.len();
            answer.text.push_str(piece);
            cut(&mut answer, before, &limits);
            if answer.stop_reason.is_some() {
                break;
            }
        }
        (answer.text, answer.stop_reason)
    }

    #[test]
    fn ends_at_a_stop_sequence_however_it_was_torn() {
        assert_eq!(answer(&["ab", "c#", "#", "d"], &["##"], None), ("abc".into(), Some("##".into())));
        assert_eq!(answer(&["aé#é"], &["é", "#"], None), ("a".into(), Some("é".into())));
        assert_eq!(answer(&["abc"], &["x", ""], None), ("abc".into(), None));
    }

    #[test]
    fn ends_behind_a_sentence() {
        let one = |text: &str| answer(&[text], &[], Some(1)).0;
        assert_eq!(one("It is 3.14 now. And then."), "It is 3.14 now.");
        assert_eq!(one("He said \"no!\" Then he left."), "He said \"no!\"");
        assert_eq!(one("Wait... what? Yes."), "Wait...");
        assert_eq!(one("一。二。"), "一。");
        assert_eq!(one("No end yet."), "No end yet.");
        assert_eq!(answer(&["A. B", ". C."], &[], Some(2)), ("A. B.".into(), Some("max_sentences".into())));
    }
}
