//! What a model reads of a request: finds the texts, pictures and recordings of a prompt, whatever its shape.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeSeed, MapAccess};
use serde_json::value::RawValue;

use crate::http::object::Object;

use crate::protocol::json_walk::{Walk, Walker};

/// Fields beside the prompt that models read, as JSON.
const OTHER_FIELDS: [&str; 13] = [
    "tools",
    "functions",
    "tool_choice",
    "response_format",
    "suffix",
    "documents",
    "chat_template",
    "chat_template_kwargs",
    "instructions",
    "system",
    "text",
    "output_config",
    "output_format",
];

/// Takes what a model reads, piece by piece.
pub(super) trait PromptParts {
    /// A message begins, or a part of one.
    fn object(&mut self);
    /// A text.
    fn text(&mut self, text: &str);
    /// One token, where a prompt is a list of them.
    fn token(&mut self);
    /// The name of a field, if it is not one that all conversations have; or a number in one, which may have so many digits.
    fn unusual(&mut self, bytes: usize);
    /// A picture.
    fn picture(&mut self, value: &RawValue);
    /// A recording or a film.
    fn media(&mut self, value: &RawValue);
    /// A document, which may have any number of pages.
    fn document(&mut self, value: &RawValue);
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
        let _ = Walk(&mut Reader { parts, is_picture: false, has_objects: false }).deserialize(&mut json);
    }
    for value in OTHER_FIELDS.iter().filter(|name| request.has(name)).filter_map(|name| request.get(name)) {
        parts.other_field(value);
    }
}

/// Names of fields that each message or part of one has, or that no chat template repeats.
const USUAL_NAMES: [&str; 11] = [
    "content",
    "text",
    "tool_calls",
    "tool_call_id",
    "function",
    "cache_control",
    "tool_use_id",
    "call_id",
    "output",
    "id",
    "name",
];

/// Most digits of a number that is not counted by its length.
const FEW_DIGITS: usize = 20;

/// Tells the parts of a prompt apart by the names of their fields.
struct Reader<'a, P> {
    parts: &'a mut P,
    /// Whether the object that began last has said that it is a picture.
    is_picture: bool,
    /// Whether there are objects: numbers are no tokens then.
    has_objects: bool,
}

/// Where the Messages protocol has a picture or a document.
#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default, borrow)]
    media_type: Option<Cow<'a, str>>,
}

impl<P: PromptParts> Reader<'_, P> {
    fn source(&mut self, value: &RawValue) {
        let is_object = value.get().starts_with('{');
        let source = is_object.then(|| serde_json::from_str::<Source<'_>>(value.get()).ok()).flatten();
        let media_type = source.as_ref().and_then(|source| source.media_type.as_deref()).unwrap_or_default();
        match source.as_ref().map(|source| &*source.kind) {
            Some("base64") if media_type.starts_with("image/") => self.parts.picture(value),
            Some("url") if self.is_picture => self.parts.picture(value),
            Some("base64" | "url" | "file") => self.parts.document(value),
            _ => self.walk(value),
        }
    }

    fn walk(&mut self, value: &RawValue) {
        let mut json = serde_json::Deserializer::from_str(value.get());
        // What cannot be read ends it; model servers refuse that.
        let _ = Walk(self).deserialize(&mut json);
    }

    /// What a tool is called with is text, whatever its fields are called.
    fn arguments(&mut self, value: &RawValue) {
        match value.get().starts_with('"') {
            true => self.walk(value),
            false => self.parts.other_field(value),
        }
    }
}

impl<P: PromptParts> Walker for Reader<'_, P> {
    fn text(&mut self, text: &str) {
        self.parts.text(text);
    }
    fn number(&mut self) {
        match self.has_objects {
            true => self.parts.unusual(FEW_DIGITS),
            false => self.parts.token(),
        }
    }
    fn object(&mut self) {
        (self.has_objects, self.is_picture) = (true, false);
        self.parts.object();
    }
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "image_url" | "image" => self.parts.picture(map.next_value()?),
            "input_audio" | "audio_url" | "video_url" => self.parts.media(map.next_value()?),
            "file" | "file_data" | "file_url" => self.parts.document(map.next_value()?),
            "source" => self.source(map.next_value()?),
            "input" | "arguments" => self.arguments(map.next_value()?),
            "type" | "role" => {
                let value = map.next_value::<&RawValue>()?;
                self.is_picture |= name == "type" && value.get() == "\"image\"";
                self.parts.role(value);
            }
            _ => {
                if !USUAL_NAMES.contains(&name) {
                    self.parts.unusual(name.len());
                }
                map.next_value_seed(Walk(self))?;
            }
        }
        Ok(())
    }
}
