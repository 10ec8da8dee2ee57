//! Summaries, written by a chat model.

use serde_json::{Map, Value, json};

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::Purpose;
use crate::error::{Error, Result};
use crate::gateway::body::json_fields;
use crate::gateway::charged::{ChargedRequest, ModelUsage, Outcome};
use crate::gateway::completion::{StopConditions, complete};
use crate::gateway::{mark_demo, model};
use crate::http::Response;
use crate::http::form::FORM_LIMIT;

/// The system message.
const INSTRUCTIONS: &str =
    "Summarize the text that the user sends. Answer with the summary only, in the language of the text.";

/// `POST /api/v1/summarization` with `text` and optionally `max_length`, in tokens.
pub(super) fn summarize(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Text, FORM_LIMIT)?;
    let fields = json_fields(&body)?;
    let text = fields.text("text")?;
    if text.is_empty() {
        return Err(Error::bad("Please enter some text"));
    }
    let max_length = fields.optional_integer("max_length")?;
    if max_length.is_some_and(|n| n < 1) {
        return Err(Error::bad("max_length must be at least 1"));
    }
    let prepared = model::resolve(call.app, caller, Purpose::Text, None);
    request.run(prepared, |model| {
        let chat = chat_request(text, max_length);
        let reply = model.block_in_place(|| complete(&model, &chat, &StopConditions::default()))??;
        let usage = ModelUsage {
            model: model.name().to_owned(),
            units: reply.units,
            estimated: reply.estimated,
            latency_micros: reply.latency_micros,
        };
        if let Some(e) = reply.broken_off {
            return Ok(Outcome::PerModel(Err(e), vec![usage]));
        }
        let summary = reply.completions.first();
        let summary = summary.ok_or(Error::Upstream(502, "The model server sent an empty reply"))?;
        let response = Response::json(200, &json!({"generated_text": summary.text.trim()}));
        Ok(Outcome::Reply(mark_demo(response, reply.is_demo), usage))
    })
}

fn chat_request(text: &str, max_tokens: Option<i64>) -> Map<String, Value> {
    let messages = json!([{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": text}]);
    let mut request = Map::from_iter([("messages".to_owned(), messages), ("temperature".to_owned(), json!(0.2))]);
    if let Some(tokens) = max_tokens {
        request.insert("max_tokens".to_owned(), tokens.into());
    }
    request
}
