//! A client that reads a reply as it arrives, and can disconnect at any moment.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::Address;

/// A request that was sent, and the part of its reply received so far.
pub struct Raw {
    stream: TcpStream,
    pub got: String,
}

impl Raw {
    /// Sends a complete request.
    pub fn post(address: &Address, secret: &str, path: &str, body: &Value) -> Raw {
        let body = body.to_string();
        let mut raw = Raw::head(address, secret, path, "application/json", body.len());
        raw.write(body.as_bytes());
        raw
    }

    /// Sends the head of a request.
    pub fn head(address: &Address, secret: &str, path: &str, media_type: &str, length: usize) -> Raw {
        Raw::try_head(address, secret, path, media_type, length).unwrap()
    }

    /// The same to a server that may be killed meanwhile.
    pub fn try_head(
        address: &Address,
        secret: &str,
        path: &str,
        media_type: &str,
        length: usize,
    ) -> std::io::Result<Raw> {
        let mut stream = TcpStream::connect(address.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nSecret: {secret}\r\nContent-Type: {media_type}\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        Ok(Raw { stream, got: String::new() })
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads until `text` has been received.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        let mut piece = [0; 4096];
        while !self.got.contains(text) {
            let n = self.stream.read(&mut piece).unwrap_or_else(|e| panic!("no {text}: {e}: {}", self.got));
            assert!(n > 0, "no {text}: {}", self.got);
            self.got += &String::from_utf8_lossy(&piece[..n]);
        }
    }

    /// Reads until the reply ends: its last chunk, or the end of the connection.
    pub fn rest(&mut self) -> &str {
        let mut piece = [0; 4096];
        while !self.got.ends_with("0\r\n\r\n") {
            match self.stream.read(&mut piece) {
                Ok(n) if n > 0 => self.got += &String::from_utf8_lossy(&piece[..n]),
                _ => break,
            }
        }
        &self.got
    }

    /// Disconnects.
    pub fn leave(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
