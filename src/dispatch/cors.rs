//! Calls from pages of other origins, as far as `CORS_ORIGINS` allows them (Fetch standard, "CORS protocol").

use crate::config::ANY_ORIGIN;
use crate::http::{Method, Request, Response};

/// What such pages may read of a reply beside its content, where it has them.
const EXPOSED: &str = "Retry-After, Retry-After-Ms, X-Request-Id, X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, \
    X-RateLimit-Reset-Requests, X-RateLimit-Limit-Tokens, X-RateLimit-Remaining-Tokens, X-RateLimit-Reset-Tokens";

/// Allowed in any case, for a preflight that does not say what it asks for.
const HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, Secret, X-Requested-With";

/// Most bytes of header names that a preflight may ask for.
const LONGEST_HEADERS: usize = 2048;

/// Tells the browser whether the page that sent the request may read the reply.
pub(super) fn add(origins: &[String], request: &Request, response: &mut Response) {
    if origins.is_empty() {
        return;
    }
    let is_listed = |origin: &&str| origins.iter().any(|allowed| allowed == origin);
    let listed = request.header("origin").filter(is_listed);
    let allows_any = origins.iter().any(|origin| origin == ANY_ORIGIN);
    response.headers.push(("Vary", "Origin".into()));
    match listed {
        Some(origin) => {
            response.headers.push(("Access-Control-Allow-Origin", origin.to_owned().into()));
            response.headers.push(("Access-Control-Allow-Credentials", "true".into()));
        }
        // Without credentials: a browser sends no cookie, so such a page can do nothing that a program could not.
        None if allows_any => response.headers.push(("Access-Control-Allow-Origin", ANY_ORIGIN.into())),
        None => return,
    }
    if *request.method() != Method::OPTIONS {
        response.headers.push(("Access-Control-Expose-Headers", EXPOSED.into()));
        return;
    }
    response.headers.push(("Access-Control-Allow-Methods", "GET, POST".into()));
    response.headers.push(("Access-Control-Allow-Headers", requested(request).to_owned().into()));
    response.headers.push(("Access-Control-Max-Age", "600".into()));
}

/// The headers that a preflight asks for: what it may send is decided by its origin, and clients add their own, such as
/// `x-stainless-os`.
fn requested(request: &Request) -> &str {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~, ".contains(&byte);
    let is_list = |list: &&str| !list.is_empty() && list.len() <= LONGEST_HEADERS && list.bytes().all(is_name);
    request.header("access-control-request-headers").filter(is_list).unwrap_or(HEADERS)
}

#[cfg(test)]
mod tests {
    use super::EXPOSED;
    use crate::dispatch::rate_headers::NAMES;

    #[test]
    fn pages_of_other_origins_may_read_what_is_left_of_rate_limits() {
        let exposed: Vec<String> = EXPOSED.split(", ").map(str::to_ascii_lowercase).collect();
        for name in NAMES.concat() {
            assert!(exposed.iter().any(|exposed| exposed == name), "{name}");
        }
    }
}
