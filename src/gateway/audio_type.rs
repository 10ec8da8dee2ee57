//! Recognizes audio files by their first bytes, so that other files are refused before a model server sees them.

use crate::error::{Error, Result};
use crate::wav;

/// Bytes from the start of a file that are examined. A WAV file's header is rarely longer.
pub const PREFIX: usize = 4096;

/// Checks that a file is an audio file by `start`, its first [`PREFIX`] bytes.
///
/// # Errors
/// 400 for an empty file, an unknown format, or a WAV file with a broken header.
pub fn check(start: &[u8]) -> Result<()> {
    if start.is_empty() {
        return Err(Error::bad("The audio file is empty"));
    }
    if !is_audio(start) {
        return Err(Error::bad("The file is not an audio file of a known format"));
    }
    // A header that is longer than what is examined may still be valid.
    if start.starts_with(b"RIFF") && start.len() < PREFIX && wav::layout(start).is_none() {
        return Err(Error::bad("The audio file is broken"));
    }
    Ok(())
}

/// Whether the file is WAV, AIFF, FLAC, Ogg, MP3, AAC, MP4 (M4A), WebM, AMR, CAF, AU or WMA, by its signature.
fn is_audio(start: &[u8]) -> bool {
    const SIGNATURES: [&[u8]; 11] = [
        b"fLaC",
        b"OggS",
        b"ID3",
        b"ADIF",
        b"\x1aE\xdf\xa3",
        b"#!AMR",
        b"caff",
        b".snd",
        b"FORM",
        b"RF64",
        b"\x30\x26\xb2\x75",
    ];
    let at = |from: usize, text: &[u8]| start.get(from..).is_some_and(|rest| rest.starts_with(text));
    // MPEG audio and AAC frames start with eleven or twelve set bits.
    let is_frame = matches!(start, [0xff, second, ..] if second & 0xe0 == 0xe0 && *second != 0xff);
    SIGNATURES.iter().any(|signature| at(0, signature))
        || (at(0, b"RIFF") && at(8, b"WAVE"))
        || at(4, b"ftyp")
        || is_frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_audio_files() {
        for audio in [&b"ID3\x04"[..], b"OggS\0", b"\xff\xfb\x90", b"\0\0\0\x20ftypM4A ", &wav::file(8000, 16, &[0; 4])]
        {
            assert!(check(audio).is_ok(), "{audio:?}");
        }
        for other in [
            &b""[..],
            b"hello",
            b"%PDF-1.7",
            b"\x89PNG\r\n",
            b"<html>",
            b"\xff\xff\xff\xff",
            b"RIFF\0\0\0\0AVI ",
            b"RIFF\0\0\0\0WAVEjunk",
            b"\xff\xfe\x00",
        ] {
            assert_eq!(check(other).is_ok(), other == b"\xff\xfe\x00", "{other:?}");
        }
    }
}
