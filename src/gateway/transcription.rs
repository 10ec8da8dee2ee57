//! Asks a model server to transcribe a recording.

use crate::blocking::{Wait, block_in_place, unwatched};
use crate::catalogue::ResolvedModel;
use crate::engine::{Body, Reply, UNREFUSED, Unread, UpstreamRequest};
use crate::error::{Error, Result};
use crate::memory_budget;
use crate::protocol::failure;
use crate::protocol::usage::Reported;
use crate::units::Units;

use super::MAX_REPLY;
use super::audio_duration::AudioDuration;
use super::forward::ForwardedUpload;
use super::reply_kind::disguised_failure;
use super::transcript::Transcript;
use super::unread_reply;

/// The model server's path for transcription in the spoken language.
pub const TRANSCRIBE: &str = "/v1/audio/transcriptions";
/// The model server's path for translation into English.
pub const TRANSLATE: &str = "/v1/audio/translations";

/// Times the bytes of a long reply that it takes as a transcript, and as what is sent of that.
const PARSED: usize = 4;

/// A model server's reply to a recording; its body was not read yet.
pub struct PendingTranscription {
    /// The reply.
    pub reply: Reply,
    /// The duration of the recording by its frames or, failing that, the most that its size allows.
    pub duration: AudioDuration,
}

/// Sends a recording and returns as soon as the head of the reply has arrived. If `is_small`, the recording is buffered
/// first, so that another server can be tried if the first one fails. A client that disconnects once all of its upload
/// was received does not end the call, as the recording is known then and charged.
///
/// # Errors
/// What is wrong with the upload; those of [`ResolvedModel::send`]; the model server's refusal; 502 if it replied
/// before the upload was complete.
pub fn send(
    model: &ResolvedModel,
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
    let reply = block_in_place(Wait::Model, || {
        unwatched(|| model.send(UpstreamRequest { path, media_type: &media_type, headers: &[], body }))
    })?;
    if let Some(failure) = upload.failure.take() {
        return Err(failure);
    }
    let reply = reply?.successful()?;
    if !upload.is_complete() {
        return Err(Error::Upstream(502, "The model server replied before the upload was complete"));
    }
    let duration = upload.duration;
    Ok(PendingTranscription { reply, duration })
}

/// All of a reply.
pub struct Transcribed {
    /// It, or what is known of it if there was no memory for it.
    pub reply: std::result::Result<TranscriptReply, Unread>,
    /// The duration to charge for.
    pub duration: AudioDuration,
    /// What to charge.
    pub units: Units,
}

/// A reply that was read.
pub struct TranscriptReply {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The transcript, if it is one in JSON.
    pub transcript: Option<Transcript>,
}

impl PendingTranscription {
    /// Reads the body, even if the client has disconnected.
    ///
    /// # Errors
    /// 502 for a reply that ends early, or is an error.
    pub fn read(&mut self) -> Result<Transcribed> {
        let bytes = match block_in_place(Wait::Model, || unwatched(|| self.reply.read_all(MAX_REPLY, 0)))? {
            Ok(bytes) => bytes,
            Err(e) => return Ok(self.unread(e.into_unread()?)),
        };
        if bytes.len() > UNREFUSED
            && let Err(refused) = memory_budget::reserve(bytes.len().saturating_mul(PARSED))
        {
            return Ok(self.unread(Unread::of(&bytes, refused)));
        }
        if let Some(message) = failure::message(&bytes) {
            return Err(disguised_failure(&message));
        }
        let transcript = Transcript::parse(&bytes);
        let mut reported = Reported::default();
        if let Some(usage) = transcript.as_ref().and_then(Transcript::usage) {
            reported.update(&usage);
        }
        let told = transcript.as_ref().and_then(Transcript::duration_millis).or(reported.duration_millis());
        let duration = self.duration.reconcile(told);
        let reply = Ok(TranscriptReply { bytes, transcript });
        Ok(Transcribed { reply, duration, units: duration.units(&reported) })
    }

    /// A reply for which there was no memory. The recording is charged by what is known of it.
    fn unread(&self, unread: Unread) -> Transcribed {
        let mut reported = Reported::default();
        if let Some(usage) = unread_reply::usage_in(&unread.end) {
            reported.update(&usage);
        }
        let duration = self.duration.reconcile(reported.duration_millis());
        Transcribed { reply: Err(unread), duration, units: duration.units(&reported) }
    }
}
