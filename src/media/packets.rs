//! Codecs, and the durations of packets whose first bytes tell it.

use std::time::Duration;

use super::flac::StreamInfo;
use super::vorbis::Vorbis;
use super::walk::{big_endian, play_time};

/// How many bytes are needed to determine the duration of a frame.
pub(super) const PACKET_START: usize = 16;

/// The most bytes of an AAC frame for each channel (ISO 14496-3): 6144 bits.
const AAC_FRAME: u32 = 768;

/// Samples of an AAC frame.
const AAC_SAMPLES: u32 = 1024;

/// A codec, with the parameters that determine the duration of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// RFC 6716.
    Opus,
    /// Vorbis I.
    Vorbis(Vorbis),
    /// RFC 9639.
    Flac(StreamInfo),
    /// MPEG audio layers I, II and III.
    Mpeg,
    /// Where a frame ends is not seen before it is decoded, so a packet larger than the largest frame is refused.
    Aac { rate: u32, most_bytes: u32 },
    /// Every packet has the same number of samples and is one frame to decoders, as in ALAC.
    Constant { samples: u32, rate: u32 },
}

impl Coding {
    /// AAC without a configuration, in up to two channels.
    pub(super) fn plain_aac(rate: u32) -> Option<Coding> {
        (rate > 0).then_some(Coding::Aac { rate, most_bytes: 2 * AAC_FRAME })
    }

    /// Parses an `AudioSpecificConfig` of AAC (ISO 14496-3, 1.6.2.1).
    pub(super) fn aac(config: &[u8]) -> Option<Coding> {
        if config.len() < 2 {
            return None;
        }
        let mut start = [0; 8];
        let length = config.len().min(8);
        start[..length].copy_from_slice(&config[..length]);
        let (bits, mut at) = (big_endian(&start), 0);
        let mut read = |n: u32| {
            at += n;
            u32::try_from(bits << (at - n) >> (64 - n)).unwrap_or(0)
        };
        let object = match read(5) {
            31 => 32 + read(6),
            object => object,
        };
        // Others, such as USAC and ALS, have longer frames.
        if !matches!(object, 1..=5 | 17 | 19 | 20 | 22 | 23 | 29 | 39) {
            return None;
        }
        // With spectral band replication, this is the lower rate, at which a packet always has 1024 samples.
        let rate = match read(4) {
            15 => read(24),
            index => super::mpeg::aac_rate(u8::try_from(index).ok()?)?,
        };
        let channels = match read(4) {
            channels @ 1..=6 => channels,
            7 | 12 | 14 => 8,
            11 => 7,
            // Defined elsewhere.
            _ => 2,
        };
        (rate > 0).then_some(Coding::Aac { rate, most_bytes: channels * AAC_FRAME })
    }

    /// The duration of a packet of Opus, or of a codec whose packets are all alike, from its first [`PACKET_START`]
    /// bytes; zero for others, whose packets may hold several frames.
    pub(super) fn play_time(&self, packet: &[u8]) -> Duration {
        match self {
            Coding::Opus => opus(packet),
            Coding::Vorbis(_) | Coding::Flac(_) | Coding::Mpeg => Duration::ZERO,
            Coding::Aac { .. } | Coding::Constant { .. } => self.of_packets(1),
        }
    }

    /// The duration of this many packets, if all are alike; else zero.
    pub(super) fn of_packets(&self, count: u64) -> Duration {
        match self {
            Coding::Aac { rate, .. } => play_time(count.saturating_mul(u64::from(AAC_SAMPLES)), *rate),
            Coding::Constant { samples, rate } => play_time(count.saturating_mul(u64::from(*samples)), *rate),
            _ => Duration::ZERO,
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
