//! Answers the requests of one server: finds the operation, runs it, turns its error into a reply, and logs the request.

mod access_log;
mod cors;
mod rate_headers;
mod reply_headers;
mod shown_path;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use log::Level;

use crate::api;
use crate::app::App;
use crate::blocking::{self, Party};
use crate::call::{Call, Role};
use crate::db;
use crate::error::{Error, Shape};
use crate::http::request_ids::RequestIds;
use crate::http::{Method, Postponed, Request, Response, cookie};
use crate::logging;
use crate::memory_budget;
use crate::operation::{self, Route, Router, Served};
use crate::server;
use crate::telemetry::RequestMetrics;
use crate::traces;
use crate::web;

use access_log::{Entry, Measured};
use shown_path::shown;

/// The words of a 404 for a client whose base address lacks the version.
const NO_VERSION: &str = "Not Found. The base address of this API ends with /v1";

/// The words of a 404 for files and batches.
const NO_BATCHES: &str = "Files and batches are not offered here";

/// The name in metrics of all requests that no operation answers.
const NO_OPERATION: &str = "other";

/// How the requests of one server are answered.
struct Answerer {
    role: Role,
    router: Router<Served>,
    /// What is counted of requests that no operation answers.
    unknown: &'static RequestMetrics,
    ids: RequestIds,
}

/// What answers the requests of this role's server.
pub fn handler(app: Arc<App>, role: Role) -> server::Handler {
    let router = operation::router(api::operations(), role, &app.requests);
    let unknown = app.requests.of(role.name(), NO_OPERATION.to_owned());
    let answerer = Answerer { role, router, unknown, ids: RequestIds::new() };
    Arc::new(move |request| answer(&app, &answerer, request))
}

fn answer(app: &App, answerer: &Answerer, request: &mut Request) -> Response {
    let role = answerer.role;
    let mut postponed = request.postponed.take();
    let begun = Entry::forget(postponed.as_mut().and_then(|postponed| postponed.unanswered.take()));
    let trace = begun.or_else(|| app.traces.begin(|name| request.header(name)));
    let began = postponed.as_ref().map_or_else(Instant::now, |postponed| postponed.since);
    let id: Arc<str> = answerer.ids.of(request).into();
    logging::take_tokens();
    let _id = logging::set_request_id(Some(id.clone()));
    let _trace = traces::enter(trace.as_ref().map(|trace| trace.current()));
    let Dispatched { outcome, shape, measured, rate_headers } = dispatch(app, answerer, request, postponed);
    let mut response = outcome.unwrap_or_else(|e| {
        if e.is_fault() {
            let level = if e.status() == 503 { Level::Warn } else { Level::Error };
            log::log!(level, "{} {} failed: {e} (request {id})", request.method(), shown(request.path()));
        }
        let reply = e.reply(shape);
        match role {
            Role::Web => web::as_page(app, request, &e, reply, &id),
            _ => reply,
        }
    });
    if response.postponed.is_some() {
        let entry = Entry::new(app, role, request, began, id, trace, measured);
        if let Some(postponed) = &mut request.postponed {
            postponed.unanswered = Some(Box::new(entry) as Box<dyn Any + Send>);
        }
        return response;
    }
    response.headers.extend(rate_headers.into_iter().map(|(name, value)| (name, value.into())));
    reply_headers::add(app, request, &mut response);
    response.headers.push(("X-Request-Id", id.to_string().into()));
    let entry = Entry::new(app, role, request, began, id, trace, measured);
    match response.deferred.take() {
        Some(deferred) => {
            response.deferred = Some(deferred.map(move |response| entry.follow(response)));
            response
        }
        None => entry.follow(response),
    }
}

/// What became of a request.
struct Dispatched {
    outcome: crate::error::Result<Response>,
    /// The shape of its error.
    shape: Shape,
    /// What is known for its record.
    measured: Measured,
    /// What is left of the caller's rate limits, if there are any.
    rate_headers: Vec<(&'static str, String)>,
}

fn dispatch(app: &App, answerer: &Answerer, request: &mut Request, postponed: Option<Postponed>) -> Dispatched {
    let early = |outcome, shape, metrics| {
        let measured = Measured { metrics, user_id: None };
        Dispatched { outcome, shape, measured, rate_headers: Vec::new() }
    };
    let unknown = |outcome| early(outcome, operation::shape_of_unknown(request.path()), answerer.unknown);
    let (served, segments, deployment) = match operation::route(&answerer.router, request.method(), request.path()) {
        Route::To { served, segments, deployment } => (served, segments, deployment),
        Route::WrongMethod(allow) if *request.method() == Method::OPTIONS => {
            return unknown(Ok(Response::new(204).header("Allow", allow)));
        }
        Route::WrongMethod(allow) => return unknown(Err(Error::MethodNotAllowed(allow))),
        Route::WithoutVersion(served) => {
            return early(Err(Error::NotFound(NO_VERSION)), served.operation.errors, answerer.unknown);
        }
        Route::Batch => return unknown(Err(Error::NotFound(NO_BATCHES))),
        Route::Nothing if request.path() == "*" => return unknown(Ok(Response::new(204))),
        Route::Nothing => return unknown(Err(Error::NoRoute)),
    };
    let Served { operation, metrics } = *served;
    if !app.db.is_open() && !operation.works_without_database {
        let e = db::Error::Unavailable("the schema is not up to date yet".to_owned());
        return early(Err(e.into()), operation.errors, metrics);
    }
    let mut call = Call::new(app, answerer.role, request);
    if !app.config.trusted_proxies.is_empty() {
        let client = Party::network(call.client());
        blocking::set_party(client);
        memory_budget::identify(client);
    }
    (call.segments, call.deployment) = (segments, deployment);
    (call.shape, call.charged_as) = (operation.errors, operation.charged_as);
    call.begun = postponed.map(|postponed| postponed.begun);
    let mut outcome = operation.run(&mut call);
    if let Some(start) = call.postponed.take() {
        return early(Ok(Response::postponed(start)), operation.errors, metrics);
    }
    if let Some(token) = call.renewed_session.take() {
        let renew = |response: Response| match response.get_header("Set-Cookie") {
            Some(_) => response,
            None => cookie::set_session(response, &token, app.config.is_https()),
        };
        outcome = outcome.map(renew);
    }
    let user_id = access_log::is_enabled().then(|| call.user_id()).flatten();
    let rates = call.rates().filter(|_| operation.calls_models());
    let rate_headers = rates.map(|rates| rate_headers::of(app, rates)).unwrap_or_default();
    Dispatched { outcome, shape: operation.errors, measured: Measured { metrics, user_id }, rate_headers }
}
