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
        let _ = Walk(&mut Reader(parts)).deserialize(&mut json);
    }
    for value in OTHER_FIELDS.iter().filter(|name| request.has(name)).filter_map(|name| request.get(name)) {
        parts.other_field(value);
    }
}

/// Tells the parts of a prompt apart by the names of their fields.
struct Reader<'a, P>(&'a mut P);

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
        let source = serde_json::from_str::<Source<'_>>(value.get()).ok();
        let media_type = source.as_ref().and_then(|source| source.media_type.as_deref()).unwrap_or_default();
        match source.as_ref().map(|source| &*source.kind) {
            Some("base64") if media_type.starts_with("image/") => self.0.picture(value),
            Some("base64" | "url" | "file") => self.0.media(value),
            _ => {
                let mut json = serde_json::Deserializer::from_str(value.get());
                // What cannot be read ends it; model servers refuse that.
                let _ = Walk(self).deserialize(&mut json);
            }
        }
    }
}

impl<P: PromptParts> Walker for Reader<'_, P> {
    fn text(&mut self, text: &str) {
        self.0.text(text);
    }
    fn number(&mut self) {
        self.0.token();
    }
    fn object(&mut self) {
        self.0.object();
    }
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "image_url" | "image" => self.0.picture(map.next_value()?),
            "input_audio" | "audio_url" | "video_url" | "file" | "file_data" | "file_url" => {
                self.0.media(map.next_value()?);
            }
            "source" => self.source(map.next_value()?),
            // What a tool was called with is text, whatever its fields are called.
            "input" => self.0.other_field(map.next_value()?),
            "type" | "role" => self.0.role(map.next_value()?),
            _ => map.next_value_seed(Walk(self))?,
        }
        Ok(())
    }
}
