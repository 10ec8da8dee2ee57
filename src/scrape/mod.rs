//! What Prometheus gets: `GET /metrics`, at an address of its own, for everybody who reaches that.
//!
//! Nothing here asks the database or a model server. Figures are read from what each part of the process counts anyway.

mod figures;

use std::sync::Arc;

use crate::app::App;
use crate::http::{Method, Request, Response, security_headers};
use crate::server::{self, Handle};
use crate::telemetry::{CONTENT_TYPE, Text};

use figures::Figures;

/// The only path.
const PATH: &str = "/metrics";

/// What answers at the metrics' address; `server` is the one of all servers of the process.
pub fn handler(app: Arc<App>, server: Handle) -> server::Handler {
    let is_https = app.config.is_https();
    let text = Text::of(Figures::new(app, server));
    Arc::new(move |request| {
        let mut response = answer(request, &text);
        security_headers::add(&mut response, is_https);
        response
    })
}

fn answer(request: &Request, text: &Text) -> Response {
    match (request.path(), request.method()) {
        (PATH, &Method::GET | &Method::HEAD) => Response::with_body(200, CONTENT_TYPE, text.write().into_bytes()),
        (PATH, _) => Response::detail(405, "Method Not Allowed").header("Allow", "GET, HEAD"),
        _ => Response::detail(404, "Metrics are at /metrics"),
    }
}
