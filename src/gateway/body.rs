//! Bodies of charged requests. They must mean one thing only: what is charged must be what is done.

use crate::catalogue::OUTPUT_LIMITS;
use crate::error::{Error, Result};
use crate::http::Request;
use crate::http::form::Fields;
use crate::http::object::Object;
use crate::protocol::strict;

/// The fields that decide what a request costs.
const CHARGED_FIELDS: [&str; 10] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "best_of",
    "messages",
    "prompt",
    "input",
];

/// A JSON object that is passed on to a model server.
///
/// # Errors
/// 400 for one that is not valid, or that the model server could read otherwise than textgen does.
pub fn json_object(body: &[u8]) -> Result<Object<'_>> {
    let mut object = Object::parse(body).map_err(Error::bad)?;
    check_unambiguous(body)?;
    if let Some(name) = strict::confusable(object.names(), &CHARGED_FIELDS) {
        let name: String = name.chars().take(100).collect();
        return Err(Error::bad(format!("The field {name:?} is written in another case than the protocol has it")));
    }
    if object.has("stream") && object.read::<bool>("stream").is_none() {
        return Err(Error::bad("stream must be true or false"));
    }
    check_amounts(&mut object)?;
    Ok(object)
}

/// Most choices that a request may ask for.
const MAX_CHOICES: u64 = 128;

/// Numbers that decide what a request costs are whole, so that every model server reads them alike. Null is no number, and
/// is left out.
fn check_amounts(object: &mut Object<'_>) -> Result<()> {
    let is_count = |object: &Object<'_>, name| object.read::<u64>(name).is_some_and(|n| n <= MAX_CHOICES);
    let is_whole = |object: &Object<'_>, name| object.read::<i64>(name).is_some();
    for name in ["n", "best_of"] {
        if has_number(object, name) && !is_count(object, name) {
            return Err(Error::bad(format!("{name} must be a whole number of at most {MAX_CHOICES}")));
        }
    }
    for name in OUTPUT_LIMITS {
        if has_number(object, name) && !is_whole(object, name) {
            return Err(Error::bad(format!("{name} must be a whole number")));
        }
    }
    Ok(())
}

/// Whether a field is given. Null is taken out.
fn has_number(object: &mut Object<'_>, name: &'static str) -> bool {
    if object.get(name).is_some_and(|value| value.get().trim() == "null") {
        object.remove(name);
    }
    object.has(name)
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
/// 400.
pub fn check_unambiguous(body: &[u8]) -> Result<()> {
    let body = std::str::from_utf8(body).map_err(|_| Error::bad("The body is not UTF-8"))?;
    strict::check(body).map_err(Error::bad)
}
