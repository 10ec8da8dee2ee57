//! The headers that every reply has.

use crate::app::App;
use crate::http::{Method, Request, Response};

/// For browsers: take the media type as given, and tell no other site where the visitor came from.
const SECURITY_HEADERS: [(&str, &str); 2] = [("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "same-origin")];

/// What any other content may do if a browser shows it: nothing.
const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// With https: use nothing but https for a year.
const STRICT_TRANSPORT: (&str, &str) = ("Strict-Transport-Security", "max-age=31536000");

/// Adds them.
pub(super) fn add(app: &App, request: &Request, response: &mut Response) {
    if response.get_header("Cache-Control").is_none() {
        response.headers.push(("Cache-Control", "no-store".into()));
    }
    response.headers.extend(SECURITY_HEADERS.map(|(name, value)| (name, value.into())));
    let is_page = response.get_header("Content-Type").is_some_and(|media_type| media_type.starts_with("text/html"));
    if response.get_header("Content-Security-Policy").is_none() {
        let policy = if is_page { crate::web::page_policy().into() } else { DATA_POLICY.into() };
        response.headers.push(("Content-Security-Policy", policy));
    }
    if app.config.is_https() {
        response.headers.push((STRICT_TRANSPORT.0, STRICT_TRANSPORT.1.into()));
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
