//! Embeddings: OpenAI's route, and the older one.

use serde::Deserialize;
use serde_json::Value;

use crate::auth::Caller;
use crate::blocking::unwatched;
use crate::call::Call;
use crate::catalogue::Purpose;
use crate::engine::UpstreamRequest;
use crate::error::{Error, Result};
use crate::gateway::body::{check_choice, json_fields};
use crate::gateway::charged::{ChargedRequest, ModelUsage, Outcome};
use crate::gateway::estimate;
use crate::gateway::proxy::{ProxiedRoute, prompts, proxy};
use crate::gateway::reply_kind::disguised_failure;
use crate::gateway::usage_counter::{ChargeBasis, UsageCounter};
use crate::gateway::{mark_demo, model, worst_case};
use crate::http::Response;
use crate::http::form::FORM_LIMIT;
use crate::http::object::Object;
use crate::protocol::chunk::Chunk;
use crate::protocol::failure;

const EMBEDDINGS: &str = "/v1/embeddings";

/// Most inputs of one request, as OpenAI has it.
const MAX_INPUTS: usize = 2048;

/// Most bytes of a reply that holds one vector: many times the longest ones.
const MAX_VECTOR: usize = 1024 * 1024;

/// How a vector may be written. Some model servers know others, whose replies are no JSON and have no usage numbers.
const ENCODINGS: [&str; 2] = ["float", "base64"];

/// Numbers of the vector that are returned by default.
const DEFAULT_FEATURES: usize = 256;

/// `POST /v1/embeddings`.
pub(super) fn embed(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let (purpose, basis) = (Purpose::Embeddings, ChargeBasis::Embeddings);
    let route = ProxiedRoute { purpose, upstream_path: EMBEDDINGS, basis, prompt_field: "input" };
    proxy(call, caller, route, |_, object| {
        if !object.has("input") {
            return Err(Error::bad("input is required"));
        }
        if prompts(object, "input") > MAX_INPUTS {
            return Err(Error::bad(format!("input must have at most {MAX_INPUTS} elements")));
        }
        check_choice(object, "encoding_format", &ENCODINGS)
    })
}

/// `POST /api/v1/feature-extraction`: the first `num_features` numbers of a text's vector, or all of them for `null`.
pub(super) fn extract_features(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Embeddings, FORM_LIMIT)?;
    let fields = json_fields(&body)?;
    let text = fields.text("text")?;
    let max_features = match fields.optional_integer("num_features")? {
        Some(n) => usize::try_from(n).map_err(|_| Error::bad("num_features must not be negative"))?,
        None if fields.has("num_features") => usize::MAX,
        None => DEFAULT_FEATURES,
    };
    let prepared = model::resolve(call.app, caller, Purpose::Embeddings, None);
    request.run(prepared, |model| {
        let mut object = Object::default();
        object.set("model", &model.name());
        object.set("input", &text);
        object.set("encoding_format", &"float");
        worst_case::set_aside_embeddings(&model, &object)?;
        let ask = UpstreamRequest::json(EMBEDDINGS, &[], &object);
        let send = || {
            let mut reply = model.send(ask)?.successful()?;
            let bytes = reply.read_all(MAX_VECTOR, 0)?;
            Ok::<_, Error>((reply, bytes))
        };
        let (reply, bytes) = model.block_in_place(|| unwatched(send))??;
        if let Some(message) = failure::message(&bytes) {
            return Err(disguised_failure(&message));
        }
        let vector = first_vector(&bytes).ok_or(Error::Upstream(502, "The model server's reply holds no vector"))?;
        let mut counter = UsageCounter::new(ChargeBasis::Embeddings);
        if let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(&bytes) {
            counter.add(&chunk);
        }
        let response = Response::json(200, &vector.get(..max_features).unwrap_or(&vector));
        let units = counter.units(|| estimate::tokens(text));
        reply.note_tokens(&units);
        let usage = ModelUsage {
            model: model.name().to_owned(),
            units,
            estimated: counter.is_estimate(),
            latency_micros: reply.latency_micros(),
        };
        Ok(Outcome::Reply(mark_demo(response, reply.is_demo), usage))
    })
}

fn first_vector(bytes: &[u8]) -> Option<Vec<Value>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        embedding: Vec<Value>,
    }
    let list: List = serde_json::from_slice(bytes).ok()?;
    list.data.into_iter().next().map(|item| item.embedding)
}
