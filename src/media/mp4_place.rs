//! Where the packets of AAC in an MP4 file are.
//!
//! A packet that starts with an ADTS header has the sampling rate of that header to some decoders, for itself and all that
//! follow. The tables may come behind the data, so all places in the data are kept that look like such a header; chance
//! makes one in 20 KB. At the end, no packet may start at one.

use super::mpeg::Frame;
use super::walk::{NotMeasurable, Result};

/// Most packets of AAC in a recording: six hours. Each takes two bytes, or a few more with its position.
const MOST_PACKETS: usize = 1 << 20;
/// Most places that look like a header, and most boxes with data.
const MOST_HEADERS: usize = 1 << 18;
/// How many bytes show whether a header is at the first of them.
pub(super) const HEADER: usize = 7;

/// The data, as far as it was received.
#[derive(Default)]
pub(super) struct Data {
    /// Positions of the start and the end of boxes with data.
    boxes: Vec<(u64, u64)>,
    /// Positions of what looks like a header.
    headers: Vec<u64>,
    /// Bytes in the boxes.
    pub(super) bytes: u64,
}

/// Successive packets.
struct Run {
    at: u64,
    count: u32,
    /// The size of all, if they have the same.
    size: Option<u16>,
}

/// The tables of a track.
#[derive(Default)]
pub(super) struct Places {
    /// The sizes of packets by the table of sizes, or their number and size if that is the same for all.
    sizes: Vec<u16>,
    same: Option<(u64, u16)>,
    /// The positions of chunks.
    chunks: Vec<u64>,
    /// From which chunk on, counted from 1, there are how many packets in a chunk.
    per_chunk: Vec<(u32, u32)>,
    /// The packets in fragments, and the sizes of those that differ in it.
    runs: Vec<Run>,
    run_sizes: Vec<u16>,
    /// The number of packets in fragments.
    in_runs: u64,
}

/// The bytes that a list takes.
fn bytes<T>(list: &Vec<T>) -> usize {
    list.capacity() * size_of::<T>()
}

impl Data {
    /// The bytes that its lists take.
    pub(super) fn held(&self) -> usize {
        bytes(&self.boxes) + bytes(&self.headers)
    }

    /// Begins a box whose data is at these positions.
    pub(super) fn begin(&mut self, start: u64, end: u64) -> Result<()> {
        self.boxes.push((start, end));
        if self.boxes.len() > MOST_HEADERS { Err(NotMeasurable::Broken) } else { Ok(()) }
    }

    /// Searches data at position `at` for headers that start in its first `n` bytes.
    pub(super) fn search(&mut self, bytes: &[u8], n: usize, at: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(n as u64);
        for offset in memchr::memchr_iter(0xff, &bytes[..n]) {
            if Frame::parse(&bytes[offset..]).is_some_and(|frame| frame.is_aac()) {
                self.headers.push(at + offset as u64);
            }
        }
        if self.headers.len() > MOST_HEADERS { Err(NotMeasurable::Junk) } else { Ok(()) }
    }

    /// Checks packets of these sizes that follow each other from `at` on.
    fn check(&self, at: u64, sizes: impl ExactSizeIterator<Item = u16> + Clone) -> Result<()> {
        if sizes.len() == 0 {
            return Ok(());
        }
        let end = at.saturating_add(sizes.clone().map(u64::from).sum());
        let index = self.boxes.partition_point(|(start, _)| *start <= at);
        if self.boxes[..index].last().is_none_or(|(_, box_end)| end > *box_end) {
            return Err(NotMeasurable::Broken);
        }
        let first = self.headers.partition_point(|header| *header < at);
        let mut headers = self.headers[first..].iter().take_while(|header| **header < end).peekable();
        let mut at = at;
        for size in sizes {
            if headers.peek().is_none() {
                break;
            }
            while headers.next_if(|header| **header < at).is_some() {}
            if headers.peek() == Some(&&at) && size > 0 {
                return Err(NotMeasurable::SeveralFrames);
            }
            at += u64::from(size);
        }
        Ok(())
    }
}

/// A size in the form in which it is kept; larger ones are refused elsewhere.
fn narrow(size: u32) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

fn push<T>(list: &mut Vec<T>, item: T) -> Option<()> {
    list.push(item);
    (list.len() <= MOST_PACKETS).then_some(())
}

/// Each adds to the tables; `None` if that is too much.
impl Places {
    /// The bytes that the tables take.
    pub(super) fn held(&self) -> usize {
        let packets = bytes(&self.sizes) + bytes(&self.chunks) + bytes(&self.per_chunk);
        packets + bytes(&self.runs) + bytes(&self.run_sizes)
    }

    pub(super) fn add_size(&mut self, size: u32) -> Option<()> {
        push(&mut self.sizes, narrow(size))
    }

    /// All packets have the same size.
    pub(super) fn set_same(&mut self, count: u64, size: u32) -> Option<()> {
        self.same = Some((count, narrow(size)));
        (count <= MOST_PACKETS as u64).then_some(())
    }

    pub(super) fn add_chunk(&mut self, at: u64) -> Option<()> {
        push(&mut self.chunks, at)
    }

    pub(super) fn add_per_chunk(&mut self, first: u32, count: u32) -> Option<()> {
        let is_next = self.per_chunk.last().map_or(first == 1, |(last, _)| first > *last);
        push(&mut self.per_chunk, (first, count)).filter(|()| is_next)
    }

    /// Adds a run of a fragment; its packets have this size or those that are added then.
    pub(super) fn add_run(&mut self, at: u64, count: u32, size: Option<u32>) -> Option<()> {
        let size = size.map(narrow);
        self.in_runs += u64::from(count);
        push(&mut self.runs, Run { at, count, size })?;
        (self.in_runs <= MOST_PACKETS as u64).then_some(())
    }

    pub(super) fn add_run_size(&mut self, size: u32) -> Option<()> {
        push(&mut self.run_sizes, narrow(size))
    }

    /// Checks that no packet starts with a header, and that all are in the data.
    pub(super) fn check(&self, data: &Data) -> Result<()> {
        let mut left = self.same.map_or(self.sizes.len(), |(count, _)| usize::try_from(count).unwrap_or(usize::MAX));
        let (mut next, mut kind) = (0, 0);
        for (index, at) in self.chunks.iter().enumerate() {
            while self.per_chunk.get(kind + 1).is_some_and(|(first, _)| *first as usize <= index + 1) {
                kind += 1;
            }
            let count = self.per_chunk.get(kind).map_or(0, |(_, count)| *count as usize).min(left);
            match self.same {
                Some((_, size)) => data.check(*at, std::iter::repeat_n(size, count))?,
                None => data.check(*at, self.sizes[next..next + count].iter().copied())?,
            }
            (next, left) = (next + count, left - count);
        }
        let mut sizes = self.run_sizes.as_slice();
        for run in &self.runs {
            let count = run.count as usize;
            if let Some(size) = run.size {
                data.check(run.at, std::iter::repeat_n(size, count))?;
            } else {
                let (of_run, rest) = sizes.split_at(count.min(sizes.len()));
                sizes = rest;
                data.check(run.at, of_run.iter().copied())?;
            }
        }
        // Packets without a place cannot be checked.
        if left == 0 { Ok(()) } else { Err(NotMeasurable::Broken) }
    }
}
