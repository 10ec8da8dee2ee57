//! The static files: embedded, compressed once, and named by their digest, so that browsers can cache them for ever.

use std::borrow::Cow;
use std::io::Write;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::call::Call;
use crate::error::{Error, Result};
use crate::hex;
use crate::http::{Request, Response};

/// Every static file: its name, its media type and its content.
const FILES: [(&str, &str, &[u8]); 5] = [
    ("style.css", "text/css; charset=utf-8", include_bytes!("assets/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_bytes!("assets/app.js")),
    ("editor.js", "text/javascript; charset=utf-8", include_bytes!("assets/editor.js")),
    ("playground.js", "text/javascript; charset=utf-8", include_bytes!("assets/playground.js")),
    ("icon.svg", "image/svg+xml", include_bytes!("assets/icon.svg")),
];

/// Bytes of the digest in a name: 40 bits are enough to tell the versions of one file apart.
const DIGEST_BYTES: usize = 5;

struct Asset {
    plain: &'static str,
    /// `/assets/style.0123456789.css`.
    path: String,
    content: Prepared,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| FILES.iter().map(|file| asset(*file)).collect());

fn asset((plain, media_type, bytes): (&'static str, &'static str, &'static [u8])) -> Asset {
    let digest: String = hex::encode(&Sha256::digest(bytes)[..DIGEST_BYTES]);
    let (stem, extension) = plain.rsplit_once('.').unwrap_or((plain, ""));
    let path = format!("/assets/{stem}.{digest}.{extension}");
    Asset { plain, path, content: Prepared::new(media_type, bytes) }
}

fn gzip(bytes: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 3), level);
    // Writing to memory does not fail. If it did, the file would be sent uncompressed.
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// The path of the file with this name.
pub(super) fn path(plain: &str) -> &'static str {
    ASSETS.iter().find(|asset| asset.plain == plain).map_or("", |asset| &asset.path)
}

/// Compresses the files now instead of at the first request.
pub(super) fn prepare() {
    LazyLock::force(&ASSETS);
}

/// `GET /assets/{name}`.
pub(super) fn serve(call: &mut Call<'_>) -> Result<Response> {
    let asset = ASSETS.iter().find(|asset| asset.path == call.request.path());
    let asset = asset.ok_or(Error::NotFound("File not found. It may belong to an older version: reload the page"))?;
    Ok(asset.content.reply(call.request).header("Cache-Control", "public, max-age=31536000, immutable"))
}

/// A reply compressed with gzip if the client accepts it. Only for texts without anything secret (the BREACH attack).
pub(super) fn compressed(request: &Request, media_type: &'static str, text: String) -> Response {
    let compressed = if accepts_gzip(request) { gzip(text.as_bytes(), Compression::fast()) } else { Vec::new() };
    let response = match compressed.is_empty() {
        true => Response::with_body(200, media_type, text.into_bytes()),
        false => Response::with_body(200, media_type, compressed).header("Content-Encoding", "gzip"),
    };
    response.header("Vary", "Accept-Encoding")
}

/// A file that never changes, compressed once; all replies share its memory.
pub(super) struct Prepared {
    media_type: &'static str,
    plain: Cow<'static, [u8]>,
    compressed: Vec<u8>,
}

impl Prepared {
    pub(super) fn new(media_type: &'static str, plain: impl Into<Cow<'static, [u8]>>) -> Prepared {
        let plain = plain.into();
        let compressed = gzip(&plain, Compression::best());
        Prepared { media_type, plain, compressed }
    }

    pub(super) fn reply(&'static self, request: &Request) -> Response {
        let response = match accepts_gzip(request) && !self.compressed.is_empty() {
            true => Response::with_body(200, self.media_type, &self.compressed[..]).header("Content-Encoding", "gzip"),
            false => Response::with_body(200, self.media_type, &self.plain[..]),
        };
        response.header("Vary", "Accept-Encoding")
    }
}

/// Whether `Accept-Encoding` allows gzip (RFC 9110, section 12.5.3).
fn accepts_gzip(request: &Request) -> bool {
    let offered = request.header("accept-encoding").unwrap_or("");
    offered.split(',').any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok()).unwrap_or(1.0);
        (name.trim().eq_ignore_ascii_case("gzip") || name.trim() == "*") && weight > 0.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(value: &str) -> bool {
        let mut request = Request::default();
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: {value}\r\n\r\n");
        request.head.parse(head.as_bytes()).unwrap();
        accepts_gzip(&request)
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        assert!(accepts("gzip, deflate, br") && accepts("br;q=1.0, GZIP;q=0.5") && accepts("*"));
        assert!(!accepts("") && !accepts("br") && !accepts("gzip;q=0") && !accepts("gzip;q=0.0, br"));
    }

    #[test]
    fn names_say_what_is_in_the_files_and_all_are_small() {
        for asset in ASSETS.iter() {
            assert!(path(asset.plain).starts_with("/assets/") && path(asset.plain).len() > "/assets/".len() + 10);
            let compressed = asset.content.compressed.len();
            assert!(compressed < asset.content.plain.len() && compressed < 10_000, "{}", asset.plain);
        }
        assert_eq!(path("other"), "");
    }
}
