//! Has a model server write down what is said in a recording.

use std::io::Read;

use crate::blocking;
use crate::engine::{Ask, Body, Engine, Reply};
use crate::error::{Error, Result};
use crate::usage::Units;
use crate::wav;

use super::LARGEST_REPLY;
use super::transcript::Transcript;
use super::upload::Outbound;

/// Bytes of a second where neither the server nor the file says how long it is: 128 kbit/s.
const USUAL_RATE: u64 = 16_000;

/// Paths of the engine.
pub const TRANSCRIBE: &str = "/v1/audio/transcriptions";
/// The same, into English.
pub const TRANSLATE: &str = "/v1/audio/translations";

/// What a model server made of a recording, on its way.
pub struct Hearing {
    /// Its reply.
    pub reply: Reply,
    /// How long the recording is by what is known of the file, in milliseconds.
    pub millis: i64,
}

/// Sends a recording. If `is_small`, it is taken into memory first, so that another server can be tried. Waits, so it
/// is to be called in a [`blocking::block_in_place`].
///
/// # Errors
/// What is wrong with the recording; as [`Engine::send`]; what the server says is wrong with it.
pub fn send(engine: &Engine, path: &'static str, mut outbound: Outbound<'_>, is_small: bool) -> Result<Hearing> {
    let media_type = outbound.media_type();
    let mut sent = Vec::new();
    let body = match is_small {
        true => match outbound.read_to_end(&mut sent) {
            Ok(_) => Body::Bytes(&sent),
            Err(e) => return Err(outbound.failure.unwrap_or(Error::bad(e.to_string()))),
        },
        false => Body::Stream(&mut outbound),
    };
    let reply = blocking::block_in_place(|| engine.send(Ask { path, media_type: &media_type, body }))?;
    if let Some(failure) = outbound.failure.take() {
        return Err(failure);
    }
    let reply = reply?.successful()?;
    let by_header = wav::duration_millis(&outbound.start, outbound.size);
    let millis = by_header.unwrap_or_else(|| i64::try_from(outbound.size * 1000 / USUAL_RATE).unwrap_or(i64::MAX));
    Ok(Hearing { reply, millis })
}

impl Hearing {
    /// The reply's bytes, what they say, and how long the recording is, in milliseconds.
    ///
    /// # Errors
    /// 502 for a reply that ends early.
    pub fn finish(&mut self) -> Result<(Vec<u8>, Option<Transcript>, i64)> {
        let bytes = blocking::block_in_place(|| self.reply.read_all(LARGEST_REPLY))??;
        let transcript = Transcript::parse(&bytes);
        let millis = transcript.as_ref().and_then(Transcript::millis).unwrap_or(self.millis);
        Ok((bytes, transcript, millis))
    }
}

/// The charge for a recording.
pub fn units(millis: i64) -> Units {
    Units { audio_millis: millis, requests: 1, ..Units::default() }
}
