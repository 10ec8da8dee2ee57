//! Matroska (RFC 9559) and WebM: files, and streams as written by the `MediaRecorder` of browsers, without sizes or a
//! duration.
//!
//! The duration of a track is the span of its timestamps or the sum of its packets, whichever is longer. The result is
//! that of the longest audio track. Decoders differ in how they read elements that are not in their place, or twice in a
//! track, so those are refused. What is not read is searched for clusters, which a decoder that has lost its way would
//! find and play.

use std::time::Duration;

use super::ebml::{
    AUDIO, BLOCK, BLOCK_GROUP, CLUSTER, CLUSTER_START, CLUSTER_TIMESTAMP, CODEC_ID, CODEC_PRIVATE, CONTENT_ENCODINGS,
    DURATION, EBML, ELEMENT_HEADER, Element, INFO, Path, SAMPLING_FREQUENCY, SEGMENT, SIMPLE_BLOCK, TIMESTAMP_SCALE,
    TRACK, TRACK_NUMBER, TRACK_TYPE, TRACKS, find_cluster, is_without_audio, laced_sizes, vint,
};
use super::flac::StreamInfo;
use super::frames::{Frames, PIECE};
use super::packets::Coding;
use super::vorbis::{MAX_SETUP, Vorbis};
use super::walk::{MAX_STREAMS, Measured, NotMeasurable, Result, Step, Unexplained, Walk, Window, big_endian};

/// How many bytes of a value are used at most.
const MAX_VALUE: usize = 128;
/// How many bytes of a codec's configuration are used: enough for the headers of Vorbis with short comments.
const MAX_PRIVATE: usize = MAX_SETUP - ELEMENT_HEADER;
/// How many bytes of a block are read to find its first packet: the sizes of up to 255 packets precede it.
const BLOCK_HEADER: usize = 4096;

/// The value of [`TRACK_TYPE`] for audio.
const AUDIO_TRACK: u64 = 2;
/// The values of [`TRACK_TYPE`] for others, and what the names of their codecs start with.
const OTHER_TRACKS: [(u64, &[&[u8]]); 4] =
    [(1, &[b"V_"]), (0x11, &[b"S_", b"D_"]), (0x12, &[b"B_"]), (0x21, &[b"D_", b"S_"])];

#[derive(Default)]
struct Track {
    /// The ids of the elements that may occur only once, as far as they have occurred.
    fields: Vec<u32>,
    number: u64,
    kind: u64,
    codec: Vec<u8>,
    /// The start of the codec's configuration.
    private: Vec<u8>,
    vorbis: Option<Vorbis>,
    rate: u32,
    is_encoded: bool,
    /// Set when the first block arrives; `None` if the codec is not supported.
    coding: Option<Coding>,
    frames: Frames,
    /// The sum of the durations of the packets.
    counted: Duration,
    packets: u64,
    /// The timestamps of the earliest and the latest block, in nanoseconds.
    span: Option<(u64, u64)>,
}

pub(super) struct Matroska {
    tracks: Vec<Track>,
    /// Nanoseconds per tick of a timestamp.
    scale: u64,
    declared_ticks: Option<f64>,
    /// The timestamp of the current cluster, in nanoseconds.
    cluster: u64,
    /// Bytes still to come of the packets of the current block, in reverse order.
    packets: Vec<u32>,
    /// The track number of the current block.
    number: u64,
    has_unsupported: bool,
    /// An invalid element was found. Like decoders, the walker then searches for the next cluster.
    is_resyncing: bool,
    path: Path,
    /// How many of the next bytes belong to something that is not read.
    unread: u64,
    unexplained: Unexplained,
    /// Whether the tracks of the current segment were described.
    has_tracks: bool,
}

impl Default for Matroska {
    fn default() -> Matroska {
        let (tracks, packets, scale) = (Vec::new(), Vec::new(), 1_000_000);
        let (has_unsupported, is_resyncing, has_tracks) = (false, false, false);
        let (path, unexplained, declared_ticks) = (Path::default(), Unexplained::default(), None);
        Matroska {
            tracks,
            scale,
            declared_ticks,
            cluster: 0,
            packets,
            number: 0,
            has_unsupported,
            is_resyncing,
            path,
            unread: 0,
            unexplained,
            has_tracks,
        }
    }
}

impl Walk for Matroska {
    fn step(&mut self, window: Window<'_>) -> Result<Step> {
        if self.unread > 0 {
            return Ok(self.search(window));
        }
        if let Some(size) = self.packets.last().copied() {
            return self.packet(window, size);
        }
        if window.bytes.len() < ELEMENT_HEADER && !window.is_last {
            return Ok(Step::Need(ELEMENT_HEADER));
        }
        let element = Element::parse(window.bytes).filter(|element| !self.is_resyncing || element.id == CLUSTER);
        if element.is_none() {
            self.path.leave();
        }
        self.is_resyncing = element.is_none();
        if let Some(element) = element {
            return self.element(window, element);
        }
        let next = window.bytes.get(1..).and_then(|rest| memchr::memchr(0x1f, rest));
        let next = next.map_or(window.bytes.len(), |n| n + 1) as u64;
        self.unexplained.add(next);
        Ok(Step::Skip(next))
    }

    fn counted(&self, _: u64) -> Duration {
        self.tracks.iter().filter_map(Track::duration).max().unwrap_or_default()
    }

    fn finish(&self, size: u64) -> Result<Measured> {
        let duration = self.counted(size);
        let nanos = self.declared_ticks.filter(|ticks| (0.0..1e15).contains(ticks));
        #[allow(clippy::cast_precision_loss)] // for comparison only
        let declared = nanos.and_then(|ticks| Duration::try_from_secs_f64(ticks * self.scale as f64 / 1e9).ok());
        match self.has_unsupported {
            true => Err(NotMeasurable::UnsupportedCoding),
            false if duration.is_zero() => Err(NotMeasurable::NoFrames),
            false => {
                let unexplained = self.tracks.iter().map(|track| track.frames.unexplained());
                unexplained.fold(self.unexplained, Unexplained::and).check(duration)?;
                Ok(Measured { duration, declared })
            }
        }
    }
}

impl Matroska {
    fn element(&mut self, window: Window<'_>, element: Element) -> Result<Step> {
        let head = Step::Skip(element.head as u64);
        self.path.enter(&element, window.at)?;
        match element.id {
            SEGMENT | INFO | TRACKS | AUDIO | CLUSTER | BLOCK_GROUP => {
                self.once(element.id)?;
                return Ok(head);
            }
            TRACK if self.tracks.len() >= MAX_STREAMS => return Err(NotMeasurable::TooManyStreams),
            TRACK => {
                self.tracks.push(Track::default());
                return Ok(head);
            }
            _ => {}
        }
        let Some(size) = element.size else {
            // Only some master elements may have an unknown size, and those were handled above.
            self.is_resyncing = true;
            return if element.id == EBML { Err(NotMeasurable::Broken) } else { Ok(Step::Skip(1)) };
        };
        let limit = match element.id {
            BLOCK | SIMPLE_BLOCK => BLOCK_HEADER,
            CODEC_PRIVATE => MAX_PRIVATE,
            TIMESTAMP_SCALE | DURATION | TRACK_NUMBER | TRACK_TYPE | CODEC_ID | CONTENT_ENCODINGS
            | SAMPLING_FREQUENCY | CLUSTER_TIMESTAMP => MAX_VALUE,
            id => {
                self.unread = size;
                self.unexplained.add(if is_without_audio(id) { 0 } else { size });
                return Ok(head);
            }
        };
        let wanted = element.head + usize::try_from(size).map_or(limit, |size| size.min(limit));
        let content = match window.first(wanted) {
            Some(whole) => &whole[element.head..],
            // The recording ends within this element: what is there counts.
            None if window.is_last => &window.bytes[element.head.min(window.bytes.len())..],
            None => return Ok(Step::Need(wanted)),
        };
        if limit == BLOCK_HEADER {
            let before_packets = self.block(content, size)?;
            return Ok(Step::Skip((element.head + before_packets) as u64));
        }
        self.once(element.id)?;
        self.value(element.id, content);
        Ok(Step::Skip(size.saturating_add(element.head as u64)))
    }

    /// Checks that an element which may occur only once does.
    fn once(&mut self, id: u32) -> Result<()> {
        let is_again = match id {
            SEGMENT => {
                self.has_tracks = false;
                false
            }
            TRACKS => std::mem::replace(&mut self.has_tracks, true),
            TRACK_NUMBER | TRACK_TYPE | CODEC_ID | CODEC_PRIVATE | AUDIO | SAMPLING_FREQUENCY => {
                let fields = self.tracks.last_mut().map(|track| &mut track.fields);
                fields.is_none_or(|fields| {
                    fields.push(id);
                    fields[..fields.len() - 1].contains(&id)
                })
            }
            _ => false,
        };
        if is_again { Err(NotMeasurable::Broken) } else { Ok(()) }
    }

    /// Searches what is not read for clusters. All from the first one on is unexplained.
    fn search(&mut self, window: Window<'_>) -> Step {
        let left = usize::try_from(self.unread).unwrap_or(usize::MAX);
        let seen = &window.bytes[..window.bytes.len().min(left)];
        if let Some(at) = find_cluster(seen) {
            self.unexplained.add(self.unread - at as u64);
            return Step::Skip(std::mem::take(&mut self.unread));
        }
        // A cluster's start may be cut off at the end of what is seen.
        let is_whole = seen.len() == left || window.is_last;
        let taken = if is_whole { seen.len() } else { seen.len().saturating_sub(CLUSTER_START - 1) };
        if taken == 0 {
            return Step::Need(CLUSTER_START);
        }
        self.unread -= taken as u64;
        Step::Skip(taken as u64)
    }

    fn value(&mut self, id: u32, content: &[u8]) {
        let number = big_endian(content);
        match id {
            TIMESTAMP_SCALE => self.scale = number.clamp(1, 1_000_000_000_000),
            DURATION => self.declared_ticks = float(content),
            CLUSTER_TIMESTAMP => self.cluster = number.saturating_mul(self.scale),
            _ => {}
        }
        let Some(track) = self.tracks.last_mut() else { return };
        match id {
            TRACK_NUMBER => track.number = number,
            TRACK_TYPE => track.kind = number,
            CODEC_ID => track.codec = content.to_vec(),
            CODEC_PRIVATE => {
                track.private = content[..content.len().min(MAX_VALUE)].to_vec();
                track.vorbis = Vorbis::from_private(content);
            }
            CONTENT_ENCODINGS => track.is_encoded = true,
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
            SAMPLING_FREQUENCY => track.rate = float(content).unwrap_or(0.0) as u32,
            _ => {}
        }
    }

    /// Parses the header of a block of `size` bytes. Returns the position of the first packet in it.
    fn block(&mut self, content: &[u8], size: u64) -> Result<usize> {
        let Some((number, length)) = vint(content) else { return Ok(content.len().max(1)) };
        let Some(head) = content.get(length..length + 3) else { return Ok(content.len()) };
        let ticks = i64::from(i16::from_be_bytes([head[0], head[1]]));
        let offset = ticks.unsigned_abs().saturating_mul(self.scale);
        let time = if ticks < 0 { self.cluster.saturating_sub(offset) } else { self.cluster.saturating_add(offset) };
        let start = length + 3;
        let (packets, sizes_length) =
            laced_sizes(&content[start..], head[2] >> 1 & 3, size.saturating_sub(start as u64))?;
        self.packets = packets;
        self.packets.reverse();
        self.number = number;
        let mut is_known = false;
        for track in self.tracks.iter_mut().filter(|track| track.number == number) {
            is_known = true;
            self.has_unsupported |= !track.begin_block(time)?;
        }
        self.has_unsupported |= !is_known;
        Ok(start + sizes_length)
    }

    /// Reads on in the current packet, of which `left` bytes are still to come.
    fn packet(&mut self, window: Window<'_>, left: u32) -> Result<Step> {
        let number = self.number;
        let mut tracks = self.tracks.iter_mut().filter(|track| track.number == number && track.coding.is_some());
        let Some(first) = tracks.next() else {
            self.packets.pop();
            self.unread = u64::from(left);
            return Ok(Step::Skip(0));
        };
        let taken = window.bytes.len().min(PIECE).min(left as usize);
        let is_end = taken == left as usize;
        for track in std::iter::once(first).chain(tracks) {
            let Some(coding) = track.coding else { continue };
            track.packets += u64::from(is_end);
            let added = track.frames.push(&coding, &window.bytes[..taken], is_end)?;
            track.counted = track.counted.saturating_add(added);
        }
        match self.packets.last_mut() {
            Some(left) if !is_end => *left -= u32::try_from(taken).unwrap_or(*left),
            _ => drop(self.packets.pop()),
        }
        Ok(Step::Skip(taken as u64))
    }
}

/// A floating-point number of four or eight bytes; `None` if it has another length.
fn float(bytes: &[u8]) -> Option<f64> {
    match bytes.len() {
        4 => Some(f64::from(f32::from_be_bytes(bytes.try_into().ok()?))),
        8 => Some(f64::from_be_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

impl Track {
    /// Notes the timestamp of a block. Returns false if this is an audio track with an unsupported codec.
    ///
    /// # Errors
    /// The kind of the track does not match its codec: some decoders look at one, some at the other.
    fn begin_block(&mut self, time: u64) -> Result<bool> {
        if self.kind != AUDIO_TRACK {
            let known = OTHER_TRACKS.iter().find(|(kind, _)| *kind == self.kind);
            let fits = known.is_some_and(|(_, starts)| starts.iter().any(|start| self.codec.starts_with(start)));
            return if fits { Ok(true) } else { Err(NotMeasurable::Broken) };
        }
        if self.coding.is_none() && !self.is_encoded {
            self.coding = self.identify();
        }
        let (first, last) = self.span.unwrap_or((time, time));
        self.span = Some((first.min(time), last.max(time)));
        Ok(self.coding.is_some())
    }

    fn identify(&self) -> Option<Coding> {
        match self.codec.as_slice() {
            b"A_OPUS" => Some(Coding::Opus),
            b"A_VORBIS" => self.vorbis.map(Coding::Vorbis),
            b"A_FLAC" => StreamInfo::parse(self.private.get(8..)?).map(Coding::Flac),
            b"A_MPEG/L1" | b"A_MPEG/L2" | b"A_MPEG/L3" => Some(Coding::Mpeg),
            codec if codec.starts_with(b"A_AAC") => {
                if self.private.len() >= 2 {
                    Coding::aac(&self.private)
                } else {
                    Coding::plain_aac(self.rate)
                }
            }
            _ => None,
        }
    }

    /// The duration of the track; `None` if it has no audio.
    fn duration(&self) -> Option<Duration> {
        self.coding?;
        let (first, last) = self.span?;
        let between = Duration::from_nanos(last - first);
        // Timestamps are those of the start of a block, so an average packet is added for the last one.
        let packets = u32::try_from(self.packets).unwrap_or(u32::MAX).max(1);
        let stamped = between.saturating_add(self.counted / packets);
        Some(stamped.max(self.counted))
    }
}
