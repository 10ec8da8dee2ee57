//! Parses the head of a request (RFC 9112). It is strict wherever another parser could read the same bytes differently.

use std::fmt;
use std::ops::Range;

use super::{Method, StatusCode};

/// Most header lines a head may have.
pub const MAX_HEADERS: usize = 100;

/// How the length of a request's body is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    #[default]
    None,
    /// `Content-Length`, in bytes; never zero.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// The head of a request: a copy of its bytes, and the position of each part.
///
/// A connection parses every request into the same `Head`, so a request costs no allocation here.
#[derive(Clone)]
pub struct Head {
    bytes: Vec<u8>,
    method: Method,
    path: Span,
    query: Option<Span>,
    headers: Vec<(Span, Span)>,
    framing: Framing,
    minor: u8,
    keep_alive: bool,
    expects_continue: bool,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The result of parsing the bytes that were received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head is incomplete.
    Partial,
    /// The head is complete and has this many bytes; the body follows.
    Complete(usize),
}

/// Why a head was refused. The connection cannot be used further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadError {
    /// The status of the refusal: 400, 417, 431 or 505.
    pub status: StatusCode,
    /// What is wrong, as a message for the client.
    pub reason: &'static str,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

const fn refuse(status: StatusCode, reason: &'static str) -> HeadError {
    HeadError { status, reason }
}

fn refuse_if(wrong: bool, reason: &'static str) -> Result<(), HeadError> {
    if wrong { Err(bad(reason)) } else { Ok(()) }
}

const fn bad(reason: &'static str) -> HeadError {
    refuse(StatusCode::BAD_REQUEST, reason)
}

impl Default for Head {
    fn default() -> Head {
        Head {
            bytes: Vec::new(),
            method: Method::GET,
            path: Span { start: 0, end: 0 },
            query: None,
            headers: Vec::new(),
            framing: Framing::None,
            minor: 1,
            keep_alive: true,
            expects_continue: false,
        }
    }
}

impl Head {
    /// Parses the head at the start of `buffer` into `self`, and replaces what `self` held.
    ///
    /// After [`Parsed::Partial`] the content of `self` is unspecified. The caller limits the length of the head.
    ///
    /// # Errors
    /// A head that is malformed, ambiguous or not HTTP/1.x.
    pub fn parse(&mut self, buffer: &[u8]) -> Result<Parsed, HeadError> {
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut slots);
        let length = match request.parse(buffer) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
            Err(e) => return Err(refusal(e)),
        };
        lines_end_in_crlf(&buffer[..length])?;
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(bad("malformed request line"));
        };
        self.method = method_of(method)?;
        self.minor = minor;
        self.bytes.clear();
        self.bytes.extend_from_slice(&buffer[..length]);
        let base = buffer.as_ptr() as usize;
        // Both lie inside `buffer`, whose length the caller limits far below 4 GiB.
        #[allow(clippy::cast_possible_truncation)]
        let span = |part: &[u8]| {
            let start = (part.as_ptr() as usize).saturating_sub(base) as u32;
            Span { start, end: start + part.len() as u32 }
        };
        self.set_target(target, span(target.as_bytes()))?;
        self.headers.clear();
        self.headers.extend(request.headers.iter().map(|h| {
            let value = h.value.trim_ascii();
            // An empty value need not point into the buffer.
            let value = if value.is_empty() { Span { start: 0, end: 0 } } else { span(value) };
            (span(h.name.as_bytes()), value)
        }));
        self.read_framing()?;
        Ok(Parsed::Complete(length))
    }

    fn set_target(&mut self, target: &str, at: Span) -> Result<(), HeadError> {
        if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(bad("malformed request target"));
        }
        let path_start = if target.starts_with('/') || (target == "*" && self.method == Method::OPTIONS) {
            0
        } else if let Some(rest) = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
            target.len() - rest.len() + rest.find('/').ok_or(bad("malformed request target"))?
        } else {
            return Err(bad("malformed request target"));
        };
        // The target is part of the head, so its length fits.
        #[allow(clippy::cast_possible_truncation)]
        let offset = |n: usize| at.start + n as u32;
        let path_end = target[path_start..].find('?').map_or(target.len(), |n| path_start + n);
        self.path = Span { start: offset(path_start), end: offset(path_end) };
        self.query = (path_end < target.len()).then(|| Span { start: offset(path_end + 1), end: at.end });
        Ok(())
    }

    fn read_framing(&mut self) -> Result<(), HeadError> {
        let (mut length, mut chunked, mut hosts, mut expects) = (None, false, 0, false);
        let (mut close, mut keep) = (false, false);
        for (name, value) in self.headers() {
            // Comparing the length first skips most headers quickly.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    hosts += 1;
                    check_host(value)?;
                }
                6 if name.eq_ignore_ascii_case("expect") => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(refuse(StatusCode::EXPECTATION_FAILED, "unknown expectation"));
                    }
                    expects = true;
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                        close |= token.eq_ignore_ascii_case(b"close");
                        keep |= token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let repeated = length.replace(content_length(value)?).is_some();
                    refuse_if(repeated, "more than one Content-Length")?;
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(bad("unknown transfer coding"));
                    }
                    chunked = true;
                }
                _ => {}
            }
        }
        if hosts > 1 || (hosts == 0 && self.minor == 1) {
            return Err(bad("exactly one Host header is needed"));
        }
        self.framing = match (length, chunked) {
            (Some(_), true) => return Err(bad("Content-Length together with Transfer-Encoding")),
            (None, true) if self.minor == 0 => return Err(bad("Transfer-Encoding in HTTP/1.0")),
            (None, true) => Framing::Chunked,
            (Some(0) | None, false) => Framing::None,
            (Some(n), false) => Framing::Length(n),
        };
        self.expects_continue = expects && self.minor == 1 && self.framing != Framing::None;
        self.keep_alive = !close && (self.minor == 1 || keep);
        Ok(())
    }

    fn text(&self, at: Span) -> &str {
        // Names and target were checked to be ASCII; the fallback is never taken.
        self.bytes.get(at.range()).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or("")
    }

    /// The request's method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path as sent: ASCII, still percent-encoded, beginning with `/` (or exactly `*` for `OPTIONS`).
    pub fn path(&self) -> &str {
        self.text(self.path)
    }

    /// The part after the `?`, still encoded; `None` without a `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|at| self.text(at))
    }

    /// All header lines in the order in which they were sent; values are trimmed bytes in any encoding.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (self.text(*name), self.bytes.get(value.range()).unwrap_or(&[])))
    }

    /// The first header with this name, in any case.
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The first header with this name, if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// How long the body is.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the request is HTTP/1.0.
    pub fn is_http_10(&self) -> bool {
        self.minor == 0
    }

    /// Whether the connection stays open for further requests.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }
}

/// Shows the target and the names of headers, but no values, as they may be secret.
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers().map(|(name, _)| name).collect();
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("path", &self.path())
            .field("headers", &names)
            .finish()
    }
}

fn method_of(name: &str) -> Result<Method, HeadError> {
    Method::from_bytes(name.as_bytes()).map_err(|_| bad("malformed method"))
}

fn refusal(e: httparse::Error) -> HeadError {
    match e {
        httparse::Error::TooManyHeaders => refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers"),
        httparse::Error::Version => {
            refuse(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        }
        httparse::Error::HeaderName => bad("malformed header name"),
        httparse::Error::HeaderValue => bad("malformed header value"),
        _ => bad("malformed request"),
    }
}

/// httparse accepts a bare LF as the end of a line (RFC 9112, section 2.2, permits it); a proxy in front may not.
fn lines_end_in_crlf(head: &[u8]) -> Result<(), HeadError> {
    let mut returns = memchr::memchr_iter(b'\r', head);
    for feed in memchr::memchr_iter(b'\n', head) {
        if returns.next().is_none_or(|at| at + 1 != feed) {
            return Err(bad("lines must end in CRLF"));
        }
    }
    if returns.next().is_some() { Err(bad("lines must end in CRLF")) } else { Ok(()) }
}

/// Digits only: no sign, list or space. RFC 9112, section 6.3, permits a list of equal numbers; this does not.
fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|v| v.parse().ok());
    number.ok_or(bad("malformed Content-Length"))
}

/// `uri-host [":" port]` (RFC 9110, section 7.2) or empty. Other parsers might read a comma or a path differently.
fn check_host(value: &[u8]) -> Result<(), HeadError> {
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(b);
    if value.len() <= 255 && value.iter().all(fits) { Ok(()) } else { Err(bad("malformed Host")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, HeadError> {
        let mut head = Head::default();
        match head.parse(text.as_bytes())? {
            Parsed::Complete(n) => {
                assert!(n <= text.len());
                Ok(head)
            }
            Parsed::Partial => panic!("partial: {text:?}"),
        }
    }

    fn status(text: &str) -> u16 {
        parse(text).expect_err(text).status.as_u16()
    }

    #[test]
    fn reads_a_plain_request() {
        let head = parse("GET /a%20b?x=1 HTTP/1.1\r\nHost: h\r\nSecret:  tg_x \r\n\r\nrest").unwrap();
        assert_eq!((head.method(), head.path(), head.query()), (&Method::GET, "/a%20b", Some("x=1")));
        assert_eq!(head.header("SECRET"), Some("tg_x"));
        assert_eq!(head.framing(), Framing::None);
        assert!(head.keep_alive() && !head.is_http_10());
        assert!(!format!("{head:?}").contains("tg_x"));
    }

    #[test]
    fn reads_absolute_and_asterisk_targets() {
        assert_eq!(parse("GET http://h:1/p?q HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().path(), "/p");
        assert_eq!(parse("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().path(), "*");
        for target in ["*", "h:80", "p", "/a#b", "/\u{e9}", "http://h"] {
            assert_eq!(status(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")), 400, "{target}");
        }
    }

    #[test]
    fn keeps_values_of_any_encoding() {
        let mut head = Head::default();
        head.parse(b"GET / HTTP/1.1\r\nHost: h\r\nX: \xff\xfe\r\n\r\n").unwrap();
        assert_eq!(head.header_bytes("x"), Some(&b"\xff\xfe"[..]));
        assert_eq!(head.header("x"), None);
    }

    #[test]
    fn refuses_ambiguous_heads() {
        for lines in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 1 1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length : 1",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "X: a\r\n b",
            "X: a\0b",
            "X: a\rb",
            "X: a\nY: b",
            "Host: h",
            "Host: a,b",
        ] {
            assert_eq!(status(&format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n")), 400, "{lines:?}");
        }
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\nHost: h\n\n"), 400);
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), 505);
        assert_eq!(status("POST / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n"), 417);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(100))), 431);
    }

    #[test]
    fn keep_alive_follows_version_and_header() {
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive());
        assert!(parse("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap().keep_alive());
        assert!(!parse("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n").unwrap().keep_alive());
        let head = parse("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n").unwrap();
        assert!(head.expects_continue());
        assert_eq!(head.framing(), Framing::Length(2));
    }

    #[test]
    fn an_incomplete_head_is_partial() {
        let whole = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        for n in 0..whole.len() {
            assert_eq!(Head::default().parse(&whole.as_bytes()[..n]), Ok(Parsed::Partial), "{n}");
        }
    }
}
