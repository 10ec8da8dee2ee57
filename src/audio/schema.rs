//! Bodies as the API reference describes them. What a model server takes and sends is passed on, with fields that are not
//! described here too.
#![expect(dead_code, reason = "only the schemas of these types are used")]

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::operation::File;

/// Audio.
pub(super) struct Sound;

impl JsonSchema for Sound {
    fn schema_name() -> Cow<'static, str> {
        "Audio".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "contentMediaType": "audio/*", "description": "Audio"})
    }
}

/// A recording to transcribe, in OpenAI's protocol.
#[derive(JsonSchema)]
pub(super) struct Transcribe {
    /// The recording, at most 100 MiB.
    file: File,
    model: Option<String>,
    /// json, text, srt, vtt or verbose_json.
    response_format: Option<String>,
    language: Option<String>,
    prompt: Option<String>,
    temperature: Option<f64>,
}

/// A transcript, in OpenAI's protocol.
#[derive(JsonSchema)]
#[schemars(example = json!({"text": "Hello there"}))]
pub(super) struct Transcription {}

/// A text to speak, in OpenAI's protocol.
#[derive(JsonSchema)]
pub(super) struct Speak {
    input: String,
    model: Option<String>,
    voice: Option<String>,
    response_format: Option<String>,
    speed: Option<f64>,
}

/// A recording at a public address.
#[derive(JsonSchema)]
pub(super) struct ExtractFromUrl {
    audio_url: String,
    translate_to_english: Option<bool>,
    /// txt or srt.
    output_filetype: Option<String>,
    include_segments: Option<bool>,
}

/// A recording to upload.
#[derive(JsonSchema)]
pub(super) struct ExtractFromFile {
    audio_file: File,
    translate_to_english: Option<bool>,
    /// txt or srt.
    output_filetype: Option<String>,
    include_segments: Option<bool>,
}

/// A transcript with its segments; for srt, a string.
#[derive(JsonSchema)]
#[schemars(example = json!({"text": "Hello there", "segments": [{"start": 0.0, "end": 1.5, "text": "Hello there"}]}))]
pub(super) struct Extraction {}

/// A text to speak.
#[derive(JsonSchema)]
pub(super) struct GenerateSpeech {
    text: String,
    voice: Option<String>,
    /// The voice, as older clients name it.
    speaker: Option<String>,
    speed: Option<f64>,
}
