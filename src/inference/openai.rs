//! OpenAI's routes for text, and the lists of models.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::Purpose;
use crate::error::{Error, Result};
use crate::gateway::proxy::{ProxiedRoute, proxy};
use crate::gateway::usage_counter::ChargeBasis;
use crate::gateway::{self, dialect};
use crate::http::Response;
use crate::http::object::Object;
use crate::protocol::dialect::Dialect;

/// `POST /v1/responses`.
pub(super) fn respond(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    dialect::answer(call, caller, Dialect::Responses)
}

/// `POST /v1/messages`.
pub(super) fn message(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    dialect::answer(call, caller, Dialect::Messages)
}

/// `POST /v1/messages/count_tokens`.
pub(super) fn count_tokens(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    gateway::count_tokens::answer(call, caller)
}

const COMPLETIONS: &str = "/v1/completions";

/// `POST /v1/chat/completions`.
pub(super) fn chat(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let path = "/v1/chat/completions";
    let (purpose, basis) = (Purpose::Text, ChargeBasis::Text);
    let route = ProxiedRoute { purpose, upstream_path: path, basis, prompt_field: "messages" };
    proxy(call, caller, route, |_, object| match object.get("messages") {
        Some(messages) if messages.get().starts_with('[') => Ok(()),
        Some(_) => Err(Error::bad("messages must be a list")),
        None => Err(Error::bad("messages is required")),
    })
}

/// `POST /v1/completions`.
pub(super) fn complete(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    proxy(call, caller, completion_route(), |_, object| check_prompt(object))
}

/// `POST /v1/engines/{name}/completions`. The name selects the model if there is one of that name; most clients send
/// the name of an engine that no longer exists.
pub(super) fn complete_by_engine(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    proxy(call, caller, completion_route(), |call, object| {
        check_prompt(object)?;
        if !object.has("model") {
            let name = segment(call);
            if call.app.models.takes(Purpose::Text, &name)? {
                object.set("model", &name);
            }
        }
        // The defaults that older clients rely on.
        object.set_default("max_tokens", &100);
        object.set_default("temperature", &0.7);
        object.set_default("top_p", &0.9);
        Ok(())
    })
}

fn completion_route() -> ProxiedRoute {
    let (purpose, basis) = (Purpose::Text, ChargeBasis::Text);
    ProxiedRoute { purpose, upstream_path: COMPLETIONS, basis, prompt_field: "prompt" }
}

fn check_prompt(object: &Object<'_>) -> Result<()> {
    match object.get("prompt").map(serde_json::value::RawValue::get) {
        None | Some("null") => Err(Error::bad("prompt is required")),
        Some(r#""""#) => Err(Error::bad("Please enter some text")),
        Some(prompt) if prompt.starts_with(['"', '[']) => Ok(()),
        Some(_) => Err(Error::bad("prompt must be a string or a list")),
    }
}

/// `GET /v1/models`: the models that the caller may use.
pub(super) fn models(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    #[derive(Serialize)]
    struct List {
        object: &'static str,
        data: Vec<Box<RawValue>>,
    }
    let allowed = call.app.models.list()?.into_iter().filter(|listed| caller.may_call(&listed.id));
    Ok(Response::json(200, &List { object: "list", data: allowed.map(|listed| listed.entry).collect() }))
}

/// `GET /v1/models/{name}`. A name may contain slashes, encoded or not.
pub(super) fn model(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let name = segment(call);
    let listed = call.app.models.describe(&name)?;
    match caller.may_call(&listed.id) {
        true => Ok(Response::json(200, &listed.entry)),
        false => Err(Error::ModelNotFound(Some(name))),
    }
}

/// What stands for `{…}` in the path.
fn segment(call: &Call<'_>) -> String {
    let segment = call.segments.first().map_or("", String::as_str);
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned()
}
