//! The sessions of the caller: the browsers that are signed in.

use serde_json::{Value, json};

use super::{Answer, fields};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::store::sessions;

/// `GET /api/sessions`: newest first; `current` marks the caller's own.
pub(super) fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let found = sessions::of_user(&mut call.app.db.session()?, &caller.user.id)?;
    let listed = found.iter().map(|session| {
        let mut value = serde_json::to_value(session).unwrap_or_default();
        value["current"] = Value::Bool(caller.session_id() == Some(&session.id));
        value
    });
    Ok(Response::json(200, &json!({"sessions": listed.collect::<Vec<_>>()})))
}

/// `POST /api/sessions/revoke` with `id`, or with `others: true` for all but the caller's own.
pub(super) fn revoke(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let which = match (fields.optional_text("id")?, fields.optional_bool("others")?.unwrap_or(false)) {
        (Some(id), false) => Which::One(id),
        (None, true) => Which::Others,
        _ => return Err(Error::bad("Send either id or others: true")),
    };
    Ok(Response::json(200, &json!({"revoked": end(call, caller, which)?})))
}

/// The sessions to end.
pub(super) enum Which<'a> {
    /// The one with this id.
    One(&'a str),
    /// All but the caller's own.
    Others,
}

/// Ends sessions of the caller; returns how many.
pub(super) fn end(call: &Call<'_>, caller: &Caller, which: Which<'_>) -> Result<u64> {
    let user_id = &caller.user.id;
    let mut session = call.app.db.session()?;
    let ended = match which {
        Which::One(id) => u64::from(sessions::delete(&mut session, user_id, id)?),
        Which::Others => sessions::delete_others(&mut session, user_id, caller.session_id().unwrap_or(""))?,
    };
    drop(session);
    call.app.cache.revoke(user_id);
    if ended == 0 && matches!(which, Which::One(_)) {
        return Err(Error::NotFound("Session not found"));
    }
    Ok(ended)
}
