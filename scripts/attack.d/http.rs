//! What clients of an attack send, and the statuses that they get.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use super::{Failure, PASSWORD, Target};

/// A connection that is kept alive.
pub(crate) struct Connection(pub(crate) TcpStream);

impl Connection {
    pub(crate) fn open(address: SocketAddr, patience: Duration) -> io::Result<Connection> {
        let socket = TcpStream::connect_timeout(&address, patience)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Connection(socket))
    }

    /// Sends a request from this address, as JSON if it has a body, and returns the status of the reply, which is read.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        from: &str,
        secret: Option<&str>,
        body: &[u8],
    ) -> io::Result<u16> {
        let head = head(method, path, from, secret, "application/json", body.len());
        // It may be refused before it is sent.
        let sent = self.0.write_all(head.as_bytes()).and_then(|()| self.0.write_all(body));
        self.reply().map(|(status, _)| status).map_err(|e| sent.err().unwrap_or(e))
    }

    /// The status and the body of the next reply.
    pub(crate) fn reply(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        loop {
            let n = self.0.read(&mut buffer)?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&buffer[..n]);
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|text| text.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
                return Ok((status.ok_or(ErrorKind::InvalidData)?, bytes[end + 4..end + 4 + length].to_vec()));
            }
        }
    }
}

/// The head of a request.
pub(crate) fn head(method: &str, path: &str, from: &str, secret: Option<&str>, kind: &str, length: usize) -> String {
    let secret = secret.map_or(String::new(), |secret| format!("secret: {secret}\r\n"));
    format!(
        "{method} {path} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {from}\r\n{secret}Content-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

/// An object of texts that need no escapes.
pub(crate) fn json(fields: &[(&str, &str)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
    format!("{{{}}}", fields.join(","))
}

/// Creates an account and returns its secret.
pub(crate) fn sign_up(target: &Target, from: &str, email: &str) -> Result<String, Failure> {
    let body = json(&[("email", email), ("password", PASSWORD)]);
    let mut one = Connection::open(target.web, Duration::from_secs(30))?;
    one.0.write_all(head("POST", "/api/signup", from, None, "application/json", body.len()).as_bytes())?;
    one.0.write_all(body.as_bytes())?;
    let (status, reply) = one.reply()?;
    text_field(&reply, "secret").ok_or_else(|| format!("{email} cannot sign up: {status}").into())
}

/// The text of a field in a reply.
pub(crate) fn text_field(reply: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(reply).into_owned();
    let (_, rest) = text.split_once(&format!("\"{name}\":\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

/// How often an attack was answered with which status; 0 for no answer.
#[derive(Default)]
pub(crate) struct Statuses(Mutex<BTreeMap<u16, usize>>);

impl Statuses {
    pub(crate) fn add(&self, status: &io::Result<u16>) {
        if let Ok(mut counts) = self.0.lock() {
            *counts.entry(*status.as_ref().unwrap_or(&0)).or_default() += 1;
        }
    }

    pub(crate) fn summary(&self) -> String {
        let counts = self.0.lock().map(|counts| counts.clone()).unwrap_or_default();
        let one = |(status, count): (&u16, &usize)| match status {
            0 => format!("{count} x none"),
            status => format!("{count} x {status}"),
        };
        counts.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}
