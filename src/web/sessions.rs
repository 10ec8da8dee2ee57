//! The browsers a person is signed in with.

use serde_json::{Value, json};

use super::{Answer, fields};
use crate::call::Call;
use crate::error::Error;
use crate::http::Response;
use crate::store::sessions;

/// `GET /api/sessions`: newest first; `current` marks the one that asks.
pub(super) fn list(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let found = sessions::of_user(&mut call.app.db.session()?, &caller.user.id)?;
    let listed = found.iter().map(|session| {
        let mut value = serde_json::to_value(session).unwrap_or_default();
        value["current"] = Value::Bool(caller.session_id() == Some(&session.id));
        value
    });
    Ok(Response::json(200, &json!({"sessions": listed.collect::<Vec<_>>()})))
}

/// `POST /api/sessions/revoke` with `id`, or with `others: true` for all but the one that asks.
pub(super) fn revoke(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let fields = fields(call)?;
    let (id, others) = (fields.optional_text("id")?, fields.optional_bool("others")?.unwrap_or(false));
    let user_id = &caller.user.id;
    let mut session = call.app.db.session()?;
    let ended = match (id, others) {
        (Some(id), false) => u64::from(sessions::delete(&mut session, user_id, id)?),
        (None, true) => sessions::delete_others(&mut session, user_id, caller.session_id().unwrap_or(""))?,
        _ => return Err(Error::bad("Send either id or others: true")),
    };
    drop(session);
    call.app.cache.revoke(user_id);
    if ended == 0 && !others {
        return Err(Error::NotFound("Session not found"));
    }
    Ok(Response::json(200, &json!({"revoked": ended})))
}
