//! What was heard, as the formats have it: text, segments, subtitles.

use serde::Deserialize;
use serde_json::{Value, json};

/// A transcript, as model servers write it in full.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Transcript {
    /// All of it.
    #[serde(default)]
    pub text: String,
    /// How long the recording is, in seconds.
    #[serde(default)]
    duration: Option<Value>,
    #[serde(default)]
    segments: Option<Vec<Value>>,
    #[serde(default)]
    usage: Value,
}

/// The keys of a segment that older clients know, in their order.
const SEGMENT: [&str; 8] =
    ["seek", "start", "end", "text", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"];

/// How a time of day is written in subtitles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// `00:00:01,500`: SubRip.
    Srt,
    /// `00:00:01.500`: WebVTT.
    Vtt,
    /// `0:00:01,500`: the older system's SubRip.
    OldSrt,
}

impl Transcript {
    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Option<Transcript> {
        serde_json::from_slice(bytes).ok()
    }

    /// How long the recording is, in milliseconds, if the server says.
    pub fn millis(&self) -> Option<i64> {
        let last = self.segments.as_ref().and_then(|segments| segments.last()).map(|segment| &segment["end"]);
        let seconds =
            [self.duration.as_ref(), Some(&self.usage["seconds"]), last].into_iter().flatten().find_map(number);
        #[allow(clippy::cast_possible_truncation)] // within what was just checked
        seconds.filter(|s| (0.0..1e9).contains(s)).map(|seconds| (seconds * 1000.0).round() as i64)
    }

    /// The segments with the keys that older clients know.
    pub fn segments(&self) -> Vec<Value> {
        let of = |segment: &Value| {
            let known = SEGMENT.iter().map(|key| ((*key).to_owned(), segment.get(key).cloned().unwrap_or(json!(0))));
            Value::Object(known.collect())
        };
        self.segments.iter().flatten().map(of).collect()
    }

    /// Subtitles. A server that gives no segments has said all of it at once.
    pub fn subtitles(&self, clock: Clock, millis: i64) -> String {
        let mut text = if clock == Clock::Vtt { "WEBVTT\n\n".to_owned() } else { String::new() };
        let whole = [json!({"start": 0, "end": millis / 1000, "text": self.text})];
        let segments = self.segments.as_deref().filter(|s| !s.is_empty()).unwrap_or(&whole);
        for (number, segment) in segments.iter().enumerate() {
            if clock != Clock::Vtt {
                text += &format!("{}\n", number + 1);
            }
            let time = |key: &str| clock.write(number_of(&segment[key]));
            // A blank line within would end the subtitle early.
            let words = segment["text"].as_str().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
            text += &format!("{} --> {}\n{words}\n\n", time("start"), time("end"));
        }
        text
    }
}

impl Clock {
    fn write(self, seconds: f64) -> String {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped; not a number becomes zero
        let millis = (seconds.clamp(0.0, 1e9) * 1000.0).round() as u64;
        let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
        let millis = millis % 1000;
        match self {
            Clock::Srt => format!("{hours:02}:{minutes:02}:{seconds:02},{millis:03}"),
            Clock::Vtt => format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}"),
            Clock::OldSrt => format!("{hours}:{minutes:02}:{seconds:02},{millis:03}"),
        }
    }
}

/// A number, or one written as text.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

fn number_of(value: &Value) -> f64 {
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
        assert_eq!(transcript.millis(), Some(3_661_500));
        assert_eq!(
            transcript.subtitles(Clock::OldSrt, 0),
            "1\n0:00:00,000 --> 0:00:01,500\na\n\n2\n1:01:01,000 --> 1:01:01,500\nb\n\n"
        );
        assert!(transcript.subtitles(Clock::Vtt, 0).starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na\n\n"));
        let keys: Vec<_> = transcript.segments()[0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, SEGMENT);
    }

    #[test]
    fn makes_do_with_less() {
        let transcript = Transcript::parse(br#"{"text":"x","usage":{"type":"duration","seconds":2}}"#).unwrap();
        assert_eq!((transcript.millis(), transcript.segments().len()), (Some(2000), 0));
        assert_eq!(transcript.subtitles(Clock::Srt, 2000), "1\n00:00:00,000 --> 00:00:02,000\nx\n\n");
        assert_eq!(Transcript::parse(b"{}").unwrap().millis(), None);
    }
}
