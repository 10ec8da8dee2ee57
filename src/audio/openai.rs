//! OpenAI's routes from speech to text.

use serde_json::json;

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::error::{Error, Result};
use crate::gateway::charged::{ModelUsage, Outcome, charged_upload};
use crate::gateway::estimate::KeptPrompt;
use crate::gateway::event_stream::EventStream;
use crate::gateway::forward::{FormFields, ForwardedUpload};
use crate::gateway::reply_format::ReplyFormat;
use crate::gateway::reply_kind::not_json;
use crate::gateway::stream_usage::{UsageFilter, UsageShown};
use crate::gateway::transcript::{SubtitleFormat, Transcript};
use crate::gateway::transcription::{self, PendingTranscription, TRANSCRIBE, TRANSLATE, Transcribed, TranscriptReply};
use crate::gateway::unread_reply;
use crate::gateway::upload::{ReceivedUpload, last_value};
use crate::gateway::usage_counter::{ChargeBasis, UsageCounter};
use crate::gateway::{mark_demo, model, response_typed_as};
use crate::http::{Content, Response, sse};

/// The fields that are not forwarded as they are.
const REPLACED_FIELDS: [&str; 2] = ["model", "response_format"];

/// Fields by which some model servers take a recording from elsewhere, which would be transcribed but not measured.
const OTHER_SOURCES: [&str; 4] = ["url", "file_url", "file_id", "audio_url"];

/// `POST /v1/audio/transcriptions`.
pub(super) fn transcribe(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    answer(call, caller, TRANSCRIBE)
}

/// `POST /v1/audio/translations`.
pub(super) fn translate(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    answer(call, caller, TRANSLATE)
}

fn answer(call: &mut Call<'_>, caller: &Caller, path: &'static str) -> Result<Response> {
    let app = call.app;
    let resolve = |name: Option<&str>| model::resolve(app, caller, Purpose::Transcription, name);
    let deployment = call.deployment.clone();
    let prepare = |upload: &ReceivedUpload<'_>| resolve(named_model(&upload.fields).or(deployment.as_deref()));
    // Without its model, nothing of a request is sent anywhere.
    charged_upload(call, caller, Purpose::Transcription, "file", Some("model"), prepare, |upload, model| {
        let ReceivedUpload { mut source, file, fields, is_buffered } = upload;
        check_sources(&fields)?;
        let file = file.ok_or(Error::bad("file is required"))?;
        let is_replaced = |name: &str| REPLACED_FIELDS.contains(&name);
        let (replaced, forwarded): (FormFields, FormFields) =
            fields.into_iter().partition(|(name, _)| is_replaced(name));
        let mut options = None;
        let map_trailing = |trailing: FormFields| {
            check_sources(&trailing)?;
            let all: FormFields = forwarded.iter().chain(&replaced).chain(&trailing).cloned().collect();
            let options = options.insert(Options::read(&all, model.clone())?);
            let mut last: FormFields = trailing.into_iter().filter(|(name, _)| !is_replaced(name)).collect();
            last.push(("model".to_owned(), model.requested_name().to_owned()));
            last.push(("response_format".to_owned(), options.upstream_format().to_owned()));
            Ok(last)
        };
        let forward = ForwardedUpload::new(&mut source, &file, &forwarded, &model, Box::new(map_trailing))?;
        let pending = transcription::send(&model, path, forward, is_buffered)?;
        // They were read with the trailing fields, as the upload is complete.
        let options = options.ok_or(Error::Internal("the fields of an upload were not read".to_owned()))?;
        outcome(pending, options)
    })
}

/// Refuses fields that name another recording than the one in the body.
fn check_sources(fields: &FormFields) -> Result<()> {
    let is_source = |name: &str| OTHER_SOURCES.iter().find(|source| name.eq_ignore_ascii_case(source));
    match fields.iter().find_map(|(name, _)| is_source(name)) {
        Some(name) => {
            Err(Error::bad(format!("The field {name} is not supported; send the recording in the field file")))
        }
        None => Ok(()),
    }
}

/// The model that the fields name.
fn named_model(fields: &FormFields) -> Option<&str> {
    last_value(fields, "model").filter(|name| !name.is_empty())
}

/// What the fields ask for. Only the format `verbose_json` tells the duration of the recording, so that is what the
/// model server is asked for, and the client's format is made here from it.
struct Options {
    model: ResolvedModel,
    format: String,
    /// The model server is asked for the client's own format: for a stream, or a format that only some models have.
    is_direct: bool,
}

impl Options {
    fn read(fields: &FormFields, model: ResolvedModel) -> Result<Options> {
        let format = last_value(fields, "response_format").unwrap_or("json").to_owned();
        let is_known = matches!(format.as_str(), "json" | "text" | "srt" | "vtt" | "verbose_json");
        let is_stream = match last_value(fields, "stream").map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "1") => true,
            None | Some("false" | "0" | "") => false,
            Some(_) => return Err(Error::bad("stream must be true or false")),
        };
        // These models support no format but JSON, and count tokens.
        let is_json_only = model.upstream_names().any(|name| name.starts_with("gpt-"));
        let is_direct = !is_known || is_stream || is_json_only;
        Ok(Options { model, format, is_direct })
    }

    fn upstream_format(&self) -> &str {
        if self.is_direct { &self.format } else { "verbose_json" }
    }
}

fn outcome(mut pending: PendingTranscription, options: Options) -> Result<Outcome> {
    if pending.reply.media_type == sse::MEDIA_TYPE {
        let (counter, prompt) = (UsageCounter::new(ChargeBasis::Audio(pending.duration)), KeptPrompt::none());
        let format = ReplyFormat::Plain(UsageFilter::new(UsageShown::AsSent));
        let model = options.model.name().to_owned();
        return Ok(EventStream::new(model, pending.reply, counter, prompt, format).into_outcome());
    }
    let Transcribed { reply, duration, units } = pending.read()?;
    let latency_micros = pending.reply.latency_micros();
    let model = options.model.name().to_owned();
    let usage = ModelUsage { model, units, estimated: duration.estimated, latency_micros };
    let TranscriptReply { bytes, transcript } = match reply {
        Ok(reply) => reply,
        Err(unread) => return Ok(unread_reply::refuse(&unread, usage)),
    };
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
