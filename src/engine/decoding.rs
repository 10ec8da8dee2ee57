//! Replies that come compressed though nobody asked for that, as some proxies send them (RFC 9110, section 8.4).

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::{DeflateDecoder, ZlibDecoder};
use flate2::read::MultiGzDecoder;
use ureq::http::{Response, header};

/// The body of a reply, still on its way.
pub(super) type ReplyBody = Box<dyn Read + Send>;

/// Bytes that are decompressed at a time.
const BUFFER: usize = 16 * 1024;

/// The same reply, with its body as it was before it was compressed. Each read waits for no more than there is, so the events
/// of a stream arrive as they come. An unknown coding is left as it is: such a reply is not understood.
pub(super) fn decoded(response: Response<ReplyBody>) -> Response<ReplyBody> {
    let coding = response.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let coding = coding.unwrap_or_default().trim().to_ascii_lowercase();
    match coding.as_str() {
        "gzip" | "x-gzip" => response.map(|body| Box::new(MultiGzDecoder::new(body)) as ReplyBody),
        "deflate" => {
            response.map(|body| Box::new(Deflated::Unknown(BufReader::with_capacity(BUFFER, body))) as ReplyBody)
        }
        "br" => response.map(|body| Box::new(brotli_decompressor::Decompressor::new(body, BUFFER)) as ReplyBody),
        _ => response,
    }
}

/// A body in the coding `deflate`: as the standard has it, or without the header, as some servers do.
enum Deflated {
    Unknown(BufReader<ReplyBody>),
    Zlib(ZlibDecoder<BufReader<ReplyBody>>),
    Raw(DeflateDecoder<BufReader<ReplyBody>>),
    Empty,
}

impl Read for Deflated {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Deflated::Unknown(source) = self {
            // The low half of the first byte is 8 in the header of zlib (RFC 1950); in a bare stream that is reserved.
            let is_zlib = source.fill_buf()?.first().is_some_and(|first| first & 0x0f == 8);
            *self = match std::mem::replace(self, Deflated::Empty) {
                Deflated::Unknown(source) if is_zlib => Deflated::Zlib(ZlibDecoder::new(source)),
                Deflated::Unknown(source) => Deflated::Raw(DeflateDecoder::new(source)),
                other => other,
            };
        }
        match self {
            Deflated::Zlib(decoder) => decoder.read(out),
            Deflated::Raw(decoder) => decoder.read(out),
            Deflated::Unknown(_) | Deflated::Empty => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    /// Gives one piece a read, and fails if it is read on before the pieces so far were decompressed.
    struct Pieces(std::vec::IntoIter<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let Some(piece) = self.0.next() else { return Ok(0) };
            out[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    fn body(coding: &str, pieces: Vec<Vec<u8>>) -> ReplyBody {
        let body = Box::new(Pieces(pieces.into_iter())) as ReplyBody;
        decoded(Response::builder().header("Content-Encoding", coding).body(body).unwrap()).into_body()
    }

    /// Both events, each flushed as a server does it that streams.
    fn events<W: Write>(mut encoder: W, taken: impl Fn(&mut W) -> Vec<u8>) -> Vec<Vec<u8>> {
        ["data: one\n\n", "data: two\n\n"]
            .map(|event| {
                encoder.write_all(event.as_bytes()).unwrap();
                encoder.flush().unwrap();
                taken(&mut encoder)
            })
            .into()
    }

    #[test]
    fn events_arrive_as_they_come_in_each_coding() {
        let level = Compression::fast();
        let gzip = events(GzEncoder::new(Vec::new(), level), |encoder| std::mem::take(encoder.get_mut()));
        let zlib = events(ZlibEncoder::new(Vec::new(), level), |encoder| std::mem::take(encoder.get_mut()));
        let raw = events(DeflateEncoder::new(Vec::new(), level), |encoder| std::mem::take(encoder.get_mut()));
        for (coding, pieces) in [("gzip", gzip.clone()), ("X-GZIP", gzip), ("deflate", zlib), ("Deflate", raw)] {
            let mut body = body(coding, pieces);
            let mut out = [0; 256];
            for event in ["data: one\n\n", "data: two\n\n"] {
                let n = body.read(&mut out).unwrap();
                assert_eq!(std::str::from_utf8(&out[..n]).unwrap(), event, "{coding}");
            }
        }
    }

    #[test]
    fn brotli_is_decompressed_and_other_codings_are_left() {
        // `printf 'data: one\n\n' | brotli`
        let compressed = vec![vec![0x0b, 0x05, 0x80], b"data: one\n\n".to_vec(), vec![0x03]];
        let mut text = String::new();
        body("br", compressed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "data: one\n\n");
        text.clear();
        body("zstd", vec![b"as it is".to_vec()]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "as it is");
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"data: one\n\n").unwrap();
        let whole = encoder.finish().unwrap();
        let mut text = Vec::new();
        assert!(body("gzip", vec![whole[..whole.len() - 4].to_vec()]).read_to_end(&mut text).is_err());
        assert!(body("br", vec![vec![0x0b, 0x05]]).read_to_end(&mut text).is_err());
    }
}
