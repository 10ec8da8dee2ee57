//! The description of the codec of a track in MP4 (ISO 14496-12 and 14496-14).

use super::packets::Coding;
use super::walk::{NotMeasurable, Result, u32_be};

/// The codec in an `stsd` box; an error if there are several or if it is not supported.
pub(super) fn coding(content: &[u8]) -> Result<Coding> {
    let entry = content.get(8..).filter(|_| u32_be(content, 4) == Some(1));
    let entry = entry.and_then(|entry| entry.get(..usize::try_from(u32_be(entry, 0)?).ok()?));
    match entry.and_then(|entry| entry.get(4..8)) {
        Some(b"Opus" | b".mp3") => Err(NotMeasurable::OpaqueInMp4),
        Some(b"mp4a") => match entry.and_then(|entry| esds(inner(entry, *b"esds")?)) {
            Some(Coding::Mpeg) => Err(NotMeasurable::OpaqueInMp4),
            coding => coding.ok_or(NotMeasurable::UnsupportedCoding),
        },
        Some(b"alac") => entry.and_then(alac).ok_or(NotMeasurable::UnsupportedCoding),
        _ => Err(NotMeasurable::UnsupportedCoding),
    }
}

/// The codec in the description of ALAC audio.
fn alac(entry: &[u8]) -> Option<Coding> {
    // An inner box has the same name. It contains version and flags, then the number of samples per packet.
    let cookie = inner(entry, *b"alac")?;
    let (samples, rate) = (u32_be(cookie, 4)?, u32_be(cookie, 24)?);
    (samples > 0 && rate > 0).then_some(Coding::Constant { samples, rate })
}

/// The content of the box with this name in a description of audio.
fn inner(entry: &[u8], name: [u8; 4]) -> Option<&[u8]> {
    // The second version, of QuickTime, gives packets a size of its own, which some demuxers use.
    let boxes = match entry.get(16..18)? {
        [0, 0] => entry.get(36..)?,
        [0, 1] if u32_be(entry, 44)? <= 16 => entry.get(52..)?,
        _ => return None,
    };
    child(boxes, name)
}

/// The content of the only box with this name; QuickTime puts it into another one.
fn child(mut boxes: &[u8], name: [u8; 4]) -> Option<&[u8]> {
    let mut found = None;
    while boxes.len() >= 8 {
        let size = usize::try_from(u32_be(boxes, 0)?).ok()?;
        let content = boxes.get(8..size)?;
        let inside = match &boxes[4..8] {
            kind if *kind == name => Some(content),
            b"wave" => child(content, name),
            _ => None,
        };
        if found.is_some() && inside.is_some() {
            return None;
        }
        found = found.or(inside);
        boxes = &boxes[size..];
    }
    found
}

/// Parses the content of an `esds` box (ISO 14496-1, 7.2.6).
fn esds(content: &[u8]) -> Option<Coding> {
    let mut at = 4;
    let mut object_type = 0;
    loop {
        let tag = *content.get(at)?;
        at += 1;
        // The length of the descriptor, with seven bits per byte, is skipped.
        while content.get(at)? & 0x80 != 0 {
            at += 1;
        }
        at += 1;
        match tag {
            3 => {
                let flags = content.get(at + 2)?;
                let url = if flags & 0x40 == 0 { 0 } else { 1 + usize::from(*content.get(at + 3)?) };
                at += 3 + url + if flags & 0x80 == 0 { 0 } else { 2 } + if flags & 0x20 == 0 { 0 } else { 2 };
            }
            4 => {
                object_type = *content.get(at)?;
                if matches!(object_type, 0x69 | 0x6b) {
                    return Some(Coding::Mpeg);
                }
                at += 13;
            }
            5 if matches!(object_type, 0x40 | 0x66..=0x68) => return Coding::aac(content.get(at..)?),
            _ => return None,
        }
    }
}
