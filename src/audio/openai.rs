//! OpenAI's routes from speech to text.

use serde_json::json;

use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::gateway::charged::{ModelUsage, Outcome, UploadWork, charged_upload};
use crate::gateway::estimate::KeptPrompt;
use crate::gateway::event_stream::{EventStream, not_json};
use crate::gateway::forward::{FormFields, ForwardedUpload};
use crate::gateway::stream_usage::{UsageFilter, UsageShown};
use crate::gateway::transcript::{SubtitleFormat, Transcript};
use crate::gateway::transcription::{self, PendingTranscription, TRANSCRIBE, TRANSLATE, Transcribed};
use crate::gateway::usage_counter::{ChargeBasis, UsageCounter};
use crate::gateway::{mark_demo, response_typed_as, validate_model};
use crate::http::{Content, Response, sse};

/// The fields that are not forwarded as they are.
const REPLACED_FIELDS: [&str; 2] = ["model", "response_format"];

/// `POST /v1/audio/transcriptions`.
pub(super) fn transcribe(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    answer(call, caller, TRANSCRIBE)
}

/// `POST /v1/audio/translations`.
pub(super) fn translate(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    answer(call, caller, TRANSLATE)
}

fn answer(call: &mut Call<'_>, caller: &Caller, path: &'static str) -> Result<Response> {
    let engine = &call.app.engines.transcribe;
    charged_upload(call, caller, engine, "file", |work| {
        let UploadWork { mut upload, head, is_buffered } = work;
        let file_name = head.file_name.ok_or(Error::bad("file is required"))?;
        let is_replaced = |name: &str| REPLACED_FIELDS.contains(&name);
        let (replaced, forwarded): (FormFields, FormFields) =
            head.fields.into_iter().partition(|(name, _)| is_replaced(name));
        let mut options = None;
        let map_trailing = |trailing: FormFields| {
            let all: FormFields = forwarded.iter().chain(&replaced).chain(&trailing).cloned().collect();
            let options = options.insert(Options::read(&all, &|| engine.default_model())?);
            let mut last: FormFields = trailing.into_iter().filter(|(name, _)| !is_replaced(name)).collect();
            last.push(("model".to_owned(), options.model.clone()));
            last.push(("response_format".to_owned(), options.upstream_format().to_owned()));
            Ok(last)
        };
        let forward = ForwardedUpload::new(&mut upload, &file_name, &forwarded, Box::new(map_trailing))?;
        let pending = transcription::send(engine, path, forward, is_buffered)?;
        // They were read with the trailing fields, as the upload is complete.
        let options = options.ok_or(Error::Internal("the fields of an upload were not read".to_owned()))?;
        outcome(pending, options)
    })
}

/// What the fields ask for. Only the format `verbose_json` tells the duration of the recording, so that is what the
/// model server is asked for, and the client's format is made here from it.
struct Options {
    model: String,
    format: String,
    /// The model server is asked for the client's own format: for a stream, or a format that only some models have.
    is_direct: bool,
}

impl Options {
    fn read(fields: &FormFields, default_model: &dyn Fn() -> String) -> Result<Options> {
        let get = |name: &str| fields.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let model = validate_model(get("model").filter(|m| !m.is_empty()).map_or_else(default_model, str::to_owned))?;
        let format = get("response_format").unwrap_or("json").to_owned();
        let is_known = matches!(format.as_str(), "json" | "text" | "srt" | "vtt" | "verbose_json");
        let is_stream = match get("stream").map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "1") => true,
            None | Some("false" | "0" | "") => false,
            Some(_) => return Err(Error::bad("stream must be true or false")),
        };
        // These models support no format but JSON, and count tokens.
        let is_json_only = model.starts_with("gpt-");
        Ok(Options { model, format, is_direct: !is_known || is_stream || is_json_only })
    }

    fn upstream_format(&self) -> &str {
        if self.is_direct { &self.format } else { "verbose_json" }
    }
}

fn outcome(mut pending: PendingTranscription, options: Options) -> Result<Outcome> {
    if pending.reply.media_type == sse::MEDIA_TYPE {
        let (counter, prompt) = (UsageCounter::new(ChargeBasis::Audio(pending.duration)), KeptPrompt::none());
        let usage = UsageFilter::new(UsageShown::AsSent);
        let stream = EventStream { reply: pending.reply, counter, prompt, usage, limit: None };
        return Ok(stream.into_outcome(options.model));
    }
    let Transcribed { bytes, transcript, duration, units } = pending.read()?;
    if !options.is_direct && transcript.is_none() {
        return Err(not_json());
    }
    let is_unchanged = options.is_direct || options.format == "verbose_json";
    let response = if let Some(transcript) = transcript.filter(|_| !is_unchanged) {
        mark_demo(format(&transcript, &options.format, duration.millis), pending.reply.is_demo)
    } else {
        let mut response = response_typed_as(&pending.reply);
        response.content = Content::Bytes(bytes.into());
        response
    };
    let latency_micros = pending.reply.latency_micros();
    let usage = ModelUsage { model: options.model, units, estimated: duration.estimated, latency_micros };
    Ok(Outcome::Reply(response, usage))
}

fn format(transcript: &Transcript, format: &str, duration_millis: i64) -> Response {
    let subtitles = |format| transcript.subtitles(format, duration_millis).into_bytes();
    let plain = |text: Vec<u8>| Response::with_body(200, "text/plain; charset=utf-8", text);
    match format {
        "text" => plain(format!("{}\n", transcript.text.trim()).into_bytes()),
        "srt" => plain(subtitles(SubtitleFormat::Srt)),
        "vtt" => Response::with_body(200, "text/vtt; charset=utf-8", subtitles(SubtitleFormat::Vtt)),
        _ => Response::json(200, &json!({"text": transcript.text})),
    }
}
