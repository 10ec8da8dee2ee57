//! The routes that every server has.

use serde_json::json;

use crate::call::{Call, Endpoint, route};
use crate::db::Executor;
use crate::error::Result;
use crate::http::{Method, Response, Route};

/// Their table.
pub fn routes() -> Vec<Route<Endpoint>> {
    vec![
        route(Method::Get, "/api/current-user", current_user),
        route(Method::Get, "/liveness_check", liveness),
        route(Method::Get, "/readyz", readiness),
    ]
}

/// The caller's user object, from the cache where it is there.
fn current_user(call: &mut Call<'_>) -> Result<Response> {
    let caller = call.caller()?;
    Ok(Response::json(200, &caller.user))
}

/// The process runs. Asks nothing of anything else.
fn liveness(_: &mut Call<'_>) -> Result<Response> {
    Ok(Response::json(200, &json!({"status": "ok"})))
}

/// The process can do its work: the schema is there and the database answers. Also how full the journal of charges is.
fn readiness(call: &mut Call<'_>) -> Result<Response> {
    let app = call.app;
    let reason = if !app.db.is_open() {
        Some("the database cannot be reached or its schema is not up to date yet")
    } else if app.db.session().and_then(|mut session| session.query_one("SELECT 1", &[])).is_err() {
        Some("the database does not answer")
    } else {
        None
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
            let listening = app.cache.is_listening();
            Response::json(200, &json!({"status": "ready", "listening": listening, "journal": journal}))
        }
        Some(reason) => {
            let body = json!({"status": "unavailable", "reason": reason, "journal": journal});
            Response::json(503, &body).header("Retry-After", "1")
        }
    })
}
