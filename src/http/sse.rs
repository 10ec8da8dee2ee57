//! Server-sent events (HTML Living Standard, section 9.2), found in a stream of bytes and passed on as they came.

use std::borrow::Cow;

/// The media type.
pub const MEDIA_TYPE: &str = "text/event-stream";

/// Longest event in bytes; one more is not waited for.
pub const LONGEST: usize = 8 * 1024 * 1024;

/// Bytes that came, cut into events.
#[derive(Debug, Default)]
pub struct Events {
    bytes: Vec<u8>,
    start: usize,
    /// Up to here no end of an event was found.
    looked: usize,
}

/// An event is longer than [`LONGEST`].
#[derive(Debug, thiserror::Error)]
#[error("an event is too long")]
pub struct TooLong;

impl Events {
    /// Takes bytes in.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.bytes.drain(..self.start);
        self.looked -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > LONGEST { Err(TooLong) } else { Ok(()) }
    }

    /// The next whole event with the blank line that ends it.
    pub fn take(&mut self) -> Option<&[u8]> {
        // An end may have begun in the last three bytes that were looked at.
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

    /// Whether an event has begun and not ended.
    pub fn is_cut(&self) -> bool {
        self.bytes[self.start..].iter().any(|b| !b.is_ascii_whitespace())
    }
}

/// Where the first blank line ends.
fn end_of_event(bytes: &[u8]) -> Option<usize> {
    memchr::memchr2_iter(b'\n', b'\r', bytes).find_map(|at| {
        let rest = &bytes[at..];
        [&b"\n\n"[..], b"\r\n\r\n", b"\r\r", b"\n\r\n"]
            .into_iter()
            .find(|end| rest.starts_with(end))
            .map(|e| at + e.len())
    })
}

/// What an event carries: its `data` lines, joined; `None` for a comment or an event without any.
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
    fn cuts_wherever_the_bytes_were_torn() {
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
            assert!(!events.is_cut());
        }
    }

    #[test]
    fn knows_an_event_that_was_cut_off() {
        let mut events = Events::default();
        events.push(b"data: a\n\ndata: {").unwrap();
        assert!(events.take().is_some() && events.take().is_none() && events.is_cut());
        assert!(events.push(&vec![b'x'; LONGEST]).is_err());
    }
}
