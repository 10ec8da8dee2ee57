//! HTTP clients with different credentials: none, a session cookie, a secret.

use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request};

/// Where a server listens.
#[derive(Clone, Debug)]
pub struct Address(pub String);

impl Address {
    /// A client without any credential.
    pub fn anonymous(&self) -> Client {
        Client::new(self.clone(), Vec::new())
    }

    /// A client that sends a secret.
    pub fn with_secret(&self, secret: &str) -> Client {
        Client::new(self.clone(), vec![("secret".to_owned(), secret.to_owned())])
    }

    /// A client that sends a session's token in its cookie.
    pub fn with_cookie(&self, token: &str) -> Client {
        Client::new(self.clone(), vec![("cookie".to_owned(), format!("session_secret={token}"))])
    }

    /// `host:port`.
    pub fn socket(&self) -> &str {
        self.0.strip_prefix("http://").unwrap()
    }
}

/// Sends requests with a fixed set of headers. Does not follow redirects or keep cookies.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    address: Address,
    headers: Vec<(String, String)>,
}

/// A reply.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    fn new(address: Address, headers: Vec<(String, String)>) -> Client {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .proxy(None)
            .build()
            .new_agent();
        Client { agent, address, headers }
    }

    /// The same client with one more header.
    pub fn header(&self, name: &str, value: &str) -> Client {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, None, b"")
    }

    /// Follows the redirect that answers a form, with the cookie it sets.
    #[track_caller]
    pub fn follow(&self, reply: &Reply) -> Reply {
        let client = self.header("accept", "text/html,application/xhtml+xml");
        let cookie = reply.header("set-cookie").expect("no Set-Cookie").split(';').next().unwrap();
        client.header("cookie", cookie).get(reply.header("location").expect("no Location"))
    }

    /// Posts JSON and accepts JSON.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        let client = self.header("accept", "application/json");
        client.send("POST", path, Some("application/json"), body.to_string().as_bytes())
    }

    /// Posts a form and accepts HTML, as a browser does.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let client = self.header("accept", "text/html");
        client.send("POST", path, Some("application/x-www-form-urlencoded"), urlencoded(fields).as_bytes())
    }

    /// Posts a form and accepts JSON, as a script does.
    pub fn form_for_json(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let client = self.header("accept", "application/json");
        client.send("POST", path, Some("application/x-www-form-urlencoded"), urlencoded(fields).as_bytes())
    }

    /// Sends any request.
    pub fn send(&self, method: &str, path: &str, media_type: Option<&str>, body: &[u8]) -> Reply {
        self.try_send(method, path, media_type, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// Sends any request; fails if the connection breaks.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        media_type: Option<&str>,
        body: &[u8],
    ) -> Result<Reply, ureq::Error> {
        let url = format!("{}{path}", self.address.0);
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(media_type) = media_type {
            request = request.header("content-type", media_type);
        }
        let mut reply = match method {
            "GET" | "HEAD" | "OPTIONS" if body.is_empty() => self.agent.run(request.body(()).unwrap())?,
            _ => self.agent.run(request.body(body).unwrap())?,
        };
        let headers = reply.headers().iter();
        let headers = headers.map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()));
        Ok(Reply {
            status: reply.status().as_u16(),
            headers: headers.collect(),
            body: reply.body_mut().with_config().limit(200 << 20).read_to_vec()?,
        })
    }
}

fn urlencoded(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

impl Reply {
    /// Fails the test, and shows the body, unless the reply has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Reply {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The first header with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The session token that the reply sets.
    #[track_caller]
    pub fn session_token(&self) -> String {
        let cookie = self.header("set-cookie").expect("no Set-Cookie");
        let value = cookie.strip_prefix("session_secret=").expect("another cookie");
        value.split(';').next().unwrap().to_owned()
    }
}
