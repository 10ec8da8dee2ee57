//! MP4 (ISO 14496-12), M4A and QuickTime, fragmented or not.
//!
//! What the standard calls a sample is a packet here. The duration of a track is the sum of the declared durations of
//! its packets, or the number of packets times their duration in the codec, whichever is longer. The result is that of
//! the longest audio track. Edit lists may make it longer; that they hide parts of a track is ignored.
//!
//! The packets themselves are not read, as their positions may be known only at the end of the file. So Opus and MP3 are
//! refused, and AAC if a packet is larger than a frame can be, or starts with a header. Decoders differ in how they read
//! boxes that are not in their place, or there twice, so those are refused, and so is data that no track accounts for.

use std::time::Duration;

use super::mp4_boxes::{has_box, is_in_place, is_without_audio};
use super::mp4_codec::coding;
use super::mp4_place::{Data, HEADER};
use super::mp4_track::Track;
use super::packets::Coding;
use super::walk::{
    MAX_STREAMS, Measured, NotMeasurable, Result, Step, Unexplained, Walk, Window, big_endian, play_time, u32_be,
};

/// How many bytes of a box are used at most.
const MAX_VALUE: usize = 1024;

/// A table that is being read.
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
    /// The position of a chunk of packets (`stco`, `co64`).
    Chunks,
    /// From which chunk on there are how many packets in each (`stsc`).
    PerChunk,
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
    /// The position that those of packets are relative to.
    base: u64,
    /// The position of the next packet.
    next: u64,
}

/// What the walker does with the bytes up to a position.
#[derive(Clone, Copy)]
enum Content {
    /// Data: it is searched for the headers of ADTS.
    Data(u64),
    /// A box that is not read: it is searched for boxes that some decoders would find in it.
    Unread(u64),
}

#[derive(Default)]
pub(super) struct Mp4 {
    tracks: Vec<Track>,
    /// The boxes around the position, with the positions of their ends, the outermost first.
    path: Vec<([u8; 4], u64)>,
    has_moov: bool,
    /// Ticks per second of edit lists.
    timescale: u32,
    table: Option<Table>,
    fragment: Fragment,
    /// Position of the current fragment.
    moof: u64,
    content: Option<Content>,
    data: Data,
    unexplained: Unexplained,
}

/// The track that fragments call by this id. Each has another; without one, it is 0.
fn with_id(tracks: &mut [Track], id: u32) -> Option<&mut Track> {
    tracks.iter_mut().find(|track| id != 0 && track.id == id)
}

impl Walk for Mp4 {
    fn step(&mut self, window: Window<'_>) -> Result<Step> {
        if self.table.is_some() {
            return self.entries(window);
        }
        if let Some(content) = self.content {
            return self.search(window, content);
        }
        while self.path.last().is_some_and(|(_, end)| *end <= window.at) {
            self.path.pop();
        }
        let around = self.path.last().map_or(u64::MAX, |(_, end)| *end);
        if around - window.at < 8 {
            return Ok(Step::Skip(around - window.at)); // QuickTime ends lists of boxes like this.
        }
        let Some(head) = window.first(8) else { return Ok(Step::Need(8)) };
        let (mut size, mut header) = (u32_be(head, 0).map_or(0, u64::from), 8);
        let name: [u8; 4] = [head[4], head[5], head[6], head[7]];
        if size == 1 {
            let Some(long) = window.first(16) else { return Ok(Step::Need(16)) };
            (size, header) = (big_endian(&long[8..]), 16);
        } else if size == 0 && self.path.is_empty() {
            size = u64::MAX - window.at; // The box extends to the end of the file.
        }
        let end = window.at.saturating_add(size);
        if size < header as u64 || end > around || !is_in_place(name, self.path.last().map(|(name, _)| name)) {
            return Err(NotMeasurable::Broken);
        }
        match &name {
            b"moov" if std::mem::replace(&mut self.has_moov, true) => return Err(NotMeasurable::Broken),
            b"trak" if self.tracks.len() >= MAX_STREAMS => return Err(NotMeasurable::TooManyStreams),
            b"cmov" => return Err(NotMeasurable::UnsupportedCoding), // Compressed.
            b"trak" => self.tracks.push(Track::default()),
            b"moof" => (self.moof, self.fragment) = (window.at, Fragment { next: window.at, ..Fragment::default() }),
            b"moov" | b"mdia" | b"minf" | b"stbl" | b"mvex" | b"edts" => {}
            b"traf" => self.fragment.id = 0,
            b"mdat" => {
                let start = window.at + header as u64;
                self.data.begin(start, end)?;
                self.content = Some(Content::Data(end));
                return Ok(Step::Skip(header as u64));
            }
            b"mvhd" | b"tkhd" | b"elst" | b"mdhd" | b"hdlr" | b"stsd" | b"stts" | b"stsz" | b"stz2" | b"stsc"
            | b"stco" | b"co64" | b"trex" | b"tfhd" | b"trun" => return self.read_box(window, name, header, size),
            _ => return self.unread_box(window, name, header, size),
        }
        self.path.push((name, end));
        Ok(Step::Skip(header as u64))
    }

    fn counted(&self, _: u64) -> Duration {
        self.audio().map(|track| track.duration(self.timescale)).max().unwrap_or_default()
    }

    fn held(&self) -> Option<usize> {
        let tracks = self.tracks.iter().map(|track| size_of::<Track>() + track.places.held());
        Some(self.data.held() + tracks.sum::<usize>())
    }

    fn finish(&self, size: u64) -> Result<Measured> {
        let audio = || self.audio();
        audio().try_for_each(Track::check)?;
        let duration = self.counted(size);
        if duration.is_zero() {
            return Err(NotMeasurable::NoFrames);
        }
        // Packets that lie in one another are those of no encoder, and would be looked at again and again.
        let of_aac = |track: &&Track| matches!(track.coding, Some(Ok(Coding::Aac { .. })));
        if audio().filter(of_aac).map(|track| track.bytes).fold(0, u64::saturating_add) > self.data.bytes {
            return Err(NotMeasurable::Broken);
        }
        audio().try_for_each(|track| track.places.check(&self.data))?;
        let packets = self.tracks.iter().map(|track| track.bytes).fold(0, u64::saturating_add);
        let mut unexplained = self.unexplained;
        unexplained.add(self.data.bytes.saturating_sub(packets));
        unexplained.check(duration)?;
        let declared = audio().map(|track| play_time(track.declared, track.timescale)).max();
        Ok(Measured { duration, declared: declared.filter(|declared| !declared.is_zero()) })
    }
}

impl Mp4 {
    fn audio(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().filter(|track| track.is_audio || matches!(track.coding, Some(Ok(_))))
    }

    /// Reads a box with the header at the start of the window.
    fn read_box(&mut self, window: Window<'_>, name: [u8; 4], header: usize, size: u64) -> Result<Step> {
        let wanted = usize::try_from(size).map_or(MAX_VALUE, |size| size.min(MAX_VALUE));
        let Some(whole) = window.first(wanted) else { return Ok(Step::Need(wanted)) };
        if self.path.iter().any(|(name, _)| name == b"trak")
            && let Some(track) = self.tracks.last_mut()
        {
            track.once(name)?;
        }
        self.read(name, &whole[header..], window.at + header as u64, window.at.saturating_add(size))
            .ok_or(NotMeasurable::Broken)?;
        match &self.table {
            Some(table) => Ok(Step::Skip(header as u64 + table.start)),
            None => Ok(Step::Skip(size)),
        }
    }

    /// Begins a box that is not read.
    fn unread_box(&mut self, window: Window<'_>, name: [u8; 4], header: usize, size: u64) -> Result<Step> {
        if size >= header as u64 + 8 {
            let Some(start) = window.first(header + 8) else { return Ok(Step::Need(header + 8)) };
            // Whatever the name, some decoders take this for the description of the tracks.
            if matches!(&start[header + 4..], b"mvhd" | b"cmov") {
                return Err(NotMeasurable::Broken);
            }
        }
        if self.path.is_empty() {
            self.unexplained.add(if is_without_audio(name) { 0 } else { size });
            return Ok(Step::Skip(size));
        }
        self.content = Some(Content::Unread(window.at.saturating_add(size)));
        Ok(Step::Skip(header as u64))
    }

    /// Searches the next bytes of a box that is not read as one.
    fn search(&mut self, window: Window<'_>, content: Content) -> Result<Step> {
        let (Content::Data(end) | Content::Unread(end)) = content;
        let left = end.saturating_sub(window.at);
        let seen =
            &window.bytes[..usize::try_from(left).map_or(window.bytes.len(), |left| left.min(window.bytes.len()))];
        let is_whole = seen.len() as u64 == left || window.is_last;
        // What is searched for may be cut off at the end of what is seen.
        let taken = if is_whole { seen.len() } else { seen.len().saturating_sub(HEADER) };
        if taken == 0 && !is_whole {
            return Ok(Step::Need(HEADER + 1));
        }
        match content {
            Content::Data(_) => self.data.search(seen, taken, window.at)?,
            Content::Unread(_) if has_box(seen, left) => return Err(NotMeasurable::Broken),
            Content::Unread(_) => {}
        }
        if is_whole {
            self.content = None;
        }
        Ok(Step::Skip(taken as u64))
    }

    /// Parses a box whose content starts with `content` at position `at`; the box ends at `end`. `None` if it is too
    /// short.
    fn read(&mut self, name: [u8; 4], content: &[u8], at: u64, end: u64) -> Option<()> {
        let flags = u32_be(content, 0)?;
        let (is_long, flags) = (flags >> 24 == 1, flags & 0xff_ffff);
        match &name {
            b"mvhd" => self.timescale = u32_be(content, if is_long { 20 } else { 12 })?,
            b"trex" => {
                let (id, ticks, size) = (u32_be(content, 4)?, u32_be(content, 12)?, u32_be(content, 16)?);
                if let Some(track) = with_id(&mut self.tracks, id) {
                    (track.default_ticks, track.default_size) = (ticks, Some(size));
                }
            }
            b"tfhd" => self.fragment_header(content, flags)?,
            b"trun" => self.track_run(content, flags, at, end)?,
            _ => self.describe(name, content, is_long, at, end)?,
        }
        Some(())
    }

    fn fragment_header(&mut self, content: &[u8], flags: u32) -> Option<()> {
        let mut at = 8;
        let mut field = |flag: u32, length: usize| {
            let from = at;
            at += if flags & flag == 0 { 0 } else { length };
            if flags & flag == 0 { Some(None) } else { content.get(from..from + length).map(big_endian).map(Some) }
        };
        let (position, _, ticks, size) = (field(1, 8)?, field(2, 4)?, field(8, 4)?, field(0x10, 4)?);
        let narrow = |number: u64| u32::try_from(number).ok();
        let (ticks, size) = (ticks.and_then(narrow), size.and_then(narrow));
        // Without a position, that of the fragment counts, or the end of the data of the track before.
        let implied = if flags & 0x2_0000 == 0 { self.fragment.next } else { self.moof };
        let base = position.unwrap_or(implied);
        self.fragment = Fragment { id: u32_be(content, 4)?, ticks, size, base, next: base };
        Some(())
    }

    /// Parses a box that describes the current track, which is the last one.
    fn describe(&mut self, name: [u8; 4], content: &[u8], is_long: bool, at: u64, end: u64) -> Option<()> {
        let Some(track) = self.tracks.last_mut() else { return Some(()) };
        match &name {
            b"tkhd" => return self.track_header(u32_be(content, if is_long { 20 } else { 12 })?),
            b"mdhd" => {
                track.timescale = u32_be(content, if is_long { 20 } else { 12 })?;
                let declared = if is_long { content.get(24..32)? } else { content.get(16..20)? };
                track.declared = big_endian(declared);
                let is_unknown = declared.iter().all(|byte| *byte == 0xff);
                track.declared = if is_unknown { 0 } else { track.declared };
            }
            b"elst" => {
                let (count, width) = (u32_be(content, 4)? as usize, if is_long { 20 } else { 12 });
                let entries = content.get(8..8usize.checked_add(count.checked_mul(width)?)?)?;
                for entry in entries.chunks_exact(width) {
                    let (ticks, start) = entry[..width - 4].split_at((width - 4) / 2);
                    // All bits are set if nothing is played.
                    if start.iter().any(|byte| *byte != 0xff) {
                        track.edits.push(big_endian(ticks));
                    }
                }
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
                track.bytes = track.bytes.saturating_add(count.saturating_mul(u64::from(size)));
                if size > 0 {
                    track.aac().map_or(Some(()), |places| places.set_same(count, size))?;
                } else {
                    let left = count.min(end.saturating_sub(at + 12) / 4);
                    self.table = Some(Table { start: 12, left, width: 4, kind: TableKind::Sizes, end });
                }
            }
            // Sizes of at most 16 bits: not used for audio.
            b"stz2" => track.coding = Some(Err(NotMeasurable::UnsupportedCoding)),
            b"stsc" | b"stco" | b"co64" => {
                let (kind, width) = match &name {
                    b"stsc" => (TableKind::PerChunk, 12),
                    b"stco" => (TableKind::Chunks, 4),
                    _ => (TableKind::Chunks, 8),
                };
                let left = u64::from(u32_be(content, 4)?).min(end.saturating_sub(at + 8) / width);
                self.table = Some(Table { start: 8, left, width, kind, end });
            }
            b"stts" => {
                let left = u64::from(u32_be(content, 4)?).min(end.saturating_sub(at + 8) / 8);
                self.table = Some(Table { start: 8, left, width: 8, kind: TableKind::Durations, end });
            }
            _ => {}
        }
        Some(())
    }

    /// The current track has this id; `None` if another one has it, so that nobody knows which one fragments are for.
    fn track_header(&mut self, id: u32) -> Option<()> {
        let is_known = self.tracks.iter().any(|track| track.id == id);
        self.tracks.last_mut()?.id = id;
        (id != 0 && !is_known).then_some(())
    }

    /// Parses the start of a track run (`trun`), which describes packets of a fragment.
    fn track_run(&mut self, content: &[u8], flags: u32, at: u64, end: u64) -> Option<()> {
        let declared = u32_be(content, 4)?;
        let (has_ticks, has_size) = (flags & 0x100 != 0, flags & 0x200 != 0);
        let start = 8 + u64::from((flags & 1) * 4 + (flags >> 2 & 1) * 4);
        let width = u64::from((flags >> 8 & 15).count_ones()) * 4;
        let listed = end.saturating_sub(at + start).checked_div(width).unwrap_or(u64::MAX);
        let left = u64::from(declared).min(listed);
        if flags & 1 != 0 {
            let offset = i64::from(i32::from_be_bytes(content.get(8..12)?.try_into().ok()?));
            self.fragment.next = self.fragment.base.checked_add_signed(offset)?;
        }
        let Fragment { id, ticks, size, next, .. } = self.fragment;
        if let Some(track) = with_id(&mut self.tracks, id) {
            let count = u64::from(declared);
            track.in_fragments = track.in_fragments.saturating_add(count);
            if !has_ticks {
                let each = u64::from(ticks.unwrap_or(track.default_ticks));
                track.ticks = track.ticks.saturating_add(count.saturating_mul(each));
            }
            let same = (!has_size).then(|| size.or(track.default_size).unwrap_or(u32::MAX));
            if let Some(size) = same {
                let sum = count.saturating_mul(u64::from(size));
                track.largest = track.largest.max(size);
                track.bytes = track.bytes.saturating_add(sum);
                self.fragment.next = next.saturating_add(sum);
            }
            let listed = if has_size { u32::try_from(left).ok()? } else { declared };
            track.aac().map_or(Some(()), |places| places.add_run(next, listed, same))?;
        }
        if has_ticks || has_size {
            self.table = Some(Table { start, left, width, kind: TableKind::Run { has_ticks, has_size }, end });
        }
        Some(())
    }

    /// Reads the next entry of the table.
    fn entries(&mut self, window: Window<'_>) -> Result<Step> {
        let Some(table) = &mut self.table else { return Ok(Step::Skip(0)) };
        if table.left == 0 {
            let end = table.end;
            self.table = None;
            return Ok(Step::Skip(end.saturating_sub(window.at)));
        }
        let (kind, width) = (table.kind, usize::try_from(table.width).unwrap_or(8));
        let Some(entry) = window.first(width) else { return Ok(Step::Need(width)) };
        table.left -= 1;
        self.entry(kind, entry).ok_or(NotMeasurable::Broken)?;
        Ok(Step::Skip(width as u64))
    }

    /// Takes an entry of a table; `None` if it is malformed.
    fn entry(&mut self, kind: TableKind, entry: &[u8]) -> Option<()> {
        let (first, second) = (u32_be(entry, 0).unwrap_or(0), u32_be(entry, 4).unwrap_or(0));
        let TableKind::Run { has_ticks, has_size } = kind else { return self.sample_entry(kind, entry, first, second) };
        let (ticks, size) = (if has_ticks { first } else { 0 }, if has_ticks { second } else { first });
        let (id, size) = (self.fragment.id, has_size.then_some(size));
        if let Some(track) = with_id(&mut self.tracks, id) {
            track.ticks = track.ticks.saturating_add(u64::from(ticks));
            if let Some(size) = size {
                track.add_bytes(size);
                track.aac().map_or(Some(()), |places| places.add_run_size(size))?;
            }
        }
        self.fragment.next = self.fragment.next.saturating_add(u64::from(size.unwrap_or(0)));
        Some(())
    }

    /// As [`Mp4::entry`], for the current track.
    fn sample_entry(&mut self, kind: TableKind, entry: &[u8], first: u32, second: u32) -> Option<()> {
        let Some(track) = self.tracks.last_mut() else { return Some(()) };
        match kind {
            TableKind::Durations => {
                track.ticks = track.ticks.saturating_add(u64::from(first) * u64::from(second));
                track.timed = track.timed.saturating_add(u64::from(first));
                Some(())
            }
            TableKind::Sizes => {
                track.add_bytes(first);
                track.aac().map_or(Some(()), |places| places.add_size(first))
            }
            TableKind::Chunks => track.aac().map_or(Some(()), |places| places.add_chunk(big_endian(entry))),
            TableKind::PerChunk => track.aac().map_or(Some(()), |places| places.add_per_chunk(first, second)),
            TableKind::Run { .. } => Some(()),
        }
    }
}
