//! The durations of audio packets, from their first bytes.

use std::time::Duration;

use super::flac::{Header, StreamInfo};
use super::mpeg::Frame;
use super::walk::{play_time, u32_le};

/// How many bytes of a packet are needed to determine its duration.
pub(super) const PACKET_START: usize = 16;

/// A codec, with the parameters that determine the duration of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// RFC 6716.
    Opus,
    /// The duration of a packet depends on the setup header, which is not parsed; a packet has between 0 and
    /// `long_block / 2` samples.
    Vorbis { rate: u32, long_block: u32 },
    /// RFC 9639.
    Flac(StreamInfo),
    /// MPEG audio layers I, II and III.
    Mpeg,
    /// Every packet has the same number of samples, as in AAC and ALAC.
    Constant { samples: u32, rate: u32 },
}

impl Coding {
    /// Parses the identification header of Vorbis.
    pub(super) fn vorbis(header: &[u8]) -> Option<Coding> {
        let rate = u32_le(header, 12).filter(|rate| *rate > 0 && header.starts_with(b"\x01vorbis"))?;
        let exponent = (header.get(28)? >> 4).clamp(6, 13);
        Some(Coding::Vorbis { rate, long_block: 1 << exponent })
    }

    /// Parses an `AudioSpecificConfig` of AAC (ISO 14496-3, 1.6.2.1).
    pub(super) fn aac(config: &[u8]) -> Option<Coding> {
        let bits = super::walk::big_endian(config.get(..5)?);
        // The object type takes five bits, or eleven if escaped; then comes the index of the sampling rate. With
        // spectral band replication, this is the lower rate, at which a packet always has 1024 samples.
        let shift = if bits >> 35 == 31 { 25 } else { 31 };
        let index = u8::try_from(bits >> shift & 15).ok()?;
        let explicit = u32::try_from(bits >> (shift - 24).min(7) & 0xff_ffff).ok()?;
        let rate = if index == 15 && shift == 31 { Some(explicit) } else { super::mpeg::aac_rate(index) };
        rate.filter(|rate| *rate > 0).map(|rate| Coding::Constant { samples: 1024, rate })
    }

    /// The maximum duration of a packet, from its first [`PACKET_START`] bytes.
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

    /// The duration of a stream, from its timestamps and the sum of the maximum durations of its packets.
    pub(super) fn resolve(&self, stamped: Duration, counted: Duration) -> Duration {
        match self {
            // In ordinary files, the packets are between a quarter and nearly all of their maximum duration.
            Coding::Vorbis { .. } if stamped >= counted / 4 => stamped,
            _ => stamped.max(counted),
        }
    }
}

/// The duration of an Opus packet, which is limited to 120 ms (RFC 6716, 3.1 and 3.2).
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
