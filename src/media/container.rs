//! Container formats, as their first bytes tell them, and how files of them are named.

use super::mpeg;

/// How many bytes tell the format.
pub(super) const LONGEST: usize = 12;

/// A container format of recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// RIFF or RF64.
    Wav,
    /// FLAC by itself.
    Flac,
    /// Ogg, of any codec.
    Ogg,
    /// Matroska and WebM.
    Matroska,
    /// MP4 and its relatives.
    Mp4,
    /// Frames of MPEG audio.
    Mp3,
    /// Frames of AAC with ADTS headers.
    Aac,
}

impl Container {
    /// That of a recording which begins with these bytes, or has them behind a tag. `None` for an unknown one.
    pub(super) fn of(bytes: &[u8], is_after_tag: bool) -> Option<Container> {
        let has = |from: usize, text: &[u8]| bytes.get(from..).is_some_and(|rest| rest.starts_with(text));
        Some(if (has(0, b"RIFF") || has(0, b"RF64")) && has(8, b"WAVE") {
            Container::Wav
        } else if has(0, b"fLaC") {
            Container::Flac
        } else if has(0, b"OggS") {
            Container::Ogg
        } else if has(0, b"\x1aE\xdf\xa3") {
            Container::Matroska
        } else if has(4, b"ftyp") {
            Container::Mp4
        } else if is_after_tag || mpeg::Frame::parse(bytes).is_some() {
            // After a tag, the frames of an MP3 do not have to follow at once. Layer 0 is that of ADTS.
            let is_adts = bytes.first() == Some(&0xff) && bytes.get(1).is_some_and(|byte| byte & 0xf6 == 0xf0);
            if is_adts { Container::Aac } else { Container::Mp3 }
        } else {
            return None;
        })
    }

    /// The extensions of its files, the usual one first.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Container::Wav => &["wav", "wave"],
            Container::Flac => &["flac"],
            Container::Ogg => &["ogg", "oga", "opus", "ogv"],
            Container::Matroska => &["webm", "mkv", "mka"],
            Container::Mp4 => &["mp4", "m4a", "m4b", "m4v", "mov", "3gp"],
            Container::Mp3 => &["mp3", "mpga", "mpeg", "mp2"],
            Container::Aac => &["aac"],
        }
    }

    /// The subtypes of its media types, below `audio` and `video`; the usual one first.
    pub fn subtypes(self) -> &'static [&'static str] {
        match self {
            Container::Wav => &["wav", "x-wav", "wave", "vnd.wave"],
            Container::Flac => &["flac", "x-flac"],
            Container::Ogg => &["ogg", "opus"],
            Container::Matroska => &["webm", "x-matroska", "matroska"],
            Container::Mp4 => &["mp4", "x-m4a", "m4a", "quicktime", "3gpp"],
            Container::Mp3 => &["mpeg", "mp3", "mpeg3", "x-mpeg"],
            Container::Aac => &["aac", "aacp", "x-aac"],
        }
    }
}
