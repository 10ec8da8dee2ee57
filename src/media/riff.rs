//! WAV: RIFF, and RF64 for more than 4 GiB (EBU Tech 3306).
//!
//! The duration is the size of all `data` chunks, divided by the bytes per block and the sampling rate. The byte rate
//! in the header is ignored. A `data` chunk of size 0 or 0xFFFFFFFF, as written by streaming encoders, extends to the
//! end of the file. Beside these, there are chunks that are known to contain no samples, and little else.

use std::time::Duration;

use super::walk::{Measured, NotMeasurable, Result, Step, Unexplained, Walk, Window, play_time, u16_le, u32_le};

/// The size of a chunk if it was unknown when the header was written.
const UNKNOWN: u32 = u32::MAX;
/// Chunks without samples: texts, markers, settings and padding.
const METADATA: [&[u8; 4]; 24] = [
    b"LIST", b"bext", b"iXML", b"axml", b"chna", b"cart", b"cue ", b"fact", b"PEAK", b"smpl", b"inst", b"acid",
    b"strc", b"levl", b"link", b"afsp", b"DISP", b"_PMX", b"plst", b"JUNK", b"junk", b"FLLR", b"PAD ", b"umid",
];
/// Most bytes of all these; a chunk with an ID3 tag may have a picture and is longer.
const MOST_METADATA: u64 = 256 * 1024;

/// The format of the samples. A block is one sample of each channel or, for compressed formats, the smallest decodable
/// unit.
#[derive(Clone, Copy)]
struct Format {
    rate: u32,
    block_bytes: u32,
    block_samples: u32,
}

/// A sequence of RIFF chunks.
#[derive(Default)]
pub(super) struct Riff {
    format: Option<Format>,
    /// Total length of the `data` chunks before the last one.
    data_bytes: u64,
    /// Positions of the start and the declared end of the last `data` chunk.
    last_data: Option<(u64, u64)>,
    /// The size of the `data` chunk according to the `ds64` chunk of RF64.
    long_size: Option<u64>,
    is_rf64: bool,
    /// Bytes of chunks without samples.
    metadata: u64,
    unexplained: Unexplained,
}

impl Walk for Riff {
    fn step(&mut self, window: Window<'_>) -> Result<Step> {
        let Some(head) = window.first(8) else { return Ok(Step::Need(8)) };
        let (name, size) = (&head[..4], u32_le(head, 4).unwrap_or(0));
        if self.last_data.is_some() && !name.iter().all(|c| c.is_ascii_graphic() || *c == b' ') {
            // This is not a chunk, so the declared size of the data was wrong: the rest is counted as samples.
            self.last_data = self.last_data.map(|(start, _)| (start, u64::MAX));
            return Ok(Step::Skip(u64::MAX));
        }
        let content = window.at + 8;
        match name {
            // The header of the file, or of another file that was appended to it: its content is a sequence of chunks.
            b"RIFF" | b"RF64" => {
                self.is_rf64 |= name == b"RF64";
                return Ok(Step::Skip(12));
            }
            b"fmt " => {
                let length = 8 + (size as usize).min(40);
                let Some(chunk) = window.first(length) else { return Ok(Step::Need(length)) };
                let format = Format::parse(&chunk[8..])?;
                // If there are several, the one that gives the longer duration counts.
                let is_longer = self.format.is_none_or(|old| format.second_bytes() < old.second_bytes());
                self.format = if is_longer { Some(format) } else { self.format };
            }
            b"ds64" => {
                let Some(chunk) = window.first(24) else { return Ok(Step::Need(24)) };
                let long = super::walk::big_endian(&reversed(&chunk[16..24]));
                self.long_size = self.long_size.max(Some(long));
            }
            b"data" => {
                // Some decoders believe the ds64 chunk even if this size is known, or if the file is no RF64.
                let long = self.long_size.filter(|size| *size > 0);
                let known = match size {
                    0 => None,
                    UNKNOWN if self.is_rf64 => long,
                    UNKNOWN => None,
                    size => Some(u64::from(size).max(long.unwrap_or(0))),
                };
                let end = known.map_or(u64::MAX, |size| content.saturating_add(size));
                if let Some((start, end)) = self.last_data.replace((content, end)) {
                    self.data_bytes = self.data_bytes.saturating_add(end - start);
                }
                return Ok(Step::Skip(known.map_or(u64::MAX, |size| size.saturating_add(8 + size % 2))));
            }
            b"id3 " | b"ID3 " => {
                let Some(chunk) = window.first(18) else { return Ok(Step::Need(18)) };
                let is_tag = super::mpeg::id3_length(&chunk[8..]).is_some_and(|length| length <= u64::from(size) + 1);
                self.unexplained.add(if is_tag { 0 } else { u64::from(size) });
            }
            known if METADATA.iter().any(|name| known == *name) => {
                self.metadata += u64::from(size);
                self.unexplained.add(self.metadata.saturating_sub(MOST_METADATA).min(u64::from(size)));
            }
            _ => self.unexplained.add(u64::from(size)),
        }
        // A chunk of odd length is followed by one byte of padding.
        Ok(Step::Skip(8 + u64::from(size) + u64::from(size % 2)))
    }

    fn finish(&self, size: u64) -> Result<Measured> {
        let format = self.format.ok_or(NotMeasurable::Broken)?;
        let (start, end) = self.last_data.ok_or(NotMeasurable::NoFrames)?;
        self.unexplained.check(Duration::ZERO)?;
        let declared = (end != u64::MAX).then(|| format.play_time(self.data_bytes.saturating_add(end - start)));
        Ok(Measured { duration: self.counted(size), declared })
    }

    fn counted(&self, size: u64) -> Duration {
        let last = self.last_data.map_or(0, |(start, end)| end.min(size).saturating_sub(start));
        self.format.map_or(Duration::ZERO, |format| format.play_time(self.data_bytes.saturating_add(last)))
    }
}

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

impl Format {
    /// Parses the content of a `fmt ` chunk.
    fn parse(chunk: &[u8]) -> Result<Format> {
        let field = |at| u16_le(chunk, at).map(u32::from).ok_or(NotMeasurable::Broken);
        let (mut tag, channels, align, bits) = (field(0)?, field(2)?, field(12)?, field(14)?);
        let rate = u32_le(chunk, 4).filter(|rate| *rate > 0).ok_or(NotMeasurable::Broken)?;
        if tag == 0xfffe {
            tag = field(24)?; // The first bytes of the sub-format GUID.
        }
        let (block_bytes, block_samples) = match tag {
            // PCM, floating point, A-law, µ-law. Decoders use either the bits per sample or the block alignment; the
            // smaller value gives the longer duration.
            1 | 3 | 6 | 7 => {
                let by_bits = channels * bits.div_ceil(8);
                ([align, by_bits].into_iter().filter(|bytes| *bytes > 0).min().unwrap_or(0), 1)
            }
            // ADPCM by Microsoft and IMA: a block starts with a header per channel, which contains the first samples.
            2 if channels > 0 && align > 7 * channels => (align, (align - 7 * channels) * 2 / channels + 2),
            0x11 if channels > 0 && align > 4 * channels => (align, (align - 4 * channels) * 2 / channels + 1),
            0x31 => (65, 320), // GSM 06.10.
            _ => return Err(NotMeasurable::UnsupportedCoding),
        };
        match channels > 0 && block_bytes > 0 {
            true => Ok(Format { rate, block_bytes, block_samples }),
            false => Err(NotMeasurable::Broken),
        }
    }

    /// Bytes per second, rounded: only used to compare formats.
    fn second_bytes(&self) -> u64 {
        u64::from(self.rate) * u64::from(self.block_bytes) / u64::from(self.block_samples)
    }

    fn play_time(&self, bytes: u64) -> Duration {
        let blocks = bytes.div_ceil(u64::from(self.block_bytes));
        play_time(blocks.saturating_mul(u64::from(self.block_samples)), self.rate)
    }
}
