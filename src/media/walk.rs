//! What the walkers over containers share: what they see, what they answer, and how numbers are read.

use std::time::Duration;

/// Most streams or tracks of one recording.
pub(super) const MAX_STREAMS: usize = 128;

/// Bytes that belong to no frame and are forgiven in any recording, besides a tenth of it.
pub(super) const FORGIVEN_JUNK: u64 = 64 * 1024;

/// How long a recording plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// By its frames.
    pub duration: Duration,
    /// By what its header claims, where it claims anything. Anyone can write there what they like.
    pub declared: Option<Duration>,
}

/// Why the length of a recording cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMeasurable {
    /// The first bytes are of no container that is measured.
    #[error("the container is unknown")]
    UnknownContainer,
    /// The container holds audio in a coding that is not measured.
    #[error("the coding of the audio is not supported")]
    UnsupportedCoding,
    /// The container breaks its own rules.
    #[error("the container is broken")]
    Broken,
    /// There are no frames of audio.
    #[error("there are no frames of audio")]
    NoFrames,
    /// Much of the recording belongs to no frame.
    #[error("much of it belongs to no frame of audio")]
    Junk,
    /// There are more streams than are kept track of.
    #[error("there are too many streams")]
    TooManyStreams,
}

pub(super) type Result<T> = std::result::Result<T, NotMeasurable>;

/// What a walker sees: the recording's bytes from position `at` on, as far as they are known.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: u64,
    /// No more bytes follow.
    pub(super) is_last: bool,
}

impl<'a> Window<'a> {
    /// The first `n` bytes, or `None` if they are not there yet.
    pub(super) fn first(&self, n: usize) -> Option<&'a [u8]> {
        self.bytes.get(..n)
    }
}

/// What a walker wants next. To give the same result however the recording is cut, a walker decides by bytes that it
/// has checked to be in the window.
pub(super) enum Step {
    /// To see what follows so many bytes.
    Skip(u64),
    /// To see at least so many bytes from here on.
    Need(usize),
}

/// Walks over the frames of one kind of container.
pub(super) trait Walk: Send {
    fn step(&mut self, window: Window<'_>) -> Result<Step>;

    /// The result for a recording of `size` bytes.
    fn finish(&self, size: u64) -> Result<Measured>;
}

/// How long so many samples play; nothing if there is no rate.
pub(super) fn play_time(samples: u64, rate: u32) -> Duration {
    let nanos = u128::from(samples) * 1_000_000_000 / u128::from(rate.max(1));
    if rate == 0 { Duration::ZERO } else { u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos) }
}

pub(super) fn u16_le(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_le(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A big-endian number of up to eight bytes.
pub(super) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The big-endian 32-bit number at a place.
pub(super) fn u32_be(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
