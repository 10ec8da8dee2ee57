//! The inference server: for programs, which call models with a secret.

mod embeddings;
mod generate;
mod openai;
mod params;
mod summarization;

use crate::call::Role::{Inference, Web};
use crate::error::Shape::OpenAi;
use crate::gateway::{INVALID_API_KEY, INVALID_SECRET};
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post};

/// Its operations, beside those that every server has.
pub fn operations() -> Vec<Operation> {
    let openai = [
        // The playground calls these two on the web server, where the browser sends its cookie.
        post("/v1/chat/completions", Authenticated(openai::chat)).on(&[Web, Inference]),
        get("/v1/models", Authenticated(openai::models)).on(&[Web, Inference]),
        post("/v1/completions", Authenticated(openai::complete)).on(&[Inference]),
        post("/v1/engines/{name}/completions", Authenticated(openai::complete_by_engine)).on(&[Inference]),
        post("/v1/embeddings", Authenticated(embeddings::embed)).on(&[Inference]),
        get("/v1/models/{name}", Authenticated(openai::model)).on(&[Inference]),
    ];
    let older = [
        post("/api/v1/generate", Authenticated(generate::one)).on(&[Inference]),
        post("/api/v1/generate-bulk", Authenticated(generate::bulk)).on(&[Inference]),
        post("/api/v1/feature-extraction", Authenticated(embeddings::extract_features)).on(&[Inference]),
        post("/api/v1/summarization", Authenticated(summarization::summarize)).on(&[Inference]),
    ];
    let openai = openai.into_iter().map(|operation| operation.errors(OpenAi).unauthorized(INVALID_API_KEY));
    openai.chain(older.into_iter().map(|operation| operation.unauthorized(INVALID_SECRET))).collect()
}
