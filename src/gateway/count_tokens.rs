//! Says how many tokens a conversation in the Messages protocol has. It is free, and counts against the limits of requests.

use serde_json::json;

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::engine::{COUNT_TOKENS, Protocol, Reply, UpstreamRequest};
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::http::{Content, Response};
use crate::protocol::dialect::Dialect;

use super::dialect::headers;
use super::dialect_body::dialect_object;
use super::estimate::Prompt;
use super::request_rate::RequestRate;
use super::{MAX_JSON_BODY, model, response_typed_as};

/// Most bytes of a model server's answer, which is one number.
const MAX_COUNT: usize = 64 * 1024;

/// Handles a request. A provider that speaks the protocol is asked; otherwise, and where that has no such route or does not
/// count now, the tokens are estimated.
///
/// # Errors
/// 400 for a body that is invalid; 404 for an unknown model; 429 if the rate limits do not admit it; what the model server
/// refuses as wrong.
pub fn answer(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let headers = headers(call.request, Dialect::Messages)?;
    call.app.models.check(Purpose::Text)?;
    let body = call.request.body.into_bytes(MAX_JSON_BODY)?;
    let (mut object, _) = dialect_object(Dialect::Messages, &body)?;
    let wanted = (Purpose::Text, &[Protocol::Messages, Protocol::Chat][..]);
    let model = model::resolve_named(call.app, caller, wanted, &mut object)?;
    let rate = RequestRate::of(caller, call.app.meter.limits().rates());
    if let Some(rate) = &rate {
        rate.admit()?;
    }
    if model.protocol() == Protocol::Messages
        && let Some(response) = ask(&model, &object, &headers)?
    {
        return Ok(response);
    }
    let tokens = Prompt::of_request(&object, Dialect::Messages.prompt_field()).tokens();
    Ok(Response::json(200, &json!({ "input_tokens": tokens })))
}

/// The model server's answer; `None` if it has no such route, or does not count now.
fn ask(model: &ResolvedModel, object: &Object<'_>, headers: &[(&'static str, String)]) -> Result<Option<Response>> {
    let ask = UpstreamRequest::json(COUNT_TOKENS, headers, object);
    let outcome = model.block_in_place(|| {
        let mut reply = model.send(ask).and_then(Reply::successful)?;
        let bytes = reply.read_all(MAX_COUNT, 0)?;
        Ok((response_typed_as(&reply), bytes))
    })?;
    match outcome {
        Ok((mut response, bytes)) => {
            response.content = Content::Bytes(bytes.into());
            Ok(Some(response))
        }
        Err(Error::Relayed(relayed)) if matches!(relayed.status, 404 | 405 | 429 | 500..) => Ok(None),
        Err(Error::Upstream(..) | Error::Busy) => Ok(None),
        Err(Error::ClientLeftModel) => Err(Error::ClientLeft),
        Err(e) => Err(e),
    }
}
