//! Writes WAV files (RIFF), and corrects the lengths in those of servers that stream. `media` measures recordings.

/// The media type.
pub const MEDIA_TYPE: &str = "audio/wav";

/// Bytes of the header that [`file`] writes.
const HEADER: usize = 44;

/// A WAV file with one channel of these samples.
pub fn file(samples_a_second: u32, bits: u16, samples: &[u8]) -> Vec<u8> {
    let length = u32::try_from(samples.len()).unwrap_or(u32::MAX);
    let block = bits / 8;
    let mut bytes = Vec::with_capacity(HEADER + samples.len());
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&length.saturating_add(36).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend_from_slice(&samples_a_second.to_le_bytes());
    bytes.extend_from_slice(&(samples_a_second * u32::from(block)).to_le_bytes());
    bytes.extend_from_slice(&block.to_le_bytes());
    bytes.extend_from_slice(&bits.to_le_bytes());
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(samples);
    bytes
}

/// The position of the samples, and their bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Start of the samples, in bytes.
    pub data: usize,
    /// Their length in bytes according to the header; servers that stream write a very large number.
    pub length: u32,
    /// Bytes per second.
    pub rate: u32,
}

/// Reads the header at the `start` of a file. `None` if this is not a WAV file, or its header is incomplete.
pub fn layout(start: &[u8]) -> Option<Layout> {
    if !(start.starts_with(b"RIFF") && start.get(8..12)? == b"WAVE") {
        return None;
    }
    let (mut at, mut rate) = (12, None);
    loop {
        let name = start.get(at..at + 4)?;
        let length = u32::from_le_bytes(start.get(at + 4..at + 8)?.try_into().ok()?);
        let content = at + 8;
        match name {
            b"fmt " => rate = Some(u32::from_le_bytes(start.get(content + 8..content + 12)?.try_into().ok()?)),
            b"data" => return Some(Layout { data: content, length, rate: rate.filter(|rate| *rate > 0)? }),
            _ => {}
        }
        // A chunk of odd length is followed by a padding byte.
        at = content.checked_add(usize::try_from(length).ok()?)?.checked_add(usize::try_from(length % 2).ok()?)?;
    }
}

/// Corrects the lengths in the header of a complete file: a server that streamed it did not know them.
pub fn correct_lengths(file: &mut [u8]) {
    let Some(layout) = layout(file) else { return };
    let there = u32::try_from(file.len() - layout.data).unwrap_or(u32::MAX);
    if layout.length > there {
        file[layout.data - 4..layout.data].copy_from_slice(&there.to_le_bytes());
        let riff = u32::try_from(file.len() - 8).unwrap_or(u32::MAX);
        file[4..8].copy_from_slice(&riff.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_chunks_may_come_first_and_lengths_may_be_unknown() {
        let mut streamed = file(8000, 16, &[1; 16]);
        streamed[4..8].copy_from_slice(&[0xff; 4]);
        streamed[40..44].copy_from_slice(&[0xff; 4]);
        streamed.splice(12..12, *b"LIST\x03\0\0\0abc\0");
        correct_lengths(&mut streamed);
        assert_eq!(layout(&streamed).unwrap().length, 16);
        assert_eq!(streamed[4..8], 64u32.to_le_bytes().map(|b| b)[..]);
        for broken in [&b""[..], b"RIFF", b"RIFF\0\0\0\0WAVEdata\0\0\0\0", b"RIFF\0\0\0\0WAVELIST\xff\xff\xff\xff"] {
            assert_eq!(layout(broken), None);
        }
    }
}
