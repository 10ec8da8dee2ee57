//! Where the boxes of MP4 (ISO 14496-12) may be.

use super::walk::u32_be;

/// Boxes that describe the audio, and the boxes that contain them.
const PLACES: [([u8; 4], &[&[u8; 4]]); 25] = [
    (*b"moov", &[]),
    (*b"moof", &[]),
    (*b"mdat", &[]),
    (*b"mvhd", &[b"moov"]),
    (*b"trak", &[b"moov"]),
    (*b"mvex", &[b"moov"]),
    (*b"tkhd", &[b"trak"]),
    (*b"mdia", &[b"trak"]),
    (*b"edts", &[b"trak"]),
    (*b"elst", &[b"edts"]),
    (*b"mdhd", &[b"mdia"]),
    (*b"hdlr", &[b"mdia", b"minf"]),
    (*b"minf", &[b"mdia"]),
    (*b"stbl", &[b"minf"]),
    (*b"stsd", &[b"stbl"]),
    (*b"stts", &[b"stbl"]),
    (*b"stsz", &[b"stbl"]),
    (*b"stz2", &[b"stbl"]),
    (*b"stsc", &[b"stbl"]),
    (*b"stco", &[b"stbl"]),
    (*b"co64", &[b"stbl"]),
    (*b"trex", &[b"mvex"]),
    (*b"traf", &[b"moof"]),
    (*b"tfhd", &[b"traf"]),
    (*b"trun", &[b"traf"]),
];

/// Other boxes that may be at the top, of any length.
const AT_TOP: [&[u8; 4]; 14] = [
    b"ftyp", b"styp", b"free", b"skip", b"wide", b"meta", b"udta", b"uuid", b"sidx", b"mfra", b"pnot", b"prft",
    b"emsg", b"PICT",
];

/// Whether a box with this name may be in one with the other name, or at the top.
pub(super) fn is_in_place(name: [u8; 4], parent: Option<&[u8; 4]>) -> bool {
    let known = PLACES.iter().find(|(known, _)| *known == name);
    known.is_none_or(|(_, parents)| match parent {
        Some(parent) => parents.contains(&parent),
        None => parents.is_empty(),
    })
}

/// Whether a box with this name, at the top, is known to contain nothing that is played.
pub(super) fn is_without_audio(name: [u8; 4]) -> bool {
    AT_TOP.contains(&&name)
}

/// Whether a box that describes audio seems to start in `bytes`, of which `left` more than these may follow in the box
/// around them. Some decoders go into boxes that others skip.
pub(super) fn has_box(bytes: &[u8], left: u64) -> bool {
    const NAMES: [&[u8; 4]; 9] = [b"trak", b"mdia", b"mdhd", b"stbl", b"stsd", b"stsz", b"stts", b"traf", b"trun"];
    NAMES.iter().any(|name| {
        memchr::memmem::find_iter(bytes, name.as_slice()).filter_map(|at| at.checked_sub(4)).any(|at| {
            let size = u32_be(bytes, at).map_or(u64::MAX, u64::from);
            size < 2 || (8..=left - at as u64).contains(&size)
        })
    })
}
