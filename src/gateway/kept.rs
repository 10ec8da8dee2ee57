//! Replies that are kept for repetitions of their requests: what of a response is kept, and the response made of it.

use std::io::{self, Write};

use crate::engine::DEMO_HEADER;
use crate::error::{Error, Result};
use crate::http::{Content, Response};
use crate::store::replies::{KeptReply, MAX_KEPT_BODY};

use super::digest::RequestDigest;

/// The header of a response that was kept.
const REPLAYED: (&str, &str) = ("Idempotent-Replayed", "true");

/// The headers of handlers that are kept. Those that belong to a request, such as its id, are added anew.
const KEPT_HEADERS: [&str; 5] =
    ["Content-Type", "Content-Disposition", "Content-Language", "X-Accel-Buffering", DEMO_HEADER.0];

/// Most bytes of a header's value that is kept.
const MAX_HEADER: usize = 1024;

/// Status and headers of a reply.
pub(super) struct Head {
    status: u16,
    headers: String,
}

/// A reply that is to be kept.
pub(super) struct Reply {
    head: Head,
    /// `None` if it is too large.
    body: Option<Vec<u8>>,
    bytes: u64,
}

impl Head {
    /// That of a response.
    pub(super) fn of(response: &Response) -> Head {
        let mut headers = String::new();
        for (name, value) in &response.headers {
            if KEPT_HEADERS.contains(name) && value.len() <= MAX_HEADER {
                headers.extend([name, ": ", value, "\n"]);
            }
        }
        Head { status: response.status.as_u16(), headers }
    }
}

/// A complete response, as it is kept.
pub(super) fn reply_of(response: &Response) -> Reply {
    let body: &[u8] = if let Content::Bytes(bytes) = &response.content { bytes } else { b"" };
    let kept = (body.len() <= MAX_KEPT_BODY).then(|| body.to_vec());
    Reply { head: Head::of(response), body: kept, bytes: body.len() as u64 }
}

impl Reply {
    /// As a row, under this key and for this request.
    pub(super) fn into_row(self, key: &str, digest: &RequestDigest) -> KeptReply {
        KeptReply {
            key: key.to_owned(),
            fingerprint: digest.value().unwrap_or_default().to_vec(),
            status: self.head.status,
            headers: self.head.headers,
            body: self.body,
            bytes: i64::try_from(self.bytes).unwrap_or(i64::MAX),
            claimed: None,
        }
    }
}

/// A reply that is kept under a request's key; maybe that of another request.
pub(super) struct Kept(pub(super) KeptReply);

impl Kept {
    /// The response to a repetition, if the request with this digest is one.
    ///
    /// # Errors
    /// 422 for another request, 409 if the body is not kept.
    pub(super) fn replay(self, digest: &RequestDigest) -> Result<Response> {
        let Kept(reply) = self;
        if digest.value().is_none_or(|digest| digest[..] != reply.fingerprint[..]) {
            return Err(Error::KeyReused);
        }
        let body = reply.body.ok_or(Error::ReplyNotKept)?;
        let mut response = Response::new(reply.status);
        for line in reply.headers.lines() {
            if let Some((name, value)) = line.split_once(": ")
                && let Some(name) = KEPT_HEADERS.into_iter().find(|known| *known == name)
            {
                response = response.header(name, value.to_owned());
            }
        }
        response.content = Content::Bytes(body.into());
        Ok(response.header(REPLAYED.0, REPLAYED.1))
    }
}

/// Writes a stream to the client; of one that is kept, it also collects a copy, and goes on when the client has left.
pub(super) struct Recorder<'a> {
    out: &'a mut dyn Write,
    recording: Option<Reply>,
    client_left: bool,
}

impl Recorder<'_> {
    /// With a `head`, the reply is kept.
    pub(super) fn new(out: &mut dyn Write, head: Option<Head>) -> Recorder<'_> {
        let recording = head.map(|head| Reply { head, body: Some(Vec::new()), bytes: 0 });
        Recorder { out, recording, client_left: false }
    }

    /// The whole reply, with these last bytes.
    pub(super) fn reply(&mut self, last: &[u8]) -> Option<Reply> {
        let mut reply = self.recording.take()?;
        reply.add(last);
        // From now on nothing is collected, but the client may have left all the same.
        self.client_left |= self.out.flush().is_err();
        Some(reply)
    }
}

impl Reply {
    fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        match &mut self.body {
            Some(body) if body.len() + piece.len() <= MAX_KEPT_BODY => body.extend_from_slice(piece),
            body => *body = None,
        }
    }
}

impl Write for Recorder<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let Some(reply) = &mut self.recording else {
            return if self.client_left { Ok(piece.len()) } else { self.out.write(piece) };
        };
        reply.add(piece);
        self.client_left = self.client_left || self.out.write_all(piece).is_err();
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.client_left { Ok(()) } else { self.out.flush() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Request;

    fn digest() -> RequestDigest {
        RequestDigest::new(&Request::default(), true)
    }

    fn body(response: &Response) -> &[u8] {
        let Content::Bytes(bytes) = &response.content else { panic!("{response:?}") };
        bytes
    }

    /// A client that leaves after some bytes.
    struct Leaving(usize);

    impl Write for Leaving {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(piece.len()).ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(piece.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_kept_response_comes_again_for_the_same_request_only() {
        let response = Response::with_body(200, "audio/wav", &b"RIFF"[..])
            .header("Content-Disposition", "attachment")
            .header("X-Request-Id", "7");
        let row = || reply_of(&response).into_row("k", &digest());
        let again = Kept(row()).replay(&digest()).unwrap();
        assert_eq!((again.status.as_u16(), body(&again)), (200, &b"RIFF"[..]));
        let names: Vec<&str> = again.headers.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["Content-Type", "Content-Disposition", "Idempotent-Replayed"]);
        let mut other = digest();
        other.add(b"more");
        assert!(matches!(Kept(row()).replay(&other), Err(Error::KeyReused)));
    }

    #[test]
    fn a_stream_is_kept_whole_though_its_client_leaves() {
        let head = Head::of(&Response::new(200).header("Content-Type", "text/event-stream"));
        let mut client = Leaving(3);
        let mut recorder = Recorder::new(&mut client, Some(head));
        for piece in [&b"ab"[..], b"cd", b"ef"] {
            recorder.write_all(piece).unwrap();
        }
        let row = recorder.reply(b"gh").unwrap().into_row("k", &digest());
        assert_eq!((row.body.as_deref(), row.bytes), (Some(&b"abcdefgh"[..]), 8));
        recorder.write_all(b"gh").unwrap();
    }

    #[test]
    fn a_reply_that_is_too_large_is_known_but_not_kept() {
        let mut client = io::sink();
        let mut recorder = Recorder::new(&mut client, Some(Head::of(&Response::new(200))));
        for _ in 0..=MAX_KEPT_BODY / 1024 {
            recorder.write_all(&[0; 1024]).unwrap();
        }
        let row = recorder.reply(b"").unwrap().into_row("k", &digest());
        assert_eq!((row.body.as_ref(), row.bytes), (None, (1 << 20) + 1024));
        assert!(matches!(Kept(row).replay(&digest()), Err(Error::ReplyNotKept)));
    }
}
