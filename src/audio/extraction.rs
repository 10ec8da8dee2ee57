//! The older routes from speech to text: a recording that is uploaded, or one that a URL points to.

use std::io::{self, Read};

use serde_json::json;

use crate::auth::Caller;
use crate::blocking::block_in_place;
use crate::call::Call;
use crate::engine::Engine;
use crate::engine::fetch::Download;
use crate::error::{Error, Result};
use crate::gateway::body::json_fields;
use crate::gateway::charged::{ModelUsage, Outcome, UploadWork, charged_download, charged_upload};
use crate::gateway::event_stream::not_json;
use crate::gateway::forward::{AudioSource, FormFields, ForwardedUpload};
use crate::gateway::transcript::SubtitleFormat;
use crate::gateway::transcription::{self, PendingTranscription, TRANSCRIBE, TRANSLATE, Transcribed};
use crate::gateway::upload::{DigestedSource, Upload};
use crate::gateway::{MAX_RECORDING, mark_demo, validate_model};
use crate::http::Response;
use crate::http::form::FORM_LIMIT;

const NO_RECORDING: &str = "Either audio_file or audio_url must be provided";

/// The field of an upload that decides which path of the model server is called.
const TRANSLATE_FIELD: &str = "translate_to_english";

/// `POST /api/v1/audio-extraction` with `audio_url`.
pub(super) fn from_url(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let engines = &call.app.engines;
    let engine = &engines.transcribe;
    let read = |body: &[u8]| {
        let fields = json_fields(body)?;
        let url = fields.optional_text("audio_url")?.filter(|url| !url.is_empty()).ok_or(Error::bad(NO_RECORDING))?;
        let translates = fields.optional_bool(TRANSLATE_FIELD)?.unwrap_or(false);
        let with_segments = fields.optional_bool("include_segments")?.unwrap_or(true);
        let options = Options::new(fields.optional_text("output_filetype")?, with_segments)?;
        Ok((url.to_owned(), translates, options))
    };
    let fetch = |(url, ..): &(String, bool, Options)| block_in_place(|| engines.fetcher.get(url, MAX_RECORDING))?;
    charged_download(call, caller, engine, FORM_LIMIT, read, fetch, |(_, translates, options), source| {
        let model = validate_model(engine.default_model())?;
        let pending = block_in_place(|| {
            let upload = ForwardedUpload::new(source, "audio", &[], Box::new(|_| Ok(upstream_fields(&model))))?;
            transcription::send(engine, upstream_path(translates), upload, false)
        })??;
        outcome(pending, model, &options)
    })
}

/// A downloaded file has no form fields behind it.
impl AudioSource for DigestedSource<'_, Download> {
    fn trailing_fields(&mut self) -> Result<FormFields> {
        Ok(FormFields::new())
    }
}

/// `POST /api/v1/audio-file-extraction` with a multipart body that holds `audio_file`.
pub(super) fn from_file(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let engine = &call.app.engines.transcribe;
    charged_upload(call, caller, engine, "audio_file", |work| from_upload(engine, work))
}

fn from_upload(engine: &Engine, work: UploadWork<'_>) -> Result<Outcome> {
    let UploadWork { upload, head, is_buffered } = work;
    let file_name = head.file_name.ok_or(Error::bad(NO_RECORDING))?;
    let mut source = FormUpload::new(upload, is_buffered)?;
    let known: FormFields = head.fields.into_iter().chain(source.known_fields()).collect();
    let translates = wants_translation(&known)?;
    let model = validate_model(engine.default_model())?;
    let mut trailing = FormFields::new();
    let map_trailing = |fields: FormFields| {
        trailing.clone_from(&fields);
        // The model server is already being called, on the one path or the other.
        match wants_translation(&fields)? != translates && fields.iter().any(|(name, _)| name == TRANSLATE_FIELD) {
            true => Err(Error::bad("translate_to_english must come before audio_file")),
            false => Ok(upstream_fields(&model)),
        }
    };
    let forward = ForwardedUpload::new(&mut source, &file_name, &[], Box::new(map_trailing))?;
    let pending = transcription::send(engine, upstream_path(translates), forward, is_buffered)?;
    let all: FormFields = known.into_iter().chain(trailing).collect();
    let get = |name: &str| all.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let with_segments = get("include_segments").map_or(Ok(true), parse_bool)?;
    let options = Options::new(get("output_filetype"), with_segments)?;
    outcome(pending, model, &options)
}

/// How the client wants the transcript.
struct Options {
    as_srt: bool,
    with_segments: bool,
}

impl Options {
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
fn upstream_fields(model: &str) -> FormFields {
    [("model", model), ("response_format", "verbose_json")].map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec()
}

fn wants_translation(fields: &FormFields) -> Result<bool> {
    let field = fields.iter().rev().find(|(name, _)| name == TRANSLATE_FIELD);
    field.map_or(Ok(false), |(_, value)| parse_bool(value))
}

fn parse_bool(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" | "yes" => Ok(true),
        "false" | "off" | "0" | "no" | "" => Ok(false),
        _ => Err(Error::bad("translate_to_english and include_segments must be true or false")),
    }
}

/// An upload that is read to its end at once if it is small, so that fields behind the file count like those before it.
enum FormUpload<'a> {
    Streamed(Box<Upload<'a>>),
    Buffered(io::Cursor<Vec<u8>>, FormFields),
}

impl FormUpload<'_> {
    fn new(mut upload: Upload<'_>, is_buffered: bool) -> Result<FormUpload<'_>> {
        if !is_buffered {
            return Ok(FormUpload::Streamed(Box::new(upload)));
        }
        let mut bytes = Vec::new();
        upload.read_to_end(&mut bytes).map_err(|_| Error::bad("The upload is incomplete or malformed"))?;
        let fields = upload.trailing_fields()?;
        Ok(FormUpload::Buffered(io::Cursor::new(bytes), fields))
    }

    /// The fields behind the file, if they are known already.
    fn known_fields(&self) -> FormFields {
        match self {
            FormUpload::Streamed(_) => FormFields::new(),
            FormUpload::Buffered(_, fields) => fields.clone(),
        }
    }
}

impl Read for FormUpload<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            FormUpload::Streamed(upload) => upload.read(out),
            FormUpload::Buffered(bytes, _) => bytes.read(out),
        }
    }
}

impl AudioSource for FormUpload<'_> {
    fn trailing_fields(&mut self) -> Result<FormFields> {
        match self {
            FormUpload::Streamed(upload) => upload.trailing_fields(),
            FormUpload::Buffered(..) => Ok(FormFields::new()),
        }
    }
}

fn outcome(mut pending: PendingTranscription, model: String, options: &Options) -> Result<Outcome> {
    let Transcribed { transcript, duration, units, .. } = pending.read()?;
    let transcript = transcript.ok_or_else(not_json)?;
    let response = if options.as_srt {
        // The older API sent the subtitles as a JSON string.
        Response::json(200, &transcript.subtitles(SubtitleFormat::LegacySrt, duration.millis))
            .header("Content-Disposition", "attachment; filename=audio.srt")
    } else {
        let segments = if options.with_segments { transcript.segments() } else { Vec::new() };
        Response::json(200, &json!({"text": transcript.text, "segments": segments}))
    };
    let latency_micros = pending.reply.latency_micros();
    let usage = ModelUsage { model, units, estimated: duration.estimated, latency_micros };
    Ok(Outcome::Reply(mark_demo(response, pending.reply.is_demo), usage))
}
