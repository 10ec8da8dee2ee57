//! What the access log says, and what the connection layer sends by itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use serde_json::{Value, json};

use crate::harness::{Raw, Server, TestDb, Upstream};

const CHAT: &str = "/v1/chat/completions";

/// The access line of the request with this id, once there is one.
fn line(server: &Server, id: &str) -> Value {
    let find = || {
        let log = server.log();
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut lines = whole.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["target"] == "access" && line["request"] == id)
    };
    server.wait_until("the access line", || find().is_some());
    find().unwrap()
}

fn json_log() -> (&'static str, &'static str) {
    ("LOG_FORMAT", "json")
}

#[test]
fn a_key_that_is_pasted_into_a_path_is_not_logged() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[json_log()]);
    let user = server.sign_up("ann@example.com");
    for secret in [&user.secret, &user.token] {
        for path in [format!("/v1/{secret}"), format!("/{secret}/models"), format!("/documents/{secret}")] {
            server.web.anonymous().header("X-Request-Id", "pasted").get(&path);
            server.inference.anonymous().get(&path);
        }
    }
    assert_eq!(line(&server, "pasted")["path"], "/v1/***");
    server.web.anonymous().header("X-Request-Id", "last").get("/nowhere");
    line(&server, "last");
    assert!(!server.log().contains(&user.secret) && !server.log().contains(&user.token));
}

#[test]
fn a_stream_has_its_line_at_its_end() {
    let db = TestDb::new();
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, wire| {
        wire.start("text/event-stream");
        wire.word("one");
        wait.lock().unwrap().recv().unwrap();
        wire.finish(10, 3);
    });
    let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url), json_log()]);
    let user = server.sign_up("ann@example.com");
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "four words of it"}], "stream": true});
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &body);
    raw.until("one");
    let head = raw.got.to_ascii_lowercase();
    let id = head.split_once("x-request-id: ").unwrap().1.lines().next().unwrap().to_owned();
    assert!(!server.log().contains(&id), "{}", server.log());
    go.send(()).unwrap();
    raw.rest();
    let line = line(&server, &id);
    assert_eq!((&line["status"], &line["tokens"], &line["user"]), (&json!(200), &json!(13), &json!(user.id)));
    let number = |name: &str| line[name].as_u64().unwrap();
    assert!(number("bytes") > 100 && number("first_byte_micros") < number("micros"), "{line}");
}

#[test]
fn a_request_whose_client_leaves_while_its_reply_waits_has_a_line() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("INFERENCE_URL", &Upstream::counting().url), json_log()]);
    let user = server.sign_up("ann@example.com");
    // The charge, and with it the reply, waits for this.
    let mut other = db.connect();
    let mut lock = other.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "1"}]}).to_string();
    let mut socket = TcpStream::connect(server.inference.socket()).unwrap();
    let (secret, length) = (&user.secret, body.len());
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {secret}\r\nX-Request-Id: leaves\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    server.wait_until("the charge to wait", || db.count(waits) > 0);
    drop(socket);
    lock.commit().unwrap();
    let line = line(&server, "leaves");
    assert_eq!((&line["path"], &line["user"]), (&json!(CHAT), &json!(user.id)));
}

#[test]
fn refusals_of_the_connection_layer_have_the_headers_of_other_replies() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("PUBLIC_URL", "https://textgen.example")]);
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let huge = "POST / HTTP/1.1\r\nHost: h\r\nX-Request-Id: huge-1\r\nContent-Length: 999999999999\r\n\r\n";
    let chunked = "POST /api/login HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    for (request, status) in [("nonsense\r\n\r\n", "400"), (&long, "431"), (huge, "413"), (chunked, "400")] {
        let mut socket = TcpStream::connect(server.web.socket()).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        socket.read_to_string(&mut reply).unwrap();
        let reply = reply.to_ascii_lowercase();
        assert!(reply.starts_with(&format!("http/1.1 {status}")), "{reply}");
        for header in [
            "x-request-id: ",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "content-security-policy: default-src 'none'",
            "strict-transport-security: ",
        ] {
            assert!(reply.contains(header), "{header}: {reply}");
        }
        assert_eq!(reply.contains("x-request-id: huge-1"), status == "413", "{reply}");
    }
}

#[test]
fn a_proxy_that_is_not_trusted_is_warned_of() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("PUBLIC_URL", "https://textgen.example")]);
    assert!(server.log().contains("TRUSTED_PROXIES is not set"), "{}", server.log());
    let ignored = || server.log().matches("X-Forwarded-For is ignored").count();
    assert_eq!(ignored(), 0);
    for _ in 0..3 {
        server.web.anonymous().header("X-Forwarded-For", "6.6.6.6").get("/api/current-user").expect(401);
    }
    server.wait_until("the warning", || ignored() == 1);
    drop(server);
    let trusting = [("PUBLIC_URL", "https://textgen.example"), ("TRUSTED_PROXIES", "127.0.0.1, ::1")];
    let server = Server::start_with(&db, &trusting);
    server.web.anonymous().header("X-Forwarded-For", "6.6.6.6").get("/api/current-user").expect(401);
    assert!(!server.log().contains("TRUSTED_PROXIES"), "{}", server.log());
}
