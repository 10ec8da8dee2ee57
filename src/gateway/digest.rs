//! The digest of a request: a request is the repetition of another only if its `Idempotency-Key` and digest are the same.

use sha2::{Digest, Sha256};

use crate::http::Request;

/// A SHA-256 digest of a request's method, target and body, computed as the body passes through. It is computed only
/// for requests that carry an `Idempotency-Key`.
///
/// Every part is preceded by its length, so that different requests never hash the same bytes.
pub struct RequestDigest(Option<Box<Hashers>>);

struct Hashers {
    request: Sha256,
    /// The current recording has a hash of its own, since its length is not known before its end.
    recording: Sha256,
    recording_bytes: u64,
}

impl RequestDigest {
    /// Starts with the request's method, path and query; computes nothing unless `is_needed`.
    pub fn new(request: &Request, is_needed: bool) -> RequestDigest {
        let hashers = || Hashers { request: Sha256::new(), recording: Sha256::new(), recording_bytes: 0 };
        let mut digest = RequestDigest(is_needed.then(hashers).map(Box::new));
        digest.add(request.method().as_str().as_bytes());
        digest.add(request.path().as_bytes());
        digest.add(request.head.query().unwrap_or("").as_bytes());
        digest
    }

    /// Adds a part of the body.
    pub fn add(&mut self, part: &[u8]) {
        if let Some(hashers) = &mut self.0 {
            add_with_length(&mut hashers.request, part);
        }
    }

    /// Adds the next bytes of a recording.
    pub fn add_recording(&mut self, bytes: &[u8]) {
        if let Some(hashers) = &mut self.0 {
            hashers.recording.update(bytes);
            hashers.recording_bytes += bytes.len() as u64;
        }
    }

    /// Ends the recording.
    pub fn end_recording(&mut self) {
        if let Some(hashers) = &mut self.0 {
            hashers.request.update(std::mem::take(&mut hashers.recording_bytes).to_le_bytes());
            hashers.request.update(hashers.recording.finalize_reset());
        }
    }

    /// The digest of what was added so far; `None` if it is not computed.
    pub fn value(&self) -> Option<[u8; 32]> {
        self.0.as_ref().map(|hashers| hashers.request.clone().finalize().into())
    }
}

/// Adds a part to a hash, after its length.
pub(super) fn add_with_length(hasher: &mut Sha256, part: &[u8]) {
    hasher.update((part.len() as u64).to_le_bytes());
    hasher.update(part);
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use super::*;
    use crate::gateway::forward::AudioSource;
    use crate::gateway::upload::{DigestedSource, Upload};
    use crate::http::Body;

    const FORM: &str = "application/x-www-form-urlencoded";

    fn request(target: &str, content_type: &str, body: &str) -> Request {
        let head = format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\n\r\n");
        let mut request = Request::default();
        request.head.parse(head.as_bytes()).unwrap();
        request.body = Body::from_bytes(body.as_bytes().to_vec());
        request
    }

    fn of_buffered(target: &str, content_type: &str, body: &str) -> [u8; 32] {
        let request = request(target, content_type, body);
        let mut digest = RequestDigest::new(&request, true);
        digest.add(body.as_bytes());
        digest.value().unwrap()
    }

    fn of_upload(parts: &[(&str, &str)]) -> [u8; 32] {
        let mut body = String::new();
        for (name, value) in parts {
            let file = if *name == "audio_file" { "; filename=\"a.wav\"" } else { "" };
            body += &format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n");
        }
        body += "--b--\r\n";
        let mut request = request("/api/v1/audio-file-extraction", "multipart/form-data; boundary=b", &body);
        let mut digest = RequestDigest::new(&request, true);
        let (mut upload, _) = Upload::open(&mut request, "audio_file", &mut digest).unwrap();
        io::copy(&mut upload, &mut io::sink()).unwrap();
        upload.trailing_fields().unwrap();
        digest.value().unwrap()
    }

    #[test]
    fn covers_the_name_of_the_engine() {
        let of = |name: &str| of_buffered(&format!("/v1/engines/{name}/completions"), "application/json", "{}");
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        assert_ne!(of("a?b"), of("a"), "the query too");
    }

    #[test]
    fn covers_whether_a_recording_is_translated() {
        let of = |translate: &str| of_upload(&[("translate_to_english", translate), ("audio_file", "RIFF")]);
        assert_eq!(of("true"), of("true"));
        assert_ne!(of("true"), of("false"));
        assert_ne!(of_upload(&[("audio_file", "RIFF"), ("translate_to_english", "true")]), of("true"));
        assert_ne!(
            of_upload(&[("audio_file", "RIFF"), ("translate_to_english", "true")]),
            of_upload(&[("audio_file", "RIFF")])
        );
    }

    #[test]
    fn covers_the_recording_of_an_upload() {
        let of = |bytes: &str| of_upload(&[("audio_file", bytes), ("output_filetype", "srt")]);
        assert_eq!(of("RIFFab"), of("RIFFab"));
        assert_ne!(of("RIFFab"), of("RIFFac"));
    }

    #[test]
    fn covers_an_audio_url_and_what_it_points_to() {
        let of = |url: &str, bytes: &str| {
            let body = format!(r#"{{"audio_url":"{url}"}}"#);
            let request = request("/api/v1/audio-extraction", "application/json", &body);
            let mut digest = RequestDigest::new(&request, true);
            digest.add(body.as_bytes());
            let mut source = DigestedSource::new(io::Cursor::new(bytes.to_owned()), &mut digest);
            source.read_to_end(&mut Vec::new()).unwrap();
            digest.value().unwrap()
        };
        assert_eq!(of("http://a/", "x"), of("http://a/", "x"));
        assert_ne!(of("http://a/", "x"), of("http://b/", "x"));
        assert_ne!(of("http://a/", "x"), of("http://a/", "y"));
    }

    #[test]
    fn covers_the_text_of_the_speech_form() {
        let of = |text: &str| of_buffered("/playground/speak", FORM, &format!("input={text}&voice=af"));
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
    }

    #[test]
    fn is_not_computed_without_need() {
        let mut digest = RequestDigest::new(&request("/", FORM, ""), false);
        digest.add(b"x");
        digest.add_recording(b"y");
        digest.end_recording();
        assert_eq!(digest.value(), None);
    }
}
