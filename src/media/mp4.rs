//! MP4 (ISO 14496-12), M4A and QuickTime, fragmented or not.
//!
//! What the standard calls a sample is a packet here. The duration of a track is the sum of the declared durations of
//! its packets, or the number of packets times their duration in the codec, whichever is longer. The result is that of
//! the longest audio track. Edit lists, which hide parts of a track, are ignored.
//!
//! The packets themselves are not read, as their positions may be known only at the end of the file. So Opus and MP3 are
//! refused, and AAC if a packet is larger than a frame can be.

use std::time::Duration;

use super::packets::Coding;
use super::walk::{MAX_STREAMS, Measured, NotMeasurable, Result, Step, Walk, Window, big_endian, play_time, u32_be};

/// How many bytes of a box are used at most.
const MAX_VALUE: usize = 1024;

#[derive(Default)]
struct Track {
    id: u32,
    is_audio: bool,
    coding: Option<Result<Coding>>,
    timescale: u32,
    /// The declared duration, in ticks of the timescale.
    declared: u64,
    /// The sum of the packets' durations, in ticks.
    ticks: u64,
    /// The number of packets according to the table of durations.
    timed: u64,
    /// The number of packets according to the table of sizes.
    sized: u64,
    /// The number of packets in fragments.
    in_fragments: u64,
    /// The duration of packets in fragments that declare none, in ticks.
    default_ticks: u32,
    /// The size of packets in fragments that declare none, in bytes.
    default_size: Option<u32>,
    /// The size of the largest packet, in bytes.
    largest: u32,
}

/// The table of durations or sizes that is being read.
struct Table {
    /// Where it starts in the content of the box.
    start: u64,
    /// The number of entries still to come.
    left: u64,
    /// Bytes per entry.
    width: u64,
    kind: TableKind,
    /// Position of the end of the box.
    end: u64,
}

/// What an entry of a table contains.
#[derive(Clone, Copy)]
enum TableKind {
    /// A number of packets and the duration of each (`stts`).
    Durations,
    /// The size of a packet (`stsz`).
    Sizes,
    /// The duration of a packet, its size, or both (`trun`).
    Run { has_ticks: bool, has_size: bool },
}

/// What the header of a track's fragment declares.
#[derive(Default)]
struct Fragment {
    /// The track.
    id: u32,
    /// The duration and the size of packets that declare none.
    ticks: Option<u32>,
    size: Option<u32>,
}

#[derive(Default)]
pub(super) struct Mp4 {
    tracks: Vec<Track>,
    table: Option<Table>,
    fragment: Fragment,
}

impl Walk for Mp4 {
    fn step(&mut self, window: Window<'_>) -> Result<Step> {
        if self.table.is_some() {
            return Ok(self.entries(window));
        }
        let Some(head) = window.first(8) else { return Ok(Step::Need(8)) };
        let (mut size, mut header) = (u32_be(head, 0).map_or(0, u64::from), 8);
        let name: [u8; 4] = [head[4], head[5], head[6], head[7]];
        if size == 1 {
            let Some(long) = window.first(16) else { return Ok(Step::Need(16)) };
            (size, header) = (big_endian(&long[8..]), 16);
        } else if size == 0 {
            size = u64::MAX; // The box extends to the end of the file.
        }
        if size < header as u64 {
            return Err(NotMeasurable::Broken);
        }
        match &name {
            b"moov" | b"mdia" | b"minf" | b"stbl" | b"moof" | b"mvex" => return Ok(Step::Skip(header as u64)),
            b"trak" if self.tracks.len() >= MAX_STREAMS => return Err(NotMeasurable::TooManyStreams),
            b"trak" => {
                self.tracks.push(Track::default());
                return Ok(Step::Skip(header as u64));
            }
            b"traf" => {
                self.fragment = Fragment::default();
                return Ok(Step::Skip(header as u64));
            }
            b"cmov" => return Err(NotMeasurable::UnsupportedCoding), // Compressed.
            b"tkhd" | b"mdhd" | b"hdlr" | b"stsd" | b"stts" | b"stsz" | b"stz2" | b"trex" | b"tfhd" | b"trun" => {}
            _ => return Ok(Step::Skip(size)),
        }
        let wanted = usize::try_from(size).map_or(MAX_VALUE, |size| size.min(MAX_VALUE));
        let Some(whole) = window.first(wanted) else { return Ok(Step::Need(wanted)) };
        self.read(name, &whole[header..], window.at + header as u64, window.at.saturating_add(size))
            .ok_or(NotMeasurable::Broken)?;
        match &self.table {
            Some(table) => Ok(Step::Skip(header as u64 + table.start)),
            None => Ok(Step::Skip(size)),
        }
    }

    fn finish(&self, _: u64) -> Result<Measured> {
        let audio = || self.tracks.iter().filter(|track| track.is_audio || matches!(track.coding, Some(Ok(_))));
        audio().try_for_each(Track::check)?;
        let duration = audio().map(Track::duration).max().unwrap_or_default();
        let declared = audio().map(|track| play_time(track.declared, track.timescale)).max();
        match duration.is_zero() {
            true => Err(NotMeasurable::NoFrames),
            false => Ok(Measured { duration, declared: declared.filter(|declared| !declared.is_zero()) }),
        }
    }
}

impl Mp4 {
    /// Parses a box whose content starts with `content` at position `at`; the box ends at `end`. `None` if it is too
    /// short.
    fn read(&mut self, name: [u8; 4], content: &[u8], at: u64, end: u64) -> Option<()> {
        let flags = u32_be(content, 0)?;
        let (is_long, flags) = (flags >> 24 == 1, flags & 0xff_ffff);
        match &name {
            b"trex" => {
                let (id, ticks, size) = (u32_be(content, 4)?, u32_be(content, 12)?, u32_be(content, 16)?);
                for track in self.tracks.iter_mut().filter(|track| track.id == id) {
                    (track.default_ticks, track.default_size) = (ticks, Some(size));
                }
            }
            b"tfhd" => {
                let mut at = 8 + if flags & 1 == 0 { 0 } else { 8 } + if flags & 2 == 0 { 0 } else { 4 };
                let ticks = if flags & 8 == 0 { None } else { Some(u32_be(content, at)?) };
                at += if flags & 8 == 0 { 0 } else { 4 };
                let size = if flags & 0x10 == 0 { None } else { Some(u32_be(content, at)?) };
                self.fragment = Fragment { id: u32_be(content, 4)?, ticks, size };
            }
            b"trun" => self.track_run(content, flags, at, end)?,
            _ => self.describe(name, content, is_long, at, end)?,
        }
        Some(())
    }

    /// Parses a box that describes the current track, which is the last one.
    fn describe(&mut self, name: [u8; 4], content: &[u8], is_long: bool, at: u64, end: u64) -> Option<()> {
        let Some(track) = self.tracks.last_mut() else { return Some(()) };
        match &name {
            b"tkhd" => track.id = u32_be(content, if is_long { 20 } else { 12 })?,
            b"mdhd" => {
                track.timescale = u32_be(content, if is_long { 20 } else { 12 })?;
                let declared = if is_long { content.get(24..32)? } else { content.get(16..20)? };
                track.declared = big_endian(declared);
                let is_unknown = declared.iter().all(|byte| *byte == 0xff);
                track.declared = if is_unknown { 0 } else { track.declared };
            }
            b"hdlr" => track.is_audio |= content.get(8..12)? == b"soun",
            // A second one, or one that is not wholly in the window, is not searched for what decoders find in it.
            b"stsd" => {
                let is_clear = track.coding.is_none() && content.len() as u64 == end.saturating_sub(at);
                let coding = if is_clear { coding(content) } else { Err(NotMeasurable::UnsupportedCoding) };
                track.coding = Some(coding);
            }
            b"stsz" => {
                let (size, count) = (u32_be(content, 4)?, u64::from(u32_be(content, 8)?));
                track.sized = track.sized.max(count);
                track.largest = track.largest.max(size);
                if size == 0 {
                    let left = count.min(end.saturating_sub(at + 12) / 4);
                    self.table = Some(Table { start: 12, left, width: 4, kind: TableKind::Sizes, end });
                }
            }
            // Sizes of at most 16 bits.
            b"stz2" => {
                track.sized = track.sized.max(u64::from(u32_be(content, 8)?));
                track.largest = track.largest.max(if content[7] == 16 { 0xffff } else { 0xff });
            }
            b"stts" => {
                let left = u64::from(u32_be(content, 4)?).min(end.saturating_sub(at + 8) / 8);
                self.table = Some(Table { start: 8, left, width: 8, kind: TableKind::Durations, end });
            }
            _ => {}
        }
        Some(())
    }

    /// Parses the start of a track run (`trun`), which describes packets of a fragment.
    fn track_run(&mut self, content: &[u8], flags: u32, at: u64, end: u64) -> Option<()> {
        let count = u64::from(u32_be(content, 4)?);
        let (has_ticks, has_size) = (flags & 0x100 != 0, flags & 0x200 != 0);
        let Fragment { id, ticks, size } = self.fragment;
        for track in self.tracks.iter_mut().filter(|track| track.id == id) {
            track.in_fragments = track.in_fragments.saturating_add(count);
            if !has_ticks {
                let each = u64::from(ticks.unwrap_or(track.default_ticks));
                track.ticks = track.ticks.saturating_add(count.saturating_mul(each));
            }
            if !has_size {
                track.largest = track.largest.max(size.or(track.default_size).unwrap_or(u32::MAX));
            }
        }
        if has_ticks || has_size {
            let start = 8 + u64::from((flags & 1) * 4 + (flags >> 2 & 1) * 4);
            let width = u64::from((flags >> 8 & 15).count_ones()) * 4;
            let left = count.min(end.saturating_sub(at + start) / width);
            self.table = Some(Table { start, left, width, kind: TableKind::Run { has_ticks, has_size }, end });
        }
        Some(())
    }

    /// Reads the next entry of the table.
    fn entries(&mut self, window: Window<'_>) -> Step {
        let Some(table) = &mut self.table else { return Step::Skip(0) };
        if table.left == 0 {
            let end = table.end;
            self.table = None;
            return Step::Skip(end.saturating_sub(window.at));
        }
        let width = usize::try_from(table.width).unwrap_or(8);
        let Some(entry) = window.first(width) else { return Step::Need(width) };
        table.left -= 1;
        let first = u32_be(entry, 0).unwrap_or(0);
        let second = u32_be(entry, 4).unwrap_or(0);
        let (count, ticks, size) = match table.kind {
            TableKind::Durations => (first, second, 0),
            TableKind::Run { has_ticks, has_size: false } => (u32::from(has_ticks), first, 0),
            TableKind::Sizes | TableKind::Run { has_ticks: false, .. } => (0, 0, first),
            TableKind::Run { .. } => (1, first, second),
        };
        let (is_run, id) = (matches!(table.kind, TableKind::Run { .. }), self.fragment.id);
        let last = self.tracks.len().wrapping_sub(1);
        let of_entry = |(index, track): &(usize, &mut Track)| if is_run { track.id == id } else { *index == last };
        for (_, track) in self.tracks.iter_mut().enumerate().filter(of_entry) {
            track.ticks = track.ticks.saturating_add(u64::from(count) * u64::from(ticks));
            track.largest = track.largest.max(size);
            if !is_run {
                track.timed = track.timed.saturating_add(u64::from(count));
            }
        }
        Step::Skip(width as u64)
    }
}

/// The codec in an `stsd` box; an error if there are several or if it is not supported.
fn coding(content: &[u8]) -> Result<Coding> {
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

impl Track {
    /// Checks that a packet of this audio track is one frame, of a codec that is supported.
    fn check(&self) -> Result<()> {
        match self.coding.unwrap_or(Err(NotMeasurable::UnsupportedCoding))? {
            Coding::Aac { most_bytes, .. } if self.largest > most_bytes => Err(NotMeasurable::SeveralFrames),
            _ => Ok(()),
        }
    }

    fn duration(&self) -> Duration {
        let packets = self.timed.max(self.sized).saturating_add(self.in_fragments);
        let counted = self.coding.and_then(Result::ok).map_or(Duration::ZERO, |coding| coding.of_packets(packets));
        counted.max(play_time(self.ticks, self.timescale))
    }
}
