//! OpenAI's JSON routes: the request is passed on unchanged but for what it lacks, and so is the reply.

use std::time::Instant;

use crate::auth::Caller;
use crate::blocking::unwatched;
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::engine::{ReadError, Reply, UNREFUSED, Unread, UpstreamRequest};
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::http::{Content, Response};
use crate::memory_budget;
use crate::protocol::json_walk;

use super::body::{fill_in_deployment, json_object};
use super::charged::{ChargedRequest, ModelUsage, Outcome};
use super::estimate::{KeptPrompt, Prompt};
use super::event_stream::EventStream;
use super::live_reply;
use super::model;
use super::output_limit::OutputLimit;
use super::reply_format::ReplyFormat;
use super::reply_kind::is_event_stream;
use super::stream_usage::{UsageFilter, UsageShown, request_usage};
use super::unread_reply;
use super::usage_counter::{ChargeBasis, UsageCounter};
use super::worst_case::{self, SetAside};
use super::{MAX_JSON_BODY, MAX_REPLY, mark_demo, response_typed_as};

/// The least bytes that the vector of an input takes in a reply, but for the shortest vectors.
const EMBEDDING: usize = 8 * 1024;

/// A route that is passed on to a model server.
pub struct ProxiedRoute {
    /// What it wants of a model.
    pub purpose: Purpose,
    /// The model server's path.
    pub upstream_path: &'static str,
    /// How its replies are charged.
    pub basis: ChargeBasis,
    /// The field that holds the prompt.
    pub prompt_field: &'static str,
}

/// Handles a request to such a route. `prepare` checks the fields and fills in those that are missing.
///
/// # Errors
/// As [`ChargedRequest::read`] and [`ChargedRequest::run`]; those of `prepare`; 400 for a body that is invalid; 404 for
/// an unknown model; what the model server refuses; 502, 503 or 504 if it fails.
pub fn proxy(
    call: &mut Call<'_>,
    caller: &Caller,
    route: ProxiedRoute,
    prepare: impl FnOnce(&Call<'_>, &mut Object<'_>) -> Result<()>,
) -> Result<Response> {
    let (request, body) = ChargedRequest::read(call, caller, route.purpose, MAX_JSON_BODY)?;
    let mut object = json_object(&body)?;
    fill_in_deployment(call, &mut object);
    let prepared =
        prepare(call, &mut object).and_then(|()| model::resolve_in(call.app, caller, route.purpose, &mut object));
    request.run(prepared, |model| {
        forward(&model, &route, &mut object, None)?.into_outcome(&body, &object, route.prompt_field)
    })
}

/// What a request is sent with that came in the Responses or the Messages protocol, even if it was translated to a chat.
pub(super) struct ClientProtocol<'w> {
    /// Headers of the protocol.
    pub(super) headers: &'w [(&'static str, String)],
    /// What becomes of the reply.
    pub(super) format: ReplyFormat,
    /// What is set aside for the request, which may be sent again in another protocol.
    pub(super) set_aside: &'w mut SetAside,
    /// Whether the reply is read to its end even if the client leaves, since only its numbers tell how long the prompt was.
    pub(super) reads_to_end: bool,
}

/// A reply whose body was not read yet.
pub(super) struct Pending {
    model: ResolvedModel,
    reply: Reply,
    counter: UsageCounter,
    format: ReplyFormat,
    limit: Option<OutputLimit>,
    reads_to_end: bool,
    /// Bytes that are reserved for it already.
    reserved: usize,
}

/// What became of a request.
#[allow(clippy::large_enum_variant)] // It is returned once, and nearly always the larger one.
pub(super) enum Forwarded {
    /// The reply has begun.
    Reply(Pending),
    /// The client has left before, and this is to be charged.
    Cut(ModelUsage),
}

/// Sends a request. Without a `protocol`, it is one that is passed on in OpenAI's older protocols.
///
/// # Errors
/// As [`proxy`].
pub(super) fn forward(
    model: &ResolvedModel,
    route: &ProxiedRoute,
    object: &mut Object<'_>,
    mut protocol: Option<ClientProtocol<'_>>,
) -> Result<Forwarded> {
    let wants_stream = matches!(route.basis, ChargeBasis::Text) && object.read::<bool>("stream") == Some(true);
    let (choices, prompts) = choices(object, route.prompt_field);
    let asks_for_usage = wants_stream && protocol.as_ref().is_none_or(|protocol| protocol.format.is_of_chat());
    let shown = if asks_for_usage { request_usage(object) } else { UsageShown::AsSent };
    let (mut own, mut reserved) = (SetAside::default(), 0);
    let most_tokens = match &route.basis {
        ChargeBasis::Text => {
            let set_aside = protocol.as_mut().map_or(&mut own, |protocol| &mut *protocol.set_aside);
            set_aside.text(model, object, route.prompt_field, choices)?
        }
        ChargeBasis::Embeddings => {
            worst_case::set_aside_embeddings(model, object)?;
            reserved = reserve_embeddings(object, route.prompt_field)?;
            None
        }
        // Recordings are not passed on as JSON.
        ChargeBasis::Audio(_) => None,
    };
    let limit = most_tokens.map(OutputLimit::new);
    let counter = UsageCounter::new(route.basis.clone()).expecting(choices, prompts);
    let headers = protocol.as_ref().map_or(&[][..], |protocol| protocol.headers);
    let ask = UpstreamRequest::json(route.upstream_path, headers, object);
    let send = || model.send(ask).and_then(Reply::successful);
    // Only a stream tells, piece by piece, what was made. Of a reply in one piece nothing is known before its end.
    let began = Instant::now();
    let reads_to_end = protocol.as_ref().is_some_and(|protocol| protocol.reads_to_end);
    match model.block_in_place(|| if wants_stream && !reads_to_end { send() } else { unwatched(send) })? {
        // The model server has the prompt, and may have read it.
        Err(Error::ClientLeftModel) => {
            let units = counter.units(|| Prompt::of_request(object, route.prompt_field).tokens());
            let latency_micros = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX);
            let model = model.name().to_owned();
            Ok(Forwarded::Cut(ModelUsage { model, units, estimated: true, latency_micros }))
        }
        reply => {
            let format =
                protocol.map_or_else(|| ReplyFormat::Plain(UsageFilter::new(shown)), |protocol| protocol.format);
            let model = model.clone();
            Ok(Forwarded::Reply(Pending { model, reply: reply?, counter, format, limit, reads_to_end, reserved }))
        }
    }
}

impl Forwarded {
    /// Passes the reply on. The prompt of the request stands in this field of its body, and of the object that was sent.
    ///
    /// # Errors
    /// 502 for a reply that is not as it should be, or an error.
    pub(super) fn into_outcome(self, body: &[u8], object: &Object<'_>, prompt_field: &'static str) -> Result<Outcome> {
        match self {
            Forwarded::Cut(usage) => Ok(Outcome::PerModel(Err(Error::ClientLeft), vec![usage])),
            Forwarded::Reply(pending) if is_event_stream(&pending.reply)? => {
                Ok(pending.into_stream(KeptPrompt::new(body, prompt_field)))
            }
            Forwarded::Reply(pending) => pending.read(|| Prompt::of_request(object, prompt_field).tokens()),
        }
    }
}

impl Pending {
    /// Passes a stream on.
    fn into_stream(self, prompt: KeptPrompt) -> Outcome {
        let Pending { model, reply, counter, format, limit, reads_to_end, .. } = self;
        let model = model.name().to_owned();
        EventStream { limit, reads_to_end, ..EventStream::new(model, reply, counter, prompt, format) }.into_outcome()
    }

    /// Reads a reply in one piece. One that cannot be passed on is charged nevertheless, if the model has made something.
    fn read(self, prompt_tokens: impl FnOnce() -> usize) -> Result<Outcome> {
        let Pending { model, mut reply, mut counter, mut format, limit, reserved, .. } = self;
        let all = model.block_in_place(|| unwatched(|| reply.read_all(MAX_REPLY, reserved)))?;
        let all = all.and_then(|bytes| reserve_copies(&bytes, &format, &counter).map(|()| bytes));
        let all = match all {
            Err(ReadError::NoMemory(unread)) => {
                unread_reply::count(&unread, &mut counter);
                let (units, estimated) = (counter.units(prompt_tokens), counter.is_estimate());
                let units = limit.map_or(units, |limit| limit.cap(units));
                reply.note_tokens(&units);
                let (model, latency_micros) = (model.name().to_owned(), reply.latency_micros());
                return Ok(unread_reply::refuse(&unread, ModelUsage { model, units, estimated, latency_micros }));
            }
            all => all,
        };
        let is_unreadable = matches!(all, Err(ReadError::TooLong));
        let read = all.map_err(Error::from).and_then(|bytes| format.read_whole(&bytes, &mut counter).map(|()| bytes));
        match read {
            Err(e) if counter.is_empty() && !is_unreadable => return Err(e),
            _ => live_reply::note_hidden_output(&mut counter, &reply, model.name(), false),
        }
        let (units, estimated) = (counter.units(prompt_tokens), counter.is_estimate());
        reply.note_tokens(&units);
        let usage = |units| ModelUsage {
            model: model.name().to_owned(),
            units,
            estimated,
            latency_micros: reply.latency_micros(),
        };
        let media_type = format.media_type();
        match read.and_then(|bytes| format.whole(bytes, &units)) {
            Ok(bytes) => {
                let mut response = match media_type {
                    Some(media_type) => mark_demo(Response::new(200).header("Content-Type", media_type), reply.is_demo),
                    None => response_typed_as(&reply),
                };
                response.content = Content::Bytes(bytes.into());
                Ok(Outcome::Reply(response, usage(units)))
            }
            Err(e) => Ok(Outcome::PerModel(Err(e), vec![usage(units)])),
        }
    }
}

/// Reserves what the reply to so many inputs takes at the least, if that is much. Returns how much that is.
fn reserve_embeddings(object: &Object<'_>, prompt_field: &str) -> Result<usize> {
    let expected = prompts(object, prompt_field).saturating_mul(EMBEDDING);
    if expected <= UNREFUSED {
        return Ok(0);
    }
    memory_budget::reserve(expected)?;
    Ok(expected)
}

/// Reserves what a long reply takes beside its bytes, when it is read and translated.
fn reserve_copies(bytes: &[u8], format: &ReplyFormat, counter: &UsageCounter) -> std::result::Result<(), ReadError> {
    let copies = match format {
        ReplyFormat::Translated(_) => 4,
        _ if counter.is_text() => 1,
        _ => 0,
    };
    if bytes.len() <= UNREFUSED {
        return Ok(());
    }
    memory_budget::reserve(bytes.len().saturating_mul(copies))
        .map_err(|refused| ReadError::NoMemory(Unread::of(bytes, refused)))
}

/// How many choices a request asks for, and how many prompts it has.
fn choices(object: &Object<'_>, prompt_field: &str) -> (usize, usize) {
    let each = object.read::<usize>("n").unwrap_or(1);
    // The messages of a chat are one prompt.
    let prompts = if prompt_field == "prompt" { prompts(object, prompt_field) } else { 1 };
    (each.saturating_mul(prompts), prompts)
}

/// How many prompts or inputs this field has: a list of numbers is one. They are counted without a copy of them.
pub fn prompts(object: &Object<'_>, field: &str) -> usize {
    let mut count = 0;
    if let Some(list) = object.get(field) {
        json_walk::each_element(list, |element| count += usize::from(element.get().starts_with(['"', '[', '{'])));
    }
    count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_counted() {
        for (value, count) in [
            (r#""a""#, 1),
            ("[]", 1),
            (r#"["a"]"#, 1),
            (r#"[ "a", "b","c"]"#, 3),
            ("[1,2,3]", 1),
            ("[[1,2],[3]]", 2),
            (r#"[{"text":"a"},{"text":"b"}]"#, 2),
            ("null", 1),
        ] {
            let body = format!(r#"{{"input":{value}}}"#);
            assert_eq!(prompts(&Object::parse(body.as_bytes()).unwrap(), "input"), count, "{value}");
        }
    }
}
