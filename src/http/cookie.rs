//! Cookies, read from a request and made for a reply: the session's, and one that carries a new secret to the next page.

use cookie::{Cookie, SameSite, time::Duration};

use super::Request;

/// The cookie that carries a session.
pub const SESSION: &str = "session_secret";

/// The cookie that carries a secret from the form that made it to the page that shows it.
pub const NEW_SECRET: &str = "new_secret";

/// Where that page is.
const NEW_SECRET_PATH: &str = "/account";

/// How long a browser may take from the one to the other.
const NEW_SECRET_AGE: Duration = Duration::minutes(1);

/// How long a browser keeps the session cookie after it was last renewed.
pub const SESSION_DAYS: i64 = 30;

/// The value of the first cookie of this name that is not empty, its surrounding quotes taken off.
pub fn read<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    let lines = request.head.headers().filter(|(n, _)| n.eq_ignore_ascii_case("cookie"));
    lines
        .filter_map(|(_, value)| std::str::from_utf8(value).ok())
        .flat_map(|line| Cookie::split_parse(line).flatten())
        .filter(|cookie| cookie.name() == name)
        .filter_map(|cookie| cookie.value_raw())
        .map(|value| value.trim_matches('"'))
        .find(|value| !value.is_empty())
}

/// The `Set-Cookie` value that hands out a session; `secure` where the site is reached by https.
pub fn session(token: &str, secure: bool) -> String {
    build(token, secure, Duration::days(SESSION_DAYS))
}

/// The `Set-Cookie` value that takes the session cookie away.
pub fn clear(secure: bool) -> String {
    build("", secure, Duration::ZERO)
}

/// The `Set-Cookie` value that carries a new secret to the page that shows it once; `None` takes it away.
pub fn new_secret(secret: Option<&str>, secure: bool) -> String {
    let age = if secret.is_some() { NEW_SECRET_AGE } else { Duration::ZERO };
    Cookie::build((NEW_SECRET, secret.unwrap_or("")))
        .http_only(true)
        .path(NEW_SECRET_PATH)
        .same_site(SameSite::Strict)
        .secure(secure)
        .max_age(age)
        .to_string()
}

fn build(value: &str, secure: bool, age: Duration) -> String {
    Cookie::build((SESSION, value))
        .http_only(true)
        .path("/")
        .same_site(SameSite::Lax)
        .secure(secure)
        .max_age(age)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_the_attributes_a_browser_needs() {
        let text = session("ts_1", false);
        assert_eq!(text, "session_secret=ts_1; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        assert!(session("ts_1", true).contains("; Secure"));
        assert!(clear(false).starts_with("session_secret=; ") && clear(false).contains("Max-Age=0"));
    }

    #[test]
    fn reads_among_others() {
        let mut request = Request::default();
        request.head.parse(b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a=b; session_secret=\"\"\r\nCookie: session_secret=\"ts_9\"\r\n\r\n").unwrap();
        assert_eq!(read(&request, SESSION), Some("ts_9"));
        assert_eq!(read(&request, "c"), None);
    }
}
