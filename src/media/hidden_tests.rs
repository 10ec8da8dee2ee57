//! Recordings made so that decoders find more in them than is counted at first sight, in each container.

use std::time::Duration;

use super::flac::crc8;
use super::measurer_tests::{recording, whole};
use super::mpeg::Frame;
use super::packets_tests::{element, flac, is_about, matroska_of, ogg_pages, track};
use super::{NotMeasurable, walk};

/// Refused, or counted as at least this long.
fn is_not_less(measured: &walk::Result<super::Measured>, millis: u64) {
    let is_enough = |measured: &super::Measured| measured.duration >= Duration::from_millis(millis);
    assert!(measured.as_ref().map_or(true, is_enough), "{measured:?}");
}

/// A chunk of RIFF.
fn chunk(name: &[u8], content: &[u8]) -> Vec<u8> {
    [name, &u32::try_from(content.len()).unwrap().to_le_bytes(), content].concat()
}

/// A file of RIFF or RF64 with 8000 samples a second in 8 bits, after `before` and the format.
fn riff(kind: &[u8], before: &[u8], behind: &[u8]) -> Vec<u8> {
    let format = [&[1, 0, 1, 0][..], &8000u32.to_le_bytes(), &8000u32.to_le_bytes(), &[1, 0, 8, 0]].concat();
    [kind, &[0xff; 4], b"WAVE", before, &chunk(b"fmt ", &format), behind].concat()
}

fn ds64(data: u64) -> Vec<u8> {
    chunk(b"ds64", &[&0u64.to_le_bytes()[..], &data.to_le_bytes(), &[0; 12]].concat())
}

#[test]
fn the_larger_size_of_a_wav_counts() {
    let samples = vec![0x80; 80_000];
    let hidden = [&b"data"[..], &1000u32.to_le_bytes(), &samples[..1000], &chunk(b"LIST", &samples[1008..])].concat();
    for kind in [b"RF64", b"RIFF"] {
        is_about(whole(&riff(kind, &ds64(80_000), &hidden)), 10_000);
        is_about(whole(&riff(kind, &[ds64(80_000), ds64(1000)].concat(), &hidden)), 10_000);
    }
    let endless = [&b"data"[..], &[0xff; 4], &samples].concat();
    is_about(whole(&riff(b"RIFF", &ds64(1000), &endless)), 10_000);
}

#[test]
fn chunks_of_a_wav_hold_few_bytes() {
    for (name, bytes, is_refused) in [
        (b"LIST", 300_000, true),
        (b"id3 ", 100_000, true),
        (b"abcd", 20_000, true),
        (b"LIST", 100_000, false),
        (b"abcd", 10_000, false),
    ] {
        let file = riff(b"RIFF", b"", &[chunk(b"data", &[0x80; 8000]), chunk(name, &vec![1; bytes])].concat());
        assert_eq!(whole(&file) == Err(NotMeasurable::Junk), is_refused, "{bytes}");
    }
}

/// The frames of an MP3.
fn mp3_frames(name: &str) -> Vec<Vec<u8>> {
    let file = recording(name);
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(frame) = Frame::parse(&file[at..]) {
        frames.push(file[at..file.len().min(at + frame.bytes)].to_vec());
        at += frame.bytes;
        if at + 7 > file.len() {
            break;
        }
    }
    frames
}

#[test]
fn frames_of_mp3_count_although_there_is_junk_between_them() {
    let frames = vec![mp3_frames("mpeg25.mp3"); 4].concat();
    let played = frames.len() as u64 * 72;
    for junk in [&b"\0"[..], b"x", b"xAxIx", b"\xff", b"\xff\xfb"] {
        let rest: Vec<u8> = frames[2..].iter().flat_map(|frame| [junk, frame].concat()).collect();
        let first = frames[..2].concat();
        is_not_less(&whole(&[&first[..], &rest].concat()), played * 95 / 100);
        // Before the two that are recognized, and in something that is no tag, as it does not end where the file ends.
        is_not_less(&whole(&[&frames[2][..], &rest, &first].concat()), played * 95 / 100);
        let tag = [&b"APETAGEX\xd0\x07\0\0\xff\xff\xff\xff"[..], &[0; 16]].concat();
        is_not_less(&whole(&[&first[..], &tag, &rest].concat()), played * 95 / 100);
        let id3 = b"ID3\x04\0\0\x0f\x7f\x7f\x7f";
        is_not_less(&whole(&[&first[..], id3, &rest].concat()), played * 95 / 100);
    }
}

#[test]
fn tags_of_mp3_hide_no_frames() {
    let (first, other) = (mp3_frames("mpeg25.mp3")[..2].concat(), mp3_frames("mpeg25.mp3"));
    // A tag that reaches the end, with frames of another sampling rate that are apart from each other.
    let unlike: Vec<u8> = other
        .iter()
        .cycle()
        .take(400)
        .flat_map(|frame| [&[0], &frame[..2], &[frame[2] ^ 4], &frame[3..]].concat())
        .collect();
    let length = u32::try_from(unlike.len()).unwrap();
    let tag = [&b"APETAGEX\xd0\x07\0\0"[..], &length.to_le_bytes(), &[0; 16]].concat();
    assert_eq!(whole(&[&first[..], &tag, &unlike].concat()), Err(NotMeasurable::Junk));
    // What decoders do not accept as a tag is none.
    let all = other.concat();
    let not_id3 = [&b"ID3\x04\0\0\0\0\x80\0"[..], &all].concat();
    is_not_less(&whole(&not_id3), 3600);
    // A frame that is said to be long, with short ones inside.
    let long = [&[0xff, 0xe3, 0xe8, 0xc4][..], &other[1..9].concat()].concat();
    let hiding: Vec<u8> = [&long[..], b"\0\0"].concat().repeat(60);
    is_not_less(&whole(&[&first[..], &hiding].concat()), 8 * 60 * 60);
}

/// Where each byte was searched again for each one before it, this would take hours.
#[test]
fn junk_is_searched_once() {
    for pair in [[0xff, 0], [b'I', b'I'], [b'A', 0xff]] {
        let mut file = b"ID3\x04\0\0\0\0\0\0".to_vec();
        file.extend(pair.into_iter().cycle().take(8 << 20));
        assert!(whole(&file).is_err());
    }
}

/// A frame of FLAC of 4096 samples with a right checksum, and this many bytes behind its header.
fn flac_frame(number: u8, rate: u8, channels: u8, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0xff, 0xf8, 0xc0 | rate, channels << 4 | 8, number];
    frame.push(crc8(&frame));
    frame.resize(frame.len() + bytes, 0x11);
    frame
}

#[test]
fn frames_of_flac_that_do_not_match_are_not_free() {
    let (_, info) = flac();
    let private = [&b"fLaC\x80\0\0\x22"[..], &info].concat();
    let file = |frames: &[Vec<u8>]| {
        let all = frames.concat();
        let head = [&b"\x7fFLAC\x01\0\0\x01fLaC\0\0\0\x22"[..], &info].concat();
        [
            [&private[..], &all].concat(),
            [ogg_pages(&head, true), ogg_pages(b"\x84\0\0\0", false), ogg_pages(&all, false)].concat(),
            matroska_of(&[track(1, 2, b"A_FLAC", &private)], &[(1, all)]),
        ]
    };
    // 16 kHz and mono by STREAMINFO; stereo that does not go on with the numbers.
    let stereo: Vec<Vec<u8>> = (0..60).map(|n| flac_frame(2 * n + 2, 5, 1, 20)).collect();
    for file in file(&[vec![flac_frame(0, 5, 0, 20)], stereo].concat()) {
        assert_eq!(whole(&file), Err(NotMeasurable::Junk));
    }
    // A higher rate in the header of the frame.
    let fast: Vec<Vec<u8>> = (1..60).map(|n| flac_frame(n, 3, 0, 20)).collect();
    for file in file(&[vec![flac_frame(0, 5, 0, 20)], fast].concat()) {
        is_about(whole(&file), 60 * 256);
    }
    // More bytes than a frame can have.
    for (bytes, is_refused) in [(4096 * 2, false), (4096 * 2 + 40_000, true)] {
        for file in file(&[flac_frame(0, 5, 0, 20), flac_frame(1, 5, 0, bytes)]) {
            assert_eq!(whole(&file) == Err(NotMeasurable::Junk), is_refused, "{bytes} {:?}", whole(&file));
        }
    }
    // A second name of the format, and a second STREAMINFO, which hide frames as blocks of metadata.
    let frames: Vec<u8> = (0..60).flat_map(|n| flac_frame(n, 5, 0, 20)).collect();
    let mut twice = [&b"fLaC\0\0\0\x22"[..], &info, b"\0\0\0\x22", &info, b"\x84\0\0\0", &frames].concat();
    assert_eq!(whole(&twice), Err(NotMeasurable::Broken));
    twice.splice(0..0, *b"fLaC");
    assert!(whole(&twice).is_err());
}

#[test]
fn elements_of_matroska_are_in_their_place() {
    let packets: Vec<(u8, Vec<u8>)> = (0..100).map(|_| (1, vec![0xfc; 40])).collect();
    let good = track(1, 2, b"A_OPUS", b"");
    is_about(whole(&matroska_of(std::slice::from_ref(&good), &packets)), 2000);
    // The kind of the track once more, in the track and in what it contains; a track outside the list of tracks.
    let video = element(b"\x83", &[1]);
    for more in [video.clone(), element(b"\xe1", &video), element(b"\xd7", &[2]), element(b"\x86", b"V_VP8")] {
        let tracks = [[&good[..], &more].concat()];
        assert_eq!(whole(&matroska_of(&tracks, &packets)), Err(NotMeasurable::Broken), "{more:?}");
    }
    let mut file = matroska_of(std::slice::from_ref(&good), &packets);
    file.extend(element(b"\xae", &good));
    assert_eq!(whole(&file), Err(NotMeasurable::Broken));
    // A kind that does not match the codec, and one that is not known.
    for kind in [0, 1, 0x11, 0x12, 0x33] {
        let file = matroska_of(&[track(1, kind, b"A_OPUS", b""), track(2, 2, b"A_OPUS", b"")], &packets);
        assert_eq!(whole(&file), Err(NotMeasurable::Broken), "{kind}");
    }
}

#[test]
fn what_is_not_read_in_matroska_hides_no_clusters() {
    let block = |packet: &[u8]| element(b"\xa3", &[&[0x81, 0, 0, 0x80], packet].concat());
    let hidden = element(b"\x1f\x43\xb6\x75", &[element(b"\xe7", &[0]), block(&[0xfc; 40]).repeat(1000)].concat());
    let audio = track(1, 2, b"A_OPUS", b"");
    // Padding, attachments, tags, an unknown element.
    for id in [&b"\xec"[..], b"\x19\x41\xa4\x69", b"\x12\x54\xc3\x67", b"\x42\x42"] {
        let mut file = matroska_of(std::slice::from_ref(&audio), &[(1, vec![0xfc; 40])]);
        file.extend(element(id, &[&[0; 999][..], &hidden].concat()));
        assert_eq!(whole(&file), Err(NotMeasurable::Junk), "{id:?}");
    }
    let tracks = [audio, track(2, 1, b"V_VP8", b"")];
    let file = matroska_of(&tracks, &[(1, vec![0xfc; 40]), (2, hidden)]);
    assert_eq!(whole(&file), Err(NotMeasurable::Junk));
    // Bytes that are no element, and an unknown element.
    for (id, is_refused) in [(&b"\x42\x42"[..], true), (b"\xec", false)] {
        let file = [&matroska_of(&tracks, &[(1, vec![0xfc; 40])])[..], &element(id, &vec![0; 20_000])].concat();
        assert_eq!(whole(&file) == Err(NotMeasurable::Junk), is_refused);
    }
    let file = [&matroska_of(&tracks, &[(1, vec![0xfc; 40])])[..], &vec![0; 20_000]].concat();
    assert_eq!(whole(&file), Err(NotMeasurable::Junk));
}

#[test]
fn pages_of_ogg_count_inside_others_and_streams_are_not_cut_to_nothing() {
    let file = recording("opus-6k.ogg");
    let head = ogg_pages(b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0", true);
    let hiding = |packet: &[u8]| [&head[..], &ogg_pages(packet, false)].concat();
    // Comments, and a stream without audio, that consist of the pages of a recording.
    is_not_less(&whole(&[hiding(&file), hiding(&[b"OpusTags", &file[..]].concat())].concat()), 6900);
    let theora = [ogg_pages(b"\x80theora", true), ogg_pages(&file, false)].concat();
    is_not_less(&whole(&[recording("chained.ogg"), theora].concat()), 10_400);
    // A packet longer than its frames can be.
    let long = [recording("opus-6k.ogg"), hiding(b"OpusTags"), ogg_pages(&vec![0xfc; 30_000], false)].concat();
    assert_eq!(whole(&long), Err(NotMeasurable::Junk));
    // Many streams, at the start of each of which more than all is to be cut off.
    let mut many = Vec::new();
    for serial in 0..50u8 {
        let head = ogg_pages(b"OpusHead\x01\x01\xff\xff\x80\xbb\0\0\0\0\0", true);
        let pages = [head, ogg_pages(b"OpusTags", false), ogg_pages(&[0xfc; 40], false).repeat(50)];
        for mut page in pages.concat().chunks(1).map(<[u8]>::to_vec) {
            many.append(&mut page);
        }
        for at in memchr::memmem::find_iter(&many.clone(), b"OggS").collect::<Vec<_>>() {
            many[at + 15] = if many[at + 15] == 0 { serial + 1 } else { many[at + 15] };
        }
    }
    is_not_less(&whole(&many), 49_800);
}
