//! What a model reads of a request: finds the texts, pictures and recordings of a prompt, whatever its shape.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::object::Object;

/// Fields beside the prompt that models read, as JSON.
const OTHER_FIELDS: [&str; 8] = [
    "tools",
    "functions",
    "tool_choice",
    "response_format",
    "suffix",
    "documents",
    "chat_template",
    "chat_template_kwargs",
];

/// Takes what a model reads, piece by piece.
pub(super) trait PromptParts {
    /// A message begins, or a part of one.
    fn object(&mut self);
    /// A text.
    fn text(&mut self, text: &str);
    /// One token, where a prompt is a list of them.
    fn token(&mut self);
    /// A picture.
    fn picture(&mut self, value: &RawValue);
    /// A recording, a film or a file.
    fn media(&mut self, value: &RawValue);
    /// The role or the type of an object.
    fn role(&mut self, value: &RawValue);
    /// A field beside the prompt.
    fn other_field(&mut self, value: &RawValue);
}

/// Reads the prompt in this field of a request, and what else the model reads of it.
pub(super) fn read(request: &Object<'_>, prompt_field: &str, parts: &mut impl PromptParts) {
    if let Some(value) = request.get(prompt_field) {
        let mut json = serde_json::Deserializer::from_str(value.get());
        // What cannot be read ends it; model servers refuse that.
        let _ = Reader(parts).deserialize(&mut json);
    }
    for value in OTHER_FIELDS.iter().filter(|name| request.has(name)).filter_map(|name| request.get(name)) {
        parts.other_field(value);
    }
}

/// Reads any JSON.
struct Reader<'a, P>(&'a mut P);

impl<'de, P: PromptParts> DeserializeSeed<'de> for Reader<'_, P> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, P: PromptParts> Visitor<'de> for Reader<'_, P> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.text(text);
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.0.token();
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.0.token();
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.token();
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Reader(&mut *self.0))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.object();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match &*name {
                "image_url" | "image" => self.0.picture(map.next_value()?),
                "input_audio" | "audio_url" | "video_url" | "file" => self.0.media(map.next_value()?),
                "type" | "role" => self.0.role(map.next_value()?),
                _ => map.next_value_seed(Reader(&mut *self.0))?,
            }
        }
        Ok(())
    }
}
