//! Which model a request means.

use crate::app::App;
use crate::auth::Caller;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::engine::{MAX_MODEL_NAME, Protocol, is_model_name};
use crate::error::{Error, Result};
use crate::http::object::Object;

/// The model of this name. Where a request names none, the default one, or the first that the caller may call. It
/// is recorded and charged under its own name, whichever of its names the request has.
///
/// # Errors
/// 400 for what cannot be a name, 404 for an unknown one or one that the caller may not call; 503 and 502 where
/// there is none that could be called.
pub fn resolve(app: &App, caller: &Caller, purpose: Purpose, name: Option<&str>) -> Result<ResolvedModel> {
    resolve_to(app, caller, (purpose, &[purpose.protocol()]), name)
}

/// The same, for what can be asked in several protocols; see [`Models::resolve_to`](crate::catalogue::Models::resolve_to).
fn resolve_to(
    app: &App,
    caller: &Caller,
    (purpose, protocols): (Purpose, &[Protocol]),
    name: Option<&str>,
) -> Result<ResolvedModel> {
    if name.is_some_and(|name| !is_model_name(name)) {
        return Err(Error::bad(format!("model must be a name of at most {MAX_MODEL_NAME} bytes")));
    }
    let model = app.models.resolve_to(purpose, protocols, name, &|model| caller.may_call(model))?;
    match caller.may_call(model.name()) {
        true => Ok(model),
        false => Err(Error::ModelNotFound(Some(name.unwrap_or(model.name()).to_owned()))),
    }
}

/// The model that a JSON request names. Where it names none, the default one is filled in; output limits above the
/// model's are lowered to it.
///
/// # Errors
/// Those of [`resolve`]; 400 where `model` is no string, or a limit no number.
pub fn resolve_in(app: &App, caller: &Caller, purpose: Purpose, request: &mut Object<'_>) -> Result<ResolvedModel> {
    let model = resolve_named(app, caller, (purpose, &[purpose.protocol()]), request)?;
    model.limit_output(request)?;
    Ok(model)
}

/// The model that a JSON request names, to be asked in one of these protocols. Where it names none, the default one is
/// filled in.
///
/// # Errors
/// As [`resolve_in`].
pub(super) fn resolve_named(
    app: &App,
    caller: &Caller,
    wanted: (Purpose, &[Protocol]),
    request: &mut Object<'_>,
) -> Result<ResolvedModel> {
    let name = match request.has("model") {
        true => Some(request.text("model").ok_or(Error::bad("model must be a string"))?),
        false => None,
    };
    let model = resolve_to(app, caller, wanted, name.as_deref())?;
    if name.is_none() {
        request.set("model", &model.name());
    }
    Ok(model)
}
