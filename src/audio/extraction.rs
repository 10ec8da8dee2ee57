//! The older system's routes from speech to text: a file that is uploaded, or one that an address points to.

use std::io::{self, Read};

use serde_json::json;

use crate::blocking;
use crate::call::Call;
use crate::engine::fetch::Download;
use crate::error::{Error, Result};
use crate::gateway::hear::{self, Hearing, TRANSCRIBE, TRANSLATE};
use crate::gateway::transcript::{Clock, Transcript};
use crate::gateway::upload::{Fields, Outbound, Recording, Upload};
use crate::gateway::{Bill, INVALID_SECRET, LARGEST_AUDIO, checked_model, marked};
use crate::http::Response;
use crate::http::form::{self, FORM_LIMIT};

const NOTHING_SENT: &str = "Either audio_file or audio_url must be provided";

/// What is wanted of the answer.
struct Wish {
    translates: bool,
    as_srt: bool,
    with_segments: bool,
}

impl Wish {
    fn new(translates: bool, file_type: Option<&str>, with_segments: bool) -> Result<Wish> {
        let as_srt = match file_type {
            None | Some("" | "txt") => false,
            Some("srt") => true,
            Some(_) => return Err(Error::bad("output_filetype must be txt or srt")),
        };
        Ok(Wish { translates, as_srt, with_segments })
    }

    fn path(&self) -> &'static str {
        if self.translates { TRANSLATE } else { TRANSCRIBE }
    }
}

/// `POST /api/v1/audio-extraction` with `audio_url`.
pub(super) fn by_url(call: &mut Call<'_>) -> Result<Response> {
    let mut bill = Bill::open(call, "/api/v1/audio-extraction", INVALID_SECRET)?;
    let engine = &call.app.engines.transcribe;
    engine.check()?;
    let bytes = call.request.body.into_bytes(FORM_LIMIT)?;
    bill.note(&bytes);
    let fields = form::Fields::parse_json(&bytes)?;
    let url = fields.optional_text("audio_url")?.filter(|url| !url.is_empty()).ok_or(Error::bad(NOTHING_SENT))?;
    let translates = fields.optional_bool("translate_to_english")?.unwrap_or(false);
    let with_segments = fields.optional_bool("include_segments")?.unwrap_or(true);
    let wish = Wish::new(translates, fields.optional_text("output_filetype")?, with_segments)?;
    let mut recording = blocking::block_in_place(|| call.app.engines.fetcher.get(url, LARGEST_AUDIO))??;
    let model = checked_model(engine.default_model())?;
    // What is behind an address may be another thing the next time, but the request is the same: no bill notes it.
    let hearing = blocking::block_in_place(|| {
        let outbound = Outbound::new(&mut recording, None, "audio", &[], Box::new(decide(&model)))?;
        hear::send(engine, wish.path(), outbound, false)
    })??;
    reply(hearing, &bill, &model, &wish)
}

impl Recording for Download {
    fn fields_behind(&mut self) -> Result<Fields> {
        Ok(Fields::new())
    }
}

/// `POST /api/v1/audio-file-extraction` with a multipart body that holds `audio_file`.
pub(super) fn by_file(call: &mut Call<'_>) -> Result<Response> {
    let mut bill = Bill::open(call, "/api/v1/audio-file-extraction", INVALID_SECRET)?;
    let engine = &call.app.engines.transcribe;
    engine.check()?;
    let is_small = call.request.body.is_buffered();
    let (upload, before) = Upload::open(call.request, "audio_file")?;
    let file_name = before.file_name.ok_or(Error::bad(NOTHING_SENT))?;
    let mut recording = whole_if(is_small, upload)?;
    let early: Fields = before.fields.into_iter().chain(recording.known()).collect();
    let translates = wants_translation(&early)?;
    let model = checked_model(engine.default_model())?;
    let mut behind = Fields::new();
    let mut later = decide(&model);
    let check = Box::new(|fields: Fields| {
        behind.clone_from(&fields);
        // The server is being asked already, one way or the other.
        match wants_translation(&fields)? != translates && fields.iter().any(|(name, _)| name == TRANSLATE_FIELD) {
            true => Err(Error::bad("translate_to_english must come before audio_file")),
            false => later(fields),
        }
    });
    let path = if translates { TRANSLATE } else { TRANSCRIBE };
    let outbound = Outbound::new(&mut recording, Some(&mut bill), &file_name, &[], check)?;
    let hearing = hear::send(engine, path, outbound, is_small)?;
    let all: Fields = early.into_iter().chain(behind).collect();
    let get = |name: &str| all.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let with_segments = get("include_segments").map_or(Ok(true), truth)?;
    let wish = Wish::new(translates, get("output_filetype"), with_segments)?;
    reply(hearing, &bill, &model, &wish)
}

const TRANSLATE_FIELD: &str = "translate_to_english";

fn wants_translation(fields: &Fields) -> Result<bool> {
    let given = fields.iter().rev().find(|(name, _)| name == TRANSLATE_FIELD);
    given.map_or(Ok(false), |(_, value)| truth(value))
}

fn truth(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" | "yes" => Ok(true),
        "false" | "off" | "0" | "no" | "" => Ok(false),
        _ => Err(Error::bad("translate_to_english and include_segments must be true or false")),
    }
}

/// A small upload is read to its end at once, so that fields behind the file count like those before it.
enum Either<'a> {
    Streamed(Box<Upload<'a>>),
    Whole(io::Cursor<Vec<u8>>, Fields),
}

fn whole_if(is_small: bool, mut upload: Upload<'_>) -> Result<Either<'_>> {
    if !is_small {
        return Ok(Either::Streamed(Box::new(upload)));
    }
    let mut bytes = Vec::new();
    upload.read_to_end(&mut bytes).map_err(|_| Error::bad("The upload is incomplete or malformed"))?;
    let fields = upload.fields_behind()?;
    Ok(Either::Whole(io::Cursor::new(bytes), fields))
}

impl Either<'_> {
    fn known(&self) -> Fields {
        match self {
            Either::Streamed(_) => Fields::new(),
            Either::Whole(_, fields) => fields.clone(),
        }
    }
}

impl Read for Either<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Either::Streamed(upload) => upload.read(out),
            Either::Whole(bytes, _) => bytes.read(out),
        }
    }
}

impl Recording for Either<'_> {
    fn fields_behind(&mut self) -> Result<Fields> {
        match self {
            Either::Streamed(upload) => upload.fields_behind(),
            Either::Whole(..) => Ok(Fields::new()),
        }
    }
}

/// What goes to the model server behind the recording.
fn decide(model: &str) -> impl FnMut(Fields) -> Result<Fields> + use<> {
    let model = model.to_owned();
    move |_| Ok(vec![("model".to_owned(), model.clone()), ("response_format".to_owned(), "verbose_json".to_owned())])
}

fn reply(mut hearing: Hearing, bill: &Bill, model: &str, wish: &Wish) -> Result<Response> {
    let (bytes, transcript, millis) = hearing.finish()?;
    let transcript: Transcript =
        transcript.ok_or(Error::Upstream(502, "The model server answered with something else than JSON"))?;
    drop(bytes);
    let response = if wish.as_srt {
        // The older system sent the subtitles as a JSON string.
        Response::json(200, &transcript.subtitles(Clock::OldSrt, millis))
            .header("Content-Disposition", "attachment; filename=audio.srt")
    } else {
        let segments = if wish.with_segments { transcript.segments() } else { Vec::new() };
        Response::json(200, &json!({"text": transcript.text, "segments": segments}))
    };
    bill.charged(marked(response, hearing.reply.is_demo), model, hear::units(millis), hearing.reply.latency_micros())
}
