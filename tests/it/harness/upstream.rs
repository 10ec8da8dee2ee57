//! A scripted model server on a real socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// What a server lists whose test does not say otherwise. The first is the default model; the others are named by tests,
/// mostly to have their scripts answer in some way.
const MODELS: [&str; 28] = [
    "test-model",
    "m",
    "n",
    "w",
    "t",
    "e",
    "refuse",
    "detail",
    "text",
    "key",
    "fault",
    "rate",
    "html",
    "nonsense",
    "die",
    "poison",
    "wrong",
    "pause",
    "slow",
    "close",
    "one",
    "nothing",
    "strange",
    "a",
    "b",
    "c",
    "gpt-x",
    "gpt-4o-transcribe",
];

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
    listed: Arc<Mutex<Option<Vec<String>>>>,
}

impl Upstream {
    /// Runs `script` for each request.
    pub fn start(script: impl Fn(&ReceivedRequest, &mut ReplyWriter) + Send + Sync + 'static) -> Upstream {
        Upstream::start_at("127.0.0.1:0", &MODELS, script)
    }

    /// The same at an address, with other models.
    pub fn start_at(
        address: &str,
        models: &[&str],
        script: impl Fn(&ReceivedRequest, &mut ReplyWriter) + Send + Sync + 'static,
    ) -> Upstream {
        let listener = TcpListener::bind(address).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script));
        let listed = Arc::new(Mutex::new(None));
        let upstream = Upstream { url, seen, listed }.listing(models);
        let served = upstream.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (served, script) = (served.clone(), Arc::clone(&script));
                thread::spawn(move || served.serve(stream, &*script));
            }
        });
        upstream
    }

    /// The same server, which lists these models from now on.
    pub fn listing(self, models: &[&str]) -> Upstream {
        *self.listed.lock().unwrap() = Some(models.iter().map(|model| (*model).to_owned()).collect());
        self
    }

    /// The same server, which has no list of models from now on.
    pub fn without_list(self) -> Upstream {
        *self.listed.lock().unwrap() = None;
        self
    }

    /// One whose replies use as many prompt tokens as the number in the prompt says, by which a request is found in the
    /// ledger.
    pub fn counting() -> Upstream {
        Upstream::start(|seen, wire| {
            let body = seen.json();
            let prompt = body["prompt"].as_str().or(body["messages"][0]["content"].as_str()).unwrap();
            let used = |made: i64| json!({"prompt_tokens": prompt.parse::<i64>().unwrap(), "completion_tokens": made});
            let choice = json!({"index": 0, "text": "word", "message": {"content": "word"}, "finish_reason": "stop"});
            if body["stream"] != true {
                return wire.json(200, &json!({"choices": [choice], "usage": used(2)}));
            }
            wire.start("text/event-stream");
            for made in 1..10 {
                let choice = json!({"index": 0, "text": "word ", "finish_reason": null});
                wire.event(&json!({"choices": [choice], "usage": used(made)}).to_string());
            }
            wire.event(r#"{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#);
            wire.event(&json!({"choices": [], "usage": used(9)}).to_string());
            wire.event("[DONE]");
            wire.end();
        })
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

    fn serve(&self, stream: TcpStream, script: &dyn Fn(&ReceivedRequest, &mut ReplyWriter)) {
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut wire = ReplyWriter(stream);
        while let Some(seen) = read(&mut reader) {
            self.seen.lock().unwrap().push(seen.clone());
            if seen.path != "/v1/models" {
                script(&seen, &mut wire);
                continue;
            }
            match self.listed.lock().unwrap().clone() {
                Some(models) => {
                    let models = models.iter().map(|model| json!({"id": model, "object": "model"}));
                    wire.json(200, &json!({"object": "list", "data": models.collect::<Vec<_>>()}));
                }
                None => wire.json(404, &json!({"detail": "Not Found"})),
            }
        }
    }
}

/// Accepts the first connection with a call, and refuses those that ask for the list of models.
pub fn accept_call(listener: &TcpListener) -> TcpStream {
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut start = [0; 4];
        while stream.peek(&mut start).unwrap() == 1 {}
        if start.starts_with(b"PO") {
            return stream;
        }
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
}

pub(super) fn read(reader: &mut impl BufRead) -> Option<ReceivedRequest> {
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
