//! The inference server: for programs, which call models with a secret.

mod embeddings;
mod generate;
mod openai;
mod params;
mod summarization;

use crate::call::{Endpoint, Handler, route};
use crate::error::Shape;
use crate::http::Method;
use crate::http::Route;

/// Its routes, beside those that every server has.
pub fn routes() -> Vec<Route<Endpoint>> {
    vec![
        openai(Method::POST, "/v1/chat/completions", openai::chat),
        openai(Method::POST, "/v1/completions", openai::complete),
        openai(Method::POST, "/v1/engines/{name}/completions", openai::complete_by_engine),
        openai(Method::POST, "/v1/embeddings", embeddings::embed),
        openai(Method::GET, "/v1/models", openai::models),
        openai(Method::GET, "/v1/models/{name}", openai::model),
        route(Method::POST, "/api/v1/generate", generate::one),
        route(Method::POST, "/api/v1/generate-bulk", generate::bulk),
        route(Method::POST, "/api/v1/feature-extraction", embeddings::extract_features),
        route(Method::POST, "/api/v1/summarization", summarization::summarize),
    ]
}

fn openai(method: Method, path: &'static str, handler: Handler) -> Route<Endpoint> {
    let mut route = route(method, path, handler);
    route.handler.shape = Shape::OpenAi;
    route
}
