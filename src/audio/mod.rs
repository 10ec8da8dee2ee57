//! The audio server: for programs, which turn speech to text and back with a secret.

mod extraction;
mod openai;
mod speech;

use crate::call::{Endpoint, Handler, route};
use crate::error::Shape;
use crate::http::{Method, Route};

/// Its routes, beside those that every server has.
pub fn routes() -> Vec<Route<Endpoint>> {
    let mut routes = api_routes();
    routes.extend(openai_routes());
    routes
}

/// The routes of the older system, which the inference server has too: its clients call them there.
pub fn api_routes() -> Vec<Route<Endpoint>> {
    vec![
        route(Method::POST, "/api/v1/audio-extraction", extraction::from_url),
        route(Method::POST, "/api/v1/audio-file-extraction", extraction::from_file),
        route(Method::POST, "/api/v1/generate_speech", speech::generate),
    ]
}

/// OpenAI's routes.
fn openai_routes() -> Vec<Route<Endpoint>> {
    let openai = |path, handler: Handler| {
        let mut route = route(Method::POST, path, handler);
        route.handler.shape = Shape::OpenAi;
        route
    };
    vec![
        openai("/v1/audio/transcriptions", openai::transcribe),
        openai("/v1/audio/translations", openai::translate),
        openai("/v1/audio/speech", speech::speak),
    ]
}
