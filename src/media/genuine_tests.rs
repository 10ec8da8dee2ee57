//! What recorders, editors and players put into recordings beside audio does not make them unmeasurable; and whatever is
//! done to a recording, all of its bytes but a few are explained by what was counted.

use proptest::prelude::*;

use super::measurer_tests::{recording, whole};
use super::packets_tests::{element, is_about, matroska_of, ogg_pages, track};
use super::walk::FORGIVEN_JUNK;

/// Bytes as in a compressed picture. In JPEG, the byte 0xff is followed by 0.
fn picture(bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let random: Vec<u8> = (0..bytes).map(|_| next()).collect();
    random.iter().enumerate().map(|(at, byte)| if at > 0 && random[at - 1] == 0xff { 0 } else { *byte }).collect()
}

/// An ID3 tag with a picture of this size.
fn id3(bytes: usize) -> Vec<u8> {
    let length = bytes + 10;
    let size: Vec<u8> = (0..4).rev().map(|n| u8::try_from(length >> (7 * n) & 0x7f).unwrap()).collect();
    [&b"ID3\x03\0\0"[..], &size, b"APIC", &u32::try_from(bytes).unwrap().to_be_bytes(), &[0; 2], &picture(bytes)]
        .concat()
}

#[test]
fn tags_at_the_start_and_the_end() {
    let id3v1 = [&b"TAG"[..], &[b'x'; 125]].concat();
    let length = 32 + 60_000u32;
    let ape_end = |flags: u8| {
        [&b"APETAGEX\xd0\x07\0\0"[..], &length.to_le_bytes(), &[1, 0, 0, 0, 0, 0, 0, flags], &[0; 8]].concat()
    };
    let ape = [ape_end(0xa0), picture(60_000), ape_end(0x80)].concat();
    for (name, millis) in [("vbr.mp3", 2037), ("adts.aac", 2043), ("mpeg25.mp3", 3672), ("mpeg2.mp3", 3552)] {
        let file = recording(name);
        is_about(whole(&[id3(500_000), file.clone()].concat()), millis);
        is_about(whole(&[id3(500_000), vec![0; 40_000], file.clone(), id3v1.clone()].concat()), millis);
        is_about(whole(&[&file[..], &ape].concat()), millis);
        is_about(whole(&[&file[..], &ape, &id3v1].concat()), millis);
        is_about(whole(&[&file[..], &id3(60_000), &id3v1].concat()), millis);
        is_about(whole(&[file.clone(), vec![0; 40_000]].concat()), millis);
    }
    let flac = recording("flac.flac");
    is_about(whole(&[id3(500_000), flac.clone(), id3v1].concat()), 1000);
    let block = [&b"\x06\x07\xa1\x20"[..], &picture(500_000)].concat();
    is_about(whole(&[&flac[..42], &block, &flac[42..]].concat()), 1000);
}

#[test]
fn chunks_of_wav() {
    let wav = recording("plain.wav");
    let chunk =
        |name: &[u8], content: &[u8]| [name, &u32::try_from(content.len()).unwrap().to_le_bytes(), content].concat();
    let more = [
        chunk(b"bext", &[b' '; 900]),
        chunk(b"LIST", b"INFOISFT\x04\0\0\0Lavf"),
        chunk(b"JUNK", &[0; 4096]),
        chunk(b"iXML", &[b'x'; 9000]),
        chunk(b"id3 ", &id3(500_000)),
    ]
    .concat();
    is_about(whole(&[&wav[..12], &more, &wav[12..]].concat()), 1000);
    is_about(whole(&[wav, more].concat()), 1000);
}

#[test]
fn comments_and_pictures_of_ogg() {
    for name in ["opus-6k.ogg", "vorbis.ogg"] {
        let file = recording(name);
        let pages: Vec<usize> = memchr::memmem::find_iter(&file, b"OggS").collect();
        let mut comments = ogg_pages(&[&b"OpusTags"[..], &picture(700_000)].concat(), false);
        let serial = file[14..18].to_vec();
        for at in memchr::memmem::find_iter(&comments.clone(), b"OggS").collect::<Vec<_>>() {
            comments[at + 14..at + 18].copy_from_slice(&serial);
        }
        let millis = u64::try_from(whole(&file).unwrap().duration.as_millis()).unwrap();
        if name == "opus-6k.ogg" {
            is_about(whole(&[&file[..pages[1]], &comments, &file[pages[2]..]].concat()), millis);
        }
    }
}

#[test]
fn pictures_of_mp4_and_matroska() {
    let boxed = |name: &[u8], content: &[u8]| {
        [&u32::try_from(content.len() + 8).unwrap().to_be_bytes(), name, content].concat()
    };
    let file = recording("moov-last.m4a");
    let moov = memchr::memmem::find(&file, b"moov").unwrap() - 4;
    let cover = boxed(b"udta", &boxed(b"meta", &[&[0; 4][..], &boxed(b"covr", &picture(500_000))].concat()));
    let content = [&file[moov + 8..], &cover].concat();
    let (free, wide) = (boxed(b"free", &vec![0; 70_000]), boxed(b"wide", b""));
    is_about(whole(&[&file[..moov], &wide, &free, &boxed(b"moov", &content)].concat()), 2000);
    // QuickTime ends a list of boxes with four zeros.
    is_about(whole(&[&file[..moov], &boxed(b"moov", &[&file[moov + 8..], &[0; 4]].concat())].concat()), 2000);

    let tracks = [track(1, 1, b"V_VP8", b""), track(2, 2, b"A_OPUS", b""), track(3, 0x11, b"S_TEXT/UTF8", b"")];
    let packets: Vec<(u8, Vec<u8>)> = (0..50)
        .flat_map(|_| [(1, picture(60_000)), (2, vec![0xfc; 40]), (2, vec![0xfc; 40]), (3, b"hello".to_vec())])
        .collect();
    let attached = element(b"\x19\x41\xa4\x69", &picture(500_000));
    let file = [matroska_of(&tracks, &packets), attached, element(b"\xec", &vec![0; 70_000])].concat();
    is_about(whole(&file), 2000);
}

/// Recordings, and the most bytes that a second of audio explains in each: of the coding, not of the recording.
const MOST_BYTES: [(&str, u64); 14] = [
    ("plain.wav", 16_000),
    ("adpcm.wav", 5000),
    ("mpeg25.mp3", 8000),
    ("vbr.mp3", 40_000),
    ("adts.aac", 67_000),
    ("flac.flac", 36_000),
    ("flac.ogg", 36_000),
    ("opus-6k.ogg", 640_000),
    ("opus-6k.webm", 640_000),
    ("vorbis.ogg", 800_000),
    ("aac.mka", 67_000),
    ("mp3.mka", 40_000),
    ("moov-last.m4a", 67_000),
    ("fragmented.mp4", 67_000),
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn all_bytes_are_explained(
        index in 0..MOST_BYTES.len(),
        place in any::<prop::sample::Index>(),
        junk in prop::collection::vec(any::<u8>(), 0..9),
        from in any::<prop::sample::Index>(),
        length in 20..3000usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
    ) {
        let (name, most) = MOST_BYTES[index];
        let mut file = recording(name);
        let duration = whole(&file).unwrap().duration;
        // A part of the recording, changed a little, many times in some place.
        let from = from.index(file.len());
        let mut part = [&file[from..file.len().min(from + length)], &junk].concat();
        for (at, byte) in changes {
            let at = at.index(part.len());
            part[at] = byte;
        }
        let wanted = u64::try_from(duration.as_millis()).unwrap() * most / 1000 + 4 * FORGIVEN_JUNK;
        let count = usize::try_from(wanted).unwrap() / part.len() + 1;
        let at = place.index(file.len());
        file.splice(at..at, part.repeat(count));
        if let Ok(measured) = whole(&file) {
            let explained = u64::try_from(measured.duration.as_millis()).unwrap() * most / 1000 + 2 * FORGIVEN_JUNK;
            prop_assert!(explained >= file.len() as u64, "{name}: {measured:?} of {} bytes", file.len());
        }
    }
}
