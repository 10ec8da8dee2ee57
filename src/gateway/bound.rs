//! A bound on the tokens that a model reads of a request: no text has more tokens than bytes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::object::Object;

/// Tokens that a chat template may add to each message or part of one, and once.
const TEMPLATE: usize = 16;
/// Tokens of a picture, of any size.
const PICTURE: usize = 16_384;
/// Tokens of a recording or a film at an address.
const REMOTE_MEDIA: usize = 65_536;
/// Characters of base64 that make a token of a recording, at the least.
const RECORDING_CHARACTERS: usize = 8;
/// Fields beside the prompt that models read, as JSON.
const OTHER_FIELDS: [&str; 6] =
    ["tools", "functions", "tool_choice", "response_format", "suffix", "chat_template_kwargs"];

/// How many tokens the prompt in this field and what else is read of a request have at most.
pub(super) fn tokens(request: &Object<'_>, prompt_field: &str) -> usize {
    let mut sum = TEMPLATE;
    if let Some(value) = request.get(prompt_field) {
        let mut json = serde_json::Deserializer::from_str(value.get());
        // What cannot be read ends the sum; model servers refuse that.
        let _ = Sum(&mut sum).deserialize(&mut json);
    }
    let others = OTHER_FIELDS.iter().filter(|name| request.has(name)).filter_map(|name| request.get(name));
    sum.saturating_add(others.map(|value| value.get().len()).sum())
}

/// Reads any JSON and adds what a model may read of it.
struct Sum<'a>(&'a mut usize);

impl Sum<'_> {
    fn add(&mut self, tokens: usize) {
        *self.0 = self.0.saturating_add(tokens);
    }
}

impl<'de> DeserializeSeed<'de> for Sum<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sum<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.add(text.len());
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    // Lists of numbers are tokens.
    fn visit_u64<E>(mut self, _: u64) -> Result<(), E> {
        self.add(1);
        Ok(())
    }
    fn visit_i64<E>(mut self, _: i64) -> Result<(), E> {
        self.add(1);
        Ok(())
    }
    fn visit_f64<E>(mut self, _: f64) -> Result<(), E> {
        self.add(1);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Sum(&mut *self.0))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.add(TEMPLATE);
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match &*name {
                "image_url" | "image" => {
                    map.next_value::<IgnoredAny>()?;
                    self.add(PICTURE);
                }
                "input_audio" | "audio_url" | "video_url" | "file" => {
                    let value: &RawValue = map.next_value()?;
                    self.add(REMOTE_MEDIA.max(value.get().len() / RECORDING_CHARACTERS));
                }
                // The usual ones are part of the template.
                "type" | "role" => {
                    let value: &RawValue = map.next_value()?;
                    self.add(value.get().len().saturating_sub(TEMPLATE));
                }
                _ => map.next_value_seed(Sum(&mut *self.0))?,
            }
        }
        Ok(())
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
        let tools = r#"{"messages":[],"tools":[{"type":"function"}]}"#;
        assert!(of(tools) >= TEMPLATE + 21);
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
