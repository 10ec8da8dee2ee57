//! Reads and writes cookies: that of the session, and one that takes a new secret to the page that shows it.

use cookie::{Cookie, SameSite, time::Duration};

use super::Request;

/// The session cookie.
pub const SESSION: &str = "session_secret";

/// The cookie that takes a new secret from the request that created it to the page that shows it.
pub const NEW_SECRET: &str = "new_secret";

/// The path of that page.
const NEW_SECRET_PATH: &str = "/account";

/// How long that cookie is valid.
const NEW_SECRET_AGE: Duration = Duration::minutes(1);

/// How long a browser keeps the session cookie after it was last renewed.
pub const SESSION_DAYS: i64 = 30;

/// The value of the first cookie with this name that is not empty, without surrounding quotes.
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

/// The `Set-Cookie` value that sets the session cookie; `secure` if the site is served over https.
pub fn session(token: &str, secure: bool) -> String {
    build(token, secure, Duration::days(SESSION_DAYS))
}

/// The `Set-Cookie` value that deletes the session cookie.
pub fn clear(secure: bool) -> String {
    build("", secure, Duration::ZERO)
}

/// The `Set-Cookie` value that takes a new secret to the page that shows it once; `None` deletes the cookie.
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
    fn sets_the_attributes() {
        let text = session("ts_1", false);
        assert_eq!(text, "session_secret=ts_1; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000");
        assert!(session("ts_1", true).contains("; Secure"));
        assert!(clear(false).starts_with("session_secret=; ") && clear(false).contains("Max-Age=0"));
    }

    #[test]
    fn reads_one_of_several() {
        let mut request = Request::default();
        request.head.parse(b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a=b; session_secret=\"\"\r\nCookie: session_secret=\"ts_9\"\r\n\r\n").unwrap();
        assert_eq!(read(&request, SESSION), Some("ts_9"));
        assert_eq!(read(&request, "c"), None);
    }
}
