//! Requests with the same `Idempotency-Key`: for 24 hours, Stripe repeats its answer, a 500 too. Refusals of parameters
//! are not remembered, nor those of requests that came while another was at work.

use serde_json::Value;

use super::exchange::ApiRequest;
use super::params::Params;
use super::refusal::Refusal;
use super::state::State;

/// In seconds.
const KEPT: i64 = 24 * 3600;

/// The first request with a key.
pub struct Remembered {
    path: String,
    params: Params,
    since: i64,
    /// `None` while it is at work.
    answer: Option<(u16, Value)>,
}

/// What becomes of a request.
pub enum Entry {
    /// It is the first.
    Begin,
    /// Its answer is there.
    Replay(u16, Value),
}

/// Begins a request that creates or changes something.
pub fn begin(state: &mut State, request: &ApiRequest) -> Result<Entry, Refusal> {
    let Some(key) = &request.idempotency_key else { return Ok(Entry::Begin) };
    if key.len() > 255 {
        return Err(Refusal::invalid("Idempotency-Key", "Keys can be at most 255 characters."));
    }
    let now = state.now();
    if state.remembered.get(key).is_some_and(|first| first.answer.is_some() && now - first.since >= KEPT) {
        state.remembered.remove(key);
    }
    let Some(first) = state.remembered.get(key) else {
        let (path, params) = (request.path.clone(), request.params.clone());
        state.remembered.insert(key.clone(), Remembered { path, params, since: now, answer: None });
        return Ok(Entry::Begin);
    };
    if (&first.path, &first.params) != (&request.path, &request.params) {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try \
             using a key other than '{key}' if you meant to execute a different request."
        );
        return Err(Refusal::new(400, "idempotency_error", message));
    }
    if let Some((status, body)) = &first.answer {
        return Ok(Entry::Replay(*status, body.clone()));
    }
    let message = format!("There is currently another in-progress request using this Idempotent Key: {key}.");
    Err(Refusal::new(409, "invalid_request_error", message).with_code("idempotency_key_in_use"))
}

/// Remembers the answer to a request that [`begin`] let in.
pub fn finish(state: &mut State, request: &ApiRequest, status: u16, body: &Value) {
    let Some(key) = &request.idempotency_key else { return };
    if (400..500).contains(&status) {
        state.remembered.remove(key);
    } else if let Some(first) = state.remembered.get_mut(key) {
        first.answer = Some((status, body.clone()));
    }
}
