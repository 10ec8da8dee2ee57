//! `Idempotency-Key`: one charge, and the same answer for every repetition.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Client, Proxy, Raw, Reply, Server, Signal, TestDb, Upstream, User, charges, final_charges, only_charge,
};
use crate::recordings::{multipart, wav};

const BOUNDARY: Option<&str> = Some("multipart/form-data; boundary=bnd");
const CHAT: &str = "/v1/chat/completions";

fn start(settings: &[(&str, &str)]) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let server = Server::start_demo(&db, settings);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

fn with_key(client: &Client) -> Client {
    client.header("idempotency-key", "k1")
}

fn chat(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

/// Answers each call differently.
fn counting() -> Upstream {
    let calls = AtomicUsize::new(0);
    Upstream::start(move |_, wire| wire.json(200, &answer(calls.fetch_add(1, Relaxed))))
}

fn answer(n: usize) -> Value {
    json!({"choices": [{"message": {"content": format!("answer {n}")}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
}

fn is_replayed(reply: &Reply) -> bool {
    reply.header("idempotent-replayed") == Some("true")
}

/// Sends a request twice: the second time it is replayed.
#[track_caller]
fn twice(send: impl Fn() -> Reply) -> Reply {
    let (first, second) = (send().expect(200), send().expect(200));
    assert!(!is_replayed(&first) && is_replayed(&second));
    assert_eq!(first.text(), second.text());
    assert_eq!(first.header("content-type"), second.header("content-type"));
    first
}

#[test]
fn a_repetition_gets_the_kept_reply_also_of_another_process() {
    let upstream = counting();
    let settings = [("INFERENCE_URL", &*upstream.url)];
    let (db, server, user) = start(&settings);
    let first = twice(|| with_key(&user.program(&server.inference)).post(CHAT, &chat("x")));
    assert_eq!(server.stop(), 0);
    let server = Server::start_demo(&db, &settings);
    let again = with_key(&user.program(&server.inference)).post(CHAT, &chat("x")).expect(200);
    assert!(is_replayed(&again) && again.text() == first.text());
    upstream.only();
    // Another account's key is another key.
    let other = server.sign_up("bob@example.com");
    let reply = with_key(&other.program(&server.inference)).post(CHAT, &chat("x")).expect(200);
    assert!(!is_replayed(&reply) && reply.text() != first.text());
    assert_eq!((upstream.seen().len(), final_charges(&db, server).len()), (2, 2));
}

#[test]
fn another_request_with_the_same_key_is_refused() {
    let (db, server, user) = start(&[("AUDIO_URL_ALLOW", "127.0.0.1")]);
    let text = with_key(&user.program(&server.inference));
    twice(|| text.post("/v1/engines/a/completions", &json!({"prompt": "x"})));
    for (path, prompt) in [("/v1/engines/b/completions", "x"), ("/v1/engines/a/completions", "y")] {
        let refused = text.post(path, &json!({"prompt": prompt})).expect(422);
        assert!(refused.text().contains("Idempotency-Key"), "{}", refused.text());
    }
    let recording = user.program(&server.audio);
    let translated = recording.header("idempotency-key", "k2");
    let upload = |translate: &[u8], bytes: &[u8]| {
        let body = multipart(&[("translate_to_english", translate), ("audio_file*", bytes)]);
        translated.send("POST", "/api/v1/audio-file-extraction", BOUNDARY, &body)
    };
    twice(|| upload(b"false", &wav()));
    upload(b"true", &wav()).expect(422);
    // Larger than what is buffered before the handler runs.
    let large = textgen::wav::file(8000, 16, &vec![0; 3 << 20]);
    upload(b"false", &large).expect(422);
    let streamed = recording.header("idempotency-key", "k3");
    let transcribe = |bytes: &[u8]| {
        let body = multipart(&[("model", b"demo"), ("file*", bytes), ("language", b"de")]);
        streamed.send("POST", "/v1/audio/transcriptions", BOUNDARY, &body)
    };
    twice(|| transcribe(&large));
    transcribe(&wav()).expect(422);
    let form = user.browser_of(&server).header("idempotency-key", "k4");
    twice(|| form.form("/playground/speak", &[("input", "one")]));
    form.form("/playground/speak", &[("input", "two")]).expect(422);
    let charges = final_charges(&db, server);
    assert_eq!(charges.len(), 4, "{charges:?}");
}

#[test]
fn a_url_that_points_to_another_recording_is_another_request() {
    let recording = Arc::new(Mutex::new(wav()));
    let served = recording.clone();
    let files = Upstream::start(move |_, wire| wire.reply(200, "audio/wav", served.lock().unwrap().clone()));
    let (db, server, user) = start(&[("AUDIO_URL_ALLOW", "127.0.0.1")]);
    let client = with_key(&user.program(&server.audio));
    let body = json!({"audio_url": format!("{}/a.wav", files.url)});
    twice(|| client.post("/api/v1/audio-extraction", &body));
    *recording.lock().unwrap() = textgen::wav::file(8000, 16, &vec![0; 48_000]);
    client.post("/api/v1/audio-extraction", &body).expect(422);
    only_charge(&db, &server);
}

#[test]
fn a_key_has_1_to_255_visible_characters() {
    let (db, server, user) = start(&[]);
    let client = user.program(&server.inference);
    for key in ["", "a b", &"k".repeat(256)] {
        client.header("idempotency-key", key).post(CHAT, &chat("x")).expect(400);
    }
    client.header("idempotency-key", &"k".repeat(255)).post(CHAT, &chat("x")).expect(200);
    only_charge(&db, &server);
}

#[test]
fn while_the_first_request_runs_a_repetition_is_told_to_wait() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, wire| {
        wait.lock().unwrap().recv().unwrap();
        wire.json(200, &answer(1));
    });
    let (db, server, user) = start(&[("INFERENCE_URL", &upstream.url)]);
    let client = with_key(&user.program(&server.inference));
    thread::scope(|scope| {
        let first = scope.spawn(|| client.post(CHAT, &chat("x")));
        server.wait_until("the call", || !upstream.seen().is_empty());
        let refused = client.post(CHAT, &chat("x")).expect(409);
        assert!(refused.header("retry-after").is_some());
        go.send(()).unwrap();
        first.join().unwrap().expect(200);
    });
    assert!(is_replayed(&client.post(CHAT, &chat("x")).expect(200)));
    upstream.only();
    only_charge(&db, &server);
}

/// As after a crash of the database, which loses claims.
#[test]
fn of_two_requests_with_one_key_one_is_charged_though_its_claim_was_lost() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let calls = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, wire| {
        let call = calls.fetch_add(1, Relaxed);
        wait.lock().unwrap().recv().unwrap();
        wire.json(200, &answer(call));
    });
    let (db, server, user) = start(&[("INFERENCE_URL", &upstream.url)]);
    let client = with_key(&user.program(&server.inference));
    thread::scope(|scope| {
        let first = scope.spawn(|| client.post(CHAT, &chat("x")));
        server.wait_until("the first call", || upstream.seen().len() == 1);
        db.run("DELETE FROM idempotency_claims");
        let second = scope.spawn(|| client.post(CHAT, &chat("x")));
        server.wait_until("the second call", || upstream.seen().len() == 2);
        go.send(()).unwrap();
        go.send(()).unwrap();
        let mut statuses = [first.join().unwrap().status, second.join().unwrap().status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409]);
    });
    assert!(is_replayed(&client.post(CHAT, &chat("x")).expect(200)));
    only_charge(&db, &server);
}

#[test]
fn a_request_that_was_not_charged_leaves_its_key_free() {
    let calls = AtomicUsize::new(0);
    let upstream = Upstream::start(move |seen, wire| match calls.fetch_add(1, Relaxed) {
        0 => wire.json(400, &json!({"error": {"message": "no"}})),
        1 => {
            wire.start("text/event-stream");
            wire.word("cut");
            wire.die();
        }
        n if seen.json()["stream"] == true => {
            wire.start("text/event-stream");
            wire.word(&format!("word{n}"));
            wire.finish(1, 1);
        }
        n => wire.json(200, &answer(n)),
    });
    let (db, server, user) = start(&[("INFERENCE_URL", &upstream.url)]);
    let client = with_key(&user.program(&server.inference));
    client.post(CHAT, &chat("x")).expect(400);
    let mut streamed = chat("x");
    streamed["stream"] = true.into();
    assert!(client.post(CHAT, &streamed).text().contains("cut"));
    // What was refused and what was cut may even be followed by another request.
    let reply = twice(|| client.post(CHAT, &streamed));
    assert!(reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    assert_eq!(upstream.seen().len(), 3);
    assert_eq!(db.count("SELECT count(*) FROM kept_replies"), 1);
    drop(server);
}

#[test]
fn a_client_that_lost_its_stream_gets_all_of_it() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, wire| {
        wire.start("text/event-stream");
        wire.word("one");
        wait.lock().unwrap().recv().unwrap();
        (0..100).for_each(|_| assert!(wire.word("more")));
        wire.finish(5, 7);
    });
    let (db, server, user) = start(&[("INFERENCE_URL", &upstream.url)]);
    let mut streamed = chat("x");
    streamed["stream"] = true.into();
    let body = streamed.to_string();
    let media_type = "application/json\r\nIdempotency-Key: k1";
    let mut raw = Raw::head(&server.inference, &user.secret, CHAT, media_type, body.len());
    raw.write(body.as_bytes());
    raw.until("one");
    raw.leave();
    go.send(()).unwrap();
    let charge = only_charge(&db, &server);
    assert_eq!((charge["prompt_tokens"].as_i64(), charge["completion_tokens"].as_i64()), (Some(5), Some(7)));
    let reply = with_key(&user.program(&server.inference)).post(CHAT, &streamed).expect(200);
    let text = reply.text();
    assert!(is_replayed(&reply) && text.contains("one") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(text.matches("more").count(), 100);
    upstream.only();
    only_charge(&db, &server);
}

#[test]
fn what_is_too_large_or_makes_room_is_not_run_again() {
    let upstream = Upstream::start(|seen, wire| {
        let size: usize = seen.json()["messages"][0]["content"].as_str().unwrap().parse().unwrap();
        let mut answer = answer(1);
        answer["choices"][0]["message"]["content"] = "x".repeat(size).into();
        wire.json(200, &answer);
    });
    let (db, server, user) = start(&[("INFERENCE_URL", &upstream.url), ("IDEMPOTENCY_MAX_BYTES", "1048576")]);
    let program = user.program(&server.inference);
    let send = |key: &str, size: usize| program.header("idempotency-key", key).post(CHAT, &chat(&size.to_string()));
    send("large", 1_100_000).expect(200);
    let refused = send("large", 1_100_000).expect(409);
    assert!(refused.text().contains("too large") && refused.header("retry-after").is_none(), "{}", refused.text());
    for n in 0..5 {
        send(&format!("k{n}"), 300_000 + n).expect(200);
    }
    server.wait_until("the oldest to go", || send("k0", 300_000).status == 409);
    assert!(is_replayed(&send("k4", 300_004).expect(200)));
    assert_eq!((upstream.seen().len(), final_charges(&db, server).len()), (6, 6));
}

#[test]
fn the_key_of_a_killed_process_is_taken_over() {
    let calls = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, wire| match calls.fetch_add(1, Relaxed) {
        0 => drop(wire.is_left_within(60)),
        n => wire.json(200, &answer(n)),
    });
    let settings = [("INFERENCE_URL", &*upstream.url)];
    let (db, killed, user) = start(&settings);
    let server = Server::start_demo(&db, &settings);
    server.wait_until_listening();
    let body = chat("x").to_string();
    let media_type = "application/json\r\nIdempotency-Key: k1";
    let mut raw = Raw::head(&killed.inference, &user.secret, CHAT, media_type, body.len());
    raw.write(body.as_bytes());
    server.wait_until("the call", || !upstream.seen().is_empty());
    let client = with_key(&user.program(&server.inference));
    client.post(CHAT, &chat("x")).expect(409);
    killed.signal(Signal::KILL);
    killed.wait();
    server.wait_until("the key", || client.post(CHAT, &chat("x")).status == 200);
    assert!(is_replayed(&client.post(CHAT, &chat("x")).expect(200)));
    assert_eq!(upstream.seen().len(), 2);
    only_charge(&db, &server);
}

#[test]
fn the_key_of_a_process_that_hears_no_notifications_is_not_taken_over() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, wire| {
        wait.lock().unwrap().recv().unwrap();
        wire.json(200, &answer(1));
    });
    let settings = [("INFERENCE_URL", &*upstream.url)];
    let deaf = [settings[0], ("DATABASE_LISTEN_URL", "postgresql://me@127.0.0.1:1/nothing")];
    let db = TestDb::new();
    let first = Server::start_demo(&db, &deaf);
    let user = first.sign_up("ann@example.com");
    let second = Server::start_demo(&db, &settings);
    second.wait_until_listening();
    let (to_first, to_second) = (with_key(&user.program(&first.inference)), with_key(&user.program(&second.inference)));
    thread::scope(|scope| {
        let running = scope.spawn(|| to_first.post(CHAT, &chat("x")));
        first.wait_until("the call", || !upstream.seen().is_empty());
        for _ in 0..5 {
            to_second.post(CHAT, &chat("x")).expect(409);
        }
        go.send(()).unwrap();
        running.join().unwrap().expect(200);
    });
    second.wait_until("the kept reply", || is_replayed(&to_second.post(CHAT, &chat("x"))));
    assert_eq!(upstream.seen().len(), 1);
    only_charge(&db, &first);
}

#[test]
fn a_reply_that_went_to_the_journal_is_kept() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, wire| {
        wait.lock().unwrap().recv().unwrap();
        let mut answer = answer(1);
        answer["choices"][0]["message"]["content"] = "x".repeat(500_000).into();
        wire.json(200, &answer);
    });
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    let server = Server::spawn_demo(&proxy.url(), &[("INFERENCE_URL", &upstream.url)]);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    let client = with_key(&user.program(&server.inference));
    let first = thread::scope(|scope| {
        let first = scope.spawn(|| client.post(CHAT, &chat("x")));
        server.wait_until("the call", || !upstream.seen().is_empty());
        proxy.cut();
        go.send(()).unwrap();
        first.join().unwrap().expect(200)
    });
    assert_eq!(charges(&db).len(), 0, "it is in the journal");
    // Whether the key was used cannot be known.
    client.post(CHAT, &chat("x")).expect(503);
    user.program(&server.inference).header("idempotency-key", "k2").post(CHAT, &chat("x")).expect(503);
    proxy.restore();
    server.wait_until("the database", || client.post(CHAT, &chat("x")).status != 503);
    let again = client.post(CHAT, &chat("x")).expect(200);
    assert!(is_replayed(&again) && again.text() == first.text());
    upstream.only();
    only_charge(&db, &server);
}

#[test]
fn what_was_begun_for_one_request_is_not_found_by_another() {
    let upstream = counting();
    // One worker serves all.
    let (db, server, user) = start(&[("INFERENCE_URL", &upstream.url), ("WORKERS", "1")]);
    let other = server.sign_up("bob@example.com");
    // The form is read before the key is claimed, and read again afterwards.
    let page = with_key(&user.browser);
    let fields = [("prompt", "x")];
    assert!(page.form("/playground/ask", &fields).expect(200).text().contains("answer 0"));
    // These are refused after their keys were claimed.
    with_key(&user.browser).form("/playground/ask", &[("prompt", "")]).expect(400);
    let program = user.program(&server.inference);
    program.header("idempotency-key", "k2").post(CHAT, &json!({"messages": 1})).expect(400);
    let answered = twice(|| program.header("idempotency-key", "k2").post(CHAT, &chat("x")));
    assert!(answered.text().contains("answer 1"), "the key is free before the client hears of a refusal");
    let theirs = twice(|| with_key(&other.program(&server.inference)).post(CHAT, &chat("x")));
    assert!(theirs.text().contains("answer 2"));
    assert_eq!(final_charges(&db, server).len(), 3);
}
