//! The operations that every server has.

use serde_json::json;

use crate::auth::Caller;
use crate::call::{Call, Role};
use crate::error::{Error, Result};
use crate::http::Response;
use crate::operation::Handler::{Authenticated, Public};
use crate::operation::{Operation, get};

/// Those operations.
pub fn operations() -> Vec<Operation> {
    vec![
        get("/api/current-user", Authenticated(current_user)).on(&Role::ALL),
        get("/liveness_check", Public(liveness)).on(&Role::ALL).without_database(),
        get("/readyz", Public(readiness)).on(&Role::ALL).without_database(),
    ]
}

/// The caller's user object, from the cache where it is there.
fn current_user(_: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let json = caller.user_json().map_err(|e| Error::Internal(e.to_string()))?;
    Ok(Response::with_body(200, "application/json", json.to_vec()))
}

/// The process runs. Asks nothing of anything else.
fn liveness(_: &mut Call<'_>) -> Result<Response> {
    Ok(Response::json(200, &json!({"status": "ok"})))
}

/// The process can do its work: the schema is there and the database answers. Also how full the journal of charges is.
fn readiness(call: &mut Call<'_>) -> Result<Response> {
    let app = call.app;
    let reason = if app.db.ping().is_ok() {
        app.meter.admit().err().map(|_| "charges cannot be taken yet")
    } else if app.db.check_reachable().is_err() {
        Some("the database cannot be reached")
    } else if !app.db.is_open() {
        Some("the database's schema is not up to date yet")
    } else {
        Some("the database does not answer")
    };
    let charges = app.meter.stats();
    let journal = json!({
        "bytes": charges.journal_bytes,
        "max_bytes": charges.journal_max_bytes,
        "charges": charges.journal_charges,
        "has_room": charges.has_journal_room,
    });
    Ok(match reason {
        None => {
            let listening = app.cache.is_subscribed();
            Response::json(200, &json!({"status": "ready", "listening": listening, "journal": journal}))
        }
        Some(reason) => {
            let body = json!({"status": "unavailable", "reason": reason, "journal": journal});
            Response::json(503, &body).header("Retry-After", "1")
        }
    })
}
