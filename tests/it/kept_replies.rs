//! Faults while a reply is charged and kept: whatever fails, the client that repeats its request gets the whole answer,
//! charged once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};

use serde_json::{Value, json};

use crate::harness::{
    Client, Proxy, Raw, Reply, Server, Signal, TestDb, Upstream, User, assert_books_agree, charges, only_charge,
};

const CHAT: &str = "/v1/chat/completions";

fn chat(stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream})
}

/// Answers each call differently, once the test lets it.
fn waiting() -> (Upstream, Sender<()>) {
    let ((go, wait), calls) = (channel(), AtomicUsize::new(0));
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |seen, wire| {
        let answer = format!("answer {}", calls.fetch_add(1, Relaxed));
        if seen.json()["stream"] != true {
            wait.lock().unwrap().recv().unwrap();
            let usage = json!({"prompt_tokens": 1, "completion_tokens": 2});
            return wire.json(200, &json!({"choices": [{"message": {"content": answer}}], "usage": usage}));
        }
        wire.start("text/event-stream");
        wire.word(&answer);
        wait.lock().unwrap().recv().unwrap();
        wire.finish(1, 2);
    });
    (upstream, go)
}

/// Sends a request with a key, without waiting for the answer.
fn begin(server: &Server, user: &User, body: &Value) -> Raw {
    let body = body.to_string();
    let media_type = "application/json\r\nIdempotency-Key: k1";
    let mut raw = Raw::head(&server.inference, &user.secret, CHAT, media_type, body.len());
    raw.write(body.as_bytes());
    raw
}

fn with_key(server: &Server, user: &User) -> Client {
    user.program(&server.inference).header("idempotency-key", "k1")
}

#[track_caller]
fn assert_replayed(reply: &Reply, is_stream: bool) {
    assert_eq!(reply.header("idempotent-replayed"), Some("true"));
    let text = reply.text();
    assert!(text.contains("answer 0") && (!is_stream || text.ends_with("data: [DONE]\n\n")), "{text}");
}

#[test]
fn a_process_killed_between_the_charge_and_the_reply() {
    for is_stream in [false, true] {
        let (upstream, go) = waiting();
        let settings = [("INFERENCE_URL", &*upstream.url)];
        let db = TestDb::new();
        let proxy = Proxy::to(&db);
        let killed = Server::spawn_demo(&proxy.url(), &settings);
        killed.wait_until_listening();
        let user = killed.sign_up("ann@example.com");
        let mut raw = begin(&killed, &user, &chat(is_stream));
        killed.wait_until("the call", || !upstream.seen().is_empty());
        // The charge reaches the database, and its answer does not reach the process.
        proxy.forward_no_answer_to("INSERT INTO kept_replies");
        go.send(()).unwrap();
        killed.wait_until("the charge", || !charges(&db).is_empty());
        killed.signal(Signal::KILL);
        killed.wait();
        let got = raw.rest();
        assert!(!got.contains("[DONE]") && (is_stream || got.is_empty()), "{got}");
        let server = Server::start_demo(&db, &settings);
        let client = with_key(&server, &user);
        for _ in 0..2 {
            assert_replayed(&client.post(CHAT, &chat(is_stream)).expect(200), is_stream);
        }
        upstream.only();
        only_charge(&db, &server);
        assert_eq!(db.count("SELECT count(*) FROM kept_replies"), 1);
        assert_books_agree(&db);
    }
}

#[test]
fn of_a_bulk_request_that_is_killed_all_or_nothing_is_charged() {
    const BULK: &str = "/api/v1/generate-bulk";
    let (upstream, go) = waiting();
    let settings = [("INFERENCE_URL", &*upstream.url)];
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    let texts: Vec<Value> = ["a", "b", "c"].iter().map(|model| json!({"text": "x", "model": model})).collect();
    let body = json!(texts);
    let begin = |server: &Server, user: &User| {
        let (text, media_type) = (body.to_string(), "application/json\r\nIdempotency-Key: k1");
        let mut raw = Raw::head(&server.inference, &user.secret, BULK, media_type, text.len());
        raw.write(text.as_bytes());
        raw
    };
    let first = Server::spawn_demo(&proxy.url(), &settings);
    first.wait_until_listening();
    let user = first.sign_up("ann@example.com");
    let second = Server::spawn_demo(&proxy.url(), &settings);
    second.wait_until_listening();

    // Killed when some texts are done.
    let mut raw = begin(&first, &user);
    first.wait_until("the calls", || upstream.seen().len() == 3);
    go.send(()).unwrap();
    first.signal(Signal::KILL);
    first.wait();
    assert!(raw.rest().is_empty() && charges(&db).is_empty());

    // Killed when all are charged, before the client hears of it.
    second.wait_until("the key", || {
        db.count("SELECT count(*) FROM idempotency_claims WHERE pg_try_advisory_xact_lock(owner)") == 1
    });
    let mut raw = begin(&second, &user);
    second.wait_until("the calls", || upstream.seen().len() == 6);
    proxy.forward_no_answer_to("INSERT INTO kept_replies");
    // Scripts of calls whose process was killed wait too.
    (0..6).for_each(|_| go.send(()).unwrap());
    second.wait_until("the charge", || !charges(&db).is_empty());
    assert_eq!(charges(&db).len(), 3, "all at once");
    second.signal(Signal::KILL);
    second.wait();
    assert!(raw.rest().is_empty());

    let server = Server::start_demo(&db, &settings);
    let client = with_key(&server, &user);
    let reply = client.post(BULK, &body).expect(200);
    assert_eq!(reply.header("idempotent-replayed"), Some("true"));
    assert_eq!(reply.json().as_array().unwrap().len(), 3);
    let models: Vec<Value> = charges(&db).iter().map(|charge| charge["model"].clone()).collect();
    assert!(["a", "b", "c"].iter().all(|model| models.contains(&json!(model))) && models.len() == 3, "{models:?}");
    assert_eq!((upstream.seen().len(), db.count("SELECT count(*) FROM kept_replies")), (6, 1));
    assert_books_agree(&db);
}

#[test]
fn the_journal_of_a_dead_process_holds_the_reply() {
    let (upstream, go) = waiting();
    let journal = std::env::temp_dir().join(format!("textgen-orphan-{}", textgen::usage::new_id()));
    let folder = journal.to_string_lossy().into_owned();
    let settings = [("INFERENCE_URL", &*upstream.url), ("JOURNAL_DIR", &folder)];
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    let killed = Server::spawn_demo(&proxy.url(), &settings);
    killed.wait_until_listening();
    let user = killed.sign_up("ann@example.com");
    let mut raw = begin(&killed, &user, &chat(false));
    killed.wait_until("the call", || !upstream.seen().is_empty());
    proxy.cut();
    go.send(()).unwrap();
    raw.until("answer 0");
    assert_eq!(charges(&db).len(), 0, "it is in the journal");
    killed.signal(Signal::KILL);
    killed.wait();
    let server = Server::start_demo(&db, &settings);
    only_charge(&db, &server);
    assert_replayed(&with_key(&server, &user).post(CHAT, &chat(false)).expect(200), false);
    upstream.only();
    only_charge(&db, &server);
    drop(server);
    let _ = std::fs::remove_dir_all(&journal);
}
