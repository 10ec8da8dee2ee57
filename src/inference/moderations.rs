//! Moderation: whether a text is harmful, in OpenAI's protocol.

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::error::{Error, Result};
use crate::gateway::estimate::Prompt;
use crate::gateway::whole_reply::{Used, WholeRoute, pass};
use crate::gateway::worst_case;
use crate::http::Response;
use crate::http::object::Object;
use crate::protocol::chunk::Numbers;
use crate::protocol::usage::Reported;
use crate::units::{Unit, Units, amount};

const MODERATIONS: WholeRoute =
    WholeRoute { purpose: Purpose::Moderations, upstream_path: "/v1/moderations", check, most, used };

/// `POST /v1/moderations`.
pub(super) fn moderate(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    pass(call, caller, &MODERATIONS)
}

fn check(request: &Object<'_>) -> Result<()> {
    match request.get("input").map(serde_json::value::RawValue::get) {
        None | Some("null") => Err(Error::bad("input is required")),
        Some(input) if input.starts_with(['"', '[']) => Ok(()),
        Some(_) => Err(Error::bad("input must be a string or a list")),
    }
}

fn most(request: &Object<'_>, _: &ResolvedModel) -> Units {
    Units::of([(Unit::PromptTokens, worst_case::most_tokens(request, "input")), (Unit::Requests, 1)])
}

fn used(request: &Object<'_>, reply: &[u8]) -> Used {
    let usage = serde_json::from_slice::<Numbers>(reply).ok().and_then(|numbers| numbers.usage);
    let reported = usage.as_ref().and_then(|usage| Reported::of(usage).input());
    let estimate = || amount(Prompt::of_request(request, "input").tokens());
    let units = Units::of([(Unit::PromptTokens, reported.unwrap_or_else(estimate)), (Unit::Requests, 1)]);
    Used { units, estimated: reported.is_none() }
}
