//! The Responses and the Messages protocol. A provider that speaks the client's protocol gets the request as it came, but
//! for the model's name and the bound on its output. For one that speaks only chat, it is translated, and so is the reply.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::engine::Protocol;
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::http::{Request, Response};
use crate::memory_budget;
use crate::protocol::dialect::Dialect;
use crate::protocol::native::NativeReader;
use crate::protocol::translate::{self, ReplyTranslator, Translated};
use crate::usage::new_id;

use super::MAX_JSON_BODY;
use super::charged::ChargedRequest;
use super::dialect_body::{check_caches, dialect_object};
use super::model;
use super::proxy::{ClientProtocol, Forwarded, ProxiedRoute, forward};
use super::reply_format::ReplyFormat;
use super::usage_counter::ChargeBasis;

/// The version of the Messages protocol for clients that name none. Servers require one.
const MESSAGES_VERSION: &str = "2023-06-01";
/// Most bytes of a header that is passed on.
const MAX_HEADER: usize = 1024;

/// A request whose model was found.
enum Prepared {
    /// The model is asked in the client's protocol.
    Native(ResolvedModel),
    /// The model is asked for a chat.
    Translated(ResolvedModel, Box<AsChat>),
}

/// A request as a chat, and what translates its reply.
struct AsChat {
    chat: Object<'static>,
    reply: Box<ReplyTranslator>,
}

impl AsChat {
    /// The same, asking for no more than the model may make.
    fn limited(mut self, model: &ResolvedModel) -> Result<AsChat> {
        model.limit_output(&mut self.chat)?;
        Ok(self)
    }
}

/// Answers a request in this protocol.
///
/// # Errors
/// As [`proxy`](super::proxy::proxy); 400 for what cannot be had or cannot be translated, naming the field.
pub fn answer(call: &mut Call<'_>, caller: &Caller, dialect: Dialect) -> Result<Response> {
    let headers = headers(call.request, dialect)?;
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Text, MAX_JSON_BODY)?;
    let mut object = dialect_object(dialect, &body)?;
    let prepared = prepare(call, caller, dialect, &mut object);
    let prompt_field = dialect.prompt_field();
    request.run(prepared, |prepared| {
        let forwarded = match prepared {
            Prepared::Native(model) => ask_native(&model, dialect, &mut object, &headers)?,
            Prepared::Translated(model, translated) => ask_for_chat(&model, *translated)?,
        };
        forwarded.into_outcome(&body, &object, prompt_field)
    })
}

/// Asks in the client's protocol; and for a chat, where that may help.
fn ask_native(
    model: &ResolvedModel,
    dialect: Dialect,
    object: &mut Object<'_>,
    headers: &[(&'static str, String)],
) -> Result<Forwarded> {
    let protocol = ClientProtocol { headers, format: ReplyFormat::Native(Box::new(NativeReader::new(dialect))) };
    let route = route(dialect.path(), dialect.prompt_field());
    let failure = match forward(model, &route, object, Some(protocol)) {
        Err(failure) => failure,
        forwarded => return forwarded,
    };
    let Some(model) = model.asked_in(Protocol::Chat).filter(|_| may_chat_help(model, &failure)) else {
        return Err(failure);
    };
    match translate(dialect, object).and_then(|translated| translated.limited(&model)) {
        Ok(translated) => {
            log::info!("a request in the protocol of {} is translated: {failure}", dialect.path());
            ask_for_chat(&model, translated)
        }
        Err(_) => Err(failure),
    }
}

/// Whether a model that could not be asked in the client's protocol may be asked for a chat: if its provider has no such
/// route, whatever the catalogue says; or if others have chats only.
fn may_chat_help(model: &ResolvedModel, failure: &Error) -> bool {
    match failure {
        Error::Relayed(relayed) if matches!(relayed.status, 404 | 405) => true,
        Error::Relayed(relayed) => matches!(relayed.status, 429 | 503) && model.has_others(Protocol::Chat),
        Error::Upstream(502, _) | Error::Busy => model.has_others(Protocol::Chat),
        _ => false,
    }
}

fn ask_for_chat(model: &ResolvedModel, mut translated: AsChat) -> Result<Forwarded> {
    let protocol = ClientProtocol { headers: &[], format: ReplyFormat::Translated(translated.reply) };
    forward(model, &route("/v1/chat/completions", "messages"), &mut translated.chat, Some(protocol))
}

fn route(upstream_path: &'static str, prompt_field: &'static str) -> ProxiedRoute {
    ProxiedRoute { purpose: Purpose::Text, upstream_path, basis: ChargeBasis::Text, prompt_field }
}

/// Finds the model that a request names, and translates the request if none of the model's providers speaks its protocol.
fn prepare(call: &Call<'_>, caller: &Caller, dialect: Dialect, object: &mut Object<'_>) -> Result<Prepared> {
    let wanted = (Purpose::Text, &[protocol(dialect), Protocol::Chat][..]);
    let model = model::resolve_named(call.app, caller, wanted, object)?;
    if model.protocol() != Protocol::Chat {
        check_caches(dialect, object)?;
        if dialect == Dialect::Responses {
            // What is stored would belong to all accounts of this provider.
            object.set("store", &false);
        }
        model.limit_output(object)?;
        return Ok(Prepared::Native(model));
    }
    let translated = translate(dialect, object)?.limited(&model)?;
    Ok(Prepared::Translated(model, Box::new(translated)))
}

fn translate(dialect: Dialect, object: &Object<'_>) -> Result<AsChat> {
    let bytes = object.to_bytes();
    // For what is parsed, and what is made of it.
    memory_budget::reserve_if_large(bytes.len().saturating_mul(2))?;
    let request = serde_json::from_slice(&bytes).map_err(|e| Error::bad(format!("The body: {e}")))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let Translated { chat, reply } =
        translate::to_chat(dialect, request, &new_id(), now).map_err(|refusal| Error::bad(refusal.0))?;
    Ok(AsChat { chat: Object::of(&chat.into()), reply: Box::new(reply) })
}

fn protocol(dialect: Dialect) -> Protocol {
    match dialect {
        Dialect::Responses => Protocol::Responses,
        Dialect::Messages => Protocol::Messages,
    }
}

/// The headers of the protocol, which are passed on.
///
/// # Errors
/// 400 for one that is too long, or holds what a header may not.
pub(super) fn headers(request: &Request, dialect: Dialect) -> Result<Vec<(&'static str, String)>> {
    if dialect == Dialect::Responses {
        return Ok(Vec::new());
    }
    let is_valid = |value: &str| value.len() <= MAX_HEADER && value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let given = |name: &'static str| match request.header(name) {
        Some(value) if is_valid(value) => Ok(Some((name, value.to_owned()))),
        Some(_) => Err(Error::bad(format!("{name} must be at most {MAX_HEADER} printable ASCII characters"))),
        None => Ok(None),
    };
    let version = given("anthropic-version")?.unwrap_or(("anthropic-version", MESSAGES_VERSION.to_owned()));
    Ok([Some(version), given("anthropic-beta")?].into_iter().flatten().collect())
}
