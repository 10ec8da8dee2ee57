//! The usage numbers in streams: model servers are always asked for them, with each piece if possible, and the client gets
//! those that it asked for.

use serde_json::value::RawValue;

use crate::engine::{CONTINUOUS_USAGE, INCLUDE_USAGE};
use crate::http::object::Object;

use crate::protocol::chunk::Chunk;

const OPTIONS: &str = "stream_options";

/// Which numbers the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageShown {
    /// None.
    Never,
    /// Those of the whole reply, behind its last piece.
    AtTheEnd,
    /// Those that the model server sends.
    AsSent,
}

/// Makes a model server send usage numbers with each piece of a stream, whatever the client has written in this field: what
/// was made is charged by them if the client leaves. Its other options stay.
pub fn request_usage(object: &mut Object<'_>) -> UsageShown {
    let given = object.get(OPTIONS).map(|options| options.get().to_owned()).unwrap_or_default();
    let mut options = Object::parse(given.as_bytes()).unwrap_or_default();
    let [is_asked, is_asked_with_each_piece] = [INCLUDE_USAGE, CONTINUOUS_USAGE].map(|name| {
        let is_asked = options.read::<bool>(name) == Some(true);
        options.remove(name);
        options.set(name, &true);
        is_asked
    });
    object.set_json(OPTIONS, options.to_bytes());
    match is_asked {
        true if is_asked_with_each_piece => UsageShown::AsSent,
        true => UsageShown::AtTheEnd,
        false => UsageShown::Never,
    }
}

/// Hides the numbers that a client did not ask for.
#[derive(Debug)]
pub struct UsageFilter {
    shown: UsageShown,
    /// The last piece, if the numbers of the whole reply came with it and were hidden.
    last: Vec<u8>,
}

impl UsageFilter {
    /// Lets these pass.
    pub fn new(shown: UsageShown) -> UsageFilter {
        UsageFilter { shown, last: Vec::new() }
    }

    /// Whether the client gets any.
    pub fn is_shown(&self) -> bool {
        self.shown != UsageShown::Never
    }

    /// Adds an event to `output`: as it came, or without its usage. `is_finished` tells whether the model has finished with
    /// it.
    pub fn pass(&mut self, event: &[u8], data: &[u8], chunk: &Chunk<'_>, is_finished: bool, output: &mut Vec<u8>) {
        match (self.shown, chunk.usage) {
            // This event holds nothing else.
            (UsageShown::Never, Some(_)) if chunk.choices.is_empty() => {}
            (UsageShown::Never, Some(usage)) => write_without_usage(data, Some(usage), output),
            // Servers that were asked for usage numbers may send `"usage":null` until they have them.
            (UsageShown::Never, None) if memchr::memmem::find(data, b"\"usage\"").is_some() => {
                write_without_usage(data, None, output);
            }
            (UsageShown::AtTheEnd, Some(_)) if chunk.choices.is_empty() => {
                self.last.clear();
                output.extend_from_slice(event);
            }
            (UsageShown::AtTheEnd, Some(usage)) => {
                if is_finished {
                    self.last = data.to_vec();
                }
                write_with_null_usage(data, usage, output);
            }
            _ => output.extend_from_slice(event),
        }
    }

    /// Adds the numbers of the whole reply to `output`, if the client asked for them and has not got them yet.
    pub fn end(&mut self, output: &mut Vec<u8>) {
        let last = std::mem::take(&mut self.last);
        if let Ok(mut object) = Object::parse(&last) {
            object.set("choices", &[(); 0]);
            write_event(&[&object.to_bytes()], output);
        }
    }
}

fn write_event(data: &[&[u8]], output: &mut Vec<u8>) {
    output.extend_from_slice(b"data: ");
    for part in data {
        output.extend_from_slice(part);
    }
    output.extend_from_slice(b"\n\n");
}

/// What stands in `data` before and behind a value that is a part of it.
fn around<'d>(data: &'d [u8], value: &RawValue) -> Option<(&'d [u8], &'d [u8])> {
    let start = (value.get().as_ptr() as usize).checked_sub(data.as_ptr() as usize)?;
    Some((data.get(..start)?, data.get(start + value.get().len()..)?))
}

fn write_with_null_usage(data: &[u8], usage: &RawValue, output: &mut Vec<u8>) {
    if let Some((before, behind)) = around(data, usage) {
        write_event(&[before, b"null", behind], output);
    }
}

fn write_without_usage(data: &[u8], usage: Option<&RawValue>, output: &mut Vec<u8>) {
    // As nearly all servers write it; all other ways are parsed.
    let parts = match usage {
        Some(usage) => {
            around(data, usage).and_then(|(before, behind)| Some((before.strip_suffix(br#","usage":"#)?, behind)))
        }
        None => data.strip_suffix(br#","usage":null}"#).map(|before| (before, &b"}"[..])),
    };
    if let Some((before, behind)) = parts {
        write_event(&[before, behind], output);
    } else if let Ok(mut object) = Object::parse(data) {
        object.remove("usage");
        write_event(&[&object.to_bytes()], output);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::engine::USAGE_WITH_EACH_PIECE;

    const PIECE: &str = r#"{"choices":[{"delta":{"content":"a\",\"usage\":null}"}}],"usage":{"completion_tokens":1}}"#;
    const END: &str = r#"{"choices":[],"usage":{"completion_tokens":1}}"#;

    fn pass(shown: UsageShown, pieces: &[&str]) -> Vec<String> {
        let (mut filter, mut output) = (UsageFilter::new(shown), Vec::new());
        for data in pieces {
            let chunk = serde_json::from_str::<Chunk<'_>>(data).unwrap();
            let event = format!("data: {data}\n\n");
            filter.pass(event.as_bytes(), data.as_bytes(), &chunk, data.contains("stop"), &mut output);
        }
        filter.end(&mut output);
        let text = String::from_utf8(output).unwrap();
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
    }

    #[test]
    fn clients_get_the_numbers_that_they_asked_for() {
        let hidden = r#"{"choices":[{"delta":{"content":"a\",\"usage\":null}"}}]}"#;
        let null = PIECE.replace(r#"{"completion_tokens":1}"#, "null");
        assert_eq!(pass(UsageShown::Never, &[PIECE, &null, END]), [hidden, hidden]);
        assert_eq!(pass(UsageShown::AtTheEnd, &[PIECE, &null, END]), [&null, &null, END]);
        assert_eq!(pass(UsageShown::AsSent, &[PIECE, &null, END]), [PIECE, &null, END]);
    }

    #[test]
    fn usage_is_removed_wherever_it_stands() {
        for piece in [
            r#"{"usage":{"x":1},"choices":[{"usage":null}],"y":2}"#,
            r#"{"choices":[{"usage":null}] , "usage" : {"x":1}, "y":2}"#,
            r#"{"choices":[{"usage":null}],"usage":{"x":1},"y":2}"#,
            r#"{"choices":[{"usage":null}],"usage":null,"y":2}"#,
            r#"{"choices":[{"usage":null}],"y":2,"usage":null}"#,
        ] {
            let got: Value = serde_json::from_str(&pass(UsageShown::Never, &[piece])[0]).unwrap();
            assert_eq!(got, serde_json::json!({"choices": [{"usage": null}], "y": 2}), "{piece}");
        }
        let nested = r#"{"choices":[{"index":0}],"y":{"z":1,"usage":null}}"#;
        assert_eq!(pass(UsageShown::Never, &[nested]), [nested]);
    }

    #[test]
    fn numbers_that_come_with_the_last_piece_follow_it() {
        let last = r#"{"id":"1","choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":1}}"#;
        let null = last.replace(r#"{"completion_tokens":1}"#, "null");
        let made = r#"{"id":"1","choices":[],"usage":{"completion_tokens":1}}"#;
        assert_eq!(pass(UsageShown::AtTheEnd, &[last]), [&null, made]);
        assert_eq!(pass(UsageShown::AtTheEnd, &[last, END]), [&null, END]);
        assert_eq!(pass(UsageShown::Never, &[last]).len(), 1);
    }

    #[test]
    fn the_model_server_is_asked_for_numbers() {
        for (asked, options, shown) in [
            ("{}", USAGE_WITH_EACH_PIECE, UsageShown::Never),
            (r#"{"stream_options":null}"#, USAGE_WITH_EACH_PIECE, UsageShown::Never),
            (r#"{"stream_options":{"include_usage":false}}"#, USAGE_WITH_EACH_PIECE, UsageShown::Never),
            (r#"{"stream_options":{"include_usage": true}}"#, USAGE_WITH_EACH_PIECE, UsageShown::AtTheEnd),
            (
                r#"{"stream_options":{"include_usage":true,"continuous_usage_stats":false}}"#,
                USAGE_WITH_EACH_PIECE,
                UsageShown::AtTheEnd,
            ),
            (
                r#"{"stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#,
                USAGE_WITH_EACH_PIECE,
                UsageShown::AsSent,
            ),
            (
                r#"{"stream_options":{"include_usage":true,"x":1}}"#,
                r#"{"x":1,"include_usage":true,"continuous_usage_stats":true}"#,
                UsageShown::AtTheEnd,
            ),
        ] {
            let mut object = Object::parse(asked.as_bytes()).unwrap();
            assert_eq!(request_usage(&mut object), shown, "{asked}");
            assert_eq!(object.get(OPTIONS).unwrap().get(), options, "{asked}");
        }
    }
}
