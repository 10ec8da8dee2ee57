//! The headers that every reply has.

use crate::app::App;
use crate::http::security_headers::{self, DATA_POLICY};
use crate::http::{Request, Response};

use super::cors;

/// Adds them.
pub(super) fn add(app: &App, request: &Request, response: &mut Response) {
    security_headers::add(response, app.config.is_https());
    let is_page = response.get_header("Content-Type").is_some_and(|media_type| media_type.starts_with("text/html"));
    if response.get_header("Content-Security-Policy").is_none() {
        let policy = if is_page { crate::web::page_policy().into() } else { DATA_POLICY.into() };
        response.headers.push(("Content-Security-Policy", policy));
    }
    cors::add(&app.config.cors_origins, request, response);
}
