//! The parser of `multipart/form-data` bodies (RFC 2046, section 5.1.1). It is incremental: whatever the length of the
//! body, no more than one read and the headers of one part are in memory.

use std::io::{self, Read};

use super::multipart::{self, PartHead};

/// Bytes read from the source at a time.
const READ_SIZE: usize = 16 * 1024;
/// Limit of the headers of a part, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// Limit of the blanks between a delimiter and the end of its line.
const MAX_BLANKS: usize = 64;

/// A multipart body. [`next_part`](Parts::next_part) goes to the next part, whose content is then read from `self`.
pub struct Parts<R> {
    source: R,
    finder: memchr::memmem::Finder<'static>,
    buffer: Vec<u8>,
    /// Start of the bytes in `buffer` that were not consumed yet.
    start: usize,
    /// How many of them are known to be content.
    content: usize,
    position: Position,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before the first part.
    Preamble,
    /// In the content of a part.
    Content,
    /// At a delimiter: its length in bytes, and whether it is the last.
    Delimiter(usize, bool),
    End,
}

impl<R: Read> Parts<R> {
    /// Parses the body that `source` yields.
    pub fn new(source: R, boundary: &str) -> Parts<R> {
        let finder = memchr::memmem::Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned();
        // Nothing has to precede the first delimiter.
        Parts { source, finder, buffer: b"\r\n".to_vec(), start: 0, content: 0, position: Position::Preamble }
    }

    /// Goes to the next part, and skips what was not read of the current one; `None` after the last.
    ///
    /// # Errors
    /// Those of the source; `InvalidData` for a malformed body, with a message for the client.
    pub fn next_part(&mut self) -> io::Result<Option<PartHead>> {
        let mut skipped = [0; 4096];
        if self.position == Position::Preamble {
            self.position = Position::Content;
        }
        while self.read(&mut skipped)? > 0 {}
        match self.position {
            Position::Delimiter(length, last) => {
                self.start += length;
                self.position = if last { Position::End } else { Position::Content };
            }
            _ => return Ok(None),
        }
        if self.position == Position::End { Ok(None) } else { self.head().map(Some) }
    }

    fn head(&mut self) -> io::Result<PartHead> {
        loop {
            let bytes = &self.buffer[self.start..];
            if bytes.starts_with(b"\r\n") {
                return Err(malformed("a part has no headers"));
            }
            if let Some(at) = memchr::memmem::find(bytes, b"\r\n\r\n").filter(|at| *at <= MAX_HEAD) {
                let head = multipart::part_head(&bytes[..at]).map_err(malformed);
                self.start += at + 4;
                return head;
            }
            if bytes.len() > MAX_HEAD {
                return Err(malformed("the headers of a part are too long"));
            }
            self.fill()?;
        }
    }

    /// Reads until at least one byte is known to be content, or a delimiter is known to be next.
    fn scan(&mut self) -> io::Result<()> {
        let delimiter = self.finder.needle().len();
        loop {
            let bytes = &self.buffer[self.start..];
            let mut content = 0;
            while let Some(offset) = self.finder.find(&bytes[content..]) {
                let at = content + offset;
                match tail(&bytes[at + delimiter..]) {
                    // Content that only looks like a delimiter: go on, as a body may consist of nothing else.
                    Tail::Other => content = at + 1,
                    Tail::Delimiter(more, is_last) if at == 0 => {
                        self.position = Position::Delimiter(delimiter + more, is_last);
                        return Ok(());
                    }
                    Tail::Delimiter(..) | Tail::Unknown => {
                        content = at;
                        break;
                    }
                }
            }
            if self.finder.find(&bytes[content..]).is_none() {
                // A delimiter may have begun in the last bytes.
                content = content.max((bytes.len() + 1).saturating_sub(delimiter));
            }
            if content > 0 {
                self.content = content;
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + READ_SIZE, 0);
        let read = loop {
            match self.source.read(&mut self.buffer[before..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(malformed("the multipart body ends too early")),
            _ => Ok(()),
        }
    }
}

/// The content of the part that [`Parts::next_part`] went to.
impl<R: Read> Read for Parts<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position != Position::Content || out.is_empty() {
            return Ok(0);
        }
        if self.content == 0 {
            self.scan()?;
        }
        let n = self.content.min(out.len());
        out[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
        self.start += n;
        self.content -= n;
        Ok(n)
    }
}

/// What the bytes after the text of a delimiter show it to be.
enum Tail {
    /// A delimiter that ends after this many more bytes; and whether it is the last.
    Delimiter(usize, bool),
    /// Content.
    Other,
    /// Unknown until more is read.
    Unknown,
}

fn tail(bytes: &[u8]) -> Tail {
    let blanks = bytes.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    match &bytes[blanks..] {
        _ if blanks > MAX_BLANKS => Tail::Other,
        [b'-', b'-', ..] => Tail::Delimiter(blanks + 2, true),
        [b'\r', b'\n', ..] => Tail::Delimiter(blanks + 2, false),
        [] | [b'-' | b'\r'] => Tail::Unknown,
        _ => Tail::Other,
    }
}

fn malformed(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Yields at most so many bytes per read.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(out.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn read_all(body: &[u8], piece: usize) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut parts = Parts::new(Slow(body, piece), "x");
        let mut found = Vec::new();
        while let Some(head) = parts.next_part()? {
            let mut content = Vec::new();
            parts.read_to_end(&mut content)?;
            found.push((head.name, content));
        }
        Ok(found)
    }

    #[test]
    fn splits_fields_and_files() {
        let body = b"preamble\r\n--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--xx\r\n--\r\n--x \r\n\
            content-disposition: form-data; name=f\r\nContent-Type: audio/wav\r\n\r\n\r\n--x--\r\nepilogue";
        for piece in 1..body.len() {
            let parts = read_all(body, piece).unwrap();
            assert_eq!(parts, [("a".into(), b"1\r\n--xx\r\n--".to_vec()), ("f".into(), Vec::new())], "{piece}");
        }
    }

    #[test]
    fn skips_content_that_is_not_read() {
        let body = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n123\r\n--x\r\n\
            Content-Disposition: form-data; name=b\r\n\r\n4\r\n--x--";
        let mut parts = Parts::new(&body[..], "x");
        assert_eq!(parts.next_part().unwrap().unwrap().name, "a");
        assert_eq!(parts.next_part().unwrap().unwrap().name, "b");
        assert!(parts.next_part().unwrap().is_none());
        assert!(parts.next_part().unwrap().is_none());
    }

    #[test]
    fn refuses_a_body_that_is_cut_or_without_names() {
        for body in [
            &b""[..],
            b"--x",
            b"--x\r\n",
            b"nothing",
            b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1",
            b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
            b"--x\r\nA: b\r\n\r\n1\r\n--x--",
        ] {
            assert!(read_all(body, 7).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn content_like_delimiters_is_read_in_large_pieces() {
        let content = b"\r\n--xy".repeat(10_000);
        let head = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n";
        let body = [&head[..], &content, b"\r\n--x--"].concat();
        let mut parts = Parts::new(&body[..], "x");
        parts.next_part().unwrap().unwrap();
        let (mut out, mut total, mut reads) = (vec![0; READ_SIZE], 0, 0);
        while let n @ 1.. = parts.read(&mut out).unwrap() {
            total += n;
            reads += 1;
        }
        assert_eq!(total, content.len());
        assert!(reads < 20, "{reads}");
    }

    #[test]
    fn the_headers_of_a_part_are_bounded() {
        let head = |length: usize| {
            let filler = "f".repeat(length);
            format!("--x\r\nContent-Disposition: form-data; name=a\r\nX: {filler}\r\n\r\n1\r\n--x--")
        };
        assert!(read_all(head(MAX_HEAD - 100).as_bytes(), usize::MAX).is_ok());
        assert!(read_all(head(MAX_HEAD).as_bytes(), usize::MAX).is_err());
        assert!(read_all(b"--x\r\n\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--", 9).is_err());
    }

    proptest! {
        /// The fragments are those that a delimiter consists of, so that some bodies are malformed too.
        #[test]
        fn however_a_body_is_split_its_parts_are_the_same(
            fragments in proptest::collection::vec(
                prop_oneof![
                    Just("\r\n--x"), Just("\r\n"), Just("\r"), Just("--"), Just("-"), Just("x"), Just(" "),
                    Just("\r\n--x\r\nContent-Disposition: form-data; name=b\r\n\r\n"), Just("\r\n--x--"),
                ],
                0..24,
            ),
            piece in 1_usize..40,
        ) {
            let body = format!("--x\r\nContent-Disposition: form-data; name=a\r\n\r\n{}\r\n--x--", fragments.concat());
            let text = |result: io::Result<_>| result.map_err(|e| e.to_string());
            prop_assert_eq!(
                text(read_all(body.as_bytes(), piece)),
                text(read_all(body.as_bytes(), usize::MAX))
            );
        }
    }
}
