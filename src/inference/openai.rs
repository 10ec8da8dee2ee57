//! OpenAI's routes for text, and the lists of models.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::auth::Caller;
use crate::blocking;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::gateway::proxy::{ProxiedRoute, proxy};
use crate::gateway::usage_counter::ChargeBasis;
use crate::http::Response;
use crate::http::object::Object;

const COMPLETIONS: &str = "/v1/completions";

/// `POST /v1/chat/completions`.
pub(super) fn chat(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let path = "/v1/chat/completions";
    let route = ProxiedRoute { upstream_path: path, basis: ChargeBasis::Text, prompt_field: "messages" };
    let engine = &call.app.engines.inference;
    proxy(call, caller, engine, route, |object, _| match object.get("messages") {
        Some(messages) if messages.get().starts_with('[') => Ok(()),
        Some(_) => Err(Error::bad("messages must be a list")),
        None => Err(Error::bad("messages is required")),
    })
}

/// `POST /v1/completions`.
pub(super) fn complete(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    completion(call, caller)
}

/// `POST /v1/engines/{name}/completions`. The name selects the model if there is one of that name; most clients send
/// the name of an engine that no longer exists.
pub(super) fn complete_by_engine(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    completion(call, caller)
}

fn completion(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let upstream_path = COMPLETIONS;
    let route = ProxiedRoute { upstream_path, basis: ChargeBasis::Text, prompt_field: "prompt" };
    let engine = &call.app.engines.inference;
    proxy(call, caller, engine, route, |object, segments| {
        check_prompt(object)?;
        if let Some(name) = segments.first()
            && !object.has("model")
            && engine.models().is_ok_and(|models| models.iter().any(|model| model["id"] == name.as_str()))
        {
            object.set("model", name);
        }
        // The defaults that older clients rely on.
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

/// `GET /v1/models`: the models of all configured model servers.
pub(super) fn models(call: &mut Call<'_>, _: &Caller) -> Result<Response> {
    Ok(Response::json(200, &json!({"object": "list", "data": all_models(call)?})))
}

/// `GET /v1/models/{name}`.
pub(super) fn model(call: &mut Call<'_>, _: &Caller) -> Result<Response> {
    let segment = call.segments.first().map_or("", String::as_str);
    let name = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
    let found = all_models(call)?.into_iter().find(|model| model["id"].as_str() == Some(&*name));
    found.map(|model| Response::json(200, &model)).ok_or(Error::NotFound("There is no such model"))
}

fn all_models(call: &Call<'_>) -> Result<Vec<Value>> {
    let engines = &call.app.engines;
    engines.inference.check()?;
    blocking::block_in_place(|| {
        let mut all: Vec<Value> = engines.inference.models()?.to_vec();
        // The models of servers that do not answer are left out.
        for engine in [&engines.embeddings, &engines.transcribe, &engines.speech] {
            let more = if engine.is_configured() { engine.models().unwrap_or_default() } else { Arc::default() };
            all.extend(more.iter().cloned());
        }
        let mut seen = std::collections::HashSet::new();
        all.retain(|model| model["id"].as_str().is_some_and(|id| seen.insert(id.to_owned())));
        Ok(all)
    })?
}
