//! The chunked transfer coding of a request's body (RFC 9112 section 7.1), decoded piece by piece and strictly.

/// Most hexadecimal digits of a chunk's size.
const MAX_SIZE_DIGITS: u8 = 15;
/// Most bytes of a chunk's extensions, which are passed over.
const MAX_EXTENSION: u16 = 1024;
/// Most bytes of the trailers, which are passed over.
const MAX_TRAILERS: u16 = 8 * 1024;

/// A decoder between two pieces of input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunked {
    at: At,
    /// Bytes left of this chunk; while its size is read, the size so far.
    left: u64,
    /// Digits of the size, or bytes of extension or trailers, so far.
    count: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
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

/// The coding was broken: nothing further on the connection can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body")]
pub struct Malformed;

impl Chunked {
    /// Decodes from `input`, appending to `body`, and returns how many bytes it used. It stops at the end of the coded
    /// body, of the input, or when `body` has grown to `limit` bytes.
    ///
    /// # Errors
    /// The coding is broken; what was appended before is of no use.
    pub fn decode(&mut self, input: &[u8], body: &mut Vec<u8>, limit: usize) -> Result<usize, Malformed> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty() && self.at != At::End) {
            if self.at == At::Data {
                let room = limit.saturating_sub(body.len());
                let n = rest.len().min(room).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if n == 0 {
                    break;
                }
                body.extend_from_slice(&rest[..n]);
                self.left -= n as u64;
                used += n;
                if self.left == 0 {
                    self.at = At::DataReturn;
                }
            } else {
                self.step(rest[0])?;
                used += 1;
            }
        }
        Ok(used)
    }

    /// Whether the whole body, with its trailers, has been seen.
    pub fn is_finished(&self) -> bool {
        self.at == At::End
    }

    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.at = match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte)?,
            (At::Size, b';') if self.count > 0 => self.counting(At::Extension),
            (At::Size, b'\r') if self.count > 0 => At::SizeLineFeed,
            (At::Extension, b'\r') => At::SizeLineFeed,
            (At::Extension, _) => self.passed_over(byte, MAX_EXTENSION)?,
            (At::SizeLineFeed, b'\n') if self.left == 0 => self.counting(At::TrailerStart),
            (At::SizeLineFeed, b'\n') => At::Data,
            (At::DataReturn, b'\r') => At::DataLineFeed,
            (At::DataLineFeed, b'\n') => self.counting(At::Size),
            (At::TrailerStart, b'\r') => At::LastLineFeed,
            (At::TrailerStart, b' ' | b'\t' | b':') => return Err(Malformed),
            (At::Trailer, b'\r') => At::TrailerLineFeed,
            (At::TrailerStart | At::Trailer, _) => {
                self.passed_over(byte, MAX_TRAILERS)?;
                At::Trailer
            }
            (At::TrailerLineFeed, b'\n') => At::TrailerStart,
            (At::LastLineFeed, b'\n') => At::End,
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn counting(&mut self, at: At) -> At {
        self.count = 0;
        at
    }

    fn digit(&mut self, byte: u8) -> Result<At, Malformed> {
        let value = char::from(byte).to_digit(16).ok_or(Malformed)?;
        self.left = if self.count == 0 { 0 } else { self.left << 4 } | u64::from(value);
        self.count += 1;
        if self.count > u16::from(MAX_SIZE_DIGITS) { Err(Malformed) } else { Ok(At::Size) }
    }

    /// Counts a byte whose meaning is nobody's concern; control characters are refused all the same.
    fn passed_over(&mut self, byte: u8, limit: u16) -> Result<At, Malformed> {
        self.count += 1;
        if self.count > limit || (byte.is_ascii_control() && byte != b'\t') { Err(Malformed) } else { Ok(self.at) }
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
    fn decodes_however_it_is_cut() {
        let coded = b"4\r\nWiki\r\n00A;a=\"b\"\r\n0123456789\r\n0\r\nX: y\r\nZ: \r\n\r\nGET";
        for piece in 1..=coded.len() {
            assert_eq!(decode(coded, piece), Ok((b"Wiki0123456789".to_vec(), coded.len() - 3, true)), "{piece}");
        }
        assert_eq!(decode(b"5\r\nab", 9), Ok((b"ab".to_vec(), 5, false)));
    }

    #[test]
    fn stops_at_the_limit_and_goes_on() {
        let (mut decoder, mut body, input) = (Chunked::default(), Vec::new(), b"4\r\nabcd\r\n0\r\n\r\n");
        let used = decoder.decode(input, &mut body, 2).unwrap();
        assert_eq!((used, &body[..]), (5, &b"ab"[..]));
        let used = used + decoder.decode(&input[used..], &mut body, 4).unwrap();
        assert_eq!((used, &body[..], decoder.is_finished()), (input.len(), &b"abcd"[..], true));
    }

    #[test]
    fn refuses_all_that_could_be_read_in_two_ways() {
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
