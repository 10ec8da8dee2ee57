//! MP4 files made so that decoders find more in them than is counted at first sight.

use super::measurer_tests::{RECORDINGS, recording, whole};
use super::packets_tests::is_about;
use super::{Measurer, NotMeasurable};

/// The names and contents of boxes.
type Boxes = Vec<(Vec<u8>, Vec<u8>)>;

/// A box of MP4.
fn boxed(name: &[u8], content: &[u8]) -> Vec<u8> {
    [&u32::try_from(content.len() + 8).unwrap().to_be_bytes(), name, content].concat()
}

/// The boxes in `bytes`.
fn boxes(mut bytes: &[u8]) -> Boxes {
    let mut found = Vec::new();
    while bytes.len() >= 8 {
        let size = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        found.push((bytes[4..8].to_vec(), bytes[8..size].to_vec()));
        bytes = &bytes[size..];
    }
    found
}

fn joined(boxes: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    boxes.iter().flat_map(|(name, content)| boxed(name, content)).collect()
}

/// What is before the box `moov` of `moov-last.m4a`, and the boxes in that.
fn parts() -> (Vec<u8>, Boxes) {
    let all = boxes(&recording("moov-last.m4a"));
    let at = all.iter().position(|(name, _)| name == b"moov").unwrap();
    (joined(&all[..at]), boxes(&all[at].1))
}

/// Replaces the content of the box at the end of a path.
fn replaced(boxes_here: &mut [(Vec<u8>, Vec<u8>)], path: &[&[u8]], change: &mut dyn FnMut(&mut Vec<u8>)) {
    for (_, content) in boxes_here.iter_mut().filter(|(name, _)| name == path[0]) {
        if path.len() == 1 {
            change(content);
        } else {
            let mut inner = boxes(content);
            replaced(&mut inner, &path[1..], change);
            *content = joined(&inner);
        }
    }
}

#[test]
fn there_is_one_description_of_the_tracks_in_its_place() {
    let (before, moov) = parts();
    let good = boxed(b"moov", &joined(&moov));
    is_about(whole(&[&before[..], &good].concat()), 2000);
    for name in [b"moov", b"hoov", b"free", b"skip", b"abcd"] {
        let second = boxed(name, &joined(&moov));
        for file in [[&before[..], &second, &good].concat(), [&before[..], &good, &second].concat()] {
            assert_eq!(whole(&file), Err(NotMeasurable::Broken), "{name:?}");
        }
    }
    let track = moov.iter().find(|(name, _)| name == b"trak").unwrap().clone();
    let nested = [
        boxed(b"udta", &joined(std::slice::from_ref(&track))),
        boxed(b"meta", &[&[0; 4][..], &joined(std::slice::from_ref(&track))].concat()),
        boxed(b"mdia", &joined(&boxes(&track.1))),
    ];
    for more in nested {
        let file = [&before[..], &boxed(b"moov", &[joined(&moov), more].concat())].concat();
        assert_eq!(whole(&file), Err(NotMeasurable::Broken));
    }
    // Tables that are there twice.
    for path in [&[&b"trak"[..], b"mdia"][..], &[b"trak", b"mdia", b"minf", b"stbl"]] {
        let mut moov = moov.clone();
        replaced(&mut moov, path, &mut |content| {
            let again = joined(&boxes(content)[..2]);
            content.extend(again);
        });
        assert!(whole(&[&before[..], &boxed(b"moov", &joined(&moov))].concat()).is_err(), "{path:?}");
    }
}

#[test]
fn parts_that_are_played_again_count() {
    let (before, moov) = parts();
    let file = |version: u8, edits: &[u8]| {
        let mut moov = moov.clone();
        let count = u32::try_from(edits.len() / if version == 0 { 12 } else { 20 }).unwrap();
        let list = [&[version, 0, 0, 0][..], &count.to_be_bytes(), edits].concat();
        for (_, track) in moov.iter_mut().filter(|(name, _)| name == b"trak") {
            let mut inner = boxes(track);
            inner.retain(|(name, _)| name != b"edts");
            inner.insert(1, (b"edts".to_vec(), boxed(b"elst", &list)));
            *track = joined(&inner);
        }
        whole(&[&before[..], &boxed(b"moov", &joined(&moov))].concat())
    };
    // The recording has 1000 ticks a second.
    let edit = |ticks: u32, start: u32| [ticks.to_be_bytes(), start.to_be_bytes(), [0, 1, 0, 0]].concat();
    is_about(file(0, &edit(1000, 0)), 2000);
    is_about(file(0, &edit(1000, 0).repeat(5)), 5000);
    is_about(file(0, &edit(0, 0).repeat(3)), 6100);
    is_about(file(0, &edit(9000, u32::MAX).repeat(3)), 2000);
    let long = [&1000u64.to_be_bytes()[..], &[0; 8], &[0, 1, 0, 0]].concat();
    is_about(file(1, &long.repeat(5)), 5000);
    assert_eq!(file(0, &edit(1000, 0).repeat(200)), Err(NotMeasurable::Broken));
}

#[test]
fn data_belongs_to_a_track() {
    let (before, moov) = parts();
    let moov = boxed(b"moov", &joined(&moov));
    for (bytes, is_refused) in [(10_000, false), (20_000, true)] {
        let file = [&before[..], &boxed(b"mdat", &vec![1; bytes]), &moov].concat();
        assert_eq!(whole(&file) == Err(NotMeasurable::Junk), is_refused);
        let file = [&before[..], &boxed(b"abcd", &vec![1; bytes]), &moov].concat();
        assert_eq!(whole(&file) == Err(NotMeasurable::Junk), is_refused);
        is_about(whole(&[&before[..], &boxed(b"free", &vec![1; bytes]), &moov].concat()), 2000);
    }
}

#[test]
fn packets_of_aac_do_not_start_with_a_header() {
    const ADTS: [u8; 7] = [0xff, 0xf1, 0x60, 0x40, 0x05, 0x1f, 0xfc];
    for name in ["moov-first.m4a", "moov-last.m4a", "fragmented.mp4", "video.mp4"] {
        let file = recording(name);
        let data: Vec<usize> = memchr::memmem::find_iter(&file, b"mdat").map(|at| at + 4).collect();
        // In a file without a picture, the first packet is where the data starts.
        let mut changed = file.clone();
        for at in data {
            changed[at..at + 7].copy_from_slice(&ADTS);
        }
        let is_refused = whole(&changed) == Err(NotMeasurable::SeveralFrames);
        assert!(is_refused || name == "video.mp4", "{name}");
    }
    // In all other places of the data, what looks like a header is none.
    let (file, (before, moov)) = (recording("moov-last.m4a"), parts());
    let mut sizes = Vec::new();
    replaced(&mut moov.clone(), &[b"trak", b"mdia", b"minf", b"stbl", b"stsz"], &mut |content| {
        sizes = content[12..].chunks_exact(4).map(|size| u32::from_be_bytes(size.try_into().unwrap())).collect();
    });
    let start = memchr::memmem::find(&before, b"mdat").unwrap() + 4;
    let mut packet = start;
    for size in &sizes {
        // The last packet may be shorter than a header.
        for (at, is_start) in [(packet, true), (packet + 1, false)].into_iter().filter(|_| *size > 7) {
            let mut changed = file.clone();
            changed[at..at + 7].copy_from_slice(&ADTS);
            assert_eq!(whole(&changed) == Err(NotMeasurable::SeveralFrames), is_start, "{at}");
        }
        packet += *size as usize;
    }
    // Packets that are elsewhere cannot be checked.
    let mut moved = moov.clone();
    replaced(&mut moved, &[b"trak", b"mdia", b"minf", b"stbl", b"stco"], &mut |content| {
        content[8..12].copy_from_slice(&8u32.to_be_bytes());
    });
    assert_eq!(whole(&[&before[..], &boxed(b"moov", &joined(&moved))].concat()), Err(NotMeasurable::Broken));
}

#[test]
fn tracks_have_ids_of_their_own_and_packets_do_not_overlap() {
    let (before, moov) = parts();
    let mut two = moov.clone();
    let track = moov.iter().find(|(name, _)| name == b"trak").unwrap().clone();
    two.push(track);
    assert_eq!(whole(&[&before[..], &boxed(b"moov", &joined(&two))].concat()), Err(NotMeasurable::Broken));
    // With another id, it has the same packets.
    let id = |content: &mut Vec<u8>| content[12..16].copy_from_slice(&77_u32.to_be_bytes());
    replaced(&mut two.split_at_mut(moov.len()).1[..], &[b"trak", b"tkhd"], &mut { id });
    assert_eq!(whole(&[&before[..], &boxed(b"moov", &joined(&two))].concat()), Err(NotMeasurable::Broken));
}

/// Measures a file piece by piece, and checks what its tables take before and behind each.
fn most_held(file: &[u8]) -> usize {
    let (mut measurer, mut most) = (Measurer::new(), 0);
    for piece in file.chunks(1000) {
        let (wanted, held) = (measurer.wanted_memory(piece.len()), |measurer: &Measurer| {
            measurer.walker.as_ref().and_then(|walker| walker.held())
        });
        let was_known = held(&measurer).is_some();
        measurer.push(piece);
        let held = held(&measurer).unwrap_or(0);
        assert!(held <= wanted || !was_known, "{held} of {wanted}");
        most = most.max(held);
    }
    most
}

#[test]
fn no_more_memory_is_held_than_was_asked_for() {
    for (name, _) in RECORDINGS {
        let most = most_held(&recording(name));
        assert_eq!(most > 0, [".mp4", ".m4a"].contains(&&name[name.len() - 4..]), "{name}");
    }
    let (before, mut moov) = parts();
    let table =
        |width: usize, count: u32| [&[0; 4][..], &count.to_be_bytes(), &vec![1; width * count as usize]].concat();
    for (name, width) in [(b"stco", 4), (b"stsz", 4), (b"co64", 8), (b"free", 4)] {
        let mut moov = moov.clone();
        let content = match name {
            b"stsz" => [&[0; 4][..], &table(width, 200_000)].concat(),
            _ => table(width, 200_000),
        };
        let stbl: &[&[u8]] = &[b"trak", b"mdia", b"minf", b"stbl"];
        match name {
            b"stsz" | b"stco" => replaced(&mut moov, &[stbl, &[name]].concat(), &mut |old| old.clone_from(&content)),
            _ => replaced(&mut moov, stbl, &mut |stbl| stbl.extend(boxed(name, &content))),
        }
        let most = most_held(&[&before[..], &boxed(b"moov", &joined(&moov))].concat());
        assert_eq!(most > 200_000, name != b"free", "{most}");
    }
    // Boxes that say nothing take nothing.
    replaced(&mut moov, &[b"trak", b"mdia"], &mut |mdia| mdia.extend(boxed(b"hdlr", &[0; 24]).repeat(50_000)));
    assert!(most_held(&[&before[..], &boxed(b"moov", &joined(&moov))].concat()) < 20_000);
    assert!(most_held(&[&recording("fragmented.mp4")[..], &boxed(b"mdat", &[]).repeat(50_000)].concat()) > 500_000);
}
