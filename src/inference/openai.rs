//! OpenAI's routes for text, and the list of models.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::blocking;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::gateway::relay::{self, INVALID_API_KEY, Route};
use crate::gateway::tally::Kind;
use crate::http::Response;
use crate::http::object::Object;

const COMPLETIONS: &str = "/v1/completions";

/// `POST /v1/chat/completions`.
pub(super) fn chat(call: &mut Call<'_>) -> Result<Response> {
    let path = "/v1/chat/completions";
    let route = Route { path, to: path, kind: Kind::Text, prompt: "messages" };
    let app = call.app;
    relay::answer(call, &app.engines.inference, route, |object| match object.get("messages") {
        Some(messages) if messages.get().starts_with('[') => Ok(()),
        Some(_) => Err(Error::bad("messages must be a list")),
        None => Err(Error::bad("messages is required")),
    })
}

/// `POST /v1/completions`.
pub(super) fn complete(call: &mut Call<'_>) -> Result<Response> {
    completion(call, COMPLETIONS, None)
}

/// `POST /v1/engines/{name}/completions`. The name is an old one as a rule; where a model has it, that is meant.
pub(super) fn complete_by(call: &mut Call<'_>) -> Result<Response> {
    let name = call.segments.first().cloned().unwrap_or_default();
    completion(call, "/v1/engines/{name}/completions", Some(name))
}

fn completion(call: &mut Call<'_>, path: &'static str, name: Option<String>) -> Result<Response> {
    let route = Route { path, to: COMPLETIONS, kind: Kind::Text, prompt: "prompt" };
    let engine = &call.app.engines.inference;
    relay::answer(call, engine, route, |object| {
        check_prompt(object)?;
        if let Some(name) = name
            && !object.has("model")
            && engine.models().is_ok_and(|models| models.iter().any(|model| model["id"] == name.as_str()))
        {
            object.set("model", &name);
        }
        // What older clients count on when they say nothing.
        object.set_default("max_tokens", &100);
        object.set_default("temperature", &0.7);
        object.set_default("top_p", &0.9);
        Ok(())
    })
}

fn check_prompt(object: &Object<'_>) -> Result<()> {
    match object.get("prompt").map(serde_json::value::RawValue::get) {
        None | Some("null") => Err(Error::bad("prompt is required")),
        Some(r#""""#) => Err(Error::bad("Please enter some text")),
        Some(prompt) if prompt.starts_with(['"', '[']) => Ok(()),
        Some(_) => Err(Error::bad("prompt must be a string or a list")),
    }
}

/// `GET /v1/models`: those of the text and of the embeddings servers, and what else is configured.
pub(super) fn models(call: &mut Call<'_>) -> Result<Response> {
    call.caller_or(INVALID_API_KEY)?;
    Ok(Response::json(200, &json!({"object": "list", "data": all(call)?})))
}

/// `GET /v1/models/{name}`.
pub(super) fn model(call: &mut Call<'_>) -> Result<Response> {
    call.caller_or(INVALID_API_KEY)?;
    let segment = call.segments.first().map_or("", String::as_str);
    let name = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
    let found = all(call)?.into_iter().find(|model| model["id"].as_str() == Some(&*name));
    found.map(|model| Response::json(200, &model)).ok_or(Error::NotFound("There is no such model"))
}

fn all(call: &Call<'_>) -> Result<Vec<Value>> {
    let engines = &call.app.engines;
    engines.inference.check()?;
    blocking::block_in_place(|| {
        let mut all: Vec<Value> = engines.inference.models()?.to_vec();
        // What cannot be listed now is not in the list.
        for engine in [&engines.embeddings, &engines.transcribe, &engines.speech] {
            let more = if engine.is_configured() { engine.models().unwrap_or_default() } else { Arc::default() };
            all.extend(more.iter().cloned());
        }
        let mut seen = std::collections::HashSet::new();
        all.retain(|model| model["id"].as_str().is_some_and(|id| seen.insert(id.to_owned())));
        Ok(all)
    })?
}
