//! A request, as handlers get it.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Body, Head, Method, Postponed};

/// A request: its head, its body and its peer.
#[derive(Debug)]
pub struct Request {
    /// Method, target and headers.
    pub head: Head,
    /// The body.
    pub body: Body,
    /// The peer's address: that of a proxy if there is one.
    pub peer: SocketAddr,
    /// What its handler has begun, if the request was [postponed](super::Response::postponed).
    pub postponed: Option<Postponed>,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            head: Head::default(),
            body: Body::default(),
            peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            postponed: None,
        }
    }
}

impl Request {
    /// The method.
    pub fn method(&self) -> &Method {
        self.head.method()
    }

    /// The path as sent, still percent-encoded.
    pub fn path(&self) -> &str {
        self.head.path()
    }

    /// The path with the query, as sent, if these are at most so many bytes of visible ASCII; else the path alone.
    pub fn path_and_query(&self, most: usize) -> Cow<'_, str> {
        let path = self.path();
        match self.head.query() {
            Some(query)
                if path.len() + 1 + query.len() <= most
                    && query.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') =>
            {
                Cow::Owned(format!("{path}?{query}"))
            }
            _ => Cow::Borrowed(path),
        }
    }

    /// The first header with this name, if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The first value with this name in the query string, decoded; invalid UTF-8 becomes U+FFFD.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.head.query()?;
        form_urlencoded::parse(query.as_bytes()).find(|(n, _)| n == name).map(|(_, value)| value.into_owned())
    }

    /// The media type of the body, lower-cased, without parameters; empty if none was sent.
    pub fn media_type(&self) -> String {
        let value = self.header("content-type").unwrap_or("");
        value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
    }
}
