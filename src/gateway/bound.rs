//! A bound on the tokens that a model reads of a request: no text has more tokens than bytes.

use serde_json::value::RawValue;

use crate::http::object::Object;

use super::body::Tools;
use super::prompt_parts::{self, PromptParts};

/// Tokens that a chat template may add to each message or part of one, and once.
const TEMPLATE: usize = 16;
/// Tokens of a picture, of any size.
pub const PICTURE: usize = 16_384;
/// Tokens of a recording or a film at an address.
const REMOTE_MEDIA: usize = 65_536;
/// Tokens of all documents of a request: as large as the context of nearly all models, as nothing tells how many pages a
/// packed document has, or what is at an address.
const DOCUMENTS: usize = 1024 * 1024;
/// Tokens by which a model is told how to use tools, whichever they are.
const TOOL_USE: usize = 1024;
/// Tokens that describe a tool which the request only names, since the model knows it.
const KNOWN_TOOL: usize = 2048;
/// Characters of base64 that make a token of a recording, at the least.
const RECORDING_CHARACTERS: usize = 8;

/// How many tokens the prompt in this field and what else is read of a request have at most.
pub(super) fn tokens(request: &Object<'_>, prompt_field: &str) -> usize {
    let mut bound = Bound { tokens: TEMPLATE, has_document: false };
    prompt_parts::read(request, prompt_field, &mut bound);
    let tools = request.read::<Tools>("tools").unwrap_or_default();
    bound.add(if tools.count > 0 { TOOL_USE } else { 0 });
    bound.add(tools.others.saturating_mul(KNOWN_TOOL));
    bound.add(if bound.has_document { DOCUMENTS } else { 0 });
    bound.tokens
}

/// At most so many tokens, without the documents.
struct Bound {
    tokens: usize,
    has_document: bool,
}

impl Bound {
    fn add(&mut self, tokens: usize) {
        self.tokens = self.tokens.saturating_add(tokens);
    }
}

impl PromptParts for Bound {
    fn object(&mut self) {
        self.add(TEMPLATE);
    }
    fn text(&mut self, text: &str) {
        self.add(text.len());
    }
    fn token(&mut self) {
        self.add(1);
    }
    fn unusual(&mut self, bytes: usize) {
        self.add(bytes);
    }
    fn picture(&mut self, _: &RawValue) {
        self.add(PICTURE);
    }
    fn media(&mut self, value: &RawValue) {
        self.add(REMOTE_MEDIA.max(value.get().len() / RECORDING_CHARACTERS));
    }
    fn document(&mut self, _: &RawValue) {
        self.has_document = true;
    }
    /// The usual ones are part of the template.
    fn role(&mut self, value: &RawValue) {
        self.add(value.get().len().saturating_sub(TEMPLATE));
    }
    fn other_field(&mut self, value: &RawValue) {
        self.add(value.get().len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(request: &str) -> usize {
        tokens(&Object::parse(request.as_bytes()).unwrap(), "messages")
    }

    #[test]
    fn texts_pictures_and_tools_count() {
        let hello = of(r#"{"messages":[{"role":"user","content":"Hello"}]}"#);
        assert_eq!(hello, TEMPLATE + TEMPLATE + 5);
        let picture =
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x"}}]}]}"#;
        assert!(of(picture) >= PICTURE);
        let long = "x".repeat(500);
        let named = format!(r#"{{"messages":[{{"role":"user","content":"Hello","{long}":1}}]}}"#);
        assert!(of(&named) >= hello + 500, "names of fields count");
        let document = r#"{"messages":[{"role":"user","content":[{"type":"document","source":{"type":"url","url":"x"}},
            {"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}]}]}"#;
        assert!((DOCUMENTS..DOCUMENTS + 1000).contains(&of(document)), "{}", of(document));
        let tools = r#"{"messages":[],"tools":[{"type":"function"}]}"#;
        assert!((TEMPLATE + TOOL_USE + 21..TEMPLATE + TOOL_USE + KNOWN_TOOL).contains(&of(tools)));
        let known = r#"{"messages":[],"tools":[{"type":"bash_20250124","name":"bash"}]}"#;
        assert!(of(known) >= TEMPLATE + TOOL_USE + KNOWN_TOOL);
    }

    proptest! {
        #[test]
        fn no_text_has_more_tokens(text in "\\PC{0,200}") {
            let request = serde_json::json!({"messages": [{"role": "user", "content": text}]});
            let counted = bpe_openai::cl100k_base().count(&*text);
            prop_assert!(tokens(&Object::of(&request), "messages") >= counted);
        }
    }
}
