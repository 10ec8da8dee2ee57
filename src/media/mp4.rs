//! MP4 (ISO 14496-12), M4A and QuickTime, fragmented or not.
//!
//! What the standard calls a sample is a packet here. The duration of a track is the sum of the declared durations of
//! its packets, or the number of packets times their duration in the codec, whichever is longer. The result is that of
//! the longest audio track. Edit lists, which hide parts of a track, are ignored.

use std::time::Duration;

use super::packets::Coding;
use super::walk::{MAX_STREAMS, Measured, NotMeasurable, Result, Step, Walk, Window, big_endian, play_time, u32_be};

/// How many bytes of a box are used at most.
const MAX_VALUE: usize = 1024;

#[derive(Default)]
struct Track {
    id: u32,
    is_audio: bool,
    coding: Option<Coding>,
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
}

/// The table of durations that is being read.
struct Table {
    /// The number of entries still to come.
    left: u64,
    /// Bytes per entry.
    width: u64,
    /// Each entry is a number of packets and their duration, not the duration of one packet.
    has_counts: bool,
    /// Position of the end of the box.
    end: u64,
}

#[derive(Default)]
pub(super) struct Mp4 {
    tracks: Vec<Track>,
    table: Option<Table>,
    /// The track of the current fragment, and the default duration of its packets.
    fragment: (u32, Option<u32>),
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
                self.fragment = (0, None);
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
            Some(_) => Ok(Step::Skip(header as u64)),
            None => Ok(Step::Skip(size)),
        }
    }

    fn finish(&self, _: u64) -> Result<Measured> {
        let audio = || self.tracks.iter().filter(|track| track.is_audio);
        if audio().any(|track| track.coding.is_none()) {
            return Err(NotMeasurable::UnsupportedCoding);
        }
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
                let (id, ticks) = (u32_be(content, 4)?, u32_be(content, 12)?);
                self.tracks.iter_mut().filter(|track| track.id == id).for_each(|track| track.default_ticks = ticks);
            }
            b"tfhd" => {
                let before = 8 + if flags & 1 == 0 { 0 } else { 8 } + if flags & 2 == 0 { 0 } else { 4 };
                let ticks = if flags & 8 == 0 { None } else { Some(u32_be(content, before)?) };
                self.fragment = (u32_be(content, 4)?, ticks);
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
            b"stsd" => track.coding = coding(content),
            b"stsz" | b"stz2" => track.sized = track.sized.max(u64::from(u32_be(content, 8)?)),
            b"stts" => {
                let left = u64::from(u32_be(content, 4)?).min(end.saturating_sub(at + 8) / 8);
                self.table = Some(Table { left, width: 8, has_counts: true, end });
            }
            _ => {}
        }
        Some(())
    }

    /// Parses the start of a track run (`trun`), which describes packets of a fragment.
    fn track_run(&mut self, content: &[u8], flags: u32, at: u64, end: u64) -> Option<()> {
        let count = u64::from(u32_be(content, 4)?);
        let (id, ticks) = self.fragment;
        let has_ticks = flags & 0x100 != 0;
        for track in self.tracks.iter_mut().filter(|track| track.id == id) {
            track.in_fragments = track.in_fragments.saturating_add(count);
            if !has_ticks {
                let each = u64::from(ticks.unwrap_or(track.default_ticks));
                track.ticks = track.ticks.saturating_add(count.saturating_mul(each));
            }
        }
        if has_ticks {
            let before = u64::from((flags & 1) * 4 + (flags >> 2 & 1) * 4);
            let width = u64::from((flags >> 8 & 15).count_ones()) * 4;
            let left = count.min(end.saturating_sub(at + 8 + before) / width);
            self.table = Some(Table { left, width, has_counts: false, end });
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
        let (count, ticks) = match table.has_counts {
            true => (big_endian(&entry[..4]), big_endian(&entry[4..])),
            false => (1, big_endian(&entry[..4])),
        };
        let sum = count.saturating_mul(ticks);
        if table.has_counts {
            if let Some(track) = self.tracks.last_mut() {
                track.timed = track.timed.saturating_add(count);
                track.ticks = track.ticks.saturating_add(sum);
            }
        } else {
            let id = self.fragment.0;
            for track in self.tracks.iter_mut().filter(|track| track.id == id) {
                track.ticks = track.ticks.saturating_add(sum);
            }
        }
        Step::Skip(width as u64)
    }
}

/// The codec in an `stsd` box; `None` if there are several or if it is not supported.
fn coding(content: &[u8]) -> Option<Coding> {
    let entry = content.get(8..).filter(|_| u32_be(content, 4) == Some(1))?;
    let config = |name: &[u8]| {
        let at = memchr::memmem::find(entry.get(36..)?, name)?;
        entry.get(36 + at + 4..)
    };
    let rate = u32_be(entry, 32)? >> 16;
    match entry.get(4..8)? {
        b"mp4a" => match config(b"esds") {
            Some(descriptors) => esds(descriptors, rate),
            None => None,
        },
        b"alac" => {
            // An inner box has the same name. It contains version and flags, then the number of samples per packet.
            let cookie = config(b"alac")?;
            let (samples, rate) = (u32_be(cookie, 4)?, u32_be(cookie, 24)?);
            (samples > 0 && rate > 0).then_some(Coding::Constant { samples, rate })
        }
        // The duration of an Opus packet is in the packet, which is not read here. Nearly all encoders use 20 ms.
        b"Opus" => Some(Coding::Constant { samples: 960, rate: 48_000 }),
        b".mp3" => (rate > 0).then_some(Coding::Constant { samples: 1152, rate }),
        _ => None,
    }
}

/// Parses the content of an `esds` box (ISO 14496-1, 7.2.6).
fn esds(content: &[u8], rate: u32) -> Option<Coding> {
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
                // MP3 needs no configuration.
                if matches!(object_type, 0x69 | 0x6b) {
                    return (rate > 0).then_some(Coding::Constant { samples: 1152, rate });
                }
                at += 13;
            }
            5 if matches!(object_type, 0x40 | 0x66..=0x68) => return Coding::aac(content.get(at..)?),
            _ => return None,
        }
    }
}

impl Track {
    fn duration(&self) -> Duration {
        let packets = self.timed.max(self.sized).saturating_add(self.in_fragments);
        let counted = match self.coding {
            Some(Coding::Constant { samples, rate }) => play_time(packets.saturating_mul(u64::from(samples)), rate),
            _ => Duration::ZERO,
        };
        counted.max(play_time(self.ticks, self.timescale))
    }
}
