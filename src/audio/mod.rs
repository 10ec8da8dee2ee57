//! The audio server: for programs, which turn speech to text and back with a secret.

mod extraction;
mod openai;
mod speech;

use crate::call::Role::{Audio, Inference, Web};
use crate::error::Shape::OpenAi;
use crate::gateway::{INVALID_API_KEY, INVALID_SECRET};
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, post};

/// Its operations, beside those that every server has.
pub fn operations() -> Vec<Operation> {
    let openai = [
        // The playground calls this on the web server, where the browser sends its cookie.
        post("/v1/audio/transcriptions", Authenticated(openai::transcribe)).on(&[Web, Audio]),
        post("/v1/audio/translations", Authenticated(openai::translate)).on(&[Audio]),
        post("/v1/audio/speech", Authenticated(speech::speak)).on(&[Audio]),
    ];
    // Clients of the older system call these on the inference server.
    let older = [
        post("/api/v1/audio-extraction", Authenticated(extraction::from_url)).on(&[Inference, Audio]),
        post("/api/v1/audio-file-extraction", Authenticated(extraction::from_file)).on(&[Inference, Audio]),
        post("/api/v1/generate_speech", Authenticated(speech::generate)).on(&[Inference, Audio]),
    ];
    let openai = openai.into_iter().map(|operation| operation.errors(OpenAi).unauthorized(INVALID_API_KEY));
    openai.chain(older.into_iter().map(|operation| operation.unauthorized(INVALID_SECRET))).collect()
}
