//! The interface of the container parsers ("walkers"), and functions to read numbers.

use std::time::Duration;

/// Maximum number of streams or tracks in a recording.
pub(super) const MAX_STREAMS: usize = 128;

/// Most bytes of a recording that nothing explains: they belong to no frame that was counted, and to nothing that is known
/// to contain no audio.
pub(super) const FORGIVEN_JUNK: u64 = 16 * 1024;
/// The longest that those bytes may play if everything in them that looks like the start of a frame is one, beside a
/// fiftieth of what was counted: chance makes such starts.
const FORGIVEN_PLAY: Duration = Duration::from_secs(5);

/// The duration of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The duration of all frames.
    pub duration: Duration,
    /// The duration that the header declares, if any. It is not trustworthy.
    pub declared: Option<Duration>,
}

/// Why a recording cannot be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMeasurable {
    /// The first bytes are not those of a supported container format.
    #[error("unknown container format")]
    UnknownContainer,
    /// The audio in the container uses a codec that is not supported.
    #[error("unsupported audio codec")]
    UnsupportedCoding,
    /// The container is malformed.
    #[error("malformed container")]
    Broken,
    /// MP4 does not say how long packets of this codec play, and they are not read: Opus and MP3.
    #[error("Opus or MP3 in MP4")]
    OpaqueInMp4,
    /// A packet may hold several frames, which cannot be told apart.
    #[error("packets of several audio frames")]
    SeveralFrames,
    /// There is no audio frame.
    #[error("no audio frames")]
    NoFrames,
    /// Too many bytes belong to no frame, or look like frames that were not counted.
    #[error("too much data outside audio frames")]
    Junk,
    /// There are more than [`MAX_STREAMS`] streams or tracks.
    #[error("too many streams")]
    TooManyStreams,
}

pub(super) type Result<T> = std::result::Result<T, NotMeasurable>;

/// What a walker sees: the bytes of the recording from position `at`, as far as they have been received.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: u64,
    /// This is the end of the recording.
    pub(super) is_last: bool,
}

impl<'a> Window<'a> {
    /// The first `n` bytes; `None` if they have not been received yet.
    pub(super) fn first(&self, n: usize) -> Option<&'a [u8]> {
        self.bytes.get(..n)
    }
}

/// What a walker does next. A walker may only depend on bytes that it has checked to be in the window; otherwise, the
/// result would depend on how the recording is split.
pub(super) enum Step {
    /// Continue after this many bytes.
    Skip(u64),
    /// Call again when at least this many bytes are in the window.
    Need(usize),
}

/// What is in a recording beside that which was counted. Decoders differ in what they make of it, so there may be little.
#[derive(Clone, Copy, Default)]
pub(super) struct Unexplained {
    pub(super) bytes: u64,
    /// How long it plays if everything that looks like the start of a frame is one.
    pub(super) play: Duration,
}

impl Unexplained {
    /// Adds some bytes.
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Adds what looks like a frame.
    pub(super) fn add_play(&mut self, duration: Duration) {
        self.play = self.play.saturating_add(duration);
    }

    /// The sum of both.
    pub(super) fn and(mut self, other: Unexplained) -> Unexplained {
        self.add(other.bytes);
        self.add_play(other.play);
        self
    }

    /// An error if it is too much beside a duration that was counted.
    pub(super) fn check(&self, counted: Duration) -> Result<()> {
        match self.bytes <= FORGIVEN_JUNK && self.play <= FORGIVEN_PLAY + counted / 50 {
            true => Ok(()),
            false => Err(NotMeasurable::Junk),
        }
    }
}

/// Parses one container format and adds up the durations of its frames.
pub(super) trait Walk: Send {
    /// Parses what is at the start of the window.
    fn step(&mut self, window: Window<'_>) -> Result<Step>;

    /// The result for a recording of `size` bytes.
    fn finish(&self, size: u64) -> Result<Measured>;

    /// How long that plays which was counted of a recording of `size` bytes, whether or not it can be measured.
    fn counted(&self, size: u64) -> Duration;

    /// The bytes that its tables take; `None` if it has none that grow with the recording.
    fn held(&self) -> Option<usize> {
        None
    }
}

/// The duration of this many samples; zero if the rate is zero.
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

/// The big-endian number in these bytes, of which the first eight are used.
pub(super) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The big-endian 32-bit number at this position.
pub(super) fn u32_be(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
