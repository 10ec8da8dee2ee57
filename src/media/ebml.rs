//! The elements of Matroska (RFC 8794 and RFC 9559): their headers and where they may be.

use super::walk::{NotMeasurable, Result, big_endian};

/// Maximum length of an element's header: four bytes for the id, eight for the size.
pub(super) const ELEMENT_HEADER: usize = 12;

pub(super) const EBML: u32 = 0x1a45_dfa3;
pub(super) const SEGMENT: u32 = 0x1853_8067;
pub(super) const INFO: u32 = 0x1549_a966;
pub(super) const TIMESTAMP_SCALE: u32 = 0x002a_d7b1;
pub(super) const DURATION: u32 = 0x4489;
pub(super) const TRACKS: u32 = 0x1654_ae6b;
pub(super) const TRACK: u32 = 0xae;
pub(super) const TRACK_NUMBER: u32 = 0xd7;
pub(super) const TRACK_TYPE: u32 = 0x83;
pub(super) const CODEC_ID: u32 = 0x86;
pub(super) const CODEC_PRIVATE: u32 = 0x63a2;
pub(super) const CONTENT_ENCODINGS: u32 = 0x6d80;
pub(super) const AUDIO: u32 = 0xe1;
pub(super) const SAMPLING_FREQUENCY: u32 = 0xb5;
pub(super) const CLUSTER: u32 = 0x1f43_b675;
pub(super) const CLUSTER_TIMESTAMP: u32 = 0xe7;
pub(super) const BLOCK_GROUP: u32 = 0xa0;
pub(super) const BLOCK: u32 = 0xa1;
pub(super) const SIMPLE_BLOCK: u32 = 0xa3;

/// Elements that may be long and contain no audio: header, padding, checksum, index, tags, chapters, attachments, and
/// what accompanies blocks.
const WITHOUT_AUDIO: [u32; 18] = [
    EBML,
    0xec,
    0xbf,
    0x114d_9b74,
    0x1c53_bb6b,
    0x1254_c367,
    0x1043_a770,
    0x1941_a469,
    0xab,
    0xa7,
    0x5854,
    0x9b,
    0xfb,
    0x75a2,
    0x75a1,
    0xa4,
    0xfa,
    0x8e,
];

/// Whether an element with this id is known to contain no audio.
pub(super) fn is_without_audio(id: u32) -> bool {
    WITHOUT_AUDIO.contains(&id)
}

/// An element's header.
pub(super) struct Element {
    pub(super) id: u32,
    /// Length of the header.
    pub(super) head: usize,
    /// Length of the content; `None` if it is unknown.
    pub(super) size: Option<u64>,
}

impl Element {
    /// Parses the header at the start of `bytes`; `None` if it is invalid or not wholly there.
    pub(super) fn parse(bytes: &[u8]) -> Option<Element> {
        let id_length = bytes.first()?.leading_zeros() as usize + 1;
        let id = bytes.get(..id_length).filter(|_| id_length <= 4)?;
        let (size, length) = vint(&bytes[id_length..])?;
        let is_unknown = size == (1 << (7 * length)) - 1;
        let id = u32::try_from(big_endian(id)).ok()?;
        Some(Element { id, head: id_length + length, size: (!is_unknown).then_some(size) })
    }
}

/// A variable-size integer (RFC 8794, section 4), and its length in bytes.
pub(super) fn vint(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = bytes.first()?.leading_zeros() as usize + 1;
    let whole = big_endian(bytes.get(..length).filter(|_| length <= 8)?);
    Some((whole & ((1 << (7 * length)) - 1), length))
}

/// How many bytes show whether a cluster starts at the first of them.
pub(super) const CLUSTER_START: usize = ELEMENT_HEADER + 1;

/// The position of the first cluster that seems to start in `bytes` and has its first [`CLUSTER_START`] bytes there.
pub(super) fn find_cluster(bytes: &[u8]) -> Option<usize> {
    const ID: [u8; 4] = CLUSTER.to_be_bytes();
    // The first byte of the ids of what a cluster contains.
    const CHILDREN: [u8; 8] = [0xe7, 0xa3, 0xa0, 0xab, 0xa7, 0xec, 0xbf, 0x58];
    memchr::memmem::find_iter(bytes, &ID).find(|at| {
        let is_head = |head: &[u8]| {
            Element::parse(head)
                .is_some_and(|cluster| cluster.size == Some(0) || CHILDREN.contains(&head[cluster.head]))
        };
        bytes.get(*at..at + CLUSTER_START).is_some_and(is_head)
    })
}

/// The element that contains those with this id, 0 if none does; `None` for ids whose place does not matter.
fn parent(id: u32) -> Option<u32> {
    match id {
        EBML | SEGMENT => Some(0),
        INFO | TRACKS | CLUSTER => Some(SEGMENT),
        TIMESTAMP_SCALE | DURATION => Some(INFO),
        TRACK => Some(TRACKS),
        TRACK_NUMBER | TRACK_TYPE | CODEC_ID | CODEC_PRIVATE | CONTENT_ENCODINGS | AUDIO => Some(TRACK),
        SAMPLING_FREQUENCY => Some(AUDIO),
        CLUSTER_TIMESTAMP | BLOCK_GROUP | SIMPLE_BLOCK => Some(CLUSTER),
        BLOCK => Some(BLOCK_GROUP),
        _ => None,
    }
}

/// The elements around a position, the outermost first.
#[derive(Default)]
pub(super) struct Path(Vec<Open>);

struct Open {
    id: u32,
    /// Position of the end, or that of the element around it if that is unknown.
    end: u64,
    is_endless: bool,
}

impl Path {
    /// Checks that an element whose header starts at `at` is in its place, and goes into it if it is one that contains
    /// elements.
    ///
    /// # Errors
    /// It is elsewhere, or ends behind what contains it: decoders differ in how they read that.
    pub(super) fn enter(&mut self, element: &Element, at: u64) -> Result<()> {
        while self.0.last().is_some_and(|open| open.end <= at) {
            self.0.pop();
        }
        let parent = parent(element.id);
        if let Some(parent) = parent {
            while self.0.last().is_some_and(|open| open.is_endless && open.id != parent) {
                self.0.pop();
            }
            // Clusters behind the declared end of their segment are played as well.
            let is_behind = self.0.is_empty() && element.id == CLUSTER;
            if self.0.last().map_or(0, |open| open.id) != parent && !is_behind {
                return Err(NotMeasurable::Broken);
            }
        }
        let around = self.0.last().map_or(u64::MAX, |open| open.end);
        let end = element.size.map(|size| at.saturating_add(element.head as u64).saturating_add(size));
        if end.is_some_and(|end| end > around) {
            return Err(NotMeasurable::Broken);
        }
        if matches!(element.id, SEGMENT | INFO | TRACKS | TRACK | AUDIO | CLUSTER | BLOCK_GROUP) {
            self.0.push(Open { id: element.id, end: end.unwrap_or(around), is_endless: end.is_none() });
        }
        Ok(())
    }

    /// Leaves all elements, as after bytes that are none.
    pub(super) fn leave(&mut self) {
        self.0.clear();
    }
}

/// The sizes of the packets in a block (RFC 9559, 10.3), and the length of the field that contains these sizes. `size`
/// is the length of the block after its header.
pub(super) fn laced_sizes(bytes: &[u8], lacing: u8, size: u64) -> Result<(Vec<u32>, usize)> {
    let broken = || NotMeasurable::Broken;
    let narrow = |size: u64| u32::try_from(size).map_err(|_| broken());
    if lacing == 0 {
        return Ok((vec![narrow(size)?], 0));
    }
    let count = u64::from(*bytes.first().ok_or_else(broken)?) + 1;
    if lacing == 2 {
        let sum = size.saturating_sub(1);
        if !sum.is_multiple_of(count) {
            return Err(NotMeasurable::Broken);
        }
        return Ok((vec![narrow(sum / count)?; usize::try_from(count).unwrap_or(0)], 1));
    }
    let (mut sizes, mut at, mut sum, mut last) = (Vec::new(), 1, 0u64, 0u64);
    for index in 1..count {
        if lacing == 1 {
            last = 0;
            loop {
                let byte = *bytes.get(at).ok_or_else(broken)?;
                at += 1;
                last += u64::from(byte);
                if byte < 255 {
                    break;
                }
            }
        } else {
            let (number, length) = vint(bytes.get(at..).ok_or_else(broken)?).ok_or_else(broken)?;
            at += length;
            // All but the first are signed differences, stored with an offset that depends on their length.
            let middle = (1 << (7 * length - 1)) - 1;
            last = if index == 1 { number } else { (last + number).checked_sub(middle).ok_or_else(broken)? };
        }
        narrow(last)?;
        sum += last;
        sizes.push(narrow(last)?);
    }
    sizes.push(narrow(size.checked_sub(sum + at as u64).ok_or_else(broken)?)?);
    Ok((sizes, at))
}
