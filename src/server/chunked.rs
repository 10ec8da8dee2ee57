//! A strict, incremental decoder of the chunked transfer coding (RFC 9112, section 7.1).

/// Maximum number of hexadecimal digits of a chunk size, so that it fits in 64 bits.
const MAX_SIZE_DIGITS: u8 = 15;
/// Maximum length of the extensions of a chunk, which are ignored, in bytes.
const MAX_EXTENSION: u16 = 1024;
/// Maximum length of the trailers, which are ignored, in bytes.
const MAX_TRAILERS: u16 = 8 * 1024;

/// The state of the decoder between two pieces of input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunked {
    state: ChunkState,
    /// Bytes left in this chunk; while its size is being read, the size so far.
    left: u64,
    /// Digits of the size, or bytes of extensions or trailers, so far.
    count: u16,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    TrailerStart,
    Trailer,
    TrailerLineFeed,
    LastLineFeed,
    End,
}

/// The coding is malformed. The connection cannot be used any more, as the start of the next request is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body")]
pub struct Malformed;

impl Chunked {
    /// Decodes `input`, appends the data to `body`, and returns how many bytes of the input were used. Stops at the end
    /// of the encoded body, at the end of the input, or when `body` has grown to `limit` bytes.
    ///
    /// # Errors
    /// The coding is malformed. The appended data must not be used.
    pub fn decode(&mut self, input: &[u8], body: &mut Vec<u8>, limit: usize) -> Result<usize, Malformed> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty() && self.state != ChunkState::End) {
            if self.state == ChunkState::Data {
                let room = limit.saturating_sub(body.len());
                let n = rest.len().min(room).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if n == 0 {
                    break;
                }
                body.extend_from_slice(&rest[..n]);
                self.left -= n as u64;
                used += n;
                if self.left == 0 {
                    self.state = ChunkState::DataReturn;
                }
            } else {
                self.step(rest[0])?;
                used += 1;
            }
        }
        Ok(used)
    }

    /// Whether the whole body and its trailers have been decoded.
    pub fn is_finished(&self) -> bool {
        self.state == ChunkState::End
    }

    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match (self.state, byte) {
            (ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte)?,
            (ChunkState::Size, b';') if self.count > 0 => self.reset_count(ChunkState::Extension),
            (ChunkState::Size, b'\r') if self.count > 0 => ChunkState::SizeLineFeed,
            (ChunkState::Extension, b'\r') => ChunkState::SizeLineFeed,
            (ChunkState::Extension, _) => self.ignore(byte, MAX_EXTENSION)?,
            (ChunkState::SizeLineFeed, b'\n') if self.left == 0 => self.reset_count(ChunkState::TrailerStart),
            (ChunkState::SizeLineFeed, b'\n') => ChunkState::Data,
            (ChunkState::DataReturn, b'\r') => ChunkState::DataLineFeed,
            (ChunkState::DataLineFeed, b'\n') => self.reset_count(ChunkState::Size),
            (ChunkState::TrailerStart, b'\r') => ChunkState::LastLineFeed,
            (ChunkState::TrailerStart, b' ' | b'\t' | b':') => return Err(Malformed),
            (ChunkState::Trailer, b'\r') => ChunkState::TrailerLineFeed,
            (ChunkState::TrailerStart | ChunkState::Trailer, _) => {
                self.ignore(byte, MAX_TRAILERS)?;
                ChunkState::Trailer
            }
            (ChunkState::TrailerLineFeed, b'\n') => ChunkState::TrailerStart,
            (ChunkState::LastLineFeed, b'\n') => ChunkState::End,
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn reset_count(&mut self, state: ChunkState) -> ChunkState {
        self.count = 0;
        state
    }

    fn digit(&mut self, byte: u8) -> Result<ChunkState, Malformed> {
        let value = char::from(byte).to_digit(16).ok_or(Malformed)?;
        self.left = if self.count == 0 { 0 } else { self.left << 4 } | u64::from(value);
        self.count += 1;
        if self.count > u16::from(MAX_SIZE_DIGITS) { Err(Malformed) } else { Ok(ChunkState::Size) }
    }

    /// Counts a byte that is ignored; control characters are refused even here.
    fn ignore(&mut self, byte: u8, limit: u16) -> Result<ChunkState, Malformed> {
        self.count += 1;
        if self.count > limit || (byte.is_ascii_control() && byte != b'\t') { Err(Malformed) } else { Ok(self.state) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut decoder, mut body, mut used) = (Chunked::default(), Vec::new(), 0);
        for part in input.chunks(piece) {
            let n = decoder.decode(part, &mut body, usize::MAX)?;
            used += n;
            if n < part.len() {
                break;
            }
        }
        Ok((body, used, decoder.is_finished()))
    }

    #[test]
    fn decodes_pieces_of_any_size() {
        let coded = b"4\r\nWiki\r\n00A;a=\"b\"\r\n0123456789\r\n0\r\nX: y\r\nZ: \r\n\r\nGET";
        for piece in 1..=coded.len() {
            assert_eq!(decode(coded, piece), Ok((b"Wiki0123456789".to_vec(), coded.len() - 3, true)), "{piece}");
        }
        assert_eq!(decode(b"5\r\nab", 9), Ok((b"ab".to_vec(), 5, false)));
    }

    #[test]
    fn stops_at_the_limit_and_resumes() {
        let (mut decoder, mut body, input) = (Chunked::default(), Vec::new(), b"4\r\nabcd\r\n0\r\n\r\n");
        let used = decoder.decode(input, &mut body, 2).unwrap();
        assert_eq!((used, &body[..]), (5, &b"ab"[..]));
        let used = used + decoder.decode(&input[used..], &mut body, 4).unwrap();
        assert_eq!((used, &body[..], decoder.is_finished()), (input.len(), &b"abcd"[..], true));
    }

    #[test]
    fn refuses_whatever_is_ambiguous() {
        let (extension, trailers) = ("x".repeat(2000), "x: y\r\n".repeat(3000));
        for coded in [
            "\r\n",
            ";\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            "g\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na\r\r",
            "1\rX",
            "fffffffffffffffff\r\n",
            "0000000000000000\r\n",
            "1;a\n\r\na\r\n",
            "1;\0\r\na\r\n",
            "0\r\n\n",
            "0\r\nx: y\n\r\n",
            "0\r\n x\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            &format!("1;{extension}\r\na\r\n"),
            &format!("0\r\n{trailers}\r\n"),
        ] {
            for piece in [1, 2, 1 << 20] {
                assert_eq!(decode(coded.as_bytes(), piece), Err(Malformed), "{coded:?}");
            }
        }
    }
}
