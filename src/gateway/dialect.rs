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
use crate::protocol::json_walk;
use crate::protocol::native::NativeReader;
use crate::protocol::shape::Found;
use crate::protocol::strict;
use crate::protocol::translate::{self, ReplyTranslator, Translated};
use crate::usage::new_id;

use super::MAX_JSON_BODY;
use super::charged::ChargedRequest;
use super::dialect_body::{check_caches, dialect_object};
use super::model;
use super::proxy::{ClientProtocol, Forwarded, ProxiedRoute, forward};
use super::reply_format::ReplyFormat;
use super::usage_counter::ChargeBasis;
use super::worst_case::SetAside;

/// The version of the Messages protocol for clients that name none. Servers require one.
const MESSAGES_VERSION: &str = "2023-06-01";
/// Most characters of what a client wrote that are repeated to it.
const MAX_SHOWN: usize = 100;
/// Most bytes of a header that is passed on.
const MAX_HEADER: usize = 1024;

/// A request as a chat, and what translates its reply.
struct AsChat {
    chat: Object<'static>,
    reply: Box<ReplyTranslator>,
}

/// Answers a request in this protocol.
///
/// # Errors
/// As [`proxy`](super::proxy::proxy); 400 for what cannot be had or cannot be translated, naming the field.
pub fn answer(call: &mut Call<'_>, caller: &Caller, dialect: Dialect) -> Result<Response> {
    let headers = headers(call.request, dialect)?;
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Text, MAX_JSON_BODY)?;
    let (mut object, found) = dialect_object(dialect, &body)?;
    let prepared = prepare(call, caller, dialect, &mut object, found);
    let prompt_field = dialect.prompt_field();
    request.run(prepared, |model| {
        let asked = Asked { dialect, has_document: found.has_document };
        let mut set_aside = SetAside::default();
        let forwarded = match model.protocol() {
            Protocol::Chat => asked.for_chat(&model, translate(dialect, &object, &model)?, &mut set_aside)?,
            _ => asked.natively(&model, &mut object, &headers, &mut set_aside)?,
        };
        forwarded.into_outcome(&body, &object, prompt_field)
    })
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Asked {
    dialect: Dialect,
    has_document: bool,
}

impl Asked {
    /// Asks in the client's protocol; and for a chat, where that may help.
    fn natively(
        self,
        model: &ResolvedModel,
        object: &mut Object<'_>,
        headers: &[(&'static str, String)],
        set_aside: &mut SetAside,
    ) -> Result<Forwarded> {
        let format = ReplyFormat::Native(Box::new(NativeReader::new(self.dialect)));
        let protocol = ClientProtocol { headers, format, set_aside, reads_to_end: self.has_document };
        let route = route(self.dialect.path(), self.dialect.prompt_field());
        let failure = match forward(model, &route, object, Some(protocol)) {
            Err(failure) => failure,
            forwarded => return forwarded,
        };
        let Some(model) = model.asked_in(Protocol::Chat).filter(|_| may_chat_help(model, &failure)) else {
            return Err(failure);
        };
        match translate(self.dialect, object, &model) {
            Ok(translated) => {
                log::info!("a request in the protocol of {} is translated: {failure}", self.dialect.path());
                self.for_chat(&model, translated, set_aside)
            }
            Err(_) => Err(failure),
        }
    }

    fn for_chat(self, model: &ResolvedModel, translated: AsChat, set_aside: &mut SetAside) -> Result<Forwarded> {
        let AsChat { mut chat, reply } = translated;
        let format = ReplyFormat::Translated(reply);
        let protocol = ClientProtocol { headers: &[], format, set_aside, reads_to_end: self.has_document };
        forward(model, &route("/v1/chat/completions", "messages"), &mut chat, Some(protocol))
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

fn route(upstream_path: &'static str, prompt_field: &'static str) -> ProxiedRoute {
    ProxiedRoute { purpose: Purpose::Text, upstream_path, basis: ChargeBasis::Text, prompt_field }
}

/// Finds the model that a request names, to be asked for a chat if none of its providers speaks the protocol.
fn prepare(
    call: &Call<'_>,
    caller: &Caller,
    dialect: Dialect,
    object: &mut Object<'_>,
    found: Found,
) -> Result<ResolvedModel> {
    let wanted = (Purpose::Text, &[protocol(dialect), Protocol::Chat][..]);
    let model = model::resolve_named(call.app, caller, wanted, object)?;
    if model.protocol() != Protocol::Chat {
        check_caches(found)?;
        if dialect == Dialect::Responses {
            // What is stored would belong to all accounts of this provider.
            object.set("store", &false);
        }
        model.limit_output(object)?;
    }
    Ok(model)
}

/// The request as a chat that asks for no more than the model may make.
fn translate(dialect: Dialect, object: &Object<'_>, model: &ResolvedModel) -> Result<AsChat> {
    let bytes = object.to_bytes();
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::bad("The body is not UTF-8"))?;
    if let Some(number) = strict::long_integer(text) {
        let number: String = number.chars().take(MAX_SHOWN).collect();
        return Err(Error::bad(format!(
            "{number} has more than 64 bits, which cannot be translated: send it as a string"
        )));
    }
    // What is parsed of it, and once more what is made of that. The bytes themselves are held here and as the chat.
    let parsed = json_walk::held(text).saturating_mul(2);
    let is_parsed_reserved = memory_budget::reserve_if_large(parsed)?;
    memory_budget::reserve_if_large(bytes.len().saturating_mul(2))?;
    let chat = as_chat(dialect, &bytes, model);
    if is_parsed_reserved {
        memory_budget::release(parsed);
    }
    chat
}

fn as_chat(dialect: Dialect, bytes: &[u8], model: &ResolvedModel) -> Result<AsChat> {
    let request = serde_json::from_slice(bytes).map_err(|e| Error::bad(format!("The body: {e}")))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let Translated { chat, reply } =
        translate::to_chat(dialect, request, &new_id(), now).map_err(|refusal| Error::bad(refusal.0))?;
    let mut chat = Object::of(&chat.into());
    model.limit_output(&mut chat)?;
    Ok(AsChat { chat, reply: Box::new(reply) })
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
