//! The headers that every reply has.

use crate::app::App;
use crate::http::security_headers::{self, DATA_POLICY};
use crate::http::{Method, Request, Response};

/// Adds them.
pub(super) fn add(app: &App, request: &Request, response: &mut Response) {
    security_headers::add(response, app.config.is_https());
    let is_page = response.get_header("Content-Type").is_some_and(|media_type| media_type.starts_with("text/html"));
    if response.get_header("Content-Security-Policy").is_none() {
        let policy = if is_page { crate::web::page_policy().into() } else { DATA_POLICY.into() };
        response.headers.push(("Content-Security-Policy", policy));
    }
    if !app.config.cors_origins.is_empty() {
        allow_origin(app, request, response);
    }
}

/// Allows calls from pages of the configured origins.
fn allow_origin(app: &App, request: &Request, response: &mut Response) {
    response.headers.push(("Vary", "Origin".into()));
    let Some(origin) = request.header("origin").filter(|o| app.config.cors_origins.iter().any(|allowed| allowed == o))
    else {
        return;
    };
    response.headers.push(("Access-Control-Allow-Origin", origin.to_owned().into()));
    response.headers.push(("Access-Control-Allow-Credentials", "true".into()));
    if *request.method() == Method::OPTIONS {
        response.headers.push(("Access-Control-Allow-Methods", "GET, POST".into()));
        response.headers.push((
            "Access-Control-Allow-Headers",
            "Authorization, Content-Type, Idempotency-Key, Secret, X-Requested-With".into(),
        ));
        response.headers.push(("Access-Control-Max-Age", "600".into()));
    }
}
