//! Text to speech.

use std::io::{self, Read, Write};

use serde_json::json;

use crate::blocking;
use crate::call::Call;
use crate::engine::{Ask, Body, Reply, client_left};
use crate::error::{Error, Result};
use crate::gateway::relay::INVALID_API_KEY;
use crate::gateway::{Bill, INVALID_SECRET, LARGEST_JSON, LARGEST_REPLY, checked_model, marked, typed};
use crate::http::form::{FORM_LIMIT, Fields};
use crate::http::object::Object;
use crate::http::{Content, Response};
use crate::usage::Units;
use crate::wav;

const PATH: &str = "/v1/audio/speech";

/// Bytes passed on at a time.
const PIECE: usize = 16 * 1024;

/// The voices that older clients know; any other name means `af_nicole`.
const VOICES: [&str; 11] = [
    "af",
    "af_bella",
    "af_sarah",
    "am_adam",
    "am_michael",
    "bf_emma",
    "bf_isabella",
    "bm_george",
    "bm_lewis",
    "af_nicole",
    "af_sky",
];

fn units(text: &str) -> Units {
    Units { characters: i64::try_from(text.chars().count()).unwrap_or(i64::MAX), requests: 1, ..Units::default() }
}

/// `POST /v1/audio/speech`: the sound is passed on as it is made.
pub(super) fn speak(call: &mut Call<'_>) -> Result<Response> {
    let mut bill = Bill::open(call, PATH, INVALID_API_KEY)?;
    let engine = &call.app.engines.speech;
    engine.check()?;
    let bytes = call.request.body.into_bytes(LARGEST_JSON)?;
    bill.note(&bytes);
    let mut object = Object::parse(&bytes).map_err(Error::bad)?;
    let input: String = object.read("input").ok_or(Error::bad("input is required and must be a string"))?;
    if !object.has("model") {
        object.set("model", &engine.default_model());
    }
    let model = checked_model(object.read("model").ok_or(Error::bad("model must be a string"))?)?;
    let sent = object.to_bytes();
    let ask = Ask { path: PATH, media_type: "application/json", body: Body::Bytes(&sent) };
    let reply = blocking::block_in_place(|| engine.send(ask).and_then(Reply::successful))??;
    let mut response = typed(&reply);
    let sound = Sound { reply, bill, model, units: units(&input) };
    response.content = Content::Stream(Box::new(move |out| sound.run(out)));
    Ok(response)
}

/// Sound on its way.
struct Sound {
    reply: Reply,
    bill: Bill,
    model: String,
    units: Units,
}

impl Sound {
    /// Passes it on, less the last byte, which waits for the charge. A text is spoken as a whole, so a client that
    /// leaves pays for all of it; where the server fails, the client has nothing of use, and pays nothing.
    fn run(mut self, out: &mut dyn Write) -> io::Result<()> {
        // The byte that is held back stands before the next piece.
        let (mut piece, mut held) = (vec![0; PIECE + 1], 0);
        loop {
            match self.reply.read(&mut piece[held..]) {
                Ok(0) => break,
                Ok(n) => {
                    let last = held + n - 1;
                    out.write_all(&piece[..last]).map_err(|e| self.left(e))?;
                    piece[0] = piece[last];
                    held = 1;
                }
                Err(_) if client_left() => return Err(self.left(io::ErrorKind::ConnectionAborted.into())),
                Err(e) => return Err(io::Error::other(self.reply.broken(&e))),
            }
        }
        let charged = self.bill.charge(&self.model, self.units.clone(), self.reply.latency_micros());
        charged.map_err(io::Error::other)?;
        out.write_all(&piece[..held])
    }

    fn left(&self, e: io::Error) -> io::Error {
        let charged = self.bill.charge_part(&self.model, self.units.clone(), self.reply.latency_micros());
        if let Err(e) = charged {
            log::error!("what a client left behind could not be charged: {e}");
        }
        e
    }
}

/// `POST /api/v1/generate_speech`: a WAV file.
pub(super) fn generate(call: &mut Call<'_>) -> Result<Response> {
    let mut bill = Bill::open(call, "/api/v1/generate_speech", INVALID_SECRET)?;
    let engine = &call.app.engines.speech;
    engine.check()?;
    let bytes = call.request.body.into_bytes(FORM_LIMIT)?;
    bill.note(&bytes);
    let fields = Fields::parse_json(&bytes)?;
    let text = fields.text("text")?;
    let voice = voice(fields.optional_text("voice")?, fields.optional_text("speaker")?);
    let speed = fields.optional_number("speed")?.unwrap_or(1.0);
    let model = checked_model(engine.default_model())?;
    if text.is_empty() {
        return bill.charged(as_file(wav::file(24_000, 24, &[])), &model, units(text), 0);
    }
    let request = json!({"model": model, "input": text, "voice": voice, "speed": speed, "response_format": "wav"});
    let sent = request.to_string();
    let ask = Ask { path: PATH, media_type: "application/json", body: Body::Bytes(sent.as_bytes()) };
    let (sound, latency, is_demo) = blocking::block_in_place(|| {
        let mut reply = engine.send(ask)?.successful()?;
        let sound = reply.read_all(LARGEST_REPLY)?;
        Ok::<_, Error>((as_wav(sound, &reply.media_type)?, reply.latency_micros(), reply.is_demo))
    })??;
    bill.charged(marked(as_file(sound), is_demo), &model, units(text), latency)
}

fn as_file(wav: Vec<u8>) -> Response {
    Response::with_body(200, "audio/wav", wav).header("Content-Disposition", "attachment; filename=audio.wav")
}

/// A whole file, whatever the server knew of its length when it began to send it.
fn as_wav(mut sound: Vec<u8>, media_type: &str) -> Result<Vec<u8>> {
    if wav::layout(&sound).is_some() {
        wav::correct_lengths(&mut sound);
        return Ok(sound);
    }
    match media_type {
        // Bare samples, as OpenAI's protocol has them.
        "audio/pcm" | "audio/l16" => Ok(wav::file(24_000, 16, &sound)),
        other => {
            log::warn!("a model server was asked for WAV and sent {other:?}");
            Err(Error::Upstream(502, "The model server answered with something else than WAV"))
        }
    }
}

/// A voice, or what the older `speaker` means where there is none.
fn voice<'a>(voice: Option<&'a str>, speaker: Option<&'a str>) -> &'a str {
    let wanted = voice.filter(|v| !v.is_empty()).or_else(|| {
        speaker.filter(|s| !s.is_empty()).map(|speaker| match speaker {
            "Male fast" => "am_adam",
            "Male default" => "af",
            "Male slower" => "bm_lewis",
            "Female 1" => "af_bella",
            "Female 2" => "af_sarah",
            other => other,
        })
    });
    let known = |wanted| if VOICES.contains(&wanted) { wanted } else { "af_nicole" };
    wanted.map_or("af", known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voices_and_speakers() {
        for (given, speaker, meant) in [
            (None, None, "af"),
            (Some("bm_george"), Some("Male fast"), "bm_george"),
            (Some(""), Some("Male fast"), "am_adam"),
            (None, Some("Male default"), "af"),
            (None, Some("af_sky"), "af_sky"),
            (Some("nobody"), None, "af_nicole"),
        ] {
            assert_eq!(voice(given, speaker), meant);
        }
    }

    #[test]
    fn speech_becomes_a_whole_file() {
        let file = wav::file(24_000, 16, &[1; 8]);
        assert_eq!(as_wav(vec![1; 8], "audio/pcm").unwrap(), file);
        let mut streamed = file.clone();
        streamed[40..44].copy_from_slice(&[0xff; 4]);
        assert_eq!(wav::layout(&as_wav(streamed, "audio/wav").unwrap()).unwrap().length, 8);
        assert!(as_wav(b"ID3".to_vec(), "audio/mpeg").is_err());
    }
}
