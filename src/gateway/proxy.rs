//! OpenAI's JSON routes: the request is passed on unchanged but for what it lacks, and so is the reply.

use serde_json::value::RawValue;

use crate::auth::Caller;
use crate::blocking::unwatched;
use crate::call::Call;
use crate::engine::{Body, Engine, Reply, UpstreamRequest};
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::http::{Content, Response};
use crate::protocol::{failure, strict};

use super::charged::{ModelUsage, Outcome, charged};
use super::estimate::{KeptPrompt, Prompt};
use super::event_stream::{self, EventStream};
use super::stream_usage::{UsageFilter, UsageShown, request_usage};
use super::usage_counter::{ChargeBasis, Chunk, UsageCounter};
use super::{MAX_JSON_BODY, MAX_REPLY, response_typed_as, validate_model};

/// The fields that decide what a request costs.
const CHARGED_FIELDS: [&str; 9] =
    ["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "messages", "prompt", "input"];

/// A route that is passed on to a model server.
pub struct ProxiedRoute {
    /// The model server's path.
    pub upstream_path: &'static str,
    /// How its replies are charged.
    pub basis: ChargeBasis,
    /// The field that holds the prompt.
    pub prompt_field: &'static str,
}

/// Handles a request to such a route. `prepare` checks the fields and fills in those that are missing; it also gets the
/// path's segments that stood for `{…}`.
///
/// # Errors
/// As [`charged`]; those of `prepare`; 400 for a body or a model that is invalid; what the model server refuses; 502,
/// 503 or 504 if it fails.
pub fn proxy(
    call: &mut Call<'_>,
    caller: &Caller,
    engine: &Engine,
    route: ProxiedRoute,
    prepare: impl FnOnce(&mut Object<'_>, &[String]) -> Result<()>,
) -> Result<Response> {
    charged(call, caller, engine, MAX_JSON_BODY, |work| {
        let mut object = Object::parse(&work.body).map_err(Error::bad)?;
        check_unambiguous(&work.body, &object)?;
        prepare(&mut object, work.segments)?;
        let pending = forward(engine, &route, &mut object)?;
        if event_stream::is_event_stream(&pending.reply)? {
            drop(object);
            return Ok(pending.into_stream(KeptPrompt::new(work.body, route.prompt_field)));
        }
        pending.read(engine, || Prompt::of_request(&object, route.prompt_field).tokens())
    })
}

/// Refuses a body that the model server could read otherwise than textgen does: what is charged must be what is done.
fn check_unambiguous(body: &[u8], object: &Object<'_>) -> Result<()> {
    let body = std::str::from_utf8(body).map_err(|_| Error::bad("The body is not UTF-8"))?;
    strict::check(body).map_err(Error::bad)?;
    if let Some(name) = strict::confusable(object.names(), &CHARGED_FIELDS) {
        let name: String = name.chars().take(100).collect();
        return Err(Error::bad(format!("The field {name:?} is written in another case than the protocol has it")));
    }
    if object.has("stream") && object.read::<bool>("stream").is_none() {
        return Err(Error::bad("stream must be true or false"));
    }
    Ok(())
}

/// A reply whose body was not read yet.
struct Pending {
    model: String,
    reply: Reply,
    counter: UsageCounter,
    shown: UsageShown,
}

fn forward(engine: &Engine, route: &ProxiedRoute, object: &mut Object<'_>) -> Result<Pending> {
    let model = model_or_default(engine, object)?;
    let wants_stream = matches!(route.basis, ChargeBasis::Text) && object.read::<bool>("stream") == Some(true);
    let choices = choices(object);
    let shown = if wants_stream { request_usage(object, choices) } else { UsageShown::AsSent };
    let counter = UsageCounter::new(route.basis.clone()).expecting(choices);
    let ask = UpstreamRequest { path: route.upstream_path, media_type: "application/json", body: Body::Json(object) };
    let send = || engine.send(ask).and_then(Reply::successful);
    // Only a stream tells, piece by piece, what was made. Of a reply in one piece nothing is known before its end.
    let reply = engine.block_in_place(|| if wants_stream { send() } else { unwatched(send) })??;
    Ok(Pending { model, reply, counter, shown })
}

impl Pending {
    /// Passes a stream on.
    fn into_stream(self, prompt: KeptPrompt) -> Outcome {
        let Pending { model, reply, counter, shown } = self;
        EventStream { reply, counter, prompt, usage: UsageFilter::new(shown) }.into_outcome(model)
    }

    /// Reads a reply in one piece.
    fn read(self, engine: &Engine, prompt_tokens: impl FnOnce() -> usize) -> Result<Outcome> {
        let Pending { model, mut reply, counter, .. } = self;
        let bytes = engine.block_in_place(|| unwatched(|| reply.read_all(MAX_REPLY)))??;
        if let Some(message) = failure::message(&bytes) {
            return Err(event_stream::disguised_failure(&message));
        }
        let counter = count(counter, &bytes)?;
        let (units, estimated) = (counter.units(prompt_tokens), counter.is_estimate());
        let mut response = response_typed_as(&reply);
        response.content = Content::Bytes(bytes.into());
        Ok(Outcome::Reply(response, ModelUsage { model, units, estimated, latency_micros: reply.latency_micros() }))
    }
}

/// How many choices a request asks for.
fn choices(object: &Object<'_>) -> usize {
    let each = object.read::<usize>("n").unwrap_or(1);
    let prompts = object.get("prompt").and_then(|prompt| serde_json::from_str::<Vec<&RawValue>>(prompt.get()).ok());
    let prompts = match prompts {
        // A list of numbers is one prompt.
        Some(list) if list.first().is_some_and(|first| first.get().starts_with(['"', '['])) => list.len(),
        _ => 1,
    };
    each.saturating_mul(prompts)
}

fn count(mut counter: UsageCounter, bytes: &[u8]) -> Result<UsageCounter> {
    match serde_json::from_slice::<Chunk<'_>>(bytes) {
        Ok(chunk) => counter.add(&chunk),
        // Its fields may have unexpected types, but it must be JSON.
        Err(e) if e.classify() == serde_json::error::Category::Data => counter.add_unparsed(),
        Err(_) => return Err(event_stream::not_json()),
    }
    Ok(counter)
}

/// The model in the request; filled in where there is none.
///
/// # Errors
/// 400 for a model that is no string or too long.
pub fn model_or_default(engine: &Engine, object: &mut Object<'_>) -> Result<String> {
    if !object.has("model") {
        object.set("model", &engine.default_model());
    }
    validate_model(object.read("model").ok_or(Error::bad("model must be a string"))?)
}
