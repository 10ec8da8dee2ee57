//! The operations that every server has.

use schemars::JsonSchema;
use serde::Serialize;

use crate::auth::Caller;
use crate::call::{Call, Role};
use crate::error::{Error, Result};
use crate::http::Response;
use crate::operation::Group::{Accounts, Health};
use crate::operation::Handler::{Authenticated, Public};
use crate::operation::{Operation, get, summary};
use crate::store::User;

/// Those operations.
pub fn operations() -> Vec<Operation> {
    vec![
        get("/api/current-user", Authenticated(current_user))
            .on(&Role::ALL)
            .described(summary(Accounts, "The caller").reply::<User>()),
        get("/liveness_check", Public(liveness))
            .on(&Role::ALL)
            .without_database()
            .described(summary(Health, "Whether the process runs").reply::<Liveness>()),
        get("/readyz", Public(readiness)).on(&Role::ALL).without_database().described(
            summary(Health, "Whether the process is ready to serve")
                .reply::<Readiness>()
                .status_with::<Readiness>(503, "Not ready; the reply says why"),
        ),
    ]
}

/// The caller's user object, from the cache where it is there.
fn current_user(_: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    let json = caller.user_json().map_err(|e| Error::Internal(e.to_string()))?;
    Ok(Response::with_body(200, "application/json", json.to_vec()))
}

#[derive(Serialize, JsonSchema)]
struct Liveness {
    /// Always `ok`.
    status: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct Readiness {
    /// `ready`; `degraded`, if it serves, but charges need the operator; or `unavailable`.
    status: &'static str,
    /// Why it is degraded or unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// Whether revocations are received as they happen.
    #[serde(skip_serializing_if = "Option::is_none")]
    listening: Option<bool>,
    journal: JournalStatus,
}

/// Charges that are not in the database yet.
#[derive(Serialize, JsonSchema)]
struct JournalStatus {
    bytes: u64,
    max_bytes: u64,
    charges: u64,
    /// Whether more charges can be recorded.
    has_room: bool,
    /// Charges that the database refuses, which wait for the operator in `rejected.jsonl`.
    set_aside: u64,
    /// Journals that were damaged or may be forged, and are kept for the operator.
    journals_aside: usize,
    /// Journals of dead processes that cannot be replayed.
    journals_stuck: usize,
}

/// The process runs. Asks nothing of anything else.
fn liveness(_: &mut Call<'_>) -> Result<Response> {
    Ok(Response::json(200, &Liveness { status: "ok" }))
}

/// The process can do its work: the schema is there and the database answers. Also how full the journal of charges is.
fn readiness(call: &mut Call<'_>) -> Result<Response> {
    let app = call.app;
    let reason = if app.db.ping().is_ok() {
        match app.meter.admit() {
            Err(_) => Some("not ready to record charges"),
            Ok(()) if !app.models.is_known() => Some("the catalogue of models was not read yet"),
            Ok(()) => None,
        }
    } else if app.db.check_reachable().is_err() {
        Some("the database cannot be reached")
    } else if !app.db.is_open() {
        Some("the database's schema is not up to date yet")
    } else {
        Some("the database does not answer")
    };
    let (charges, aside) = (app.meter.stats(), app.meter.aside());
    let journal = JournalStatus {
        bytes: charges.journal_bytes,
        max_bytes: charges.journal_max_bytes,
        charges: charges.journal_charges,
        has_room: charges.has_journal_room,
        set_aside: aside.charges,
        journals_aside: aside.journals,
        journals_stuck: aside.stuck,
    };
    if reason.is_some() {
        let body = Readiness { status: "unavailable", reason, listening: None, journal };
        return Ok(Response::json(503, &body).header("Retry-After", "1"));
    }
    let listening = Some(app.cache.is_subscribed());
    let reason = aside.reason();
    let status = if reason.is_some() { "degraded" } else { "ready" };
    Ok(Response::json(200, &Readiness { status, reason, listening, journal }))
}
