//! Measures the duration of audio recordings while they are being received.
//!
//! A [`Measurer`] is given a recording piece by piece and adds up the durations of its frames. It buffers at most a few
//! times [`MAX_WINDOW`] bytes and some small tables, however long the recording is. `symphonia` and other demuxers read
//! and seek in a source by themselves, so each upload would need a thread or the whole file in memory. Only the sum of
//! frame durations is needed here, so each container format has a small push parser, its walker.
//!
//! Clients are charged by the result, so a duration that the file declares is not trusted where frames can be counted.
//! Where decoders may disagree, the longer duration is used: encoder delay and padding, parts hidden by edit lists,
//! gaps between timestamps, and chained streams all count.

mod container;
mod ebml;
mod flac;
mod frames;
mod matroska;
mod mp4;
mod mp4_boxes;
mod mp4_codec;
mod mp4_place;
mod mp4_track;
mod mpeg;
mod ogg;
mod packets;
mod riff;
mod vorbis;
mod walk;

#[cfg(test)]
mod genuine_tests;
#[cfg(test)]
mod hidden_mp4_tests;
#[cfg(test)]
mod hidden_tests;
#[cfg(test)]
mod measurer_tests;
#[cfg(test)]
mod packets_tests;

use std::io;
use std::time::Duration;

pub use container::Container;
pub use walk::{Measured, NotMeasurable};
use walk::{Result, Step, Walk, Window};

/// The most bytes that a walker may ask to see at once: enough for the longest AAC frame and the header that follows
/// it.
pub const MAX_WINDOW: usize = 16 * 1024;

/// Bytes of tables that a byte of a recording makes at most: two that look like the start of a frame make eight.
const MOST_GROWTH: usize = 4;

/// Measures one recording.
pub struct Measurer {
    walker: Option<Box<dyn Walk>>,
    container: Option<Container>,
    failure: Option<NotMeasurable>,
    /// Buffered bytes that the walker must see at once.
    window: Vec<u8>,
    /// How many bytes of `window` the walker has consumed.
    passed: usize,
    /// How many bytes the walker has asked to see at once.
    needed: usize,
    /// How many of the next bytes are to be skipped.
    skip: u64,
    /// Position of the walker in the recording, in bytes.
    at: u64,
    /// Bytes received so far.
    size: u64,
}

impl Default for Measurer {
    fn default() -> Measurer {
        Measurer::new()
    }
}

impl Measurer {
    /// A measurer that has received nothing yet.
    pub fn new() -> Measurer {
        let window = Vec::new();
        Measurer { walker: None, container: None, failure: None, window, passed: 0, needed: 0, skip: 0, at: 0, size: 0 }
    }

    /// Processes the next bytes of the recording.
    pub fn push(&mut self, chunk: &[u8]) {
        self.size += chunk.len() as u64;
        let mut rest = chunk;
        while self.failure.is_none() {
            let skipped = usize::try_from(self.skip).map_or(rest.len(), |skip| skip.min(rest.len()));
            self.skip -= skipped as u64;
            self.at += skipped as u64;
            rest = &rest[skipped..];
            let held = self.window.len() - self.passed;
            if held == 0 {
                (self.passed, self.needed) = (0, 0);
                self.window.clear();
                if rest.is_empty() {
                    return;
                }
                match self.step(rest, false) {
                    Some(Step::Need(n)) => {
                        self.needed = n.max(rest.len() + 1);
                        self.window.extend_from_slice(rest);
                        return;
                    }
                    Some(Step::Skip(n)) => self.skip = n,
                    None => {}
                }
            } else {
                let taken = self.needed.saturating_sub(held).min(rest.len());
                self.window.extend_from_slice(&rest[..taken]);
                rest = &rest[taken..];
                if held + taken < self.needed {
                    return;
                }
                self.step_in_window(false);
            }
        }
    }

    /// The container format, once it is known.
    pub fn container(&self) -> Option<Container> {
        self.container
    }

    /// Why the recording cannot be measured, if that is known already: usually, the first bytes show it.
    pub fn failure(&self) -> Option<NotMeasurable> {
        self.failure
    }

    /// How many bytes are to be reserved for its tables before so many more bytes of the recording are
    /// [pushed](Self::push). 0 for a recording that needs none.
    pub fn wanted_memory(&self, more: usize) -> usize {
        let held = self.walker.as_ref().and_then(|walker| walker.held());
        // A list that grows is given twice the room.
        held.map_or(0, |held| 2 * (held + MOST_GROWTH * more))
    }

    /// The result, to be called at the end of the recording.
    ///
    /// # Errors
    /// The recording cannot be measured; the error says why.
    pub fn finish(self) -> Result<Measured> {
        self.finish_and_count().0
    }

    /// The same, and how long that plays which was counted, even if the recording cannot be measured.
    pub fn finish_and_count(mut self) -> (Result<Measured>, Duration) {
        while self.failure.is_none() && self.passed < self.window.len() && self.step_in_window(true) {}
        let walker = self.walker.as_ref();
        let counted = walker.map_or(Duration::ZERO, |walker| walker.counted(self.size));
        let measured = match self.failure {
            Some(failure) => Err(failure),
            None => walker.ok_or(NotMeasurable::NoFrames).and_then(|walker| walker.finish(self.size)),
        };
        (measured, counted)
    }

    /// Takes a step over buffered bytes. Returns whether another one may be possible.
    fn step_in_window(&mut self, is_last: bool) -> bool {
        let window = std::mem::take(&mut self.window);
        let held = window.len() - self.passed;
        let step = self.step(&window[self.passed..], is_last);
        self.window = window;
        match step {
            Some(Step::Skip(n)) => {
                let passed = usize::try_from(n).map_or(held, |n| n.min(held));
                self.passed += passed;
                self.at += passed as u64;
                (self.skip, self.needed) = (n - passed as u64, 0);
                if self.passed > MAX_WINDOW {
                    self.window.drain(..std::mem::take(&mut self.passed));
                }
                true
            }
            Some(Step::Need(n)) => {
                self.needed = n.max(held + 1);
                false
            }
            None => false,
        }
    }

    /// Lets the walker take a step; `None` if the recording turns out not to be measurable.
    fn step(&mut self, bytes: &[u8], is_last: bool) -> Option<Step> {
        let window = Window { bytes, at: self.at, is_last };
        let step = match &mut self.walker {
            Some(walker) => walker.step(window),
            None => recognize(window).map(|recognized| match recognized {
                Recognized::As(container) => {
                    self.walker = Some(walker(container));
                    self.container = Some(container);
                    Step::Skip(0)
                }
                Recognized::NotYet(step) => step,
            }),
        };
        let step = step.and_then(|step| match step {
            Step::Need(n) if n > MAX_WINDOW => Err(NotMeasurable::Broken),
            step => Ok(step),
        });
        step.map_err(|failure| self.failure = Some(failure)).ok()
    }
}

/// Measures everything that is written to it; writing never fails.
impl io::Write for Measurer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The outcome of looking at the first bytes of a recording.
enum Recognized {
    As(Container),
    /// The format cannot be told before this step was taken.
    NotYet(Step),
}

/// Detects the container format by its first bytes. ID3 tags before it are skipped; they may precede any format.
fn recognize(window: Window<'_>) -> Result<Recognized> {
    let Window { bytes, at, is_last } = window;
    if bytes.len() < container::LONGEST && !is_last {
        return Ok(Recognized::NotYet(Step::Need(container::LONGEST)));
    }
    if let Some(length) = mpeg::id3_length(bytes) {
        return Ok(Recognized::NotYet(Step::Skip(length)));
    }
    Container::of(bytes, at > 0).map(Recognized::As).ok_or(NotMeasurable::UnknownContainer)
}

fn walker(container: Container) -> Box<dyn Walk> {
    match container {
        Container::Wav => Box::new(riff::Riff::default()),
        Container::Flac => Box::new(flac::NativeFlac::default()),
        Container::Ogg => Box::new(ogg::Ogg::default()),
        Container::Matroska => Box::new(matroska::Matroska::default()),
        Container::Mp4 => Box::new(mp4::Mp4::default()),
        Container::Mp3 | Container::Aac => Box::new(mpeg::Mpeg::default()),
    }
}
