//! MPEG audio (MP3, ISO 11172-3 and 13818-3, and the unofficial MPEG 2.5) and AAC in ADTS (ISO 13818-7), which are bare
//! sequences of frames.
//!
//! A frame counts if it directly follows the previous one, if it is like that one, or if another frame of the same kind
//! follows it. Tags belong at the start and at the end; other bytes, and what else looks like a frame, are unexplained.

use std::time::Duration;

use super::walk::{Measured, NotMeasurable, Result, Step, Unexplained, Walk, Window, play_time, u32_be};

/// Length of the part of a frame header that is used, in bytes.
const HEADER: usize = 7;
/// How many bytes of the first frame are needed to recognize a Xing or VBRI header.
const VBR_HEADER: usize = 64;

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Length of the frame.
    pub(super) bytes: usize,
    pub(super) samples: u32,
    pub(super) rate: u32,
    /// Version and layer; 0 for AAC.
    kind: u8,
    is_mono: bool,
    /// At most; eight where the header does not tell.
    channels: u8,
}

impl Frame {
    /// Parses the header at the start of `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Frame> {
        let header = bytes.get(..HEADER)?;
        if header[0] != 0xff || header[1] & 0xe0 != 0xe0 {
            return None;
        }
        if header[1] & 0xf6 == 0xf0 { Frame::adts(header) } else { Frame::mpeg(header) }
    }

    fn adts(header: &[u8]) -> Option<Frame> {
        let rate = aac_rate(header[2] >> 2 & 15)?;
        let bytes = usize::from(header[3] & 3) << 11 | usize::from(header[4]) << 3 | usize::from(header[5] >> 5);
        let samples = 1024 * (u32::from(header[6] & 3) + 1);
        let channels = [8, 1, 2, 3, 4, 5, 6, 8][usize::from(header[2] << 2 & 4 | header[3] >> 6)];
        (bytes >= HEADER).then_some(Frame { bytes, samples, rate, kind: 0, is_mono: false, channels })
    }

    fn mpeg(header: &[u8]) -> Option<Frame> {
        const MPEG1: [[u32; 14]; 3] = [
            [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
            [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
            [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        ];
        const MPEG2: [[u32; 14]; 2] = [
            [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
            [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
        ];
        let (version, layer) = (header[1] >> 3 & 3, header[1] >> 1 & 3);
        let halvings = [Some(2), None, Some(1), Some(0)][usize::from(version)]?;
        let rate = [44_100, 48_000, 32_000].get(usize::from(header[2] >> 2 & 3))? >> halvings;
        // Layer III is coded as 1, layer I as 3.
        let row = usize::from(layer).checked_sub(1)?;
        let rates = if halvings == 0 { &MPEG1[row] } else { &MPEG2[row / 2] };
        let bit_rate = rates.get(usize::from(header[2] >> 4).checked_sub(1)?)? * 1000;
        let padding = u32::from(header[2] >> 1 & 1);
        let (samples, bytes) = match layer {
            3 => (384, (12 * bit_rate / rate + padding) * 4),
            1 if halvings > 0 => (576, 72 * bit_rate / rate + padding),
            _ => (1152, 144 * bit_rate / rate + padding),
        };
        let bytes = usize::try_from(bytes).ok()?;
        Some(Frame { bytes, samples, rate, kind: header[1] & 0x1e, is_mono: header[3] >> 6 == 3, channels: 2 })
    }

    /// Whether this is a frame of AAC.
    pub(super) fn is_aac(&self) -> bool {
        self.kind == 0
    }

    /// Bytes beyond those that its samples need. Where a frame of AAC ends is not seen before it is decoded.
    fn excess(&self) -> u64 {
        const MOST_AAC: usize = 768;
        let most = MOST_AAC * usize::from(self.channels) * (self.samples / 1024).max(1) as usize;
        if self.is_aac() { self.bytes.saturating_sub(HEADER + 2 + most) as u64 } else { 0 }
    }

    fn is_like(&self, other: &Frame) -> bool {
        (self.kind, self.rate) == (other.kind, other.rate)
    }

    /// The number of frames according to a Xing, Info or VBRI header, which encoders put in a silent first frame; 0 if
    /// it is not in the header. `None` for an ordinary frame.
    fn declared_frames(&self, bytes: &[u8]) -> Option<u32> {
        let side_info = match (self.samples == 1152, self.is_mono) {
            (true, false) => 32,
            (true, true) | (false, false) => 17,
            (false, true) => 9,
        };
        let at = 4 + side_info;
        match bytes.get(at..at + 4)? {
            b"Xing" | b"Info" if u32_be(bytes, at + 4)? & 1 == 1 => u32_be(bytes, at + 8),
            b"Xing" | b"Info" => Some(0),
            _ if bytes.get(36..40)? == b"VBRI" => u32_be(bytes, 50),
            _ => None,
        }
    }
}

/// The sampling rate with this index, in ADTS and in an `AudioSpecificConfig`.
pub(super) fn aac_rate(index: u8) -> Option<u32> {
    const RATES: [u32; 13] =
        [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000, 7350];
    RATES.get(usize::from(index)).copied()
}

/// The length of the ID3v2 tag at the start of `bytes`; `None` if there is no tag, or one that decoders do not accept.
pub(super) fn id3_length(bytes: &[u8]) -> Option<u64> {
    let head = bytes.get(..10).filter(|head| head.starts_with(b"ID3") && head[3] != 0xff && head[4] != 0xff)?;
    if head[6..10].iter().any(|byte| byte & 0x80 != 0) {
        return None;
    }
    let length = head[6..10].iter().fold(0, |length, byte| length << 7 | u64::from(byte & 0x7f));
    let footer = if head[5] & 0x10 == 0 { 0 } else { 10 };
    Some(10 + length + footer)
}

/// A sequence of MPEG audio or ADTS frames, with tags between them.
#[derive(Default)]
pub(super) struct Mpeg {
    /// Position of the end of the last frame that was counted.
    end: Option<u64>,
    last: Option<Frame>,
    duration: Duration,
    declared: Option<Duration>,
    unexplained: Unexplained,
    /// The last tags, one directly behind the other.
    tail: Option<Tail>,
}

/// Tags that are at the end of the recording, unless more follows them.
#[derive(Clone, Copy)]
struct Tail {
    /// Position of the end.
    end: u64,
    /// How many bytes before the tags were unexplained.
    unexplained_before: u64,
}

/// Length of an ID3v1 tag, which may follow others.
const ID3V1: u64 = 128;

impl Walk for Mpeg {
    fn step(&mut self, window: Window<'_>) -> Result<Step> {
        let Window { bytes, at, is_last } = window;
        if bytes.len() < 16 && !is_last {
            return Ok(Step::Need(16));
        }
        self.note_tag(bytes, at);
        let Some(frame) = Frame::parse(bytes) else {
            return Ok(self.skip_junk(window, if is_last { 1 } else { distance(bytes) }));
        };
        if bytes.len() < frame.bytes + HEADER && !is_last {
            return Ok(Step::Need(frame.bytes + HEADER));
        }
        let is_before = |rest: &[u8]| rest.is_empty() || Frame::parse(rest).is_some_and(|next| next.is_like(&frame));
        let is_followed = bytes.get(frame.bytes..).is_some_and(is_before);
        let is_expected = self.end == Some(at) || self.last.is_some_and(|last| last.is_like(&frame));
        if !is_expected && !is_followed {
            self.unexplained.add_play(play_time(u64::from(frame.samples), frame.rate));
            return Ok(self.skip_junk(window, 1));
        }
        if self.end.is_none() && frame.kind != 0 {
            let wanted = frame.bytes.min(VBR_HEADER);
            if bytes.len() < wanted && !is_last {
                return Ok(Step::Need(wanted));
            }
            if let Some(frames) = frame.declared_frames(bytes) {
                let declared = play_time(u64::from(frames) * u64::from(frame.samples), frame.rate);
                self.declared = Some(declared).filter(|_| frames > 0);
                (self.end, self.last) = (Some(at + frame.bytes as u64), Some(frame));
                return Ok(Step::Skip(frame.bytes as u64));
            }
        }
        self.last = Some(frame);
        self.unexplained.add(frame.excess());
        self.end = Some(at + frame.bytes as u64);
        self.duration = self.duration.saturating_add(play_time(u64::from(frame.samples), frame.rate));
        // Some decoders do not take a frame that no other follows for one, and search for frames inside it.
        Ok(Step::Skip(if is_followed { frame.bytes as u64 } else { 1 }))
    }

    fn finish(&self, size: u64) -> Result<Measured> {
        if self.duration.is_zero() {
            return Err(NotMeasurable::NoFrames);
        }
        let at_end = |tail: &Tail| size.checked_sub(tail.end).is_some_and(|behind| behind <= ID3V1);
        let bytes = self.tail.filter(at_end).map_or(self.unexplained.bytes, |tail| tail.unexplained_before);
        Unexplained { bytes, play: self.unexplained.play }.check(self.duration)?;
        Ok(Measured { duration: self.duration, declared: self.declared })
    }

    fn counted(&self, _: u64) -> Duration {
        self.duration
    }
}

/// The distance to the next byte at which a frame or a tag may start. One search for all of them: what is looked at is
/// skipped then, so that no input is searched again and again.
fn distance(bytes: &[u8]) -> usize {
    bytes.get(1..).and_then(|rest| memchr::memchr3(0xff, b'I', b'A', rest)).map_or(bytes.len(), |n| n + 1)
}

impl Mpeg {
    /// Notes where a tag at this position ends. Some decoders do not skip it, so frames inside still count.
    fn note_tag(&mut self, bytes: &[u8], at: u64) {
        let ape = bytes.get(..16).filter(|head| head.starts_with(b"APETAGEX"));
        let ape = ape.and_then(|head| super::walk::u32_le(head, 12)).map(|length| u64::from(length) + 32);
        if let Some(length) = ape.or_else(|| id3_length(bytes)) {
            let end = at.saturating_add(length);
            self.tail = match self.tail {
                // A footer, or something within a tag.
                Some(tail) if at < tail.end => Some(tail),
                Some(tail) if at == tail.end => Some(Tail { end, ..tail }),
                _ => Some(Tail { end, unexplained_before: self.unexplained.bytes }),
            };
        }
    }

    /// Skips the first `n` bytes. Those that belong to no frame are unexplained, except zeros, which are padding.
    fn skip_junk(&mut self, window: Window<'_>, n: usize) -> Step {
        let covered = self.end.map_or(0, |end| end.saturating_sub(window.at));
        let from = usize::try_from(covered).map_or(n, |covered| covered.min(n));
        self.unexplained.add(window.bytes[from..n].iter().filter(|byte| **byte != 0).count() as u64);
        Step::Skip(n as u64)
    }
}
