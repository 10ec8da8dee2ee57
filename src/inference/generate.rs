//! The older API for text: one prompt, or many at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::params::{DEFAULT_MODEL_NAMES, EXTENSIONS, Params};
use crate::app::App;
use crate::auth::Caller;
use crate::blocking::{self, Place, Wait, block_in_place};
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::engine::client_left;
use crate::error::{Error, Result};
use crate::gateway::body::{check_unambiguous, json_fields};
use crate::gateway::charged::{ChargedRequest, ModelUsage, Outcome};
use crate::gateway::completion::{Completion, Completions, complete};
use crate::gateway::{MAX_JSON_BODY, mark_demo, model, worst_case};
use crate::http::Response;
use crate::http::form::{FORM_LIMIT, Fields, reserve_values};
use crate::http::object::first_byte;
use crate::logging;
use crate::memory_budget;
use crate::traces;
use crate::units::{Unit, Units};
use crate::usage::MAX_MODELS;

/// Prompts of one request that are worked on at the same time.
const CONCURRENCY: usize = 8;
/// Most prompts of one request.
const MAX_PROMPTS: usize = 1000;

/// A prompt, and the model that is to complete it.
type Job = (Params, ResolvedModel);

/// What was made of one prompt.
struct Generated {
    /// The model that made it.
    model: String,
    completions: Completions,
    /// Why it is not all that was wanted. What was made is charged nevertheless.
    failure: Option<Error>,
}

impl Generated {
    fn usage(&self) -> ModelUsage {
        let Completions { units, estimated, latency_micros, .. } = self.completions;
        ModelUsage { model: self.model.clone(), units, estimated, latency_micros }
    }

    /// All completions that were wanted.
    fn whole(self) -> Result<Completions> {
        self.failure.map_or(Ok(self.completions), Err)
    }
}

/// `POST /api/v1/generate`.
pub(super) fn one(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Text, FORM_LIMIT)?;
    let fields = json_fields(&body)?;
    request.run(read(call.app, caller, &fields), |job| {
        let generated = job.1.block_in_place(|| generate(&job))??;
        let usage = generated.usage();
        Ok(match generated.whole() {
            Ok(all) => Outcome::Reply(mark_demo(Response::json(200, &to_json(&all)), all.is_demo), usage),
            Err(e) => Outcome::PerModel(Err(e), vec![usage]),
        })
    })
}

/// `POST /api/v1/generate-bulk`: takes an array of what `generate` takes, and answers with an array of what `generate`
/// answers, in the same order. If any element is invalid, the request fails before any work is done.
pub(super) fn bulk(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Text, MAX_JSON_BODY)?;
    request.run(read_bulk(call.app, caller, &body), |jobs| {
        let results = match jobs.is_empty() {
            true => Vec::new(),
            false => block_in_place(Wait::Model, || generate_all(&jobs))?,
        };
        // Successful prompts, and what was made of the others, are charged even if one has failed.
        let usages = usage_by_model(results.iter().flatten());
        let all = results.into_iter().map(|result| result.and_then(Generated::whole)).collect::<Result<Vec<_>>>();
        let response = all.map(|all| {
            let is_demo = all.iter().any(|completions| completions.is_demo);
            mark_demo(Response::json(200, &all.iter().map(to_json).collect::<Vec<_>>()), is_demo)
        });
        Ok(Outcome::PerModel(response, usages))
    })
}

/// The sums for each model. Prompts were worked on at the same time, so of their latencies the longest counts.
fn usage_by_model<'a>(all: impl Iterator<Item = &'a Generated>) -> Vec<ModelUsage> {
    let mut sums: BTreeMap<&str, (Units, bool, i64)> = BTreeMap::new();
    for Generated { model, completions, .. } in all {
        let (units, estimated, latency) = sums.entry(model).or_default();
        *units += &completions.units;
        *estimated |= completions.estimated;
        *latency = (*latency).max(completions.latency_micros);
    }
    let usage = |(model, (units, estimated, latency_micros)): (&str, _)| ModelUsage {
        model: model.to_owned(),
        units,
        estimated,
        latency_micros,
    };
    sums.into_iter().map(usage).collect()
}

fn read(app: &App, caller: &Caller, fields: &Fields) -> Result<Job> {
    let params = Params::read(fields)?;
    let mut name = params.model.as_deref();
    if let Some(keyword) = name.filter(|name| DEFAULT_MODEL_NAMES.contains(name))
        && !app.models.has(Purpose::Text, keyword)?
    {
        name = None;
    }
    let model = model::resolve(app, caller, Purpose::Text, name)?;
    Ok((params, model))
}

fn read_bulk(app: &App, caller: &Caller, bytes: &[u8]) -> Result<Vec<Job>> {
    let values = reserve_values(bytes)?;
    const NO_LIST: &str = "The body must be a list of objects";
    if first_byte(bytes) == Some(b'"') {
        return Err(Error::bad(NO_LIST));
    }
    let list: Vec<Value> = serde_json::from_slice(bytes).map_err(|e| Error::bad(format!("{NO_LIST}: {e}")))?;
    check_unambiguous(bytes)?;
    if list.len() > MAX_PROMPTS {
        return Err(Error::bad("There must be at most 1000 texts"));
    }
    let job = |value| match value {
        Value::Object(object) => read(app, caller, &Fields::of(object)),
        _ => Err(Error::bad(NO_LIST)),
    };
    let jobs = list.into_iter().map(job).collect::<Result<Vec<Job>>>()?;
    // Only texts are kept of them.
    memory_budget::release(values);
    let models: BTreeSet<&str> = jobs.iter().map(|(_, model)| model.name()).collect();
    if models.len() > MAX_MODELS {
        return Err(Error::bad(format!("The texts must be for at most {MAX_MODELS} models")));
    }
    Ok(jobs)
}

/// Works on several prompts at the same time. After a failure, or once the client has disconnected, no further prompt is
/// started.
fn generate_all(jobs: &[Job]) -> Vec<Result<Generated>> {
    let (next, client, request_id) = (AtomicUsize::new(0), blocking::client(), logging::request_id());
    let (budget, trace) = (worst_case::current(), traces::current());
    let results: Mutex<BTreeMap<usize, Result<Generated>>> = Mutex::default();
    let helpers = memory_budget::Helpers::of_request();
    let work = |_place: Option<Place>| {
        let _client = blocking::set_client(client.clone());
        let _id = logging::set_request_id(request_id.clone());
        let _trace = traces::enter(trace.clone());
        let _budget = worst_case::enter(budget.clone());
        loop {
            let index = next.fetch_add(1, Relaxed);
            let Some(job) = jobs.get(index) else { return };
            let result = match client_left() {
                true => Err(Error::ClientLeft),
                false => generate(job),
            };
            if !result.as_ref().is_ok_and(|generated| generated.failure.is_none()) {
                next.store(PAST_THE_END, Relaxed);
            }
            results.lock().insert(index, result);
        }
    };
    thread::scope(|scope| {
        for _ in 1..CONCURRENCY.min(jobs.len()) {
            // This thread works too: if another may not or cannot be started, the work only takes longer.
            let Ok(place) = blocking::place(Wait::Model) else { break };
            let _ = thread::Builder::new().name("bulk".to_owned()).spawn_scoped(scope, || helpers.work(|| work(place)));
        }
        work(None);
    });
    helpers.join();
    results.into_inner().into_values().collect()
}

/// An index past the end of any list that cannot overflow when the threads still increment it.
const PAST_THE_END: usize = usize::MAX / 2;

/// Asks until there are as many completions as wanted, since some model servers make only one per request.
///
/// # Errors
/// Nothing was made.
fn generate((params, model): &Job) -> Result<Generated> {
    let of = |completions: Completions, failure| Generated { model: model.name().to_owned(), completions, failure };
    let mut all = ask(params, model, params.results, 0)?;
    loop {
        let count = all.completions.len();
        if let Some(e) = all.broken_off.take() {
            return Ok(of(all, Some(e)));
        }
        if count >= params.results {
            all.completions.truncate(params.results);
            return Ok(of(all, None));
        }
        let more = match ask(params, model, params.results - count, count) {
            Ok(more) => more,
            Err(e) => return Ok(of(all, Some(e))),
        };
        all.units += &more.units;
        all.units[Unit::Requests] = 1;
        all.estimated |= more.estimated;
        all.broken_off = more.broken_off;
        all.latency_micros += more.latency_micros;
        all.completions.extend(more.completions);
    }
}

/// Some of the completions that are `wanted`, at least one unless the client has left. There are `count` already.
fn ask(params: &Params, model: &ResolvedModel, wanted: usize, count: usize) -> Result<Completions> {
    let mut request = params.request.clone();
    if wanted > 1 {
        request.insert("n".to_owned(), wanted.into());
    }
    if let Some(seed) = params.seed {
        // The same seed would give the same completion again.
        request.insert("seed".to_owned(), seed.wrapping_add(i64::try_from(count).unwrap_or(0)).into());
    }
    let made = match complete(model, &request, &params.stop) {
        // Hosted APIs may refuse fields that they do not know: try again without those.
        Err(Error::Relayed(refusal))
            if matches!(refusal.status, 400 | 422) && EXTENSIONS.iter().any(|name| refusal.message.contains(name)) =>
        {
            request.retain(|name, _| !EXTENSIONS.contains(&name.as_str()));
            complete(model, &request, &params.stop)
        }
        other => other,
    }?;
    match made.completions.is_empty() && made.broken_off.is_none() {
        true => Err(Error::Upstream(502, "The model server sent an empty reply")),
        false => Ok(made),
    }
}

fn to_json(generated: &Completions) -> Value {
    let object = |completion: &Completion| {
        let stop_reason = completion.stop_reason.as_deref().unwrap_or("stop");
        json!({"generated_text": completion.text, "stop_reason": stop_reason, "thinking_content": completion.reasoning})
    };
    generated.completions.iter().map(object).collect()
}
