//! Bodies of charged requests. They must mean one thing only: what is charged must be what is done.

use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::call::Call;
use crate::engine::Protocol;
use crate::error::{Error, Result};
use crate::http::Request;
use crate::http::form::{FORM_LIMIT, Fields};
use crate::http::object::Object;
use crate::memory_budget;
use crate::protocol::strict;

/// The fields that decide what a request costs.
const CHARGED_FIELDS: [&str; 18] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "messages",
    "prompt",
    "input",
    "instructions",
    "system",
    "tools",
    "store",
    "previous_response_id",
    "file",
    "response_format",
];

/// Fields of some model servers by which a client would choose another model, another price or a longer reply than the
/// ones it is charged for. The servers of hosted models, LiteLLM, OpenRouter and llama.cpp know them.
const REFUSED_FIELDS: [&str; 26] = [
    "allow_fallbacks",
    "api_base",
    "api_key",
    "base_url",
    "context_window_fallback_dict",
    "custom_llm_provider",
    "enable_search",
    "extra_body",
    "fallbacks",
    "lora_path",
    "max_new_tokens",
    "mock_response",
    "model_list",
    "models",
    "n_predict",
    "num_predict",
    "plugins",
    "provider",
    "route",
    "router_settings_override",
    "search_options",
    "search_parameters",
    "t_max_predict_ms",
    "user_config",
    "web_search",
    "web_search_options",
];

/// The kinds of tools that a client runs. What others cost, such as searches by the model server, is in no usage numbers.
const CLIENT_TOOLS: [&str; 2] = ["function", "custom"];

/// The service tiers that cost no more than the usual one.
const USUAL_TIERS: [&str; 4] = ["auto", "default", "flex", "standard_only"];

/// Checks that a field, of a JSON object or of a form, does not choose another model or price than the charged one.
/// `text` returns its value if that is a text.
///
/// # Errors
/// 400 that names the field.
pub fn check_field(name: &str, text: impl FnOnce() -> Option<String>) -> Result<()> {
    let is = |known: &&str| name.eq_ignore_ascii_case(known);
    if REFUSED_FIELDS.iter().any(is) {
        let name: String = name.to_ascii_lowercase();
        return Err(Error::bad(format!("The field {name} is not supported")));
    }
    if is(&"service_tier") && !text().is_some_and(|tier| USUAL_TIERS.contains(&&*tier)) {
        return Err(Error::bad(format!("service_tier must be one of {}", USUAL_TIERS.join(", "))));
    }
    Ok(())
}

/// Checks that the name of a field is not that of a charged one in another case, which some servers treat as equal.
///
/// # Errors
/// 400 that names the field.
pub fn check_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<()> {
    strict::confusable(names, &CHARGED_FIELDS).map_or(Ok(()), |name| {
        let name: String = name.chars().take(100).collect();
        Err(Error::bad(format!("The field {name:?} is written in another case than the protocol has it")))
    })
}

/// A JSON object that is passed on to a model server, which is to run no tools of its own.
///
/// # Errors
/// 400 for one that is not valid, or that the model server could read otherwise than textgen does.
pub fn json_object(body: &[u8]) -> Result<Object<'_>> {
    let mut object = charged_object(body)?;
    check_tools(&mut object)?;
    Ok(object)
}

/// A JSON object that is passed on to a model server. Its tools are not checked.
///
/// # Errors
/// As [`json_object`].
pub(super) fn charged_object(body: &[u8]) -> Result<Object<'_>> {
    // For the copy that is sent.
    memory_budget::reserve_if_large(body.len())?;
    let mut object = Object::parse(body).map_err(Error::bad)?;
    check_unambiguous(body)?;
    check_names(object.names())?;
    is_given(&mut object, "service_tier");
    for name in object.names() {
        check_field(name, || object.text(name))?;
    }
    if object.has("stream") && object.read::<bool>("stream").is_none() {
        return Err(Error::bad("stream must be true or false"));
    }
    check_amounts(&mut object)?;
    Ok(object)
}

/// Names the model that the path names, if the body names none.
pub fn fill_in_deployment(call: &Call<'_>, object: &mut Object<'_>) {
    if let Some(name) = call.deployment.as_ref().filter(|_| !object.has("model")) {
        object.set("model", name);
    }
}

/// Checks that a model server is to run no tools of its own.
fn check_tools(object: &mut Object<'_>) -> Result<()> {
    if !is_given(object, "tools") {
        return Ok(());
    }
    match object.read::<Tools>("tools") {
        Some(Tools { other: None, .. }) => Ok(()),
        Some(Tools { other: Some(place), .. }) => {
            Err(Error::bad(format!("tools[{place}].type must be one of {}", CLIENT_TOOLS.join(", "))))
        }
        None => Err(Error::bad("tools must be a list of objects, each with a type")),
    }
}

/// A list of tools, of which none is kept.
#[derive(Default)]
pub(super) struct Tools {
    /// How many there are.
    pub(super) count: usize,
    /// The place of the first one that the request does not describe itself, and how many of these there are.
    other: Option<usize>,
    pub(super) others: usize,
}

impl<'de> Deserialize<'de> for Tools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Tools, D::Error> {
        #[derive(Deserialize)]
        struct Tool {
            #[serde(rename = "type")]
            kind: Option<String>,
        }

        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Tools;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tools")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Tools, A::Error> {
                let mut tools = Tools::default();
                while let Some(tool) = seq.next_element::<&RawValue>()? {
                    if !tool.get().starts_with('{') {
                        return Err(A::Error::custom("a tool is an object"));
                    }
                    let Tool { kind } = serde_json::from_str(tool.get()).map_err(A::Error::custom)?;
                    if kind.is_some_and(|kind| !CLIENT_TOOLS.contains(&&*kind)) {
                        tools.other = tools.other.or(Some(tools.count));
                        tools.others += 1;
                    }
                    tools.count += 1;
                }
                Ok(tools)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Most choices that a request may ask for.
const MAX_CHOICES: u64 = 128;

/// Numbers that decide what a request costs are whole, so that every model server reads them alike. Null is no number, and
/// is left out.
fn check_amounts(object: &mut Object<'_>) -> Result<()> {
    let is_count = |object: &Object<'_>, name| object.read::<u64>(name).is_some_and(|n| n <= MAX_CHOICES);
    let is_whole = |object: &Object<'_>, name| object.read::<i64>(name).is_some();
    for name in ["n", "best_of"] {
        if is_given(object, name) && !is_count(object, name) {
            return Err(Error::bad(format!("{name} must be a whole number of at most {MAX_CHOICES}")));
        }
    }
    // Some servers count only the choices that they return.
    if object.read::<u64>("best_of").is_some_and(|best_of| best_of > object.read::<u64>("n").unwrap_or(1)) {
        return Err(Error::bad("best_of must not be larger than n"));
    }
    for name in Protocol::OUTPUT_LIMITS {
        if is_given(object, name) && !is_whole(object, name) {
            return Err(Error::bad(format!("{name} must be a whole number")));
        }
    }
    Ok(())
}

/// Checks that a field is not given, is null, or is one of these texts.
///
/// # Errors
/// 400 that names the field and what it may be.
pub fn check_choice(object: &Object<'_>, name: &'static str, known: &[&str]) -> Result<()> {
    let is_known = || object.text(name).is_some_and(|text| known.contains(&&*text));
    if !object.has(name) || is_null(object, name) || is_known() {
        return Ok(());
    }
    Err(Error::bad(format!("{name} must be {}{}", if known.len() > 1 { "one of " } else { "" }, known.join(", "))))
}

/// Whether a field is given. Null is taken out.
pub(super) fn is_given(object: &mut Object<'_>, name: &'static str) -> bool {
    if is_null(object, name) {
        object.remove(name);
    }
    object.has(name)
}

fn is_null(object: &Object<'_>, name: &str) -> bool {
    object.get(name).is_some_and(|value| value.get().trim() == "null")
}

/// The fields of a JSON object.
///
/// # Errors
/// 400 for one that is not valid or has a name twice.
pub fn json_fields(body: &[u8]) -> Result<Fields> {
    let fields = Fields::parse_json(body)?;
    check_unambiguous(body)?;
    Ok(fields)
}

/// The fields of a form, or of a JSON object, as the request's media type says.
///
/// # Errors
/// As [`json_fields`].
pub fn form_fields(request: &Request, body: &[u8]) -> Result<Fields> {
    let fields = Fields::parse_unique(request, body)?;
    if request.media_type() == "application/json" {
        check_unambiguous(body)?;
    }
    Ok(fields)
}

/// Checks that no object in a JSON body has a name twice.
///
/// # Errors
/// 400; 503 if there is no memory for that.
pub fn check_unambiguous(body: &[u8]) -> Result<()> {
    let body = std::str::from_utf8(body).map_err(|_| Error::bad("The body is not UTF-8"))?;
    let held = if body.len() > FORM_LIMIT { strict::held(body) } else { 0 };
    let is_reserved = memory_budget::reserve_if_large(held)?;
    let checked = strict::check(body).map_err(Error::bad);
    if is_reserved {
        memory_budget::release(held);
    }
    checked
}
