//! The audio server: for programs, which turn speech to text and back with a secret.

mod extraction;
mod openai;
mod schema;
mod speech;

use crate::call::Role::{self, Audio, Inference};
use crate::error::Shape::OpenAi;
use crate::gateway::{INVALID_API_KEY, INVALID_SECRET};
use crate::operation::Group::Speech;
use crate::operation::Handler::Authenticated;
use crate::operation::{Description, Operation, post, summary};

use schema::{ExtractFromFile, ExtractFromUrl, Extraction, GenerateSpeech, Sound, Speak, Transcribe, Transcription};

/// Its operations, beside those that every server has.
pub fn operations() -> Vec<Operation> {
    let transcription = |words| {
        let described = summary(Speech, words).multipart::<Transcribe>().reply::<Transcription>().calls_model();
        ["text/plain", "text/vtt", "text/event-stream"].into_iter().fold(described, Description::reply_as::<String>)
    };
    let openai = [
        post("/v1/audio/transcriptions", Authenticated(openai::transcribe))
            .described(transcription("Transcribe a recording, in OpenAI's protocol")),
        post("/v1/audio/translations", Authenticated(openai::translate))
            .described(transcription("Transcribe a recording in English, in OpenAI's protocol")),
        post("/v1/audio/speech", Authenticated(speech::speak)).described(
            summary(Speech, "Turn a text into speech, in OpenAI's protocol")
                .json::<Speak>()
                .reply_as::<Sound>("audio/mpeg")
                .reply_as::<Sound>("audio/wav")
                .calls_model(),
        ),
    ];
    // Clients of the older system call these on the inference server.
    let older = [
        post("/api/v1/audio-extraction", Authenticated(extraction::from_url)).on(&[Inference, Audio]).described(
            summary(Speech, "Transcribe a recording at a public address")
                .json::<ExtractFromUrl>()
                .reply::<Extraction>()
                .calls_model(),
        ),
        post("/api/v1/audio-file-extraction", Authenticated(extraction::from_file)).on(&[Inference, Audio]).described(
            summary(Speech, "Transcribe an uploaded recording")
                .multipart::<ExtractFromFile>()
                .reply::<Extraction>()
                .calls_model(),
        ),
        post("/api/v1/generate_speech", Authenticated(speech::generate)).on(&[Inference, Audio]).described(
            summary(Speech, "Turn a text into a WAV file")
                .json::<GenerateSpeech>()
                .reply_as::<Sound>("audio/wav")
                .calls_model(),
        ),
    ];
    let openai = openai.into_iter().map(|operation| operation.errors(OpenAi));
    // One base address serves all clients. The web server, where the browser sends its cookie, has them for the playground.
    let openai = openai.map(|operation| operation.on(&Role::ALL).unauthorized(INVALID_API_KEY));
    openai.chain(older.into_iter().map(|operation| operation.unauthorized(INVALID_SECRET))).collect()
}
