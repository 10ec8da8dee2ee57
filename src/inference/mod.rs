//! The inference server: for programs, which call models with a secret.

mod embeddings;
mod generate;
mod openai;
mod params;
mod summarization;

use crate::call::{Endpoint, Handler, route};
use crate::error::Shape;
use crate::http::Method::{self, Get, Post};
use crate::http::Route;

/// Its routes, beside those that every server has.
pub fn routes() -> Vec<Route<Endpoint>> {
    vec![
        openai(Post, "/v1/chat/completions", openai::chat),
        openai(Post, "/v1/completions", openai::complete),
        openai(Post, "/v1/engines/{name}/completions", openai::complete_by_engine),
        openai(Post, "/v1/embeddings", embeddings::embed),
        openai(Get, "/v1/models", openai::models),
        openai(Get, "/v1/models/{name}", openai::model),
        route(Post, "/api/v1/generate", generate::one),
        route(Post, "/api/v1/generate-bulk", generate::bulk),
        route(Post, "/api/v1/feature-extraction", embeddings::extract_features),
        route(Post, "/api/v1/summarization", summarization::summarize),
    ]
}

fn openai(method: Method, path: &'static str, handler: Handler) -> Route<Endpoint> {
    let mut route = route(method, path, handler);
    route.handler.shape = Shape::OpenAi;
    route
}
