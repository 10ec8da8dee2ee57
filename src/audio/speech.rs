//! Text to speech.

use std::io::{self, Read, Write};

use serde_json::json;

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::Purpose;
use crate::engine::{Reply, client_left};
use crate::error::{Error, Result};
use crate::gateway::body::{fill_in_deployment, json_fields, json_object};
use crate::gateway::charged::{ChargedRequest, ModelUsage, Outcome};
use crate::gateway::reply_stream::{ReplyStream, StreamClient, StreamEnd};
use crate::gateway::{MAX_JSON_BODY, mark_demo, response_typed_as};
use crate::gateway::{model, speech, unread_reply};
use crate::http::Response;
use crate::http::form::FORM_LIMIT;
use crate::http::object::Object;
use crate::units::Units;
use crate::wav;

/// The media types of WAV.
const WAV_TYPES: [&str; 4] = ["audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"];

/// Bytes passed on at a time.
const READ_SIZE: usize = 16 * 1024;

/// `POST /v1/audio/speech`: the audio is streamed while it is made.
pub(super) fn speak(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Speech, MAX_JSON_BODY)?;
    let mut object = json_object(&body)?;
    fill_in_deployment(call, &mut object);
    let input: String = object.read("input").ok_or(Error::bad("input is required and must be a string"))?;
    let prepared = model::resolve_in(call.app, caller, Purpose::Speech, &mut object);
    request.run(prepared, |model| {
        let reply = speech::request(&model, &object)?;
        let response = response_typed_as(&reply);
        Ok(Outcome::Stream(
            response,
            model.name().to_owned(),
            Box::new(AudioStream { reply, units: speech::units(&input), is_begun: false, has_failed: false }),
        ))
    })
}

/// Audio on its way from the model server to the client.
struct AudioStream {
    reply: Reply,
    units: Units,
    /// Whether some of it has come.
    is_begun: bool,
    /// Whether the model server broke it off.
    has_failed: bool,
}

impl ReplyStream for AudioStream {
    /// Holds back the last byte, which waits for the charge.
    fn copy(&mut self, out: &mut dyn StreamClient) -> StreamEnd {
        // The byte that is held back comes first in the buffer; the next piece is read behind it.
        let (mut buffer, mut held) = (vec![0; READ_SIZE + 1], 0);
        loop {
            match self.reply.read(&mut buffer[held..]) {
                Ok(0) => {
                    buffer.truncate(held);
                    return StreamEnd::Complete(buffer);
                }
                Ok(n) => {
                    self.is_begun = true;
                    let last = held + n - 1;
                    out.note_made(&mut || self.units);
                    if let Err(e) = out.write_all(&buffer[..last]) {
                        return StreamEnd::Disconnected(e);
                    }
                    buffer[0] = buffer[last];
                    held = 1;
                }
                Err(_) if client_left() => {
                    return StreamEnd::Disconnected(io::ErrorKind::ConnectionAborted.into());
                }
                Err(e) => {
                    self.has_failed = true;
                    return StreamEnd::Failed(self.reply.broken(&e));
                }
            }
        }
    }

    /// The whole text was sent to the model server, so a client that disconnects pays for all of it. So does one whose
    /// audio the model server breaks off, as how much of the text was spoken is not known; before the first of it, that
    /// costs nothing.
    fn units(&self, end: &StreamEnd) -> Option<Units> {
        (self.is_begun || !matches!(end, StreamEnd::Failed(_))).then_some(self.units)
    }

    fn is_estimate(&self) -> bool {
        self.has_failed
    }

    fn latency_micros(&self) -> i64 {
        self.reply.latency_micros()
    }

    fn fail(&mut self, _: &mut dyn Write, e: Error) -> io::Result<()> {
        Err(io::Error::other(e))
    }
}

/// `POST /api/v1/generate_speech`: a WAV file, streamed while it is made where the model server makes one.
pub(super) fn generate(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Speech, FORM_LIMIT)?;
    let fields = json_fields(&body)?;
    let text = fields.text("text")?;
    let voice = voice(fields.optional_text("voice")?, fields.optional_text("speaker")?);
    let speed = fields.optional_number("speed")?.unwrap_or(1.0);
    let prepared = model::resolve(call.app, caller, Purpose::Speech, None);
    request.run(prepared, |resolved| {
        let model = resolved.name().to_owned();
        let units = speech::units(text);
        if text.is_empty() {
            let silence = wav_attachment(Response::with_body(200, wav::MEDIA_TYPE, wav::file(24_000, 24, &[])));
            return Ok(Outcome::Reply(silence, ModelUsage { model, units, estimated: false, latency_micros: 0 }));
        }
        let request = json!({"model": model, "input": text, "voice": voice, "speed": speed, "response_format": "wav"});
        let mut reply = speech::request(&resolved, &Object::of(&request))?;
        if WAV_TYPES.contains(&reply.media_type.as_str()) {
            let typed = Response::new(200).header("Content-Type", wav::MEDIA_TYPE);
            let response = mark_demo(wav_attachment(typed), reply.is_demo);
            let stream = AudioStream { reply, units, is_begun: false, has_failed: false };
            return Ok(Outcome::Stream(response, model, Box::new(stream)));
        }
        let audio = speech::read(&mut reply)?;
        let usage = ModelUsage { model, units, estimated: false, latency_micros: reply.latency_micros() };
        let audio = match audio {
            Ok(audio) => audio,
            Err(unread) => return Ok(unread_reply::refuse(&unread, usage)),
        };
        let response = wav_attachment(Response::with_body(200, wav::MEDIA_TYPE, to_wav(audio, &reply.media_type)?));
        Ok(Outcome::Reply(mark_demo(response, reply.is_demo), usage))
    })
}

fn wav_attachment(response: Response) -> Response {
    response.header("Content-Disposition", "attachment; filename=audio.wav")
}

/// A complete WAV file. Model servers that stream one do not know its length when they send its header, and some send
/// bare samples.
fn to_wav(mut audio: Vec<u8>, media_type: &str) -> Result<Vec<u8>> {
    if wav::layout(&audio).is_some() {
        wav::correct_lengths(&mut audio);
        return Ok(audio);
    }
    match media_type {
        // OpenAI's `pcm` format.
        "audio/pcm" | "audio/l16" => Ok(wav::file(24_000, 16, &audio)),
        other => {
            log::warn!("a model server was asked for WAV and sent {other:?}");
            Err(Error::Upstream(502, "The model server's reply is not WAV"))
        }
    }
}

/// The voice, or the one that the older field `speaker` stands for.
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
    let known = |wanted| if speech::VOICES.contains(&wanted) { wanted } else { "af_nicole" };
    wanted.map_or("af", known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voices_and_speakers() {
        for (given, speaker, expected) in [
            (None, None, "af"),
            (Some("bm_george"), Some("Male fast"), "bm_george"),
            (Some(""), Some("Male fast"), "am_adam"),
            (None, Some("Male default"), "af"),
            (None, Some("af_sky"), "af_sky"),
            (Some("nobody"), None, "af_nicole"),
        ] {
            assert_eq!(voice(given, speaker), expected);
        }
    }

    #[test]
    fn speech_becomes_a_complete_file() {
        let file = wav::file(24_000, 16, &[1; 8]);
        assert_eq!(to_wav(vec![1; 8], "audio/pcm").unwrap(), file);
        let mut streamed = file.clone();
        streamed[40..44].copy_from_slice(&[0xff; 4]);
        assert_eq!(wav::layout(&to_wav(streamed, "audio/wav").unwrap()).unwrap().length, 8);
        assert!(to_wav(b"ID3".to_vec(), "audio/mpeg").is_err());
    }
}
