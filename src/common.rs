//! The routes that every server has.

use serde_json::json;

use crate::call::{Call, Endpoint, route};
use crate::db::Executor;
use crate::error::{Error, Result};
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
    let json = caller.user_json().map_err(|e| Error::Internal(e.to_string()))?;
    Ok(Response::with_body(200, "application/json", json.to_vec()))
}

/// The process runs. Asks nothing of anything else.
fn liveness(_: &mut Call<'_>) -> Result<Response> {
    Ok(Response::json(200, &json!({"status": "ok"})))
}

/// The process can do its work: the schema is there and the database answers.
fn readiness(call: &mut Call<'_>) -> Result<Response> {
    let app = call.app;
    let reason = if !app.db.is_open() {
        Some("the database cannot be reached or its schema is not up to date yet")
    } else if app.db.session().and_then(|mut session| session.query_one("SELECT 1", &[])).is_err() {
        Some("the database does not answer")
    } else {
        None
    };
    Ok(match reason {
        None => Response::json(200, &json!({"status": "ready", "listening": app.cache.is_listening()})),
        Some(reason) => {
            Response::json(503, &json!({"status": "unavailable", "reason": reason})).header("Retry-After", "1")
        }
    })
}
