//! A scripted model server on a real socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// A request as received.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl ReceivedRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Writes the reply to a request.
pub struct ReplyWriter(TcpStream);

impl ReplyWriter {
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).is_ok()
    }

    pub fn reply(&mut self, status: u16, media_type: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n", body.len());
        self.raw([head.as_bytes(), body].concat());
    }

    pub fn json(&mut self, status: u16, body: &Value) {
        self.reply(status, "application/json", body.to_string());
    }

    pub fn start(&mut self, media_type: &str) {
        self.raw(format!("HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n"));
    }

    pub fn chunk(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        self.raw([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
    }

    /// One event, as one chunk.
    pub fn event(&mut self, data: &str) -> bool {
        self.chunk(format!("data: {data}\n\n"))
    }

    /// One piece of a streamed chat.
    pub fn word(&mut self, word: &str) -> bool {
        self.event(&format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{word}"}},"finish_reason":null}}]}}"#))
    }

    /// One piece of a streamed chat, with the usage up to it, as vLLM sends it.
    pub fn word_with_usage(&mut self, word: &str, prompt: i64, made: i64) -> bool {
        self.event(&format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"{word}"}},"finish_reason":null}}],"usage":{{"prompt_tokens":{prompt},"total_tokens":{},"completion_tokens":{made}}}}}"#,
            prompt + made
        ))
    }

    /// The end of a successful streamed chat, with its usage.
    pub fn finish(&mut self, prompt: i64, made: i64) {
        self.event(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        self.event(&format!(
            r#"{{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{made},"total_tokens":{}}}}}"#,
            prompt + made
        ));
        self.event("[DONE]");
        self.end();
    }

    pub fn end(&mut self) {
        self.raw("0\r\n\r\n");
    }

    pub fn die(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }

    /// Waits until the other side closes the connection; false if it does not within `seconds`.
    pub fn is_left_within(&mut self, seconds: u64) -> bool {
        self.0.set_read_timeout(Some(Duration::from_secs(seconds))).unwrap();
        !matches!(self.0.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// A running model server. It runs until the test process ends.
#[derive(Clone)]
pub struct Upstream {
    pub url: String,
    seen: Arc<Mutex<Vec<ReceivedRequest>>>,
}

impl Upstream {
    /// Runs `script` for each request.
    pub fn start(script: impl Fn(&ReceivedRequest, &mut ReplyWriter) + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script));
        let upstream = Upstream { url, seen: Arc::clone(&seen) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                thread::spawn(move || serve(stream, &seen, &*script));
            }
        });
        upstream
    }

    /// One that always gives the same answer.
    pub fn constant(status: u16, body: Value) -> Upstream {
        Upstream::start(move |_, wire| wire.json(status, &body))
    }

    /// The requests so far, without those for the list of models.
    pub fn seen(&self) -> Vec<ReceivedRequest> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path != "/v1/models").cloned().collect()
    }

    /// The only request so far.
    #[track_caller]
    pub fn only(&self) -> ReceivedRequest {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }
}

fn serve(stream: TcpStream, all: &Mutex<Vec<ReceivedRequest>>, script: &dyn Fn(&ReceivedRequest, &mut ReplyWriter)) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut wire = ReplyWriter(stream);
    while let Some(seen) = read(&mut reader) {
        all.lock().unwrap().push(seen.clone());
        if seen.path == "/v1/models" {
            wire.json(200, &serde_json::json!({"object": "list", "data": [{"id": "test-model", "object": "model"}]}));
        } else {
            script(&seen, &mut wire);
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<ReceivedRequest> {
    let mut line = || {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let (method, rest) = first.split_once(' ')?;
    let path = rest.split(' ').next()?.to_owned();
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        match line.split_once(':') {
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut seen = ReceivedRequest { method: method.to_owned(), path, headers, body: Vec::new() };
    if seen.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok().filter(|n| *n > 0)?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let start = seen.body.len();
            seen.body.resize(start + size + 2, 0);
            reader.read_exact(&mut seen.body[start..]).ok()?;
            seen.body.truncate(start + size);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = seen.header("content-length").and_then(|v| v.parse().ok()) {
        seen.body.resize(length, 0);
        reader.read_exact(&mut seen.body).ok()?;
    }
    Some(seen)
}
