//! Estimates of tokens, for replies whose model server reports no usage. They are meant not to be below the truth: texts
//! are cut into the tokens of `cl100k_base`, and a quarter is added since the model's own vocabulary may be a smaller one.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::object::Object;

use super::prompt_parts::{self, PromptParts};

/// Tokens of a picture: OpenAI's rule for the largest one, of 2048 by 2048 pixels, in full detail.
const PICTURE: usize = 85 + 8 * 170;
/// Tokens of a picture in low detail.
const SMALL_PICTURE: usize = 85;
/// Characters of base64 that make a token of a recording. One of 6 kbit/s has 1000 of them in a second, for which models
/// count up to 32 tokens.
const RECORDING_CHARACTERS: usize = 32;
/// Characters of base64 that make a recording; no address has so many without a dot or a colon.
const SHORTEST_RECORDING: usize = 1024;
/// Tokens of a recording or a film at an address: ten minutes, by the rate above.
const REMOTE_MEDIA: usize = 600 * 32;
/// Characters of base64 that make a token of a document. A page of text takes some kilobytes when it is packed, for which
/// models count up to 3,000 tokens.
const DOCUMENT_CHARACTERS: usize = 4;
/// Bytes that make a token of a number or of the name of a field.
const UNUSUAL_BYTES: usize = 4;
/// Tokens that a chat template adds to each message.
const MESSAGE: usize = 4;
/// Bytes of a prompt that are kept until it is known whether they must be counted. A longer text is counted at once: in
/// many streams at a time it would take much memory.
const MAX_KEPT: usize = 256 * 1024;
/// Bytes of a reply that are kept until it is known whether they must be counted; few replies are longer.
const PIECE: usize = 32 * 1024;

/// How many tokens a text has, at most: never more than it has bytes.
pub fn tokens(text: &str) -> usize {
    // The vocabulary takes a while to load, and some megabytes.
    if text.is_empty() {
        return 0;
    }
    let counted: usize = pieces(text).map(|piece| bpe_openai::cl100k_base().count(piece)).sum();
    (counted + counted.div_ceil(4)).min(text.len())
}

/// A text in pieces of at most [`MAX_KEPT`]: counting takes several times the memory of what is counted at once.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = (0..=MAX_KEPT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let (piece, rest) = text.split_at(end);
        text = rest;
        Some(piece).filter(|piece| !piece.is_empty())
    })
}

/// The prompt of a request that is streamed, for as long as the stream lasts. It is not read unless its tokens are asked
/// for, which most model servers report.
#[derive(Clone, Debug)]
pub enum KeptPrompt {
    /// The body that holds it, in this field.
    Unread(Vec<u8>, &'static str),
    /// What was read of a body too large to be kept.
    Read(Prompt),
}

impl KeptPrompt {
    /// No prompt.
    pub fn none() -> KeptPrompt {
        KeptPrompt::Read(Prompt::default())
    }

    /// The prompt in this field of a body.
    pub fn new(body: &[u8], field: &'static str) -> KeptPrompt {
        match body.len() > MAX_KEPT {
            true => KeptPrompt::Read(Prompt::of_body(body, field)),
            false => KeptPrompt::Unread(body.to_vec(), field),
        }
    }

    /// Counts its tokens now, so that [`KeptPrompt::tokens`] takes no time.
    pub fn count(&mut self) {
        *self = KeptPrompt::Read(Prompt { text: String::new(), counted: self.tokens() });
    }

    /// Its tokens.
    pub fn tokens(&self) -> usize {
        match self {
            KeptPrompt::Unread(body, field) => Prompt::of_body(body, field).tokens(),
            KeptPrompt::Read(prompt) => prompt.tokens(),
        }
    }
}

/// What a request gives a model to read. It is counted only when its tokens are asked for.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    text: String,
    /// What is counted already: pictures, recordings, long texts.
    counted: usize,
}

impl Prompt {
    /// The prompt in this field of a request, and what else the model reads of it.
    pub fn of_request(request: &Object<'_>, field: &str) -> Prompt {
        let mut prompt = Prompt::default();
        prompt_parts::read(request, field, &mut prompt);
        prompt
    }

    fn of_body(body: &[u8], field: &str) -> Prompt {
        Object::parse(body).map(|request| Prompt::of_request(&request, field)).unwrap_or_default()
    }

    /// Its tokens.
    pub fn tokens(&self) -> usize {
        self.counted + tokens(&self.text)
    }

    fn add(&mut self, text: &str) {
        if self.text.len() + text.len() > MAX_KEPT {
            self.counted += tokens(&std::mem::take(&mut self.text));
        }
        match text.len() > MAX_KEPT {
            true => self.counted += tokens(text),
            false => self.text.push_str(text),
        }
    }
}

impl PromptParts for Prompt {
    fn object(&mut self) {
        self.counted += MESSAGE;
    }
    fn text(&mut self, text: &str) {
        self.add(text);
    }
    fn token(&mut self) {
        self.counted += 1;
    }
    fn unusual(&mut self, bytes: usize) {
        self.counted += bytes.div_ceil(UNUSUAL_BYTES);
    }
    fn picture(&mut self, value: &RawValue) {
        #[derive(Deserialize)]
        struct Picture<'a> {
            #[serde(borrow)]
            detail: Cow<'a, str>,
        }
        let is_object = value.get().starts_with('{');
        let is_low = |picture: Picture<'_>| picture.detail == "low";
        let is_small = is_object && serde_json::from_str(value.get()).is_ok_and(is_low);
        self.counted += if is_small { SMALL_PICTURE } else { PICTURE };
    }
    fn media(&mut self, value: &RawValue) {
        let characters = value.get().len().div_ceil(RECORDING_CHARACTERS);
        // An address or the id of a file, in any spelling.
        let is_included = has_recording(value.get());
        self.counted += if is_included { characters } else { characters.max(REMOTE_MEDIA) };
    }
    fn document(&mut self, value: &RawValue) {
        let characters = value.get().len().div_ceil(DOCUMENT_CHARACTERS);
        self.counted += if has_recording(value.get()) { characters } else { characters.max(REMOTE_MEDIA) };
    }
    fn role(&mut self, value: &RawValue) {
        if value.get().len() > LONGEST_ROLE {
            self.add(value.get());
        }
    }
    fn other_field(&mut self, value: &RawValue) {
        self.add(value.get());
    }
}

/// Whether a byte may be part of base64, of either alphabet.
fn is_base64(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=' | b'-' | b'_')
}

/// Whether some text in this JSON is long enough to be a recording in base64.
fn has_recording(json: &str) -> bool {
    json.as_bytes().chunk_by(|a, b| is_base64(*a) && is_base64(*b)).any(|run| run.len() >= SHORTEST_RECORDING)
}

/// Roles and types up to this many bytes are part of what each message takes.
const LONGEST_ROLE: usize = 32;

/// Collects the text of a reply as it comes, in little memory. It is counted only when its tokens are asked for, unless
/// it is long.
#[derive(Clone, Debug, Default)]
pub struct OutputCounter {
    /// Not counted yet; fewer bytes than [`PIECE`].
    text: String,
    counted: usize,
    pieces: usize,
}

impl OutputCounter {
    /// Adds the texts of one piece.
    pub fn add<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) {
        self.pieces += 1;
        for text in texts {
            self.text.push_str(text);
        }
        if self.text.len() >= PIECE {
            self.counted += tokens(&self.text);
            self.text.clear();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.text.clear();
        (self.counted, self.pieces) = (0, 0);
    }

    /// How many pieces were added.
    pub fn pieces(&self) -> usize {
        self.pieces
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.pieces == 0
    }

    /// The tokens so far: each piece is one at least.
    pub fn tokens(&self) -> usize {
        (self.counted + tokens(&self.text)).max(self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(request: &str, field: &str) -> usize {
        Prompt::of_request(&Object::parse(request.as_bytes()).unwrap(), field).tokens()
    }

    #[test]
    fn pictures_recordings_tools_and_token_lists_count() {
        let message = |part: &str| of(&format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#), "messages");
        let text = message(r#"{"type":"text","text":"What is it?"}"#);
        assert!((2 * MESSAGE + 4..2 * MESSAGE + 8).contains(&text), "{text}");
        let url = "data:image/png;base64,AAAA";
        let picture = message(&format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#));
        assert_eq!(picture, 2 * MESSAGE + PICTURE);
        assert_eq!(message(&format!(r#"{{"type":"input_image","image_url":"{url}"}}"#)), picture);
        let small = message(&format!(r#"{{"type":"image_url","image_url":{{"detail":"low","url":"{url}"}}}}"#));
        assert_eq!(small, 2 * MESSAGE + SMALL_PICTURE);
        let recording = "A".repeat(32_000);
        let audio = message(&format!(r#"{{"type":"input_audio","input_audio":{{"data":"{recording}"}}}}"#));
        assert!((1000..1100).contains(&audio), "{audio}");
        assert_eq!(of(r#"{"prompt":[[1,2,3],[4,5]]}"#, "prompt"), 5);
        let text = message(&format!(r#"{{"type":"text","text":"data:text/plain;base64,{recording}"}}"#));
        assert!(text > 2 * PICTURE, "{text}: text is text, whatever it looks like");
        let called = |arguments: &str| {
            let calls = format!(r#"[{{"function":{{"name":"f","arguments":{arguments}}}}}]"#);
            of(&format!(r#"{{"messages":[{{"role":"assistant","tool_calls":{calls}}}]}}"#), "messages")
        };
        assert!(called(&format!(r#"{{"image_url":"{recording}"}}"#)) > 2 * PICTURE, "so is what a tool is called with");
        let named = message(&format!(r#"{{"type":"text","text":"x","{recording}":1}}"#));
        assert!(named >= recording.len() / UNUSUAL_BYTES, "{named}: and so are names");
        let document = message(&format!(r#"{{"type":"input_file","file_data":"{recording}"}}"#));
        assert!(document >= 8000, "{document}");
        let source = |kind: &str, source: &str| message(&format!(r#"{{"type":"{kind}","source":{source}}}"#));
        let url = r#"{"type":"url","url":"https://example.com/a"}"#;
        assert!(source("document", url) >= REMOTE_MEDIA && source("image", url) < REMOTE_MEDIA);
        let tools =
            r#"{"prompt":"","tools":[{"type":"function","function":{"name":"weather","description":"Tells it"}}]}"#;
        assert!(of(tools, "prompt") >= 15, "{}", of(tools, "prompt"));
    }

    #[test]
    fn long_texts_are_not_kept() {
        let long = "word ".repeat(MAX_KEPT / 4);
        let prompt = Prompt::of_request(&Object::of(&serde_json::json!({"prompt": [long, "a", long]})), "prompt");
        assert!(prompt.text.len() <= MAX_KEPT && prompt.tokens() >= MAX_KEPT / 2, "{}", prompt.tokens());
        for length in [10, MAX_KEPT] {
            let body = format!(r#"{{"prompt":"{}"}}"#, "word ".repeat(length / 5)).into_bytes();
            let kept = KeptPrompt::new(&body, "prompt");
            assert_eq!(matches!(kept, KeptPrompt::Unread(..)), length == 10);
            assert_eq!(kept.tokens(), of(std::str::from_utf8(&body).unwrap(), "prompt"));
        }
        let mut output = OutputCounter::default();
        for _ in 0..10_000 {
            output.add(["word "]);
            assert!(output.text.len() < PIECE);
        }
        assert!((10_000..15_000).contains(&output.tokens()), "{}", output.tokens());
    }

    proptest! {
        #[test]
        fn an_estimate_is_not_below_the_truth_nor_above_the_bytes(
            text in "([a-zA-Z ,.]{0,60}|[äöüßéèñ ]{0,30}|[\u{410}-\u{44f} ]{0,40}|[\u{4e00}-\u{9fff}。]{0,40}|[\u{600}-\u{6ff} ]{0,30}|[\u{1f300}-\u{1f6ff}]{0,10}|[0-9{}\\[\\]():;=\n\t]{0,40}){1,4}"
        ) {
            let truth = bpe_openai::cl100k_base().count(&*text);
            prop_assert!((truth..=text.len()).contains(&tokens(&text)));
            let mut output = OutputCounter::default();
            for c in text.chars() {
                output.add([&*c.to_string()]);
            }
            prop_assert!((truth..=text.len()).contains(&output.tokens()));
        }
    }
}
