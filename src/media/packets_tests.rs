//! Packets that hold more than they claim, in each container.

use std::time::Duration;

use super::measurer_tests::{recording, whole};
use super::{Measured, NotMeasurable, walk};

/// An element of Matroska.
pub(super) fn element(id: &[u8], content: &[u8]) -> Vec<u8> {
    let size = (1u64 << 56 | content.len() as u64).to_be_bytes();
    [id, &size, content].concat()
}

/// What describes a track of Matroska.
pub(super) fn track(number: u8, kind: u8, codec: &[u8], private: &[u8]) -> Vec<u8> {
    let rate = element(b"\xe1", &element(b"\xb5", &44_100f32.to_be_bytes()));
    let rate = if kind == 2 && codec != b"A_OPUS" { rate } else { Vec::new() };
    let (number, kind) = (element(b"\xd7", &[number]), element(b"\x83", &[kind]));
    [number, kind, element(b"\x86", codec), element(b"\x63\xa2", private), rate].concat()
}

/// A Matroska file with these tracks and packets of tracks, all of which have the same timestamp.
pub(super) fn matroska_of(tracks: &[Vec<u8>], packets: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let tracks: Vec<u8> = tracks.iter().flat_map(|track| element(b"\xae", track)).collect();
    let block =
        |(number, packet): &(u8, Vec<u8>)| element(b"\xa3", &[&[0x80 | number, 0, 0, 0x80], &packet[..]].concat());
    let blocks: Vec<u8> = packets.iter().flat_map(block).collect();
    let cluster = [element(b"\xe7", &[0]), blocks].concat();
    let segment = [element(b"\x16\x54\xae\x6b", &tracks), element(b"\x1f\x43\xb6\x75", &cluster)].concat();
    [element(b"\x1aE\xdf\xa3", b""), element(b"\x18\x53\x80\x67", &segment)].concat()
}

/// A Matroska file with one audio track.
fn matroska(codec: &[u8], private: &[u8], packets: &[Vec<u8>]) -> Vec<u8> {
    let packets: Vec<(u8, Vec<u8>)> = packets.iter().map(|packet| (1, packet.clone())).collect();
    matroska_of(&[track(1, 2, codec, private)], &packets)
}

/// The pages of an Ogg packet, which starts a stream if `is_first`. All have the granule position 1.
pub(super) fn ogg_pages(packet: &[u8], is_first: bool) -> Vec<u8> {
    let mut pages = Vec::new();
    let mut lacing = vec![255; packet.len() / 255];
    lacing.push(u8::try_from(packet.len() % 255).unwrap());
    for (index, segments) in lacing.chunks(255).enumerate() {
        let flags = u8::from(index > 0) | u8::from(is_first) << 1;
        let content = &packet[index * 255 * 255..packet.len().min((index + 1) * 255 * 255)];
        pages.extend([b"OggS\0", &[flags, 1][..], &[0; 7], &[7], &[0; 11]].concat());
        pages.extend([&[u8::try_from(segments.len()).unwrap()], segments, content].concat());
    }
    pages
}

pub(super) fn is_about(measured: walk::Result<Measured>, millis: u64) {
    let duration = measured.unwrap().duration;
    assert!(duration.abs_diff(Duration::from_millis(millis)) <= Duration::from_millis(60), "{duration:?}");
}

/// All frames of `flac.flac`, and its STREAMINFO block.
pub(super) fn flac() -> (Vec<u8>, Vec<u8>) {
    let file = recording("flac.flac");
    let (info, mut at) = (file[8..42].to_vec(), 4);
    while file[at] & 0x80 == 0 {
        at += 4 + usize::from(file[at + 2]) * 256 + usize::from(file[at + 3]);
    }
    at += 4 + usize::from(file[at + 2]) * 256 + usize::from(file[at + 3]);
    (file[at..].to_vec(), info)
}

#[test]
fn all_frames_of_mpeg_audio_in_a_packet_count() {
    let frame = [&[0xff, 0xfb, 0x90, 0x64][..], &[0; 413]].concat();
    is_about(whole(&matroska(b"A_MPEG/L3", b"", &[frame.repeat(100), frame.clone()])), 101 * 1152 * 10 / 441);
    for junk in [&b"\0\0\0\0\0\0\0\0\0"[..], b"\xff\xf1\x50\x80\x01\x3f\xfc"] {
        let packet = [&frame[..], junk].concat();
        assert_eq!(whole(&matroska(b"A_MPEG/L3", b"", &[packet])), Err(NotMeasurable::SeveralFrames));
    }
}

#[test]
fn all_frames_of_flac_in_a_packet_count() {
    let (frames, info) = flac();
    let private = [&b"fLaC\x80\0\0\x22"[..], &info].concat();
    is_about(whole(&matroska(b"A_FLAC", &private, std::slice::from_ref(&frames))), 1000);
    is_about(whole(&matroska(b"A_FLAC", &private, &vec![frames.clone(); 3])), 3000);
    // A stream that does not match its STREAMINFO is still recognized by the frame before.
    let mut false_info = private.clone();
    false_info[8 + 12] |= 0x0e;
    is_about(whole(&matroska(b"A_FLAC", &false_info, std::slice::from_ref(&frames))), 1000);
    let head = [&b"\x7fFLAC\x01\0\0\x01fLaC\0\0\0\x22"[..], &info].concat();
    let comments = b"\x84\0\0\x08\0\0\0\0\0\0\0\0";
    let file = [ogg_pages(&head, true), ogg_pages(comments, false), ogg_pages(&frames, false)].concat();
    is_about(whole(&file), 1000);
}

#[test]
fn packets_of_aac_are_no_larger_than_a_frame() {
    // AAC-LC with 44.1 kHz, mono and stereo.
    for (config, most) in [([0x12, 0x08], 768), ([0x12, 0x10], 2 * 768)] {
        let of = |size: usize| whole(&matroska(b"A_AAC", &config, &[vec![0x21; size], vec![0x21; 40]]));
        is_about(of(most), 46);
        assert_eq!(of(most + 1), Err(NotMeasurable::SeveralFrames));
    }
    // A header that replaces the sampling rate.
    let adts = [&[0xff, 0xf1, 0x50][..], &[0; 60]].concat();
    assert_eq!(whole(&matroska(b"A_AAC", &[0x12, 0x08], &[adts])), Err(NotMeasurable::SeveralFrames));
    // USAC, whose frames are longer.
    let usac = matroska(b"A_AAC", &[0xf9, 0x48, 0x40], &[vec![0x21; 40]]);
    assert_eq!(whole(&usac), Err(NotMeasurable::UnsupportedCoding));
}

/// A recording with another number of 32 bits at this distance behind a name in it.
fn patched(name: &str, after: &[u8], distance: usize, number: u32) -> Vec<u8> {
    let mut bytes = recording(name);
    let at = memchr::memmem::find(&bytes, after).unwrap() + distance;
    bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
    bytes
}

#[test]
fn packets_of_aac_in_mp4_are_no_larger_than_a_frame() {
    for name in ["moov-first.m4a", "moov-last.m4a"] {
        // The size of all packets, of the first one and of the tenth.
        for distance in [8, 16, 16 + 4 * 9] {
            // Then, the last packets are not in the data.
            assert_eq!(whole(&patched(name, b"stsz", distance, 768)), Err(NotMeasurable::Broken));
            assert_eq!(whole(&patched(name, b"stsz", distance, 769)), Err(NotMeasurable::SeveralFrames));
        }
    }
    let trun = recording("fragmented.mp4");
    let at = memchr::memmem::find(&trun, b"trun").unwrap();
    let flags = walk::u32_be(&trun, at + 4).unwrap();
    assert_eq!(flags & 0x205, 0x201, "sizes for each packet, behind the position of the data");
    let distance = if flags & 0x100 == 0 { 16 } else { 20 };
    assert_eq!(whole(&patched("fragmented.mp4", b"trun", distance, 768)), Err(NotMeasurable::Broken));
    let measured = whole(&patched("fragmented.mp4", b"trun", distance, 769));
    assert_eq!(measured, Err(NotMeasurable::SeveralFrames));
}

#[test]
fn the_last_entry_of_a_table_counts() {
    // The duration of the last packets, by the table of durations.
    let file = recording("moov-first.m4a");
    let at = memchr::memmem::find(&file, b"stts").unwrap();
    let entries = walk::u32_be(&file, at + 8).unwrap() as usize;
    let longer = patched("moov-first.m4a", b"stts", 12 + 8 * entries - 4, 441_000);
    assert!(whole(&longer).unwrap().duration.as_secs() >= 10);
}

#[test]
fn opus_and_mp3_in_mp4_are_refused() {
    assert_eq!(whole(&recording("opus.mp4")), Err(NotMeasurable::OpaqueInMp4));
    let mut mp3 = recording("moov-first.m4a");
    let esds = memchr::memmem::find(&mp3, b"esds").unwrap();
    let kind = esds + memchr::memmem::find(&mp3[esds..], b"\x40\x15").unwrap();
    mp3[kind] = 0x6b;
    assert_eq!(whole(&mp3), Err(NotMeasurable::OpaqueInMp4));
    let mut mp3 = recording("moov-first.m4a");
    let entry = memchr::memmem::find(&mp3, b"mp4a").unwrap();
    mp3[entry..entry + 4].copy_from_slice(b".mp3");
    assert_eq!(whole(&mp3), Err(NotMeasurable::OpaqueInMp4));
}

#[test]
fn timestamps_do_not_shorten_vorbis() {
    let mut ogg = recording("vorbis.ogg");
    let pages: Vec<usize> = memchr::memmem::find_iter(&ogg, b"OggS").collect();
    for page in pages {
        let granule = walk::u32_le(&ogg, page + 6).unwrap() / 2;
        ogg[page + 6..page + 10].copy_from_slice(&granule.to_le_bytes());
    }
    is_about(whole(&ogg), 2000);
    let mut webm = recording("vorbis.webm");
    let scale = memchr::memmem::find(&webm, b"\x2a\xd7\xb1").unwrap();
    webm[scale + 4..scale + 7].copy_from_slice(&500_000u32.to_be_bytes()[1..]);
    is_about(whole(&webm), 2000);
    // Without the setup header, there is nothing to measure with.
    let setup = memchr::memmem::find(&ogg, b"\x05vorbis").unwrap();
    ogg[setup] = 1;
    assert_eq!(whole(&ogg), Err(NotMeasurable::Broken));
}
