//! The socket: reads requests, and answers them or fails to.

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::super::upstream::{ReceivedRequest, read};
use super::exchange::{ApiRequest, Call};
use super::faults::Fault;
use super::idempotency::{self, Entry};
use super::pages::{self, Page};
use super::params::Params;
use super::refusal::Refusal;
use super::state::State;
use super::{ROUTES, SECRET_KEY};

/// How long [`Fault::Silence`] is.
const SILENCE: Duration = Duration::from_millis(300);

/// Starts a server on a free port. Returns its URL.
pub fn start(state: Arc<Mutex<State>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            thread::spawn(move || serve(&state, stream));
        }
    });
    url
}

fn serve(state: &Mutex<State>, mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(received) = read(&mut reader) {
        let page = pages::page(&mut state.lock().unwrap(), &received.method, &received.path);
        if let Some(page) = page {
            if send_page(&mut stream, &page).is_err() {
                return;
            }
            continue;
        }
        let reply = match authorized(&received) {
            Ok(request) => respond(state, request),
            Err(refusal) => Some(Reply::of(&refusal)),
        };
        if reply.is_none_or(|reply| reply.send(&mut stream).is_err()) {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn send_page(stream: &mut TcpStream, page: &Page) -> std::io::Result<()> {
    let Page { status, location, html } = page;
    let location = location.as_ref().map(|place| format!("Location: {place}\r\n")).unwrap_or_default();
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: text/html\r\n{location}Content-Length: {}\r\n", html.len());
    stream.write_all(format!("{head}\r\n{html}").as_bytes())
}

struct Reply {
    status: u16,
    body: Value,
    is_replay: bool,
    retry_after: Option<u32>,
}

impl Reply {
    fn of(refusal: &Refusal) -> Reply {
        let Refusal { status, retry_after, .. } = *refusal;
        Reply { status, body: refusal.body(), is_replay: false, retry_after }
    }

    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let body = serde_json::to_string_pretty(&self.body)?;
        let mut head = format!(
            "HTTP/1.1 {} X\r\nContent-Type: application/json\r\nRequest-Id: req_fake\r\nContent-Length: {}\r\n",
            self.status,
            body.len()
        );
        if self.is_replay {
            head += "Idempotent-Replayed: true\r\n";
        }
        if let Some(seconds) = self.retry_after {
            head += &format!("Retry-After: {seconds}\r\n");
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes())
    }
}

/// The request, if its key and version are right.
fn authorized(received: &ReceivedRequest) -> Result<ApiRequest, Refusal> {
    let unauthorized = |message: &str| Refusal::new(401, "invalid_request_error", message);
    let key = received.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    match key {
        None => return Err(unauthorized("You did not provide an API key.")),
        Some(SECRET_KEY) => {}
        Some(_) => return Err(unauthorized("Invalid API Key provided: sk_test_***")),
    }
    let Some(version) = received.header("stripe-version") else {
        return Err(Refusal::new(400, "invalid_request_error", "The fake demands a Stripe-Version"));
    };
    let (path, query) = received.path.split_once('?').unwrap_or((&received.path, ""));
    let media_type = received.header("content-type").unwrap_or("application/x-www-form-urlencoded");
    if !received.body.is_empty() && !media_type.starts_with("application/x-www-form-urlencoded") {
        return Err(Refusal::new(
            400,
            "invalid_request_error",
            format!("Invalid request (check content type): {media_type}"),
        ));
    }
    Ok(ApiRequest {
        method: received.method.clone(),
        path: path.to_owned(),
        params: Params::parse(query, &received.body),
        idempotency_key: received.header("idempotency-key").map(str::to_owned),
        version: version.to_owned(),
    })
}

/// Does what is asked; `None` if the connection ends instead of a reply.
fn respond(state: &Mutex<State>, request: ApiRequest) -> Option<Reply> {
    let (fault, work_time) = {
        let mut state = state.lock().unwrap();
        (state.faults.draw(), state.work_time)
    };
    let refused = match fault {
        Some(Fault::CutBefore) => {
            note(&mut state.lock().unwrap(), request, 0, false, false);
            return None;
        }
        Some(Fault::Conflict) => {
            Some(Refusal::new(409, "invalid_request_error", "Try again").with_code("lock_timeout"))
        }
        Some(Fault::RateLimit) => {
            let refusal = Refusal::new(429, "invalid_request_error", "Too many requests").with_code("rate_limit");
            Some(Refusal { retry_after: Some(1), ..refusal })
        }
        _ => None,
    };
    let reply = match refused {
        Some(refusal) => Reply::of(&refusal),
        None => work(state, &request, fault, work_time),
    };
    let is_lost = matches!(fault, Some(Fault::CutAfter | Fault::Silence));
    note(&mut state.lock().unwrap(), request, reply.status, reply.is_replay, !is_lost);
    if fault == Some(Fault::Silence) {
        thread::sleep(SILENCE);
    }
    (!is_lost).then_some(reply)
}

fn work(state: &Mutex<State>, request: &ApiRequest, fault: Option<Fault>, work_time: Duration) -> Reply {
    let changes = request.method == "POST";
    let exclusive = request.exclusive();
    {
        let mut state = state.lock().unwrap();
        if let Some(exclusive) = &exclusive
            && state.at_work.contains(exclusive)
        {
            let message = "Another request is at work on this";
            return Reply::of(&Refusal::new(429, "invalid_request_error", message).with_code("lock_timeout"));
        }
        if changes {
            match idempotency::begin(&mut state, request) {
                Ok(Entry::Begin) => {}
                Ok(Entry::Replay(status, body)) => return Reply { status, body, is_replay: true, retry_after: None },
                Err(refusal) => return Reply::of(&refusal),
            }
        }
        state.at_work.extend(exclusive.clone());
    }
    thread::sleep(work_time);
    let mut state = state.lock().unwrap();
    let error = Refusal::new(500, "api_error", "An unknown error occurred");
    let reply = if fault == Some(Fault::ErrorBefore) {
        Reply::of(&error)
    } else {
        let answer = ROUTES.iter().find_map(|route| route(&mut state, request));
        match answer.unwrap_or_else(|| Err(Refusal::unknown_url(&request.method, &request.path))) {
            Ok(_) if fault == Some(Fault::ErrorAfter) => Reply::of(&error),
            Ok(body) => Reply { status: 200, body, is_replay: false, retry_after: None },
            Err(refusal) => Reply::of(&refusal),
        }
    };
    if let Some(exclusive) = exclusive {
        state.at_work.remove(&exclusive);
    }
    if changes {
        idempotency::finish(&mut state, request, reply.status, &reply.body);
    }
    reply
}

fn note(state: &mut State, request: ApiRequest, status: u16, is_replay: bool, is_answered: bool) {
    state.calls.push(Call { request, status, is_replay, is_answered });
}
