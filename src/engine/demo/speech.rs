//! The demo engine's ears and voice: it says how much it heard, and hums as long as there is something to say.

use std::io::{self, Read};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::http::multipart;
use crate::http::parts::Parts;
use crate::media::Measurer;
use crate::wav;

use super::DemoReply;

/// Sound of one character, in samples: a twentieth of a second.
const SAMPLES: usize = 24_000 / 20;
/// Most characters it says.
const MOST_CHARACTERS: usize = 10_000;
/// Bytes of a second of sound where the file does not say: 128 kbit/s.
const USUAL_RATE: f64 = 16_000.0;

/// Hears a file.
pub(super) fn transcribe(media_type: &str, body: &mut dyn Read) -> Result<DemoReply> {
    let boundary = multipart::boundary(media_type).ok_or(Error::bad("multipart without a boundary"))?;
    let mut parts = Parts::new(body, &boundary);
    let broken = |e: io::Error| Error::bad(format!("The body is incomplete or malformed: {e}"));
    let (mut heard, mut format) = (None, String::new());
    while let Some(head) = parts.next_part().map_err(broken)? {
        if head.name == "file" {
            let mut measurer = Measurer::new();
            let bytes = io::copy(&mut parts, &mut measurer).map_err(broken)?;
            heard = Some((bytes, measurer.finish()));
        } else if head.name == "response_format" {
            (&mut parts).take(100).read_to_string(&mut format).map_err(broken)?;
        }
    }
    let Some((bytes, measured)) = heard else { return Ok(DemoReply::error(400, "file is required")) };
    #[allow(clippy::cast_precision_loss)] // a length in seconds, of at most some hundred megabytes
    let seconds = measured.map_or(bytes as f64 / USUAL_RATE, |measured| measured.duration.as_secs_f64());
    let text = format!("The demo engine heard {bytes} bytes of audio.");
    let whole = format == "verbose_json";
    let segment = json!({"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": text, "tokens": [], "temperature": 0.0,
        "avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0});
    Ok(match whole {
        true => DemoReply::json(
            200,
            &json!({"task": "transcribe", "language": "english", "duration": seconds, "text": text, "segments": [segment]}),
        ),
        false => DemoReply::json(200, &json!({"text": text, "usage": {"type": "duration", "seconds": seconds}})),
    })
}

/// Hums a text, as WAV or as bare samples.
pub(super) fn speak(request: &Value) -> DemoReply {
    let Some(text) = request["input"].as_str() else { return DemoReply::error(400, "input is required") };
    let count = text.chars().count().min(MOST_CHARACTERS) * SAMPLES;
    // A triangle of some 220 Hz: 109 samples a turn.
    let sample = |i: usize| i16::try_from(((i % 109) * 300).abs_diff(54 * 300)).unwrap_or(0) - 8000;
    let samples: Vec<u8> = (0..count).flat_map(|i| sample(i).to_le_bytes()).collect();
    match request["response_format"].as_str() {
        Some("pcm") => DemoReply::bytes(200, "audio/pcm", samples),
        _ => DemoReply::bytes(200, "audio/wav", wav::file(24_000, 16, &samples)),
    }
}
