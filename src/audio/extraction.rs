//! The older routes from speech to text: a recording that is uploaded, or one that a URL points to.

use serde_json::json;

use crate::auth::Caller;
use crate::blocking::{Wait, block_in_place};
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::engine::fetch::Download;
use crate::error::{Error, Result};
use crate::gateway::body::json_fields;
use crate::gateway::charged::{ModelUsage, Outcome, charged_download, charged_upload};
use crate::gateway::file_label::FileLabel;
use crate::gateway::forward::{AudioSource, FormFields, ForwardedUpload};
use crate::gateway::reply_kind::not_json;
use crate::gateway::transcript::SubtitleFormat;
use crate::gateway::transcription::{self, PendingTranscription, TRANSCRIBE, TRANSLATE, Transcribed};
use crate::gateway::unread_reply;
use crate::gateway::upload::{DigestedSource, ReceivedUpload, last_value};
use crate::gateway::{MAX_RECORDING, mark_demo, model};
use crate::http::Response;

const NO_RECORDING: &str = "Either audio_file or audio_url must be provided";

/// The field of an upload that decides which path of the model server is called.
const TRANSLATE_FIELD: &str = "translate_to_english";

/// `POST /api/v1/audio-extraction` with `audio_url`.
pub(super) fn from_url(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let app = call.app;
    let read = |body: &[u8]| {
        let fields = json_fields(body)?;
        let url = fields.optional_text("audio_url")?.filter(|url| !url.is_empty()).ok_or(Error::bad(NO_RECORDING))?;
        let translates = fields.optional_bool(TRANSLATE_FIELD)?.unwrap_or(false);
        let with_segments = fields.optional_bool("include_segments")?.unwrap_or(true);
        let options = Options::new(fields.optional_text("output_filetype")?, with_segments)?;
        Ok((url.to_owned(), translates, options))
    };
    let prepare = || model::resolve(app, caller, Purpose::Transcription, None);
    let fetch =
        |(url, ..): &(String, bool, Options)| block_in_place(Wait::Fetch, || app.fetcher.get(url, MAX_RECORDING))?;
    let work = |(_, translates, options): (String, bool, Options),
                model: ResolvedModel,
                source: &mut DigestedSource<'_, Download>| {
        let pending = block_in_place(Wait::Model, || {
            let map_trailing = |_| Ok(upstream_fields(&model));
            let upload = ForwardedUpload::new(source, &FileLabel::default(), &[], &model, Box::new(map_trailing))?;
            transcription::send(&model, upstream_path(translates), upload, false)
        })??;
        outcome(pending, &model, &options)
    };
    charged_download(call, caller, Purpose::Transcription, read, prepare, fetch, work)
}

/// A downloaded file has no form fields behind it.
impl AudioSource for DigestedSource<'_, Download> {
    fn trailing_fields(&mut self) -> Result<FormFields> {
        Ok(FormFields::new())
    }
}

/// `POST /api/v1/audio-file-extraction` with a multipart body that holds `audio_file`.
pub(super) fn from_file(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let app = call.app;
    let prepare = |_: &ReceivedUpload<'_>| model::resolve(app, caller, Purpose::Transcription, None);
    charged_upload(call, caller, Purpose::Transcription, "audio_file", None, prepare, from_upload)
}

fn from_upload(upload: ReceivedUpload<'_>, model: ResolvedModel) -> Result<Outcome> {
    let ReceivedUpload { mut source, file, fields: known, is_buffered } = upload;
    let file = file.ok_or(Error::bad(NO_RECORDING))?;
    let translates = wants_translation(&known)?;
    let mut options = None;
    let map_trailing = |fields: FormFields| {
        // The model server is already being called, on the one path or the other.
        if wants_translation(&fields)? != translates && fields.iter().any(|(name, _)| name == TRANSLATE_FIELD) {
            return Err(Error::bad("translate_to_english must come before audio_file"));
        }
        options = Some(Options::read(&known.iter().chain(&fields).cloned().collect())?);
        Ok(upstream_fields(&model))
    };
    let forward = ForwardedUpload::new(&mut source, &file, &[], &model, Box::new(map_trailing))?;
    let pending = transcription::send(&model, upstream_path(translates), forward, is_buffered)?;
    // They were read with the trailing fields, before the model server had all of the recording.
    let options = options.ok_or(Error::Internal("the fields of an upload were not read".to_owned()))?;
    outcome(pending, &model, &options)
}

/// How the client wants the transcript.
struct Options {
    as_srt: bool,
    with_segments: bool,
}

impl Options {
    fn read(fields: &FormFields) -> Result<Options> {
        let with_segments = last_value(fields, "include_segments").map_or(Ok(true), parse_bool)?;
        Options::new(last_value(fields, "output_filetype"), with_segments)
    }

    fn new(file_type: Option<&str>, with_segments: bool) -> Result<Options> {
        let as_srt = match file_type {
            None | Some("" | "txt") => false,
            Some("srt") => true,
            Some(_) => return Err(Error::bad("output_filetype must be txt or srt")),
        };
        Ok(Options { as_srt, with_segments })
    }
}

const fn upstream_path(translates: bool) -> &'static str {
    if translates { TRANSLATE } else { TRANSCRIBE }
}

/// The fields that are sent to the model server.
fn upstream_fields(model: &ResolvedModel) -> FormFields {
    [("model", model.name()), ("response_format", "verbose_json")].map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec()
}

fn wants_translation(fields: &FormFields) -> Result<bool> {
    last_value(fields, TRANSLATE_FIELD).map_or(Ok(false), parse_bool)
}

fn parse_bool(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" | "yes" => Ok(true),
        "false" | "off" | "0" | "no" | "" => Ok(false),
        _ => Err(Error::bad("translate_to_english and include_segments must be true or false")),
    }
}

fn outcome(mut pending: PendingTranscription, model: &ResolvedModel, options: &Options) -> Result<Outcome> {
    let Transcribed { reply, duration, units } = pending.read()?;
    let latency_micros = pending.reply.latency_micros();
    let usage = ModelUsage { model: model.name().to_owned(), units, estimated: duration.estimated, latency_micros };
    let transcript = match reply {
        Ok(reply) => reply.transcript.ok_or_else(not_json)?,
        Err(unread) => return Ok(unread_reply::refuse(&unread, usage)),
    };
    let response = if options.as_srt {
        // The older API sent the subtitles as a JSON string.
        Response::json(200, &transcript.subtitles(SubtitleFormat::LegacySrt, duration.millis))
            .header("Content-Disposition", "attachment; filename=audio.srt")
    } else {
        let segments = if options.with_segments { transcript.segments() } else { Vec::new() };
        Response::json(200, &json!({"text": transcript.text, "segments": segments}))
    };
    Ok(Outcome::Reply(mark_demo(response, pending.reply.is_demo), usage))
}
