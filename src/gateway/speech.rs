//! Asks a model server for speech.

use serde_json::Value;

use crate::blocking::block_in_place;
use crate::engine::{Body, Engine, Reply, UpstreamRequest};
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::units::{Unit, Units};

use super::MAX_REPLY;

/// The path of speech synthesis, here and at model servers.
pub const SPEECH: &str = "/v1/audio/speech";

/// Sends a request for speech and returns as soon as the head of the reply has arrived.
///
/// # Errors
/// Those of [`Engine::send`]; the model server's refusal.
pub fn request(engine: &Engine, object: &Object<'_>) -> Result<Reply> {
    let ask = UpstreamRequest { path: SPEECH, media_type: "application/json", body: Body::Json(object) };
    block_in_place(|| engine.send(ask).and_then(Reply::successful))?
}

/// Sends a request for speech. Returns the reply and all of its audio.
///
/// # Errors
/// Those of [`request`]; 502 for a reply that ends early or is too long.
pub fn synthesize(engine: &Engine, request: &Value) -> Result<(Reply, Vec<u8>)> {
    block_in_place(|| {
        let mut reply = self::request(engine, &Object::of(request))?;
        let audio = reply.read_all(MAX_REPLY)?;
        Ok::<_, Error>((reply, audio))
    })?
}

/// What speaking a text is charged as.
pub fn units(text: &str) -> Units {
    Units::of([(Unit::Characters, i64::try_from(text.chars().count()).unwrap_or(i64::MAX)), (Unit::Requests, 1)])
}
