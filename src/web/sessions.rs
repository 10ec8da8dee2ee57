//! The sessions of the caller: the browsers that are signed in.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Answer, fields};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::request_fields::request_fields;
use crate::operation::Group::Sessions;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::sessions::{self, BrowserSession};

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/api/sessions", Authenticated(list))
            .described(summary(Sessions, "Active sessions, newest first").reply::<SessionList>()),
        post("/api/sessions/revoke", Authenticated(revoke)).described(
            summary(Sessions, "End one session, or all others")
                .fields::<RevokeSessions<'_>>()
                .reply::<RevokedSessions>()
                .status(404, "No session has this id"),
        ),
    ]
}

request_fields! {
    /// Which sessions to end.
    struct RevokeSessions<'f> {
        id: Option<&'f str>,
        /// Instead of an id: all sessions but the caller's own.
        others: Option<bool>,
    }
}

#[derive(Serialize, JsonSchema)]
struct SessionList {
    sessions: Vec<ListedSession>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct ListedSession {
    #[serde(flatten)]
    session: BrowserSession,
    /// Whether it is the caller's own.
    current: bool,
}

#[derive(Serialize, JsonSchema)]
struct RevokedSessions {
    /// How many ended.
    revoked: u64,
}

/// `GET /api/sessions`: newest first; `current` marks the caller's own.
fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let found = sessions::of_user(&mut call.app.db.session()?, &caller.user.id)?;
    let listed = found.into_iter().map(|session| {
        let current = caller.session_id() == Some(&session.id);
        ListedSession { session, current }
    });
    Ok(Response::json_reserved(200, &SessionList { sessions: listed.collect() })?)
}

/// `POST /api/sessions/revoke` with `id`, or with `others: true` for all but the caller's own.
fn revoke(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let RevokeSessions { id, others } = RevokeSessions::read(&fields)?;
    let which = match (id, others.unwrap_or(false)) {
        (Some(id), false) => Which::One(id),
        (None, true) => Which::Others,
        _ => return Err(Error::bad("Send either id or others: true")),
    };
    Ok(Response::json(200, &RevokedSessions { revoked: end(call, caller, which)? }))
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
