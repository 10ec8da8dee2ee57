//! Asks a model server to transcribe a recording.

use std::io::Read;

use crate::blocking::block_in_place;
use crate::engine::{Body, Engine, Reply, UpstreamRequest};
use crate::error::{Error, Result};
use crate::units::{Unit, Units};
use crate::wav;

use super::MAX_REPLY;
use super::forward::ForwardedUpload;
use super::transcript::Transcript;

/// Bytes per second that are assumed where neither the model server nor the file tells the duration: 128 kbit/s.
const ASSUMED_BYTE_RATE: u64 = 16_000;

/// The model server's path for transcription in the spoken language.
pub const TRANSCRIBE: &str = "/v1/audio/transcriptions";
/// The model server's path for translation into English.
pub const TRANSLATE: &str = "/v1/audio/translations";

/// A model server's reply to a recording; its body was not read yet.
pub struct PendingTranscription {
    /// The reply.
    pub reply: Reply,
    /// The duration of the recording by its own header or, failing that, by its size; in milliseconds.
    pub duration_millis: i64,
}

/// Sends a recording and returns as soon as the head of the reply has arrived. If `is_small`, the recording is buffered
/// first, so that another server can be tried if the first one fails.
///
/// # Errors
/// What is wrong with the upload; those of [`Engine::send`]; the model server's refusal; 502 if it replied before the
/// upload was complete.
pub fn send(
    engine: &Engine,
    path: &'static str,
    mut upload: ForwardedUpload<'_>,
    is_small: bool,
) -> Result<PendingTranscription> {
    let media_type = upload.media_type();
    let mut buffer = Vec::new();
    let body = match is_small {
        true => match upload.read_to_end(&mut buffer) {
            Ok(_) => Body::Bytes(&buffer),
            Err(e) => return Err(upload.failure.unwrap_or(Error::bad(e.to_string()))),
        },
        false => Body::Stream(&mut upload),
    };
    let reply = block_in_place(|| engine.send(UpstreamRequest { path, media_type: &media_type, body }))?;
    if let Some(failure) = upload.failure.take() {
        return Err(failure);
    }
    let reply = reply?.successful()?;
    if !upload.is_complete() {
        return Err(Error::Upstream(502, "The model server replied before the upload was complete"));
    }
    let by_header = wav::duration_millis(&upload.start, upload.size);
    let by_size = || i64::try_from(upload.size * 1000 / ASSUMED_BYTE_RATE).unwrap_or(i64::MAX);
    Ok(PendingTranscription { reply, duration_millis: by_header.unwrap_or_else(by_size) })
}

impl PendingTranscription {
    /// Reads the body. Returns its bytes, the transcript if it is one in JSON, and the duration of the recording in
    /// milliseconds: the model server's, or else the one that was derived from the file.
    ///
    /// # Errors
    /// 502 for a reply that ends early.
    pub fn read(&mut self) -> Result<(Vec<u8>, Option<Transcript>, i64)> {
        let bytes = block_in_place(|| self.reply.read_all(MAX_REPLY))??;
        let transcript = Transcript::parse(&bytes);
        let duration = transcript.as_ref().and_then(Transcript::duration_millis).unwrap_or(self.duration_millis);
        Ok((bytes, transcript, duration))
    }
}

/// What a recording of this duration, in milliseconds, is charged as.
pub fn units(duration_millis: i64) -> Units {
    Units::of([(Unit::AudioMillis, duration_millis), (Unit::Requests, 1)])
}
