//! Asks a model server to transcribe a recording.

use crate::blocking::{block_in_place, unwatched};
use crate::engine::{Body, Engine, Reply, UpstreamRequest};
use crate::error::{Error, Result};
use crate::protocol::failure;
use crate::units::{Unit, Units};

use super::MAX_REPLY;
use super::event_stream::disguised_failure;
use super::forward::ForwardedUpload;
use super::transcript::Transcript;

/// Bytes per second that are assumed where neither the model server nor the file tells the duration: 4 kbit/s, less than
/// the codecs of speech in use need, so that a recording is hardly ever longer than is charged.
const LEAST_BYTE_RATE: u64 = 500;

/// The model server's path for transcription in the spoken language.
pub const TRANSCRIBE: &str = "/v1/audio/transcriptions";
/// The model server's path for translation into English.
pub const TRANSLATE: &str = "/v1/audio/translations";

/// A model server's reply to a recording; its body was not read yet.
pub struct PendingTranscription {
    /// The reply.
    pub reply: Reply,
    /// The duration of the recording by its frames or, failing that, the most that its size allows.
    pub duration: AudioDuration,
}

/// How long a recording plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioDuration {
    /// In milliseconds.
    pub millis: i64,
    /// Whether that is only an upper bound, derived from the size of the file.
    pub estimated: bool,
}

/// Sends a recording and returns as soon as the head of the reply has arrived. If `is_small`, the recording is buffered
/// first, so that another server can be tried if the first one fails. A client that disconnects once all of its upload
/// was received does not end the call, as the recording is known then and charged.
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
    let mut buffered = if is_small { Some(upload.buffered()?) } else { None };
    let body = match &mut buffered {
        Some(buffered) => Body::Form(buffered),
        None => Body::Stream(&mut upload),
    };
    let reply = block_in_place(|| unwatched(|| engine.send(UpstreamRequest { path, media_type: &media_type, body })))?;
    if let Some(failure) = upload.failure.take() {
        return Err(failure);
    }
    let reply = reply?.successful()?;
    if !upload.is_complete() {
        return Err(Error::Upstream(502, "The model server replied before the upload was complete"));
    }
    let duration = match upload.measured_millis() {
        Ok(millis) => AudioDuration { millis, estimated: false },
        Err(e) => {
            log::warn!("the length of a recording of {} bytes could not be measured: {e}", upload.size);
            let millis = i64::try_from(upload.size * 1000 / LEAST_BYTE_RATE).unwrap_or(i64::MAX);
            AudioDuration { millis, estimated: true }
        }
    };
    Ok(PendingTranscription { reply, duration })
}

impl PendingTranscription {
    /// Reads the body, even if the client has disconnected. Returns its bytes, the transcript if it is one in JSON, and
    /// the duration to charge for.
    ///
    /// # Errors
    /// 502 for a reply that ends early, or is an error.
    pub fn read(&mut self) -> Result<(Vec<u8>, Option<Transcript>, AudioDuration)> {
        let bytes = block_in_place(|| unwatched(|| self.reply.read_all(MAX_REPLY)))??;
        if let Some(message) = failure::message(&bytes) {
            return Err(disguised_failure(&message));
        }
        let transcript = Transcript::parse(&bytes);
        let reported = transcript.as_ref().and_then(Transcript::duration_millis);
        Ok((bytes, transcript, self.duration.reconcile(reported)))
    }
}

impl AudioDuration {
    /// The duration to charge for: what the model server reports, unless it differs from what was measured by more than
    /// a tenth; then the longer of the two. Without a report, this one.
    fn reconcile(self, reported: Option<i64>) -> AudioDuration {
        let Some(reported) = reported else { return self };
        let longer = reported.max(self.millis);
        let is_doubtful = !self.estimated && reported.abs_diff(self.millis) > longer.unsigned_abs() / 10;
        if is_doubtful {
            let measured = self.millis;
            log::warn!("a model server reports {reported} ms for a recording that was measured as {measured} ms");
        }
        AudioDuration { millis: if is_doubtful { longer } else { reported }, estimated: false }
    }
}

/// What a recording of this duration, in milliseconds, is charged as.
pub fn units(duration_millis: i64) -> Units {
    Units::of([(Unit::AudioMillis, duration_millis), (Unit::Requests, 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_duration_counts_where_two_disagree() {
        let measured = AudioDuration { millis: 2000, estimated: false };
        for (reported, millis) in [
            (None, 2000),
            (Some(2000), 2000),
            (Some(1800), 1800),
            (Some(1799), 2000),
            (Some(0), 2000),
            (Some(9000), 9000),
        ] {
            assert_eq!(measured.reconcile(reported), AudioDuration { millis, estimated: false }, "{reported:?}");
        }
        let bound = AudioDuration { millis: 99_000, estimated: true };
        assert_eq!(bound.reconcile(Some(5)), AudioDuration { millis: 5, estimated: false });
        assert_eq!(bound.reconcile(None), bound);
    }
}
