//! `multipart/form-data` of a body that is read as it comes, of which no more than a piece is in memory.

use std::io::{self, Read};

use super::multipart::{self, PartHead};

/// Bytes read at a time.
const PIECE: usize = 16 * 1024;
/// Most bytes of a part's headers.
const LARGEST_HEAD: usize = 8 * 1024;
/// Most blanks between a delimiter and the end of its line.
const MOST_BLANKS: usize = 64;

/// A multipart body on its way: ask for a part, read its content, ask for the next.
pub struct Parts<R> {
    source: R,
    finder: memchr::memmem::Finder<'static>,
    buffer: Vec<u8>,
    start: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first part.
    Preamble,
    /// Within a part's content.
    Content,
    /// Behind a part's content; the delimiter takes so many bytes, and may be the last.
    Delimiter(usize, bool),
    End,
}

enum Place {
    /// So many bytes of content are next.
    Content(usize),
    /// A delimiter of so many bytes is next; the last one ends the body.
    Delimiter(usize, bool),
}

impl<R: Read> Parts<R> {
    /// The parts of `source`, which are parted by `boundary`.
    pub fn new(source: R, boundary: &str) -> Parts<R> {
        let finder = memchr::memmem::Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned();
        // The first delimiter needs no line before it.
        Parts { source, finder, buffer: b"\r\n".to_vec(), start: 0, state: State::Preamble }
    }

    /// Goes on to the next part, passing over what was not read of this one; `None` behind the last.
    ///
    /// # Errors
    /// The source's, and of kind `InvalidData` what is wrong with the body, in words fit for the client.
    pub fn next_part(&mut self) -> io::Result<Option<PartHead>> {
        let mut passed_over = [0; 4096];
        if self.state == State::Preamble {
            self.state = State::Content;
        }
        while self.read(&mut passed_over)? > 0 {}
        match self.state {
            State::Delimiter(length, last) => {
                self.start += length;
                self.state = if last { State::End } else { State::Content };
            }
            _ => return Ok(None),
        }
        if self.state == State::End { Ok(None) } else { self.head().map(Some) }
    }

    fn head(&mut self) -> io::Result<PartHead> {
        loop {
            let bytes = &self.buffer[self.start..];
            if let Some(at) = memchr::memmem::find(bytes, b"\r\n\r\n") {
                let head = multipart::part_head(&bytes[..at]).map_err(malformed);
                self.start += at + 4;
                return head;
            }
            if bytes.len() > LARGEST_HEAD {
                return Err(malformed("the headers of a part are too long"));
            }
            self.fill()?;
        }
    }

    /// What comes next. In content, at least one byte of it or the whole delimiter is in the buffer afterwards.
    fn place(&mut self) -> io::Result<Place> {
        loop {
            let bytes = &self.buffer[self.start..];
            let delimiter = self.finder.needle().len();
            match self.finder.find(bytes) {
                Some(at) => match tail(&bytes[at + delimiter..]) {
                    Tail::Delimiter(more, last) if at == 0 => return Ok(Place::Delimiter(delimiter + more, last)),
                    // Only looks like one.
                    Tail::Other => return Ok(Place::Content(at + 1)),
                    _ if at > 0 => return Ok(Place::Content(at)),
                    _ => {}
                },
                None if bytes.len() >= delimiter => return Ok(Place::Content(bytes.len() - delimiter + 1)),
                None => {}
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + PIECE, 0);
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

/// The content of the part that [`Parts::next_part`] came to.
impl<R: Read> Read for Parts<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.state != State::Content || out.is_empty() {
            return Ok(0);
        }
        match self.place()? {
            Place::Delimiter(length, last) => {
                self.state = State::Delimiter(length, last);
                Ok(0)
            }
            Place::Content(n) => {
                let n = n.min(out.len());
                out[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
                self.start += n;
                Ok(n)
            }
        }
    }
}

/// What follows a delimiter's text.
enum Tail {
    /// So many bytes still belong to the delimiter; it may be the last.
    Delimiter(usize, bool),
    /// It is no delimiter.
    Other,
    /// More must come first.
    Unknown,
}

fn tail(bytes: &[u8]) -> Tail {
    let blanks = bytes.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    match &bytes[blanks..] {
        _ if blanks > MOST_BLANKS => Tail::Other,
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
    use super::*;

    /// Gives a few bytes at a time.
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
    fn splits_however_the_bytes_come() {
        let body = b"preamble\r\n--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--xx\r\n--\r\n--x \r\n\
            content-disposition: form-data; name=f\r\nContent-Type: audio/wav\r\n\r\n\r\n--x--\r\nepilogue";
        for piece in 1..body.len() {
            let parts = read_all(body, piece).unwrap();
            assert_eq!(parts, [("a".into(), b"1\r\n--xx\r\n--".to_vec()), ("f".into(), Vec::new())], "{piece}");
        }
    }

    #[test]
    fn passes_over_what_is_not_read() {
        let body = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n123\r\n--x\r\n\
            Content-Disposition: form-data; name=b\r\n\r\n4\r\n--x--";
        let mut parts = Parts::new(&body[..], "x");
        assert_eq!(parts.next_part().unwrap().unwrap().name, "a");
        assert_eq!(parts.next_part().unwrap().unwrap().name, "b");
        assert!(parts.next_part().unwrap().is_none());
        assert!(parts.next_part().unwrap().is_none());
    }

    #[test]
    fn refuses_what_is_cut_or_nameless() {
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
}
