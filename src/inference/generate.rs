//! The older system's text: one prompt, or many at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::params::{EXTENSIONS, Params};
use crate::blocking;
use crate::call::Call;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gateway::prompt::{self, Answers};
use crate::gateway::{Bill, INVALID_SECRET, LARGEST_JSON, checked_model, marked};
use crate::http::Response;
use crate::http::form::{FORM_LIMIT, Fields};
use crate::usage::Units;

/// Texts of one request that are worked on at once.
const AT_ONCE: usize = 8;
/// Most texts of one request.
const MOST_TEXTS: usize = 1000;

/// `POST /api/v1/generate`.
pub(super) fn one(call: &mut Call<'_>) -> Result<Response> {
    let mut bill = Bill::open(call, "/api/v1/generate", INVALID_SECRET)?;
    let engine = &call.app.engines.inference;
    engine.check()?;
    let bytes = call.request.body.into_bytes(FORM_LIMIT)?;
    bill.note(&bytes);
    let params = Params::read(&Fields::parse_json(&bytes)?)?;
    let (model, answers) = engine.wait(|| generate(engine, &params))??;
    let response = marked(Response::json(200, &as_json(&answers)), answers.is_demo);
    bill.charged(response, &model, answers.units, answers.latency_micros)
}

/// `POST /api/v1/generate-bulk`: an array of what `generate` takes; an array of what it answers, in the same order.
/// Any text that makes no sense fails them all before any work.
pub(super) fn bulk(call: &mut Call<'_>) -> Result<Response> {
    let mut bill = Bill::open(call, "/api/v1/generate-bulk", INVALID_SECRET)?;
    let engine = &call.app.engines.inference;
    engine.check()?;
    let bytes = call.request.body.into_bytes(LARGEST_JSON)?;
    bill.note(&bytes);
    let params = read_bulk(&bytes)?;
    if params.is_empty() {
        return Ok(Response::json(200, &json!([])));
    }
    let done = blocking::block_in_place(|| generate_all(engine, &params))?;
    // What was made is paid for, also where another text failed.
    let mut bills: BTreeMap<&str, (Units, i64)> = BTreeMap::new();
    for (model, answers) in done.iter().flatten() {
        let (units, latency) = bills.entry(model).or_default();
        add(units, &answers.units);
        *latency = (*latency).max(answers.latency_micros);
    }
    let is_whole = done.iter().all(Result::is_ok);
    for (model, (units, latency)) in bills {
        match is_whole {
            true => bill.charge_for_model(model, units, latency)?,
            false => bill.charge_part(model, units, latency)?,
        };
    }
    let done = done.into_iter().collect::<Result<Vec<_>>>()?;
    let is_demo = done.iter().any(|(_, answers)| answers.is_demo);
    let all: Vec<_> = done.iter().map(|(_, answers)| as_json(answers)).collect();
    Ok(marked(Response::json(200, &all), is_demo))
}

fn read_bulk(bytes: &[u8]) -> Result<Vec<Params>> {
    let list: Vec<serde_json::Map<String, Value>> =
        serde_json::from_slice(bytes).map_err(|e| Error::bad(format!("The body must be a list of objects: {e}")))?;
    if list.len() > MOST_TEXTS {
        return Err(Error::bad("There must be at most 1000 texts"));
    }
    list.into_iter().map(|object| Params::read(&Fields::of(object))).collect()
}

/// Works on several texts at once. After a failure no further text is begun.
fn generate_all(engine: &Engine, params: &[Params]) -> Vec<Result<(String, Answers)>> {
    let (next, client) = (AtomicUsize::new(0), blocking::client());
    let done: Mutex<BTreeMap<usize, Result<(String, Answers)>>> = Mutex::default();
    let work = || {
        let _client = blocking::set_client(client.clone());
        loop {
            let index = next.fetch_add(1, Relaxed);
            let Some(params) = params.get(index) else { return };
            let outcome = generate(engine, params);
            if outcome.is_err() {
                next.store(params_end(), Relaxed);
            }
            done.lock().insert(index, outcome);
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(params.len()) {
            // This thread works too, so one that cannot be had only makes it slower.
            let _ = thread::Builder::new().name("bulk".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    done.into_inner().into_values().collect()
}

/// Behind any list's end, and far from an overflow.
const fn params_end() -> usize {
    usize::MAX / 2
}

/// Asks until there are as many answers as wanted: some servers know only one at a time.
fn generate(engine: &Engine, params: &Params) -> Result<(String, Answers)> {
    let model = checked_model(params.model.clone().unwrap_or_else(|| engine.default_model()))?;
    let mut all: Option<Answers> = None;
    loop {
        let there = all.as_ref().map_or(0, |all| all.answers.len());
        let wanted = params.results - there.min(params.results);
        if let Some(mut all) = all.take_if(|_| wanted == 0) {
            all.answers.truncate(params.results);
            return Ok((model, all));
        }
        let more = ask(engine, params, &model, wanted, there)?;
        if more.answers.is_empty() {
            return Err(Error::Upstream(502, "The model server answered with nothing"));
        }
        match &mut all {
            None => all = Some(more),
            Some(all) => {
                add(&mut all.units, &more.units);
                all.units.requests = 1;
                all.latency_micros += more.latency_micros;
                all.answers.extend(more.answers);
            }
        }
    }
}

fn ask(engine: &Engine, params: &Params, model: &str, wanted: usize, there: usize) -> Result<Answers> {
    let mut request = params.request.clone();
    request.insert("model".to_owned(), model.into());
    if wanted > 1 {
        request.insert("n".to_owned(), wanted.into());
    }
    if let Some(seed) = params.seed {
        // The same seed again would give the same answer again.
        request.insert("seed".to_owned(), seed.wrapping_add(i64::try_from(there).unwrap_or(0)).into());
    }
    let estimate = params.text.len().div_ceil(4);
    match prompt::ask(engine, &request, &params.limits, estimate) {
        // A hosted API that is strict about what it does not know gets the rest.
        Err(Error::Relayed(refusal))
            if matches!(refusal.status, 400 | 422) && EXTENSIONS.iter().any(|name| refusal.message.contains(name)) =>
        {
            request.retain(|name, _| !EXTENSIONS.contains(&name.as_str()));
            prompt::ask(engine, &request, &params.limits, estimate)
        }
        other => other,
    }
}

fn add(sum: &mut Units, more: &Units) {
    sum.prompt_tokens += more.prompt_tokens;
    sum.completion_tokens += more.completion_tokens;
    sum.requests += more.requests;
}

fn as_json(answers: &Answers) -> Value {
    let of = |answer: &prompt::Answer| {
        json!({"generated_text": answer.text, "stop_reason": answer.stop_reason.as_deref().unwrap_or("stop"),
            "thinking_content": answer.thoughts})
    };
    answers.answers.iter().map(of).collect()
}
