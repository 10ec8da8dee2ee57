//! The frames in the packets of a stream.
//!
//! A packet should hold one frame, but decoders go on after it until the packet ends. So all frames in a packet count, or
//! a packet that may hold several is refused. What is longer than its frames can be is unexplained.

use std::time::Duration;

use super::flac::Header;
use super::mpeg::Frame;
use super::packets::{Coding, PACKET_START};
use super::walk::{NotMeasurable, Result, Unexplained, play_time};

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
    /// The most bytes of the packet that its frames explain.
    most: u64,
    is_begun: bool,
    /// The last frame of FLAC.
    header: Option<Header>,
    /// The last block of Vorbis, in samples.
    block: Option<u32>,
    /// What is in the packets beside frames that were counted.
    unexplained: Unexplained,
}

impl Frames {
    /// Begins a packet. What is left of an unfinished one is forgotten.
    pub(super) fn begin(&mut self) {
        self.held.clear();
        self.unexplained.add(self.size.saturating_sub(self.most));
        (self.skip, self.size, self.most, self.is_begun) = (0, 0, 0, false);
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

    /// What is in the packets beside frames that were counted.
    pub(super) fn unexplained(&self) -> Unexplained {
        let Unexplained { bytes, play } = self.unexplained;
        Unexplained { bytes: bytes.saturating_add(self.size.saturating_sub(self.most)), play }
    }

    /// The duration of what `rest` of a packet starts with, and how far on to continue. It depends on no more than the
    /// first [`PACKET_START`] bytes.
    fn step(&mut self, coding: &Coding, rest: &[u8]) -> Result<(Duration, usize)> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        match coding {
            Coding::Flac(info) => {
                // Packets before the first frame hold texts and pictures in Ogg.
                if is_first && self.header.is_none() && rest[0] != 0xff {
                    self.most = u64::MAX;
                }
                if let Some(header) = Header::parse(rest) {
                    if is_first || header.belongs(info, self.header) {
                        self.header = Some(header);
                        self.most = self.most.saturating_add(header.most_bytes(info));
                        return Ok((header.play_time(info), header.length()));
                    }
                    self.unexplained.add_play(header.play_time(info));
                }
                let next = rest.get(1..).and_then(|rest| memchr::memchr(0xff, rest));
                Ok((Duration::ZERO, next.map_or(rest.len(), |n| n + 1)))
            }
            Coding::Mpeg => {
                let frame = Frame::parse(rest).filter(|frame| !frame.is_aac()).ok_or(NotMeasurable::SeveralFrames)?;
                self.most += frame.bytes as u64;
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
                self.most = vorbis.most_bytes(block);
                Ok((play_time(u64::from(samples), vorbis.rate), usize::MAX))
            }
            Coding::Opus => {
                let played = coding.play_time(rest);
                self.most = most_opus(played);
                Ok((played, usize::MAX))
            }
            Coding::Aac { .. } | Coding::Constant { .. } => {
                self.most = u64::MAX;
                Ok((coding.play_time(rest), usize::MAX))
            }
        }
    }
}

/// The most bytes of a packet of Opus that plays this long (RFC 6716, 3.2): a frame has at most 1275 bytes and, if there
/// are several, a length; a packet of eight channels has up to four or five streams of frames.
fn most_opus(played: Duration) -> u64 {
    const LONGEST_FRAME: u64 = 20;
    let frames = u64::try_from(played.as_millis()).unwrap_or(0).div_ceil(LONGEST_FRAME);
    2 + 5 * frames * (1275 + 2)
}
