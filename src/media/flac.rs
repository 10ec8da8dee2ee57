//! FLAC (RFC 9639), native and in other containers.
//!
//! Frames are counted; the declared number of samples is ignored. A frame header does not contain the length of the
//! frame, so the next header is searched for, and recognized by its checksum. A frame is never longer than its samples
//! would be without compression; what comes behind is unexplained.

use std::time::Duration;

use super::walk::{Measured, NotMeasurable, Result, Step, Unexplained, Walk, Window, big_endian, play_time};

/// Maximum length of a frame header, in bytes.
pub(super) const MAX_HEADER: usize = 16;

/// The part of STREAMINFO that is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamInfo {
    rate: u32,
    channels: u8,
    /// Bits per sample.
    bits: u8,
    samples: u64,
}

impl StreamInfo {
    /// Parses the content of a STREAMINFO block; `None` if it is too short or has no sampling rate.
    pub(super) fn parse(block: &[u8]) -> Option<StreamInfo> {
        let packed = big_endian(block.get(10..18)?);
        let rate = u32::try_from(packed >> 44).ok()?;
        let channels = u8::try_from(packed >> 41 & 7).ok()? + 1;
        let bits = u8::try_from(packed >> 36 & 31).ok()? + 1;
        (rate > 0).then_some(StreamInfo { rate, channels, bits, samples: packed & 0xf_ffff_ffff })
    }
}

/// A frame header.
#[derive(Clone, Copy)]
pub(super) struct Header {
    samples: u32,
    /// 0 if it is in STREAMINFO.
    rate: u32,
    channels: u8,
    /// Bits per sample; 0 if they are in STREAMINFO.
    bits: u8,
    /// The number of the frame or, with variable block sizes, of its first sample.
    number: u64,
    /// Length of the header.
    bytes: usize,
}

impl Header {
    /// Parses the header at the start of `bytes`; `None` if its checksum is wrong.
    pub(super) fn parse(bytes: &[u8]) -> Option<Header> {
        let start = bytes.get(..5)?;
        if start[0] != 0xff || start[1] & 0xfe != 0xf8 || start[3] & 1 == 1 {
            return None;
        }
        let (number, mut at) = coded_number(&bytes[4..])?;
        at += 4;
        let mut more = |n: usize| {
            at += n;
            bytes.get(at - n..at).and_then(|field| u32::try_from(big_endian(field)).ok())
        };
        let samples = match start[2] >> 4 {
            0 => return None,
            1 => 192,
            code @ 2..=5 => 576 << (code - 2),
            6 => more(1)? + 1,
            7 => more(2)? + 1,
            code => 256 << (code - 8),
        };
        let rate = match start[2] & 15 {
            0 => 0,
            code @ 1..=11 => [88_200, 176_400, 192_000, 8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000]
                [usize::from(code) - 1],
            12 => more(1)? * 1000,
            13 => more(2)?,
            14 => more(2)? * 10,
            _ => return None,
        };
        let channels = match start[3] >> 4 {
            code @ 0..=7 => code + 1,
            8..=10 => 2,
            _ => return None,
        };
        let bits = [0, 8, 12, 0, 16, 20, 24, 32][usize::from(start[3] >> 1 & 7)];
        let is_valid = start[3] >> 1 & 7 != 3 && *bytes.get(at)? == crc8(&bytes[..at]);
        is_valid.then_some(Header { samples, rate, channels, bits, number, bytes: at + 1 })
    }

    /// The duration of the frame. Decoders differ in which of two sampling rates they believe.
    pub(super) fn play_time(&self, info: &StreamInfo) -> Duration {
        play_time(u64::from(self.samples), if self.rate == 0 { info.rate } else { self.rate.min(info.rate) })
    }

    /// The most bytes of the frame: its samples without compression, of which those of one channel may be a difference
    /// and have a bit more, and what surrounds them.
    pub(super) fn most_bytes(&self, info: &StreamInfo) -> u64 {
        let (bits, channels) = (if self.bits == 0 { info.bits } else { self.bits }, u64::from(self.channels));
        let content = u64::from(self.samples) * (channels * u64::from(bits) + 1);
        self.bytes as u64 + content.div_ceil(8) + 8 * channels + 2
    }

    /// The length of the header in bytes.
    pub(super) fn length(&self) -> usize {
        self.bytes
    }

    /// Whether the frame matches the stream, or the last frame before it. Every few megabytes, audio data looks like a
    /// header with a correct checksum by chance; it hardly ever matches as well.
    pub(super) fn belongs(&self, info: &StreamInfo, last: Option<Header>) -> bool {
        let fits = self.channels == info.channels && (self.rate == 0 || self.rate == info.rate);
        let continues = |last: Header| {
            [1, u64::from(last.samples)].contains(&self.number.wrapping_sub(last.number))
                || (self.channels, self.rate, self.samples) == (last.channels, last.rate, last.samples)
        };
        fits || last.is_some_and(continues)
    }
}

/// A number in the encoding of UTF-8, extended to 36 bits, and its length in bytes.
fn coded_number(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = match first.leading_ones() {
        0 => return Some((u64::from(first), 1)),
        ones @ 2..=7 => ones as usize,
        _ => return None,
    };
    let mut number = u64::from(first) & (0x7f >> length);
    for byte in bytes.get(1..length)? {
        if byte & 0xc0 != 0x80 {
            return None;
        }
        number = number << 6 | u64::from(byte & 0x3f);
    }
    Some((number, length))
}

/// CRC-8 with the polynomial x^8 + x^2 + x + 1.
pub(super) fn crc8(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |crc, byte| (0..8).fold(crc ^ byte, |crc, _| if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 0x07 }))
}

/// A FLAC file: metadata blocks, then frames.
#[derive(Default)]
pub(super) struct NativeFlac {
    is_begun: bool,
    info: Option<StreamInfo>,
    are_frames: bool,
    last: Option<Header>,
    /// Position at which the last counted frame ends at the latest.
    end: u64,
    duration: Duration,
    unexplained: Unexplained,
}

impl Walk for NativeFlac {
    fn step(&mut self, window: Window<'_>) -> Result<Step> {
        match self.are_frames {
            false => self.metadata(window),
            true => Ok(self.frames(window)),
        }
    }

    fn finish(&self, _: u64) -> Result<Measured> {
        let info = self.info.ok_or(NotMeasurable::Broken)?;
        self.unexplained.check(self.duration)?;
        let declared = (info.samples > 0).then(|| play_time(info.samples, info.rate));
        match self.duration.is_zero() {
            true => Err(NotMeasurable::NoFrames),
            false => Ok(Measured { duration: self.duration, declared }),
        }
    }

    fn counted(&self, _: u64) -> Duration {
        self.duration
    }
}

impl NativeFlac {
    fn metadata(&mut self, window: Window<'_>) -> Result<Step> {
        let Some(head) = window.first(4) else { return Ok(Step::Need(4)) };
        if !std::mem::replace(&mut self.is_begun, true) {
            return Ok(Step::Skip(4)); // The name of the format.
        }
        let kind = head[0] & 0x7f;
        if kind == 0 {
            if self.info.is_some() {
                return Err(NotMeasurable::Broken);
            }
            let Some(block) = window.first(4 + 34) else { return Ok(Step::Need(4 + 34)) };
            self.info = StreamInfo::parse(&block[4..]);
        }
        if kind > 6 {
            self.unexplained.add(big_endian(&head[1..4])); // Unknown.
        }
        self.are_frames = head[0] & 0x80 != 0;
        match self.info {
            Some(_) => Ok(Step::Skip(4 + big_endian(&head[1..4]))),
            None => Err(NotMeasurable::Broken),
        }
    }

    fn frames(&mut self, window: Window<'_>) -> Step {
        if window.bytes.len() < MAX_HEADER && !window.is_last {
            return Step::Need(MAX_HEADER);
        }
        let info = self.info.unwrap_or_default();
        if let Some(header) = Header::parse(window.bytes) {
            if header.belongs(&info, self.last) {
                self.last = Some(header);
                self.duration = self.duration.saturating_add(header.play_time(&info));
                self.end = window.at.saturating_add(header.most_bytes(&info));
                return Step::Skip(header.bytes as u64);
            }
            self.unexplained.add_play(header.play_time(&info));
        }
        let next =
            window.bytes.get(1..).and_then(|rest| memchr::memchr(0xff, rest)).map_or(window.bytes.len(), |n| n + 1);
        let next = next as u64;
        self.unexplained.add((window.at + next).saturating_sub(self.end.max(window.at)));
        Step::Skip(next)
    }
}
