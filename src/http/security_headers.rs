//! Headers that tell browsers what they may do with a reply.

use super::Response;

/// Take the media type as given, and tell no other site where the visitor came from.
const SECURITY_HEADERS: [(&str, &str); 2] = [("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "same-origin")];

/// What content other than a page may do if a browser shows it: nothing.
pub const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// With https: use nothing but https for a year.
const STRICT_TRANSPORT: (&str, &str) = ("Strict-Transport-Security", "max-age=31536000");

/// Adds those that every reply has. A reply that says nothing of caches is kept by none.
pub fn add(response: &mut Response, is_https: bool) {
    if response.get_header("Cache-Control").is_none() {
        response.headers.push(("Cache-Control", "no-store".into()));
    }
    response.headers.extend(SECURITY_HEADERS.map(|(name, value)| (name, value.into())));
    if is_https {
        response.headers.push((STRICT_TRANSPORT.0, STRICT_TRANSPORT.1.into()));
    }
}
