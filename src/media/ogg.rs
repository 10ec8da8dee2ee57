//! Ogg (RFC 3533) with Opus (RFC 7845), Vorbis or FLAC.
//!
//! The durations of the packets are added up. Granule positions are declared by the file: for Opus, they can only shorten
//! the stream by less than one packet; for Vorbis, they can only make it longer. The durations of all streams in a file are
//! added up, whether they are chained or multiplexed.
//!
//! Checksums are not verified. Decoders that do so search for pages inside one that is wrong, so those count as well.

use std::time::Duration;

use super::flac::StreamInfo;
use super::frames::{Frames, PIECE};
use super::packets::Coding;
use super::vorbis::{MAX_SETUP, Vorbis};
use super::walk::{
    MAX_STREAMS, Measured, NotMeasurable, Result, Step, Unexplained, Walk, Window, play_time, u16_le, u32_le,
};

/// What a page starts with.
const CAPTURE: &[u8] = b"OggS\0";

/// Length of a page header before its segment table, in bytes.
const PAGE_HEADER: usize = 27;
/// How many bytes of the first packet of a stream are used.
const IDENTIFICATION: usize = 64;
/// Granule positions per second in Opus.
const OPUS_RATE: u32 = 48_000;
/// The maximum duration of an Opus packet, and the most that may be cut off at the start of a recording.
const OPUS_PACKET: Duration = Duration::from_millis(120);

/// A logical stream.
struct Stream {
    serial: u32,
    coding: Option<Coding>,
    frames: Frames,
    pre_skip: Duration,
    /// The sum of the durations of the packets so far.
    counted: Duration,
    packets: u64,
    /// Granule positions per second.
    rate: u32,
    /// The granule positions at which the stream starts and ends.
    granules: Option<(u64, u64)>,
    is_out_of_order: bool,
}

/// A packet, or the part of it that is on one page.
#[derive(Clone, Copy)]
struct Piece {
    bytes: u32,
    is_packet_start: bool,
    is_packet_end: bool,
}

#[derive(Default)]
pub(super) struct Ogg {
    streams: Vec<Stream>,
    pieces: Vec<Piece>,
    next_piece: usize,
    /// Bytes of the next piece that were read.
    read: u32,
    /// What was read of a setup header of Vorbis, and the stream that it belongs to.
    setup: (Option<usize>, Vec<u8>),
    /// The index of the stream that the current page belongs to.
    stream: Option<usize>,
    /// The granule position at the end of the current page.
    granule: u64,
    is_first_page: bool,
    has_unsupported: bool,
    unexplained: Unexplained,
}

impl Walk for Ogg {
    fn step(&mut self, window: Window<'_>) -> Result<Step> {
        match self.pieces.get(self.next_piece) {
            Some(piece) => self.piece(window, *piece),
            None => self.page(window),
        }
    }

    fn counted(&self, _: u64) -> Duration {
        let played = |(index, stream): (usize, &Stream)| stream.duration().saturating_sub(stream.cut(index > 0));
        self.streams.iter().enumerate().map(played).fold(Duration::ZERO, Duration::saturating_add)
    }

    fn finish(&self, size: u64) -> Result<Measured> {
        let duration = self.counted(size);
        match self.has_unsupported {
            true => Err(NotMeasurable::UnsupportedCoding),
            false if duration.is_zero() => Err(NotMeasurable::NoFrames),
            false => {
                let unexplained = self.streams.iter().map(|stream| stream.frames.unexplained());
                unexplained.fold(self.unexplained, Unexplained::and).check(duration)?;
                Ok(Measured { duration, declared: self.declared() })
            }
        }
    }
}

impl Ogg {
    fn page(&mut self, window: Window<'_>) -> Result<Step> {
        let Some(head) = window.first(PAGE_HEADER) else { return Ok(Step::Need(PAGE_HEADER)) };
        if !head.starts_with(CAPTURE) {
            let next = memchr::memchr(b'O', &window.bytes[1..]).map_or(window.bytes.len(), |n| n + 1);
            self.unexplained.add(next as u64);
            return Ok(Step::Skip(next as u64));
        }
        let header = PAGE_HEADER + usize::from(head[26]);
        let Some(whole) = window.first(header) else { return Ok(Step::Need(header)) };
        let (flags, serial) = (head[5], u32_le(head, 14).unwrap_or(0));
        self.granule = head[6..14].iter().rev().fold(0, |granule, byte| granule << 8 | u64::from(*byte));
        self.set_pieces(&whole[PAGE_HEADER..], flags & 1 == 1);
        self.is_first_page = flags & 2 == 2;
        if self.is_first_page {
            if self.streams.len() >= MAX_STREAMS {
                return Err(NotMeasurable::TooManyStreams);
            }
            self.streams.push(Stream::new(serial));
        }
        self.stream = self.streams.iter().rposition(|stream| stream.serial == serial);
        if self.stream.is_none() {
            self.unexplained.add(self.pieces.iter().map(|piece| u64::from(piece.bytes)).sum());
        }
        if self.pieces.is_empty() {
            self.end_page();
        }
        Ok(Step::Skip(header as u64))
    }

    /// Splits a page into packets. A segment of 255 bytes continues in the next segment.
    fn set_pieces(&mut self, segments: &[u8], is_continued: bool) {
        self.pieces.clear();
        (self.next_piece, self.read) = (0, 0);
        let (mut bytes, mut is_packet_start, mut is_open) = (0, !is_continued, false);
        for segment in segments {
            bytes += u32::from(*segment);
            is_open = *segment == 255;
            if !is_open {
                self.pieces.push(Piece { bytes, is_packet_start, is_packet_end: true });
                (bytes, is_packet_start) = (0, true);
            }
        }
        if is_open {
            self.pieces.push(Piece { bytes, is_packet_start, is_packet_end: false });
        }
    }

    /// Reads on in the next piece of the page.
    fn piece(&mut self, window: Window<'_>, piece: Piece) -> Result<Step> {
        let left = piece.bytes - self.read;
        let seen = &window.bytes[..window.bytes.len().min(left as usize)];
        // The start of a page may be cut off at the end of what is seen.
        let whole =
            if seen.len() == left as usize || window.is_last { seen.len() } else { seen.len().saturating_sub(4) };
        if whole == 0 && left > 0 && !window.is_last {
            return Ok(Step::Need(CAPTURE.len()));
        }
        let page = memchr::memmem::find(seen, CAPTURE);
        if page == Some(0) {
            self.pieces.clear();
            return Ok(Step::Skip(0));
        }
        let most = u32::try_from(page.unwrap_or(whole)).unwrap_or(left);
        let mut taken = most;
        if let Some(stream) = self.stream.and_then(|index| self.streams.get_mut(index)) {
            let is_start = piece.is_packet_start && self.read == 0;
            if is_start && stream.packets == 0 {
                let wanted = (piece.bytes as usize).min(IDENTIFICATION);
                let Some(start) = window.first(wanted) else { return Ok(Step::Need(wanted)) };
                self.has_unsupported |= !stream.identify(start);
            } else if stream.coding.is_some() && (is_start || stream.packets > 1) {
                taken = most.min(u32::try_from(PIECE).unwrap_or(left));
            }
            if is_start {
                stream.packets += 1;
                stream.frames.begin();
            }
            if stream.packets > 1 {
                let bytes = window.bytes.get(..taken as usize).unwrap_or_default();
                self.packet(bytes, is_start, taken == left && piece.is_packet_end)?;
            }
        }
        self.read += taken;
        if self.read == piece.bytes {
            self.read = 0;
            self.next_piece += 1;
            if self.next_piece == self.pieces.len() {
                self.end_page();
            }
        }
        Ok(Step::Skip(u64::from(taken)))
    }

    /// Takes the next bytes of a packet after the first one.
    fn packet(&mut self, bytes: &[u8], is_start: bool, is_end: bool) -> Result<()> {
        let index = self.stream;
        let Some(stream) = index.and_then(|index| self.streams.get_mut(index)) else { return Ok(()) };
        match (stream.coding, stream.packets) {
            // Comments.
            (Some(Coding::Opus | Coding::Vorbis(_)), 2) | (None, _) => {}
            (Some(Coding::Vorbis(vorbis)), 3) => {
                let (owner, header) = &mut self.setup;
                if is_start {
                    (*owner, *header) = (index, Vec::new());
                }
                header.extend_from_slice(bytes);
                if *owner != index || header.len() > MAX_SETUP {
                    return Err(NotMeasurable::UnsupportedCoding);
                }
                if is_end {
                    let header = std::mem::take(header);
                    stream.coding = Some(Coding::Vorbis(vorbis.with_setup(&header).ok_or(NotMeasurable::Broken)?));
                }
            }
            (Some(coding), _) => {
                let added = stream.frames.push(&coding, bytes, is_end)?;
                stream.counted = stream.counted.saturating_add(added);
            }
        }
        Ok(())
    }

    fn end_page(&mut self) {
        // All bits are set if no packet ends on the page.
        if self.granule != u64::MAX
            && let Some(stream) = self.stream.and_then(|index| self.streams.get_mut(index))
        {
            stream.end_page(self.granule);
        }
    }

    /// The duration according to the granule positions, including the pre-skip of Opus.
    fn declared(&self) -> Option<Duration> {
        let sum = self.streams.iter().fold(Duration::ZERO, |sum, stream| sum.saturating_add(stream.stamped()));
        (!sum.is_zero()).then_some(sum)
    }
}

impl Stream {
    fn new(serial: u32) -> Stream {
        let (coding, granules, pre_skip, counted) = (None, None, Duration::ZERO, Duration::ZERO);
        Stream {
            serial,
            coding,
            frames: Frames::default(),
            pre_skip,
            counted,
            packets: 0,
            rate: 0,
            granules,
            is_out_of_order: false,
        }
    }

    /// Parses the first packet. Returns false if the codec is not supported; known video codecs are ignored.
    fn identify(&mut self, start: &[u8]) -> bool {
        const NO_AUDIO: [&[u8]; 4] = [b"\x80theora", b"fishead\0", b"BBCD\0", b"OVP80"];
        if start.starts_with(b"OpusHead") {
            self.pre_skip = play_time(u64::from(u16_le(start, 10).unwrap_or(0)), OPUS_RATE);
            (self.coding, self.rate) = (Some(Coding::Opus), OPUS_RATE);
        } else if let Some(vorbis) = Vorbis::parse(start) {
            (self.coding, self.rate) = (Some(Coding::Vorbis(vorbis)), vorbis.rate);
        } else if start.starts_with(b"\x7fFLAC") {
            let info = start.get(17..).and_then(StreamInfo::parse);
            self.coding = info.map(Coding::Flac);
        }
        self.coding.is_some() || NO_AUDIO.iter().any(|magic| start.starts_with(magic))
    }

    fn end_page(&mut self, granule: u64) {
        match &mut self.granules {
            // Header pages have the position 0.
            _ if self.counted.is_zero() => {}
            None => {
                // A stream that was cut out of a longer one does not start at 0.
                let counted = u64::try_from(self.counted.as_nanos() * u128::from(self.rate) / 1_000_000_000);
                self.granules = Some((granule.saturating_sub(counted.unwrap_or(u64::MAX)), granule));
            }
            Some((_, last)) => {
                self.is_out_of_order |= granule < *last;
                *last = granule;
            }
        }
    }

    fn stamped(&self) -> Duration {
        self.granules.map_or(Duration::ZERO, |(first, last)| play_time(last.saturating_sub(first), self.rate))
    }

    /// What is cut off at the start and the end of a stream of Opus. Streams that come `later` might be so short that
    /// little is left, and decoders may disagree on them, so only a small part is cut off there.
    fn cut(&self, later: bool) -> Duration {
        if self.coding != Some(Coding::Opus) {
            return Duration::ZERO;
        }
        let end = self.counted.saturating_sub(self.stamped());
        let end = if self.is_out_of_order || end > OPUS_PACKET { Duration::ZERO } else { end };
        let cut = end.saturating_add(self.pre_skip.min(OPUS_PACKET));
        if later && cut > self.counted / 20 { Duration::ZERO } else { cut }
    }

    fn duration(&self) -> Duration {
        let stamped = self.stamped();
        match self.coding {
            None => Duration::ZERO,
            Some(Coding::Vorbis(_)) if !self.is_out_of_order => stamped.max(self.counted),
            Some(_) => self.counted,
        }
    }
}
