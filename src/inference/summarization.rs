//! Summaries, by a chat model that is told to write one.

use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::error::{Error, Result};
use crate::gateway::prompt::{self, Limits};
use crate::gateway::{Bill, INVALID_SECRET, checked_model, marked};
use crate::http::Response;
use crate::http::form::{FORM_LIMIT, Fields};

/// What the model is told.
const TASK: &str = "Summarize the text that the user sends. Answer with the summary only, in the language of the text.";

/// `POST /api/v1/summarization` with `text` and perhaps `max_length` in tokens.
pub(super) fn summarize(call: &mut Call<'_>) -> Result<Response> {
    let mut bill = Bill::open(call, "/api/v1/summarization", INVALID_SECRET)?;
    let engine = &call.app.engines.inference;
    engine.check()?;
    let bytes = call.request.body.into_bytes(FORM_LIMIT)?;
    bill.note(&bytes);
    let fields = Fields::parse_json(&bytes)?;
    let text = fields.text("text")?;
    if text.is_empty() {
        return Err(Error::bad("Please enter some text"));
    }
    let max_length = fields.optional_integer("max_length")?;
    if max_length.is_some_and(|n| n < 1) {
        return Err(Error::bad("max_length must be at least 1"));
    }
    let model = checked_model(engine.default_model())?;
    let messages = json!([{"role": "system", "content": TASK}, {"role": "user", "content": text}]);
    let mut request = Map::from_iter([
        ("model".to_owned(), Value::from(model.as_str())),
        ("messages".to_owned(), messages),
        ("temperature".to_owned(), json!(0.2)),
    ]);
    if let Some(tokens) = max_length {
        request.insert("max_tokens".to_owned(), tokens.into());
    }
    let estimate = (TASK.len() + text.len()).div_ceil(4);
    let answers = engine.wait(|| prompt::ask(engine, &request, &Limits::default(), estimate))??;
    let answer = answers.answers.first().ok_or(Error::Upstream(502, "The model server answered with nothing"))?;
    let response = Response::json(200, &json!({"generated_text": answer.text.trim()}));
    bill.charged(marked(response, answers.is_demo), &model, answers.units, answers.latency_micros)
}
