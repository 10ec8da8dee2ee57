//! Routes whose reply comes in one piece and is passed on unchanged, and whose charge is read from both the request and
//! the reply: images, reranking and moderation.

use crate::auth::Caller;
use crate::blocking::unwatched;
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::engine::UpstreamRequest;
use crate::error::Result;
use crate::http::object::Object;
use crate::http::{Content, Response};
use crate::protocol::failure;
use crate::units::Units;

use super::body::{fill_in_deployment, json_object};
use super::charged::{ChargedRequest, ModelUsage, Outcome};
use super::reply_kind::{disguised_failure, is_event_stream, not_json};
use super::{MAX_JSON_BODY, MAX_REPLY, model, response_typed_as, unread_reply, worst_case};

/// A route of this kind.
pub struct WholeRoute {
    /// What it wants of a model.
    pub purpose: Purpose,
    /// The model server's path.
    pub upstream_path: &'static str,
    /// Checks the fields: 400 for what is missing, invalid or not supported.
    pub check: fn(&Object<'_>) -> Result<()>,
    /// The most that a request can use, which is set aside of budgets.
    pub most: fn(&Object<'_>, &ResolvedModel) -> Units,
    /// What a request and its reply used.
    pub used: fn(&Object<'_>, &[u8]) -> Used,
}

/// What a request has used.
pub struct Used {
    /// What to charge.
    pub units: Units,
    /// Whether that rests on an estimate.
    pub estimated: bool,
}

/// Handles a request to such a route. A client that leaves does not end the call, as nothing is known of the reply before
/// its end.
///
/// # Errors
/// As [`ChargedRequest::read`] and [`ChargedRequest::run`]; 400 for a body that is invalid; 404 for an unknown model;
/// what the model server refuses; 502, 503 or 504 if it fails.
pub fn pass(call: &mut Call<'_>, caller: &Caller, route: &WholeRoute) -> Result<Response> {
    let (request, body) = ChargedRequest::read(call, caller, route.purpose, MAX_JSON_BODY)?;
    let mut object = json_object(&body)?;
    fill_in_deployment(call, &mut object);
    let prepared =
        (route.check)(&object).and_then(|()| model::resolve_in(call.app, caller, route.purpose, &mut object));
    request.run(prepared, |model| {
        worst_case::set_aside(&model, || (route.most)(&object, &model))?;
        let ask = UpstreamRequest::json(route.upstream_path, &[], &object);
        send(&model, ask, |reply| (route.used)(&object, reply))
    })
}

/// Sends a request, and reads its reply to the end. `used` says what it used.
///
/// # Errors
/// What the model server refuses; 502, 503 or 504 if it fails.
pub fn send(model: &ResolvedModel, ask: UpstreamRequest<'_>, used: impl FnOnce(&[u8]) -> Used) -> Result<Outcome> {
    let send = || {
        let mut reply = model.send(ask)?.successful()?;
        if is_event_stream(&reply)? {
            return Err(not_json());
        }
        match reply.read_all(MAX_REPLY, 0) {
            Ok(bytes) => Ok((reply, Ok(bytes))),
            Err(e) => Ok((reply, Err(e.into_unread()?))),
        }
    };
    let (reply, read) = model.block_in_place(|| unwatched(send))??;
    let (name, latency_micros) = (model.name().to_owned(), reply.latency_micros());
    let usage = |Used { units, estimated }| ModelUsage { model: name, units, estimated, latency_micros };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(unread) => return Ok(unread_reply::refuse(&unread, usage(used(&unread_reply::rest_of(&unread))))),
    };
    if let Some(message) = failure::message(&bytes) {
        return Err(disguised_failure(&message));
    }
    let usage = usage(used(&bytes));
    let mut response = response_typed_as(&reply);
    response.content = Content::Bytes(bytes.into());
    Ok(Outcome::Reply(response, usage))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Checks that each of these requests is refused with words that contain these.
    pub(crate) fn assert_refused(check: fn(&Object<'_>) -> Result<()>, cases: &[(&str, &str)]) {
        for (json, words) in cases {
            let request = Object::parse(json.as_bytes()).unwrap();
            assert!(check(&request).is_err_and(|e| e.to_string().contains(words)), "{json}");
        }
    }
}
