//! The access log: one line per request.

use std::time::Instant;

use log::Level;

use crate::app::App;
use crate::auth::client;
use crate::call::Role;
use crate::http::{Method, Request, Response};

/// The target of its lines.
const TARGET: &str = "access";

/// Whether the access log is written.
pub(super) fn is_enabled() -> bool {
    log::log_enabled!(target: TARGET, Level::Info)
}

/// A line in the making. It never has the query, a header or a body, which may hold secrets.
pub(super) struct Entry {
    server: &'static str,
    method: Method,
    path: String,
    client: String,
    user: String,
    id: String,
    began: Instant,
}

impl Entry {
    /// For a request that arrived at `began`, if the log is enabled.
    pub(super) fn new(
        app: &App,
        role: Role,
        request: &Request,
        began: Instant,
        id: &str,
        user: Option<String>,
    ) -> Option<Entry> {
        is_enabled().then(|| Entry {
            server: role.name(),
            method: request.method().clone(),
            path: request.path().to_owned(),
            client: client::address(request, &app.config.trusted_proxies).to_string(),
            user: user.unwrap_or_else(|| "-".to_owned()),
            id: id.to_owned(),
            began,
        })
    }

    /// Writes the line.
    pub(super) fn log(&self, response: &Response) {
        let Entry { server, method, path, client, user, id, began } = self;
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (method, path, client) = (method.as_str(), path.as_str(), client.as_str());
        let (user, status) = (user.as_str(), response.status.as_u16());
        log::info!(target: TARGET, server = *server, method, path, status, micros, client, user, request = id.as_str();
            "{server} {method} {path} {status} {micros}us {client} {user} {id}");
    }
}
