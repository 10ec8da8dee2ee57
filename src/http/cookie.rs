//! Reads and writes cookies: that of the session, that of a known device, that of a half-done log-in, and one that takes a
//! new secret to the page that shows it.

use cookie::{Cookie, SameSite, time::Duration};

use super::{Request, Response};

/// The session cookie.
const SESSION: &str = "session_secret";

/// The same under https, by a name that only this site can set (RFC 6265bis, section 4.1.3.2).
const HOST_SESSION: &str = "__Host-session_secret";

/// How many session cookies of a request are looked at.
const MAX_SESSIONS: usize = 4;

/// The cookie of a device from which the owner of an account has logged in.
const DEVICE: &str = "device";

/// How many such cookies of a request are looked at.
const MAX_DEVICES: usize = 4;

/// How long a browser keeps that cookie, and how long it is believed.
pub const DEVICE_DAYS: i64 = 180;

/// The cookie that takes a new secret from the request that created it to the page that shows it.
pub const NEW_SECRET: &str = "new_secret";

/// How long that cookie is valid.
const NEW_SECRET_AGE: Duration = Duration::minutes(5);

/// The cookie of a log-in whose password was right, and which wants a code.
pub const HALF_LOG_IN: &str = "half_log_in";

/// How long it is valid.
pub const HALF_LOG_IN_SECONDS: i64 = 600;

/// The cookie that takes the e-mail address, percent-encoded, from a form that was refused to the page that shows it again.
pub const ENTERED: &str = "entered_email";

/// How long that cookie is valid.
const ENTERED_AGE: Duration = Duration::minutes(1);

/// How long a browser keeps the session cookie after it was last renewed.
pub const SESSION_DAYS: i64 = 30;

/// The value of the first cookie with this name that is not empty, without surrounding quotes.
pub fn read<'r>(request: &'r Request, name: &'r str) -> Option<&'r str> {
    read_all(request, name).next()
}

/// The session tokens of a request, at most [`MAX_SESSIONS`]: another site under the same domain can add cookies with
/// the same name, but none whose name begins with `__Host-`, so these come first.
pub fn sessions(request: &Request) -> impl Iterator<Item = &str> {
    read_all(request, HOST_SESSION).chain(read_all(request, SESSION)).take(MAX_SESSIONS)
}

fn read_all<'r>(request: &'r Request, name: &'r str) -> impl Iterator<Item = &'r str> {
    let lines = request.head.headers().filter(|(n, _)| n.eq_ignore_ascii_case("cookie"));
    lines
        .filter_map(|(_, value)| std::str::from_utf8(value).ok())
        .flat_map(|line| Cookie::split_parse(line).flatten())
        .filter(move |cookie| cookie.name() == name)
        .filter_map(|cookie| cookie.value_raw())
        .map(|value| value.trim_matches('"'))
        .filter(|value| !value.is_empty())
}

/// The values of the device cookies of a request, at most [`MAX_DEVICES`].
pub fn devices(request: &Request) -> impl Iterator<Item = &str> {
    read_all(request, DEVICE).take(MAX_DEVICES)
}

/// Sets the device cookie. It is sent to log in only: with a password, and then with a code.
pub fn set_device(mut response: Response, value: &str, secure: bool) -> Response {
    for path in ["/api", "/login"] {
        let cookie = Cookie::build((DEVICE, value))
            .http_only(true)
            .path(path)
            .same_site(SameSite::Lax)
            .secure(secure)
            .max_age(Duration::days(DEVICE_DAYS));
        response = response.header("Set-Cookie", cookie.to_string());
    }
    response
}

/// Sets the cookie of a half-done log-in, or deletes it.
pub fn set_half_log_in(response: Response, value: Option<&str>, secure: bool) -> Response {
    let age = if value.is_some() { Duration::seconds(HALF_LOG_IN_SECONDS) } else { Duration::ZERO };
    let cookie = Cookie::build((HALF_LOG_IN, value.unwrap_or("")))
        .http_only(true)
        .path("/login")
        .same_site(SameSite::Lax)
        .secure(secure)
        .max_age(age);
    response.header("Set-Cookie", cookie.to_string())
}

/// Takes what was entered to the page of the form, at `path`.
pub fn set_entered(response: Response, value: &str, path: &'static str, secure: bool) -> Response {
    let cookie = Cookie::build((ENTERED, value))
        .http_only(true)
        .path(path)
        .same_site(SameSite::Lax)
        .secure(secure)
        .max_age(ENTERED_AGE);
    response.header("Set-Cookie", cookie.to_string())
}

/// Sets the session cookie; `secure` if the site is served over https.
pub fn set_session(response: Response, token: &str, secure: bool) -> Response {
    set(response, token, secure, Duration::days(SESSION_DAYS))
}

/// Deletes the session cookie.
pub fn clear_session(response: Response, secure: bool) -> Response {
    set(response, "", secure, Duration::ZERO)
}

/// Takes a new secret to the page at `path`, which shows it once.
pub fn set_new_secret(response: Response, secret: &str, path: &'static str, secure: bool) -> Response {
    new_secret(response, secret, path, secure, NEW_SECRET_AGE)
}

/// Deletes that cookie, once the page shows it.
pub fn clear_new_secret(response: Response, path: &'static str, secure: bool) -> Response {
    new_secret(response, "", path, secure, Duration::ZERO)
}

fn new_secret(response: Response, value: &str, path: &'static str, secure: bool, age: Duration) -> Response {
    let cookie = Cookie::build((NEW_SECRET, value))
        .http_only(true)
        .path(path)
        .same_site(SameSite::Strict)
        .secure(secure)
        .max_age(age);
    response.header("Set-Cookie", cookie.to_string())
}

fn set(response: Response, value: &str, secure: bool, age: Duration) -> Response {
    let build = |name| {
        Cookie::build((name, value))
            .http_only(true)
            .path("/")
            .same_site(SameSite::Lax)
            .secure(secure)
            .max_age(age)
            .to_string()
    };
    // The older name is what clients know.
    let response = response.header("Set-Cookie", build(SESSION));
    if secure { response.header("Set-Cookie", build(HOST_SESSION)) } else { response }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(response: &Response) -> Vec<&str> {
        response.headers.iter().filter(|(name, _)| *name == "Set-Cookie").map(|(_, value)| &**value).collect()
    }

    #[test]
    fn sets_the_attributes() {
        let empty = || Response::new(200);
        let set = set_session(empty(), "ts_1", false);
        assert_eq!(cookies(&set), ["session_secret=ts_1; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000"]);
        let secure = set_session(empty(), "ts_1", true);
        assert!(cookies(&secure).iter().all(|cookie| cookie.contains("; Secure")));
        assert!(cookies(&secure)[1].starts_with("__Host-session_secret=ts_1; "));
        let clear = clear_session(empty(), false);
        assert!(cookies(&clear)[0].starts_with("session_secret=; ") && cookies(&clear)[0].contains("Max-Age=0"));
    }

    #[test]
    fn reads_some_of_several() {
        let mut request = Request::default();
        let line = |cookies: &str| format!("Cookie: {cookies}\r\n");
        let lines = [line("a=b; session_secret=\"\"; session_secret=1"), line("session_secret=\"ts_9\"")];
        let more = line("session_secret=3; session_secret=4; __Host-session_secret=0");
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{}{}{more}\r\n", lines[0], lines[1]);
        request.head.parse(head.as_bytes()).unwrap();
        assert_eq!(sessions(&request).collect::<Vec<_>>(), ["0", "1", "ts_9", "3"]);
        assert_eq!((read(&request, "a"), read(&request, "c")), (Some("b"), None));
    }
}
