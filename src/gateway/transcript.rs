//! Transcripts, and the formats they are sent in: text, segments, subtitles.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::protocol::usage::{self, Usage};

/// A transcript in OpenAI's `verbose_json` format.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Transcript {
    /// The whole text.
    #[serde(default)]
    pub text: String,
    /// The duration of the recording in seconds; some servers send it as a string.
    #[serde(default)]
    duration: Option<Value>,
    #[serde(default)]
    segments: Option<Vec<Value>>,
    #[serde(default)]
    usage: Value,
}

/// The keys of a segment that older clients expect, in this order.
const SEGMENT_KEYS: [&str; 8] =
    ["seek", "start", "end", "text", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"];

/// A subtitle format. The examples show its timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubtitleFormat {
    /// `00:00:01,500`: SubRip.
    Srt,
    /// `00:00:01.500`: WebVTT.
    Vtt,
    /// `0:00:01,500`: SubRip as the older API wrote it.
    LegacySrt,
}

impl Transcript {
    /// Parses a transcript; `None` for anything else.
    pub fn parse(bytes: &[u8]) -> Option<Transcript> {
        serde_json::from_slice(bytes).ok()
    }

    /// The duration of the recording in milliseconds, if the model server tells it.
    pub fn duration_millis(&self) -> Option<i64> {
        self.duration.as_ref().and_then(usage::millis)
    }

    /// What the model server says it used.
    pub fn usage(&self) -> Option<Usage> {
        Usage::deserialize(&self.usage).ok()
    }

    /// The segments, with the keys that older clients expect; 0 for what the model server did not send.
    pub fn segments(&self) -> Vec<Value> {
        let legacy = |segment: &Value| {
            let known =
                SEGMENT_KEYS.iter().map(|key| ((*key).to_owned(), segment.get(key).cloned().unwrap_or(json!(0))));
            Value::Object(known.collect())
        };
        self.segments.iter().flatten().map(legacy).collect()
    }

    /// Subtitles of a recording of `duration_millis`; a single one of the whole text if there are no segments.
    pub fn subtitles(&self, format: SubtitleFormat, duration_millis: i64) -> String {
        let mut text = if format == SubtitleFormat::Vtt { "WEBVTT\n\n".to_owned() } else { String::new() };
        let whole = [json!({"start": 0, "end": duration_millis / 1000, "text": self.text})];
        let segments = self.segments.as_deref().filter(|s| !s.is_empty()).unwrap_or(&whole);
        for (number, segment) in segments.iter().enumerate() {
            if format != SubtitleFormat::Vtt {
                text += &format!("{}\n", number + 1);
            }
            let time = |key: &str| format.timestamp(number_or_zero(&segment[key]));
            // An empty line would end the subtitle early.
            let words = segment["text"].as_str().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
            text += &format!("{} --> {}\n{words}\n\n", time("start"), time("end"));
        }
        text
    }
}

impl SubtitleFormat {
    fn timestamp(self, seconds: f64) -> String {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped; NaN becomes 0
        let millis = (seconds.clamp(0.0, 1e9) * 1000.0).round() as u64;
        let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
        let millis = millis % 1000;
        match self {
            SubtitleFormat::Srt => format!("{hours:02}:{minutes:02}:{seconds:02},{millis:03}"),
            SubtitleFormat::Vtt => format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}"),
            SubtitleFormat::LegacySrt => format!("{hours}:{minutes:02}:{seconds:02},{millis:03}"),
        }
    }
}

/// A number, or one in a string.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

fn number_or_zero(value: &Value) -> f64 {
    number(value).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_subtitles() {
        let whole = r#"{"text":" a b","duration":"3661.5","segments":[{"id":0,"start":0,"end":1.5,"text":" a\n\n"},
            {"start":3661.0004,"end":3661.5,"text":"b"}]}"#;
        let transcript = Transcript::parse(whole.as_bytes()).unwrap();
        assert_eq!(transcript.duration_millis(), Some(3_661_500));
        assert_eq!(
            transcript.subtitles(SubtitleFormat::LegacySrt, 0),
            "1\n0:00:00,000 --> 0:00:01,500\na\n\n2\n1:01:01,000 --> 1:01:01,500\nb\n\n"
        );
        assert!(
            transcript.subtitles(SubtitleFormat::Vtt, 0).starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na\n\n")
        );
        let keys: Vec<_> = transcript.segments()[0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, SEGMENT_KEYS);
    }

    #[test]
    fn optional_fields_may_be_missing() {
        let transcript = Transcript::parse(br#"{"text":"x","usage":{"type":"duration","seconds":2}}"#).unwrap();
        assert_eq!((transcript.duration_millis(), transcript.segments().len()), (None, 0));
        assert!(transcript.usage().is_some());
        assert_eq!(transcript.subtitles(SubtitleFormat::Srt, 2000), "1\n00:00:00,000 --> 00:00:02,000\nx\n\n");
        assert_eq!(Transcript::parse(b"{}").unwrap().duration_millis(), None);
    }
}
