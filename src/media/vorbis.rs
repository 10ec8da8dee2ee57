//! The headers of Vorbis I, as far as they determine how long a packet plays: block sizes and modes.

use super::walk::{big_endian, u32_le};

/// The most bytes of a setup header that are read; encoders write four to eight thousand.
pub(super) const MAX_SETUP: usize = 16 * 1024;

/// What determines the duration of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vorbis {
    /// Samples per second.
    pub(super) rate: u32,
    channels: u8,
    /// The two block sizes, in samples.
    blocks: [u32; 2],
    /// The modes, by the setup header; without one, no packet can be decoded.
    modes: Option<Modes>,
}

/// The modes in a setup header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Modes {
    count: u32,
    /// A bit for each mode, set if its blocks are long.
    are_long: u64,
}

impl Vorbis {
    /// Parses the identification header.
    pub(super) fn parse(header: &[u8]) -> Option<Vorbis> {
        let rate = u32_le(header, 12).filter(|rate| *rate > 0 && header.starts_with(b"\x01vorbis"))?;
        let (channels, sizes) = (*header.get(11)?, *header.get(28)?);
        let (short, long) = (sizes & 15, sizes >> 4);
        let is_valid = channels > 0 && (6..=13).contains(&short) && (short..=13).contains(&long);
        is_valid.then_some(Vorbis { rate, channels, blocks: [1 << short, 1 << long], modes: None })
    }

    /// Parses the three headers in the form in which Matroska keeps them: two lengths, then the headers.
    pub(super) fn from_private(private: &[u8]) -> Option<Vorbis> {
        let mut at = 1;
        let mut length = || {
            let mut length = 0;
            loop {
                let byte = *private.get(at)?;
                at += 1;
                length += usize::from(byte);
                if byte < 255 {
                    return Some(length);
                }
            }
        };
        let (first, second) = (length()?, length()?);
        let headers = private.get(at..).filter(|_| private.first() == Some(&2))?;
        Vorbis::parse(headers.get(..first)?)?.with_setup(headers.get(first + second..)?)
    }

    /// Adds what the setup header says; `None` if it is malformed.
    pub(super) fn with_setup(self, header: &[u8]) -> Option<Vorbis> {
        let bytes = header.strip_prefix(b"\x05vorbis")?;
        let modes = setup(&mut Bits { bytes, at: 0 }, self.channels)?;
        Some(Vorbis { modes: Some(modes), ..self })
    }

    /// More bytes than a packet with a block of this size needs: those of its samples without compression.
    pub(super) fn most_bytes(&self, block: u32) -> u64 {
        256 + u64::from(block) * 2 * u64::from(self.channels)
    }

    /// The size of the block in a packet, in samples; `None` if it is not audio.
    pub(super) fn block(&self, packet: &[u8]) -> Option<u32> {
        let (modes, first) = (self.modes?, *packet.first()?);
        let mode = u32::from(first >> 1) & ((1 << bits_of(modes.count - 1)) - 1);
        (first & 1 == 0 && mode < modes.count).then_some(self.blocks[usize::from(modes.are_long >> mode & 1 == 1)])
    }
}

/// Reads bits, the lowest of a byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The number in the next `n` bits, of which there may be 32.
    fn read(&mut self, n: u32) -> Option<u32> {
        let from = self.at / 8;
        let mut next: Vec<u8> = self.bytes.iter().skip(from).take(5).rev().copied().collect();
        while next.len() < 5 {
            next.insert(0, 0);
        }
        let number = big_endian(&next) >> (self.at % 8) & ((1 << n) - 1);
        self.skip(u64::from(n))?;
        u32::try_from(number).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.read(1)? == 1)
    }

    fn skip(&mut self, n: u64) -> Option<()> {
        self.at = self.at.checked_add(usize::try_from(n).ok()?)?;
        (self.at <= self.bytes.len() * 8).then_some(())
    }
}

/// The number of bits of a number.
fn bits_of(number: u32) -> u32 {
    32 - number.leading_zeros()
}

/// Reads a setup header up to the modes at its end.
fn setup(bits: &mut Bits<'_>, channels: u8) -> Option<Modes> {
    for _ in 0..=bits.read(8)? {
        codebook(bits)?;
    }
    let times = u64::from(bits.read(6)?) + 1;
    bits.skip(16 * times)?;
    for _ in 0..=bits.read(6)? {
        floor(bits)?;
    }
    for _ in 0..=bits.read(6)? {
        residue(bits)?;
    }
    for _ in 0..=bits.read(6)? {
        mapping(bits, channels)?;
    }
    let count = bits.read(6)? + 1;
    let mut are_long = 0;
    for mode in 0..count {
        are_long |= u64::from(bits.read(1)?) << mode;
        bits.skip(16 + 16 + 8)?;
    }
    bits.flag()?.then_some(Modes { count, are_long })
}

fn codebook(bits: &mut Bits<'_>) -> Option<()> {
    if bits.read(24)? != 0x0056_4342 {
        return None;
    }
    let (dimensions, entries) = (bits.read(16)?, bits.read(24)?);
    if bits.flag()? {
        bits.skip(5)?;
        let mut done = 0;
        while done < entries {
            done += bits.read(bits_of(entries - done))?;
            // Each turn takes a bit at least, so it ends with the header.
        }
        if done > entries {
            return None;
        }
    } else {
        let is_sparse = bits.flag()?;
        for _ in 0..entries {
            if !is_sparse || bits.flag()? {
                bits.skip(5)?;
            }
        }
    }
    let lookup = bits.read(4)?;
    if lookup == 0 {
        return Some(());
    }
    bits.skip(32 + 32)?;
    let value_bits = u64::from(bits.read(4)?) + 1;
    bits.skip(1)?;
    let values = match lookup {
        1 => lookup_values(entries, dimensions)?,
        2 => u64::from(entries) * u64::from(dimensions),
        _ => return None,
    };
    bits.skip(values * value_bits)
}

/// The greatest number whose power with the exponent `dimensions` is at most `entries`.
fn lookup_values(entries: u32, dimensions: u32) -> Option<u64> {
    let fits = |number: u64| number.checked_pow(dimensions).is_some_and(|power| power <= u64::from(entries));
    if dimensions == 0 || entries == 0 {
        return None;
    }
    let (mut low, mut high) = (1, u64::from(entries) + 1);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(middle) { low = middle } else { high = middle }
    }
    Some(low)
}

fn floor(bits: &mut Bits<'_>) -> Option<()> {
    match bits.read(16)? {
        0 => {
            bits.skip(8 + 16 + 16 + 6 + 8)?;
            let books = u64::from(bits.read(4)?) + 1;
            return bits.skip(8 * books);
        }
        1 => {}
        _ => return None,
    }
    let partitions = bits.read(5)?;
    let classes = (0..partitions).map(|_| bits.read(4)).collect::<Option<Vec<u32>>>()?;
    let mut dimensions = [0u64; 16];
    for size in dimensions.iter_mut().take(classes.iter().max().map_or(0, |most| *most as usize + 1)) {
        *size = u64::from(bits.read(3)?) + 1;
        let subclasses = bits.read(2)?;
        bits.skip(if subclasses == 0 { 0 } else { 8 } + (8u64 << subclasses))?;
    }
    bits.skip(2)?;
    let range = u64::from(bits.read(4)?);
    bits.skip(range * classes.iter().map(|class| dimensions[*class as usize]).sum::<u64>())
}

fn residue(bits: &mut Bits<'_>) -> Option<()> {
    bits.skip(16 + 24 + 24 + 24)?;
    let classes = bits.read(6)? + 1;
    bits.skip(8)?;
    let mut books = 0;
    for _ in 0..classes {
        let low = bits.read(3)?;
        let high = if bits.flag()? { bits.read(5)? } else { 0 };
        books += u64::from(low.count_ones() + high.count_ones());
    }
    bits.skip(8 * books)
}

fn mapping(bits: &mut Bits<'_>, channels: u8) -> Option<()> {
    bits.skip(16)?;
    let submaps = if bits.flag()? { u64::from(bits.read(4)?) + 1 } else { 1 };
    if bits.flag()? {
        let steps = u64::from(bits.read(8)?) + 1;
        bits.skip(steps * 2 * u64::from(bits_of(u32::from(channels) - 1)))?;
    }
    bits.skip(2)?;
    if submaps > 1 {
        bits.skip(4 * u64::from(channels))?;
    }
    bits.skip(submaps * 24)
}
