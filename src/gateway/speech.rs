//! Asks a model server for speech.

use serde_json::Value;

use crate::blocking::{Wait, block_in_place, unwatched};
use crate::catalogue::ResolvedModel;
use crate::engine::{Reply, Unread, UpstreamRequest};
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::protocol::failure;
use crate::units::{Unit, Units, amount};

use super::MAX_REPLY;
use super::body::check_choice;
use super::reply_kind::disguised_failure;
use super::worst_case;

/// The path of speech synthesis, here and at model servers.
pub const SPEECH: &str = "/v1/audio/speech";

/// The voices that older clients know. Any other name selects `af_nicole`.
pub const VOICES: [&str; 11] = [
    "af",
    "af_bella",
    "af_sarah",
    "am_adam",
    "am_michael",
    "bf_emma",
    "bf_isabella",
    "bm_george",
    "bm_lewis",
    "af_nicole",
    "af_sky",
];

/// Most bytes of an error that are read.
const MAX_ERROR: usize = 64 * 1024;

/// Sends a request for speech and returns as soon as the head of the reply has arrived, even if the client has
/// disconnected: many servers send it only once they have made all of the audio.
///
/// # Errors
/// 400 for a format other than audio; 402 if a budget cannot pay for it; those of [`ResolvedModel::send`]; the model
/// server's refusal; 502 for JSON or text in place of audio.
pub fn request(model: &ResolvedModel, object: &Object<'_>) -> Result<Reply> {
    let text = object.text("input");
    check_choice(object, "stream_format", &["audio"])?;
    worst_case::set_aside(model, || units(&text.unwrap_or_default()))?;
    let ask = UpstreamRequest::json(SPEECH, &[], object);
    block_in_place(Wait::Model, || {
        unwatched(|| {
            let mut reply = model.send(ask)?.successful()?;
            if reply.media_type == "application/json" || reply.media_type.starts_with("text/") {
                let words = reply.read_all(MAX_ERROR, 0).ok().and_then(|bytes| failure::message(&bytes));
                return Err(disguised_failure(words.as_deref().unwrap_or("it is no audio")));
            }
            Ok(reply)
        })
    })?
}

/// Sends a request for speech. Returns the reply and all of its audio, even if the client has disconnected; or what is
/// known of that, if there was no memory for it.
///
/// # Errors
/// Those of [`request`]; 502 for a reply that ends early or is too long.
pub fn synthesize(model: &ResolvedModel, request: &Value) -> Result<(Reply, std::result::Result<Vec<u8>, Unread>)> {
    block_in_place(Wait::Model, || {
        let mut reply = self::request(model, &Object::of(request))?;
        let audio = read(&mut reply)?;
        Ok::<_, Error>((reply, audio))
    })?
}

/// All of the audio, even if the client has disconnected; or what is known of it, if there was no memory for it.
///
/// # Errors
/// 502 for a reply that ends early or is too long.
pub fn read(reply: &mut Reply) -> Result<std::result::Result<Vec<u8>, Unread>> {
    match block_in_place(Wait::Model, || unwatched(|| reply.read_all(MAX_REPLY, 0)))? {
        Ok(audio) => Ok(Ok(audio)),
        Err(e) => Ok(Err(e.into_unread()?)),
    }
}

/// What speaking a text is charged as.
pub fn units(text: &str) -> Units {
    Units::of([(Unit::Characters, amount(text.chars().count())), (Unit::Requests, 1)])
}
