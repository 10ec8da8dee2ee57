//! The Responses and the Messages protocol. A provider that speaks the client's protocol gets the request as it came, but
//! for the model's name and the bound on its output.

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::Purpose;
use crate::engine::Protocol;
use crate::error::{Error, Result};
use crate::http::{Request, Response};
use crate::protocol::dialect::Dialect;
use crate::protocol::native::NativeReader;

use super::MAX_JSON_BODY;
use super::charged::ChargedRequest;
use super::dialect_body::dialect_object;
use super::model;
use super::passage::Passage;
use super::proxy::{ProxiedRoute, Wire, forward};
use super::usage_counter::ChargeBasis;

/// The version of the Messages protocol for clients that name none. Servers require one.
const MESSAGES_VERSION: &str = "2023-06-01";
/// Most bytes of a header that is passed on.
const MAX_HEADER: usize = 1024;

/// Answers a request in this protocol.
///
/// # Errors
/// As [`proxy`](super::proxy::proxy); 400 for what cannot be had, naming the field.
pub fn answer(call: &mut Call<'_>, caller: &Caller, dialect: Dialect) -> Result<Response> {
    let headers = headers(call.request, dialect)?;
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Text, MAX_JSON_BODY)?;
    let mut object = dialect_object(dialect, &body)?;
    let wanted = (Purpose::Text, &[protocol(dialect)][..]);
    let prepared = model::resolve_named(call.app, caller, wanted, &mut object).and_then(|model| {
        if dialect == Dialect::Responses {
            // What is stored would belong to all accounts of this provider.
            object.set("store", &false);
        }
        model.limit_output(&mut object)?;
        Ok(model)
    });
    let (upstream_path, prompt_field) = (dialect.path(), dialect.prompt_field());
    let route = ProxiedRoute { purpose: Purpose::Text, upstream_path, basis: ChargeBasis::Text, prompt_field };
    request.run(prepared, |model| {
        let wire = Wire { headers: &headers, passage: Passage::Native(NativeReader::new(dialect)) };
        forward(&model, &route, &mut object, Some(wire))?.into_outcome(&body, &object, prompt_field)
    })
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
