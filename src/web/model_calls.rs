//! Calls of models from the playground's forms, charged like those of the API.

use serde_json::{Value, json};

use super::Answer;
use crate::auth::Caller;
use crate::blocking::{Wait, block_in_place};
use crate::call::Call;
use crate::catalogue::Purpose;
use crate::error::{Error, Result};
use crate::gateway::body::form_fields;
use crate::gateway::charged::{ChargedRequest, ModelUsage, Outcome};
use crate::gateway::proxy::{ProxiedRoute, proxy};
use crate::gateway::usage_counter::ChargeBasis;
use crate::gateway::{model, response_typed_as, speech, unread_reply};
use crate::http::form::FORM_LIMIT;
use crate::http::{Body, Content};

pub(super) const CHAT: &str = "/v1/chat/completions";

/// Sends a chat `request` to the model server, in the place of the call's own body; returns the text of the reply once
/// it is charged.
///
/// # Errors
/// As [`proxy`].
pub(super) fn chat(call: &mut Call<'_>, caller: &Caller, request: &Value) -> Result<String> {
    call.request.body = Body::from_bytes(request.to_string().into_bytes());
    let (purpose, basis) = (Purpose::Text, ChargeBasis::Text);
    let route = ProxiedRoute { purpose, upstream_path: CHAT, basis, prompt_field: "messages" };
    let response = proxy(call, caller, route, |_, _| Ok(()))?;
    let response = block_in_place(Wait::Database, || response.wait())?;
    if response.status.as_u16() != 200 {
        return Err(Error::Busy);
    }
    let Content::Bytes(bytes) = &response.content else {
        return Err(Error::Upstream(502, "The model server's reply cannot be shown"));
    };
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    Ok(value["choices"][0]["message"]["content"].as_str().unwrap_or("").to_owned())
}

/// Speaks the `input` of a form, optionally with a `voice`. The `disposition` says what a browser does with the audio.
///
/// # Errors
/// As [`chat`].
pub(super) fn speak(call: &mut Call<'_>, caller: &Caller, disposition: &'static str) -> Answer {
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Speech, FORM_LIMIT)?;
    let fields = form_fields(call.request, &body)?;
    let (input, voice) = (fields.text("input")?.trim(), fields.optional_text("voice")?.unwrap_or("").trim());
    if input.is_empty() {
        return Err(Error::bad("Enter some text"));
    }
    let prepared = model::resolve(call.app, caller, Purpose::Speech, None);
    request.run(prepared, |resolved| {
        let model = resolved.name().to_owned();
        let voice = if voice.is_empty() { "af" } else { voice };
        let request = json!({"model": model, "input": input, "voice": voice, "response_format": "wav"});
        let (reply, audio) = speech::synthesize(&resolved, &request)?;
        let usage =
            ModelUsage { model, units: speech::units(input), estimated: false, latency_micros: reply.latency_micros() };
        let audio = match audio {
            Ok(audio) => audio,
            Err(unread) => return Ok(unread_reply::refuse(&unread, usage)),
        };
        let mut response = response_typed_as(&reply).header("Content-Disposition", disposition);
        response.content = Content::Bytes(audio.into());
        Ok(Outcome::Reply(response, usage))
    })
}
