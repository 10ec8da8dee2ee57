//! The frames in the packets of a stream.
//!
//! A packet should hold one frame, but decoders go on after it until the packet ends. So all frames in a packet count, or
//! a packet that may hold several is refused.

use std::time::Duration;

use super::flac::Header;
use super::mpeg::Frame;
use super::packets::{Coding, PACKET_START};
use super::walk::{NotMeasurable, Result, play_time};

/// The most bytes of a packet that should be pushed at once.
pub(super) const PIECE: usize = 4096;

/// Adds up the durations of the frames in a stream's packets, which arrive in pieces.
#[derive(Default)]
pub(super) struct Frames {
    /// Bytes of the packet that are too few to go on with.
    held: Vec<u8>,
    /// How many of the packet's next bytes are to be skipped.
    skip: usize,
    /// Bytes of the packet so far.
    size: u64,
    is_begun: bool,
    /// The last frame of FLAC.
    header: Option<Header>,
    /// The last block of Vorbis, in samples.
    block: Option<u32>,
}

impl Frames {
    /// Begins a packet. What is left of an unfinished one is forgotten.
    pub(super) fn begin(&mut self) {
        self.held.clear();
        (self.skip, self.size, self.is_begun) = (0, 0, false);
    }

    /// Takes the next bytes of the packet, which are its last ones if `is_end`. Returns the duration of the frames that
    /// start in what is known by now; how the packet is split makes no difference to the sum.
    pub(super) fn push(&mut self, coding: &Coding, bytes: &[u8], is_end: bool) -> Result<Duration> {
        self.size += bytes.len() as u64;
        if let Coding::Aac { most_bytes, .. } = coding
            && self.size > u64::from(*most_bytes)
        {
            return Err(NotMeasurable::SeveralFrames);
        }
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(&bytes[skipped..]);
        let (mut sum, mut at) = (Duration::ZERO, 0usize);
        while held.len() > at && (is_end || held.len() - at >= PACKET_START) {
            let (found, length) = self.step(coding, &held[at..])?;
            sum = sum.saturating_add(found);
            at = at.saturating_add(length);
        }
        self.skip += at.saturating_sub(held.len());
        held.drain(..at.min(held.len()));
        self.held = held;
        if is_end {
            self.begin();
        }
        Ok(sum)
    }

    /// The duration of what `rest` of a packet starts with, and how far on to continue. It depends on no more than the
    /// first [`PACKET_START`] bytes.
    fn step(&mut self, coding: &Coding, rest: &[u8]) -> Result<(Duration, usize)> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        match coding {
            Coding::Flac(info) => {
                let header = Header::parse(rest).filter(|header| is_first || header.belongs(info, self.header));
                if let Some(header) = header {
                    self.header = Some(header);
                    return Ok((header.play_time(info), header.length()));
                }
                let next = rest.get(1..).and_then(|rest| memchr::memchr(0xff, rest));
                Ok((Duration::ZERO, next.map_or(rest.len(), |n| n + 1)))
            }
            Coding::Mpeg => {
                let frame = Frame::parse(rest).filter(|frame| !frame.is_aac()).ok_or(NotMeasurable::SeveralFrames)?;
                Ok((play_time(u64::from(frame.samples), frame.rate), frame.bytes.max(1)))
            }
            // An ADTS header would replace the sampling rate.
            Coding::Aac { .. } if rest.len() > 1 && rest[0] == 0xff && rest[1] & 0xf0 == 0xf0 => {
                Err(NotMeasurable::SeveralFrames)
            }
            Coding::Vorbis(vorbis) => {
                let block = vorbis.block(rest).ok_or(NotMeasurable::Broken)?;
                // The first block only gives the second one something to overlap with.
                let samples = self.block.map_or(0, |last| last / 4 + block / 4);
                self.block = Some(block);
                Ok((play_time(u64::from(samples), vorbis.rate), usize::MAX))
            }
            Coding::Opus | Coding::Aac { .. } | Coding::Constant { .. } => Ok((coding.play_time(rest), usize::MAX)),
        }
    }
}
