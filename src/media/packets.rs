//! Packets of audio in containers that tell where packets start: how long each plays, by its first bytes.

use std::time::Duration;

use super::flac::{Header, StreamInfo};
use super::mpeg::Frame;
use super::walk::{play_time, u32_le};

/// How many bytes of a packet are looked at.
pub(super) const PACKET_START: usize = 16;

/// How audio is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// RFC 6716.
    Opus,
    /// Its packets do not tell their lengths without its tables; a packet gives between 0 and `long_block / 2` samples.
    Vorbis { rate: u32, long_block: u32 },
    /// RFC 9639.
    Flac(StreamInfo),
    /// MP3 and its relatives.
    Mpeg,
    /// A packet always gives the same number of samples: AAC, ALAC.
    Constant { samples: u32, rate: u32 },
}

impl Coding {
    /// Reads Vorbis's identification header.
    pub(super) fn vorbis(header: &[u8]) -> Option<Coding> {
        let rate = u32_le(header, 12).filter(|rate| *rate > 0 && header.starts_with(b"\x01vorbis"))?;
        let exponent = (header.get(28)? >> 4).clamp(6, 13);
        Some(Coding::Vorbis { rate, long_block: 1 << exponent })
    }

    /// Reads MP4's configuration of AAC (ISO 14496-3, 1.6.2.1).
    pub(super) fn aac(config: &[u8]) -> Option<Coding> {
        let bits = super::walk::big_endian(config.get(..5)?);
        // Five bits of the kind of AAC, eleven in all for the rarer kinds, and the index of the rate. With spectral band
        // replication, this is the lower rate, of which a packet always has 1024 samples.
        let shift = if bits >> 35 == 31 { 25 } else { 31 };
        let index = u8::try_from(bits >> shift & 15).ok()?;
        let explicit = u32::try_from(bits >> (shift - 24).min(7) & 0xff_ffff).ok()?;
        let rate = if index == 15 && shift == 31 { Some(explicit) } else { super::mpeg::aac_rate(index) };
        rate.filter(|rate| *rate > 0).map(|rate| Coding::Constant { samples: 1024, rate })
    }

    /// How long a packet plays at most, by its first [`PACKET_START`] bytes.
    pub(super) fn play_time(&self, packet: &[u8]) -> Duration {
        match self {
            Coding::Opus => opus(packet),
            Coding::Vorbis { rate, long_block } => match packet.first() {
                Some(first) if first & 1 == 0 => play_time(u64::from(long_block / 2), *rate),
                _ => Duration::ZERO, // A header.
            },
            Coding::Flac(info) => Header::parse(packet).map_or(Duration::ZERO, |header| header.play_time(info)),
            Coding::Mpeg => {
                Frame::parse(packet).map_or(Duration::ZERO, |frame| play_time(u64::from(frame.samples), frame.rate))
            }
            Coding::Constant { samples, rate } => play_time(u64::from(*samples), *rate),
        }
    }

    /// How long all packets play, between what time stamps say and the most that the packets can hold.
    pub(super) fn resolve(&self, stamped: Duration, counted: Duration) -> Duration {
        match self {
            // Ordinary files have a quarter to nearly all of what only long blocks would give.
            Coding::Vorbis { .. } if stamped >= counted / 4 => stamped,
            _ => stamped.max(counted),
        }
    }
}

/// Most frames of a packet play 120 ms (RFC 6716, 3.1 and 3.2).
fn opus(packet: &[u8]) -> Duration {
    const LONGEST: u64 = 120_000;
    let Some(toc) = packet.first() else { return Duration::ZERO };
    let place = usize::from(toc >> 3 & 3);
    let micros = match toc >> 3 {
        0..=11 => [10_000, 20_000, 40_000, 60_000][place],
        12..=15 => [10_000, 20_000][place % 2],
        _ => [2500, 5000, 10_000, 20_000][place],
    };
    let frames = match toc & 3 {
        0 => 1,
        3 => packet.get(1).map_or(0, |count| u64::from(count & 0x3f)),
        _ => 2,
    };
    Duration::from_micros(LONGEST.min(micros * frames))
}
