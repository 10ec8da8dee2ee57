//! Splits a stream of bytes into server-sent events (HTML Living Standard, section 9.2), which are passed on unchanged.

use std::borrow::Cow;

use crate::blocking::Refused;
use crate::memory_budget::{self, Growth};

/// The media type.
pub const MEDIA_TYPE: &str = "text/event-stream";

/// Maximum length of an event, in bytes. Some repeat the instructions and tools of the request, in which a server may escape
/// all that is not ASCII, and have the reply beside it.
pub const MAX_EVENT: usize = 32 * 1024 * 1024;

/// Bytes of an event that are reserved at a time, but for the first; and how many times as much it takes, with its copies.
const STEP: usize = 64 * 1024;
const COPIES: usize = 3;

/// Splits received bytes into events.
#[derive(Debug)]
pub struct Events {
    bytes: Vec<u8>,
    start: usize,
    /// No event ends before this position.
    looked: usize,
    /// For the longest event.
    memory: Growth,
    longest: usize,
}

impl Default for Events {
    fn default() -> Events {
        Events { bytes: Vec::new(), start: 0, looked: 0, memory: Growth::new(STEP, COPIES), longest: 0 }
    }
}

/// Why an event is not received.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// It is longer than [`MAX_EVENT`].
    #[error("an event is too long")]
    TooLong,
    /// There is no memory for it.
    #[error("there is no memory for an event")]
    NoMemory(#[from] Refused),
}

impl Events {
    /// Adds received bytes.
    ///
    /// # Errors
    /// See [`EventError`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), EventError> {
        self.bytes.drain(..self.start);
        self.looked -= self.start;
        self.start = 0;
        let length = self.bytes.len() + bytes.len();
        if length > MAX_EVENT {
            return Err(EventError::TooLong);
        }
        self.memory.add(length.saturating_sub(self.longest), memory_budget::reserve)?;
        self.longest = self.longest.max(length);
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next complete event, with the blank line that ends it.
    pub fn take(&mut self) -> Option<&[u8]> {
        // The end of an event may begin in the last three bytes that were examined.
        let from = self.looked.saturating_sub(3).max(self.start);
        let Some(length) = end_of_event(&self.bytes[from..]) else {
            self.looked = self.bytes.len();
            return None;
        };
        let event = self.start..from + length;
        self.start = event.end;
        self.looked = event.end;
        Some(&self.bytes[event])
    }

    /// Whether there is an incomplete event.
    pub fn is_incomplete(&self) -> bool {
        self.bytes[self.start..].iter().any(|b| !b.is_ascii_whitespace())
    }
}

/// The position after the first blank line.
fn end_of_event(bytes: &[u8]) -> Option<usize> {
    memchr::memchr2_iter(b'\n', b'\r', bytes).find_map(|at| {
        let rest = &bytes[at..];
        [&b"\n\n"[..], b"\r\n\r\n", b"\r\r", b"\n\r\n"]
            .into_iter()
            .find(|end| rest.starts_with(end))
            .map(|e| at + e.len())
    })
}

/// The data of an event: its `data` lines, joined; `None` for a comment or an event without data.
pub fn data(event: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut found: Option<Cow<'_, [u8]>> = None;
    for line in event.split(|b| matches!(b, b'\n' | b'\r')) {
        let Some(value) = line.strip_prefix(b"data") else { continue };
        let value = match value {
            [] => value,
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            _ => continue,
        };
        match &mut found {
            None => found = Some(Cow::Borrowed(value)),
            Some(before) => {
                let before = before.to_mut();
                before.push(b'\n');
                before.extend_from_slice(value);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_bytes_are_split() {
        let stream = b"data: a\n\n: note\r\n\r\nevent: x\r\ndata:b\r\ndata\r\n\r\ndata: c\n\n";
        for piece in 1..stream.len() {
            let mut events = Events::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(piece) {
                events.push(bytes).unwrap();
                while let Some(event) = events.take() {
                    found.push(event.to_vec());
                }
            }
            assert_eq!(found.concat(), stream, "{piece}");
            let data: Vec<_> = found.iter().map(|e| data(e).map(Cow::into_owned)).collect();
            assert_eq!(data, [Some(b"a".to_vec()), None, Some(b"b\n".to_vec()), Some(b"c".to_vec())], "{piece}");
            assert!(!events.is_incomplete());
        }
    }

    #[test]
    fn an_event_without_an_end_is_incomplete() {
        let mut events = Events::default();
        events.push(b"data: a\n\ndata: {").unwrap();
        assert!(events.take().is_some() && events.take().is_none() && events.is_incomplete());
        assert!(events.push(&vec![b'x'; MAX_EVENT]).is_err());
    }
}
