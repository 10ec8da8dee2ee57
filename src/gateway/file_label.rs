//! The name and the media type under which a recording is passed on. Model servers look at both, and some go by them alone,
//! so they must agree with what the recording is.

use crate::media::Container;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 100;

/// The longest media type with its parameters, in bytes.
const LONGEST_TYPE: usize = 100;

/// What a client says of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileLabel {
    /// Its name; may be anything.
    pub name: String,
    /// The media type of its part; may be anything.
    pub media_type: Option<String>,
}

impl FileLabel {
    /// The name that is passed on for a recording in this container: without folders and what is special in a header, and
    /// with an extension of the container.
    pub(super) fn safe_name(&self, container: Option<Container>) -> String {
        let last = self.name.rsplit(['/', '\\']).next().unwrap_or("");
        let safe: String = last.chars().filter(|c| !(c.is_control() || *c == '"')).collect();
        let name = cut(safe.trim(), LONGEST_NAME);
        let name = if name.trim_matches('.').is_empty() { "audio" } else { name };
        let Some(container) = container else { return name.to_owned() };
        let has = |extension: &&str| {
            name.rsplit_once('.').is_some_and(|(stem, own)| !stem.is_empty() && own.eq_ignore_ascii_case(extension))
        };
        match container.extensions() {
            known if known.iter().any(has) => name.to_owned(),
            known => format!("{}.{}", name.trim_end_matches('.'), known[0]),
        }
    }

    /// The media type that is passed on for it: the client's, if it is one of the container.
    pub(super) fn safe_type(&self, container: Option<Container>) -> String {
        let given = self.media_type.as_deref().unwrap_or("").trim();
        let is_safe = given.len() <= LONGEST_TYPE && given.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let essence = given.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        let subtype = essence.strip_prefix("audio/").or_else(|| essence.strip_prefix("video/"));
        match (container, subtype) {
            (Some(container), Some(subtype)) if is_safe && container.subtypes().contains(&subtype) => given.to_owned(),
            (Some(container), _) => format!("audio/{}", container.subtypes()[0]),
            (None, _) => "application/octet-stream".to_owned(),
        }
    }
}

/// The last of a text that is too long: there its extension is.
fn cut(text: &str, most: usize) -> &str {
    let from = (text.len().saturating_sub(most)..=text.len()).find(|from| text.is_char_boundary(*from));
    &text[from.unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_as_what_it_is() {
        for (name, container, expected) in [
            ("rec ü.webm", Some(Container::Matroska), "rec ü.webm"),
            ("REC.WEBM", Some(Container::Matroska), "REC.WEBM"),
            ("blob", Some(Container::Matroska), "blob.webm"),
            ("", Some(Container::Mp3), "audio.mp3"),
            ("..", Some(Container::Wav), "audio.wav"),
            (".wav", Some(Container::Wav), ".wav.wav"),
            ("speech.pcm", Some(Container::Wav), "speech.pcm.wav"),
            ("a b/../x.m4a", Some(Container::Mp4), "x.m4a"),
            ("c:\\temp\\x.", Some(Container::Flac), "x.flac"),
            ("a\"\r\nX: y\".ogg", Some(Container::Ogg), "aX: y.ogg"),
            ("unknown", None, "unknown"),
        ] {
            let label = FileLabel { name: name.to_owned(), media_type: None };
            assert_eq!(label.safe_name(container), expected, "{name:?}");
        }
        let label = FileLabel { name: format!("{}.wav", "ü".repeat(200)), media_type: None };
        let name = label.safe_name(Some(Container::Wav));
        assert!(name.len() <= LONGEST_NAME && name.ends_with("ü.wav"), "{name}");
    }

    #[test]
    fn a_media_type_is_passed_on_if_it_is_right() {
        let webm = Some(Container::Matroska);
        for (given, container, expected) in [
            (Some("audio/webm;codecs=opus"), webm, "audio/webm;codecs=opus"),
            (Some("Video/WebM; codecs=\"vp8, opus\""), webm, "Video/WebM; codecs=\"vp8, opus\""),
            (Some("audio/pcm;rate=8000"), webm, "audio/webm"),
            (Some("application/octet-stream"), webm, "audio/webm"),
            (Some("audio/webm\u{7f}"), webm, "audio/webm"),
            (None, Some(Container::Wav), "audio/wav"),
            (Some("audio/wav"), None, "application/octet-stream"),
        ] {
            let label = FileLabel { name: String::new(), media_type: given.map(str::to_owned) };
            assert_eq!(label.safe_type(container), expected, "{given:?}");
        }
    }
}
