//! What the tables of a track in MP4 say.

use std::time::Duration;

use super::mp4_place::Places;
use super::packets::Coding;
use super::walk::{NotMeasurable, Result, play_time};

/// The boxes that may occur only once in a track.
const ONCE: [&[u8; 4]; 9] = [b"tkhd", b"mdhd", b"elst", b"stts", b"stsz", b"stz2", b"stsc", b"stco", b"co64"];

#[derive(Default)]
pub(super) struct Track {
    pub(super) id: u32,
    pub(super) is_audio: bool,
    pub(super) coding: Option<Result<Coding>>,
    pub(super) timescale: u32,
    /// The declared duration, in ticks of the timescale.
    pub(super) declared: u64,
    /// The sum of the packets' durations, in ticks.
    pub(super) ticks: u64,
    /// The number of packets according to the table of durations.
    pub(super) timed: u64,
    /// The number of packets according to the table of sizes.
    pub(super) sized: u64,
    /// The number of packets in fragments.
    pub(super) in_fragments: u64,
    /// The duration of packets in fragments that declare none, in ticks.
    pub(super) default_ticks: u32,
    /// The size of packets in fragments that declare none, in bytes.
    pub(super) default_size: Option<u32>,
    /// The size of the largest packet, in bytes.
    pub(super) largest: u32,
    /// The size of all packets, in bytes.
    pub(super) bytes: u64,
    /// Which of the boxes that may occur only once have occurred.
    has: [bool; ONCE.len()],
    /// Where the packets of AAC are.
    pub(super) places: Places,
    /// The parts that an edit list plays, each in ticks of the recording; 0 for all of the track.
    pub(super) edits: Vec<u64>,
}

impl Track {
    /// Notes that there is a box with this name. Those that are tables must come behind the codec.
    ///
    /// # Errors
    /// There was one before, or it comes too early.
    pub(super) fn once(&mut self, name: [u8; 4]) -> Result<()> {
        let is_table = matches!(&name, b"stts" | b"stsz" | b"stz2" | b"stsc" | b"stco" | b"co64");
        let index = ONCE.iter().position(|known| **known == name);
        let is_again = index.is_some_and(|index| std::mem::replace(&mut self.has[index], true));
        if is_again || is_table && self.coding.is_none() { Err(NotMeasurable::Broken) } else { Ok(()) }
    }

    /// Adds a packet of this size.
    pub(super) fn add_bytes(&mut self, size: u32) {
        self.largest = self.largest.max(size);
        self.bytes = self.bytes.saturating_add(u64::from(size));
    }

    /// Where its packets are, if that matters.
    pub(super) fn aac(&mut self) -> Option<&mut Places> {
        matches!(self.coding, Some(Ok(Coding::Aac { .. }))).then_some(&mut self.places)
    }

    /// Checks that a packet of this audio track is one frame, of a codec that is supported.
    pub(super) fn check(&self) -> Result<()> {
        match self.coding.unwrap_or(Err(NotMeasurable::UnsupportedCoding))? {
            Coding::Aac { most_bytes, .. } if self.largest > most_bytes => Err(NotMeasurable::SeveralFrames),
            _ => Ok(()),
        }
    }

    /// How long the track plays, in a recording with this timescale.
    pub(super) fn duration(&self, timescale: u32) -> Duration {
        let packets = self.timed.max(self.sized).saturating_add(self.in_fragments);
        let counted = self.coding.and_then(Result::ok).map_or(Duration::ZERO, |coding| coding.of_packets(packets));
        let counted = counted.max(play_time(self.ticks, self.timescale));
        let edit = |ticks: &u64| if *ticks == 0 { counted } else { counted.min(play_time(*ticks, timescale)) };
        // A part may be played again and again.
        let edited = self.edits.iter().map(edit).fold(Duration::ZERO, Duration::saturating_add);
        counted.max(edited)
    }
}
