//! Replies that a model has made and for which there was no memory. They are refused, and charged by the usage that stands
//! at their end, or by their length where there is none.

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine::Unread;
use crate::error::Error;
use crate::protocol::chunk::Chunk;
use crate::protocol::usage::Usage;
use crate::units::amount;

use super::charged::{ModelUsage, Outcome};
use super::usage_counter::UsageCounter;

/// Bytes of a reply for each token of it, where no numbers tell.
const BYTES_PER_TOKEN: usize = 4;

/// Counts such a reply.
pub(super) fn count(unread: &Unread, counter: &mut UsageCounter) {
    if let Some(usage) = usage_in(&unread.end) {
        counter.add_with(&Chunk { usage: None, choices: Vec::new() }, Some(&usage));
    }
    // Only where those have not told.
    counter.assume_hidden(amount(unread.length / BYTES_PER_TOKEN));
}

/// Charges for such a reply, and refuses it.
pub fn refuse(unread: &Unread, usage: ModelUsage) -> Outcome {
    log::warn!("no memory for a reply of {} bytes; it is charged anyway", unread.length);
    Outcome::PerModel(Err(Error::from(unread.refused)), vec![usage])
}

/// The last object `usage` in the end of a JSON text. Inside of strings, its name would have other quotes.
pub(super) fn usage_in(end: &[u8]) -> Option<Usage> {
    object_in(end).and_then(|object| serde_json::from_str(object.get()).ok())
}

/// What is left of a reply: its usage, if that is known.
pub(super) fn rest_of(unread: &Unread) -> Vec<u8> {
    object_in(&unread.end).map(|object| format!(r#"{{"usage":{object}}}"#).into_bytes()).unwrap_or_default()
}

fn object_in(end: &[u8]) -> Option<&RawValue> {
    const NAME: &[u8] = br#""usage""#;
    memmem::rfind_iter(end, NAME).find_map(|at| {
        let value = end[at + NAME.len()..].trim_ascii_start().strip_prefix(b":")?;
        let value = <&RawValue>::deserialize(&mut serde_json::Deserializer::from_slice(value)).ok()?;
        value.get().starts_with('{').then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::Refused;
    use crate::gateway::usage_counter::ChargeBasis;
    use crate::units::Unit;

    fn counted(basis: ChargeBasis, reply: &str) -> (UsageCounter, Unread) {
        let (mut counter, unread) = (UsageCounter::new(basis), Unread::of(reply.as_bytes(), Refused::Full));
        count(&unread, &mut counter);
        (counter, unread)
    }

    #[test]
    fn the_numbers_at_the_end_are_charged() {
        let text = "x".repeat(100_000);
        for usage in [
            r#"{"prompt_tokens":7,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":0}}"#,
            r#"{"input_tokens":7,"output_tokens":9}"#,
        ] {
            let reply = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}],"usage": {usage},"id":"a"}}"#);
            let (counter, unread) = counted(ChargeBasis::Text, &reply);
            let units = counter.units(|| 99);
            assert_eq!((units[Unit::PromptTokens], units[Unit::CompletionTokens]), (7, 9), "{usage}");
            assert!(!counter.is_estimate() && unread.end.len() < 20_000 && unread.length == reply.len());
        }
        let reply = format!(r#"{{"data":[{{"embedding":"{text}"}}],"usage":{{"prompt_tokens":7,"total_tokens":7}}}}"#);
        let (counter, _) = counted(ChargeBasis::Embeddings, &reply);
        assert_eq!((counter.units(|| 99)[Unit::EmbeddingTokens], counter.is_estimate()), (7, false));
    }

    #[test]
    fn without_them_its_length_is() {
        let text = "x".repeat(100_000);
        for usage in ["", r#","usage":null"#, r#","x":"\"usage\":{\"completion_tokens\":1}""#, r#","x":["usage"]"#] {
            let (counter, _) = counted(ChargeBasis::Text, &format!(r#"{{"choices":[{{"text":"{text}"}}]{usage}}}"#));
            let units = counter.units(|| 99);
            assert_eq!(units[Unit::PromptTokens], 99, "{usage}");
            assert!((25_000..26_000).contains(&units[Unit::CompletionTokens]) && counter.is_estimate(), "{usage}");
        }
    }
}
