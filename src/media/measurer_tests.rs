//! Measures recordings in all container formats, at once and in pieces.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// The recordings in `tests/fixtures/audio`, and their durations in milliseconds when decoded.
pub(super) const RECORDINGS: [(&str, u64); 25] = [
    ("aac.mka", 2023),
    ("adpcm.wav", 2041),
    ("adts.aac", 2043),
    ("alac.m4a", 500),
    ("chained.ogg", 7000),
    ("flac-streamed.flac", 1000),
    ("flac.flac", 1000),
    ("flac.ogg", 1000),
    ("fragmented.mp4", 2023),
    ("mediarecorder.webm", 3500),
    ("moov-first.m4a", 2000),
    ("moov-last.m4a", 2000),
    ("mp3.mka", 2025),
    ("mpeg2.mp3", 3552),
    ("mpeg25.mp3", 3672),
    ("opus-6k.ogg", 3500),
    ("opus-6k.webm", 3500),
    ("plain.wav", 1000),
    ("rf64.wav", 1000),
    ("streamed.wav", 1000),
    ("vbr.mp3", 2037),
    ("video.mp4", 2000),
    ("video.webm", 2000),
    ("vorbis.ogg", 2000),
    ("vorbis.webm", 2000),
];

pub(super) fn recording(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio");
    fs::read(folder.join(name)).unwrap()
}

/// Measures a recording that arrives in pieces of these lengths; the list is repeated as needed.
fn measure(bytes: &[u8], lengths: &[usize]) -> Result<Measured> {
    let mut measurer = Measurer::new();
    let mut rest = bytes;
    for length in lengths.iter().cycle() {
        let (piece, behind) = rest.split_at(rest.len().min(*length));
        measurer.push(piece);
        assert!(measurer.window.capacity() <= 4 * MAX_WINDOW, "{}", measurer.window.capacity());
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    measurer.finish()
}

pub(super) fn whole(bytes: &[u8]) -> Result<Measured> {
    measure(bytes, &[usize::MAX])
}

#[test]
fn measures_the_duration_of_decoded_audio() {
    let mut wrong = Vec::new();
    for (name, millis) in RECORDINGS {
        let measured = whole(&recording(name));
        let is_right = measured.is_ok_and(|m| m.duration.abs_diff(Duration::from_millis(millis)).as_millis() <= 60);
        if !is_right {
            wrong.push(format!("{name}: {measured:?}, expected {millis} ms"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn declared_durations_are_not_trusted() {
    // FLAC: declares 1 sample in total.
    let mut flac = recording("flac.flac");
    flac[21] &= 0xf0;
    flac[22..26].copy_from_slice(&[0, 0, 0, 1]);
    let measured = whole(&flac).unwrap();
    assert!(measured.duration.as_millis() == 1000 && measured.declared < Some(Duration::from_millis(1)));
    // MP4: declares that each packet lasts one tick.
    let mut mp4 = recording("moov-first.m4a");
    let table = memchr::memmem::find(&mp4, b"stts").unwrap();
    mp4[table + 16..table + 20].copy_from_slice(&[0, 0, 0, 1]);
    assert!(whole(&mp4).unwrap().duration.as_millis() >= 2000);
    // WebM: declares that a tick is a nanosecond.
    let mut webm = recording("mediarecorder.webm");
    let scale = memchr::memmem::find(&webm, b"\x2a\xd7\xb1").unwrap();
    webm[scale + 4..scale + 7].copy_from_slice(&[0, 0, 1]);
    assert!(whole(&webm).unwrap().duration.as_millis() >= 3500);
    // Ogg: declares that all pages end at the same time.
    for (name, millis) in [("opus-6k.ogg", 3500), ("vorbis.ogg", 2000)] {
        let mut ogg = recording(name);
        let pages: Vec<usize> = memchr::memmem::find_iter(&ogg, b"OggS").collect();
        for page in pages {
            ogg[page + 6..page + 14].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        }
        assert!(whole(&ogg).unwrap().duration.as_millis() >= millis, "{name}");
    }
    // WAV: declares blocks of 64 KiB, although decoders use 2 bytes per sample.
    let mut wav = recording("plain.wav");
    wav[32..34].copy_from_slice(&[0xff; 2]);
    assert_eq!(whole(&wav).unwrap().duration.as_millis(), 1000);
}

#[test]
fn appended_recordings_count() {
    for name in ["plain.wav", "vbr.mp3", "adts.aac", "flac.flac", "opus-6k.ogg", "vorbis.ogg", "streamed.wav"] {
        let one = recording(name);
        let two = [one.clone(), one.clone()].concat();
        let (one, two) = (whole(&one).unwrap().duration, whole(&two).unwrap().duration);
        assert!(two >= one * 2, "{name}: {one:?} {two:?}");
    }
    // Samples after the declared end of the data chunk, which do not look like another chunk.
    let mut wav = wav(&[0x80; 16_000]);
    wav[40..44].copy_from_slice(&16u32.to_le_bytes());
    assert!(whole(&wav).unwrap().duration.as_millis() >= 999);
}

/// A WAV file: mono, 16 bits, 8000 samples per second.
fn wav(samples: &[u8]) -> Vec<u8> {
    crate::wav::file(8000, 16, samples)
}

#[test]
fn other_files_are_refused_with_the_reason() {
    let early = |bytes: &[u8]| {
        let mut measurer = Measurer::new();
        measurer.push(bytes);
        measurer.failure()
    };
    for unknown in [&b"hello, this is text"[..], b"#!AMR\n\x3c\x55\0\x0b\xff\xff\xff\xff", b"%PDF-1.7 1234", &[0; 99]] {
        assert_eq!(early(unknown), Some(NotMeasurable::UnknownContainer), "{unknown:?}");
    }
    // The header of an MP3 frame without a second frame.
    let garbage = [&[0xff, 0xfb, 0x90, 0x64][..], &[0x55; 2000]].concat();
    assert_eq!(whole(&garbage), Err(NotMeasurable::NoFrames));
    let mostly = [recording("vbr.mp3"), vec![0x55; 200_000]].concat();
    assert_eq!(whole(&mostly), Err(NotMeasurable::Junk));
    let mut measurer = Measurer::new();
    measurer.push(&mostly);
    let (measured, counted) = measurer.finish_and_count();
    assert!(measured == Err(NotMeasurable::Junk) && counted == whole(&recording("vbr.mp3")).unwrap().duration);
    for name in ["flac.flac", "moov-last.m4a", "opus-6k.webm"] {
        assert!(whole(&recording(name)[..200]).is_err(), "{name}");
    }
    assert_eq!(whole(b""), Err(NotMeasurable::NoFrames));
    assert_eq!(whole(&wav(&[])).unwrap().duration, Duration::ZERO);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn the_result_does_not_depend_on_how_the_recording_is_split(
        index in 0..RECORDINGS.len(),
        lengths in prop::collection::vec(1..3000usize, 1..20),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
    ) {
        let mut bytes = recording(RECORDINGS[index].0);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        prop_assert_eq!(measure(&bytes, &lengths), whole(&bytes));
    }

    #[test]
    fn garbage_does_not_panic(
        start in prop::sample::select(vec![
            &b"RIFF\0\0\0\0WAVE"[..], b"RF64\0\0\0\0WAVE", b"fLaC\0\0\0\x22", b"OggS\0\x02", b"\x1aE\xdf\xa3\x80",
            b"\0\0\0\x08ftyp", b"ID3\x04\0\0\0\0\0\0", b"\xff\xfb\x90\x64", b"\xff\xf1\x50\x80\x01\x3f\xfc", b"",
        ]),
        garbage in prop::collection::vec(any::<u8>(), 0..20_000),
        length in 1..2000usize,
    ) {
        let bytes = [start, &garbage].concat();
        prop_assert_eq!(measure(&bytes, &[length]), whole(&bytes));
    }
}
