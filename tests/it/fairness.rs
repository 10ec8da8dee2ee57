//! Requests that wait: no kind of them, and no account, leaves others without a place. Of `n` places, one account that
//! is alone gets two thirds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::floods::REFUSED_PAUSE;
use crate::harness::{End, PASSWORD, Raw, Reply, Server, TestDb, Upstream, User, charges, soon};
use crate::recordings::{heard, multipart, wav};

const CHAT: &str = "/v1/chat/completions";

/// A gate at which replies wait.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
    most: AtomicUsize,
}

impl Gate {
    fn wait(&self) {
        let now = self.waiting.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        let mut is_open = self.is_open.lock().unwrap();
        while !*is_open {
            is_open = self.opened.wait(is_open).unwrap();
        }
        self.waiting.fetch_sub(1, SeqCst);
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }
}

/// A model server whose streams wait after the first word, and whose other replies come at once; recordings are heard.
fn slow_streams() -> (Upstream, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let inner = Arc::clone(&gate);
    let upstream = Upstream::start(move |seen, wire| {
        if seen.path != CHAT {
            return wire.json(200, &heard());
        }
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 1});
        if seen.json()["stream"] != true {
            let message = json!({"role": "assistant", "content": "Hi"});
            let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
            return wire.json(200, &json!({"choices": [choice], "usage": usage}));
        }
        wire.start("text/event-stream");
        wire.word("one");
        inner.wait();
        wire.finish(3, 1);
    });
    (upstream, gate)
}

fn start(upstream: &Upstream, settings: &[(&str, &str)]) -> (TestDb, Server) {
    let db = TestDb::new();
    let mut all = vec![("INFERENCE_URL", upstream.url.as_str()), ("TRANSCRIBE_URL", upstream.url.as_str())];
    all.extend(settings);
    let server = Server::start_with(&db, &all);
    (db, server)
}

fn body(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
}

fn chat(server: &Server, user: &User) -> Reply {
    user.program(&server.inference).post(CHAT, &body(false))
}

/// Begins a stream, and waits for its first word.
fn stream(server: &Server, user: &User) -> Raw {
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &body(true));
    raw.until("one");
    raw
}

/// The account has all that it may have: it is told so, and when to come back.
#[track_caller]
fn assert_share_is_used(reply: &Reply) {
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")), "{}", reply.text());
}

/// Everything else works, for the account that waits and for others.
fn assert_others_are_served(server: &Server, hog: &User, email: &str) -> User {
    let other = server.sign_up(email);
    server.sign_in(email, PASSWORD);
    server.sign_in("hog@x", PASSWORD);
    for user in [hog, &other] {
        let program = user.program(&server.inference);
        program.get("/v1/models").expect(200);
        program.get("/api/current-user").expect(200);
    }
    chat(server, &other).expect(200);
    other
}

#[test]
fn slow_streams_of_one_account_leave_room_for_all_others() {
    let (upstream, gate) = slow_streams();
    let (db, server) = start(&upstream, &[("MAX_MODEL_CALLS", "32")]);
    let hog = server.sign_up("hog@x");
    let mut streams: Vec<_> = (0..21).map(|_| stream(&server, &hog)).collect();
    let refused = chat(&server, &hog);
    assert_share_is_used(&refused);
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    let seen = upstream.seen().len();
    assert_share_is_used(&user_stream(&server, &hog));
    assert_eq!(upstream.seen().len(), seen, "the model is not called");
    let other = assert_others_are_served(&server, &hog, "ann@x");
    // Of what is left, the next one has two thirds again.
    streams.extend((0..7).map(|_| stream(&server, &other)));
    assert_share_is_used(&chat(&server, &other));
    assert_others_are_served(&server, &hog, "ben@x");
    gate.open();
    for raw in &mut streams {
        assert!(raw.rest().contains("[DONE]"), "{}", raw.got);
    }
    soon("the places to be free", || chat(&server, &hog).status == 200);
    let answered = streams.len() + 3;
    server.wait_until("the charges", || charges(&db).len() >= answered);
    assert_eq!(server.stop(), 0);
    assert_eq!(charges(&db).len(), answered, "what was refused is not charged");
}

/// A stream that is refused.
fn user_stream(server: &Server, user: &User) -> Reply {
    user.program(&server.inference).post(CHAT, &body(true))
}

#[test]
fn streams_of_many_accounts_get_in_and_a_place_that_is_free_is_given_again() {
    let (upstream, gate) = slow_streams();
    let (_db, server) = start(&upstream, &[("MAX_MODEL_CALLS", "9")]);
    let users: Vec<_> = (0..4).map(|n| server.sign_up(&format!("u{n}@x"))).collect();
    // Each in its turn, so that none has more than the others.
    let mut streams: Vec<_> = (0..8).map(|n| stream(&server, &users[n % 4])).collect();
    let newcomer = server.sign_up("new@x");
    streams.push(stream(&server, &newcomer));
    // Now there is none.
    let last = server.sign_up("last@x");
    let refused = user_stream(&server, &last);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    streams.remove(0).leave();
    soon("a place", || chat(&server, &last).status == 200);
    gate.open();
    for raw in &mut streams {
        assert!(raw.rest().contains("[DONE]"), "{}", raw.got);
    }
}

#[test]
fn a_flood_of_log_ins_stops_no_models_and_no_pages() {
    let (upstream, _gate) = slow_streams();
    let settings = [("TRUSTED_PROXIES", "127.0.0.1"), ("MAX_WAITING", "24")];
    let (_db, server) = start(&upstream, &settings);
    let (hog, other) = (server.sign_up("hog@x"), server.sign_up("ann@x"));
    let (is_over, tried) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for n in 0..48 {
            let (server, is_over, tried) = (&server, &is_over, &tried);
            scope.spawn(move || {
                // Wrong and right passwords, each from an address of its own, so that none is held back.
                for round in (0..250).cycle().take_while(|_| !is_over.load(SeqCst)) {
                    let web = server.web.anonymous().header("x-forwarded-for", &format!("10.{n}.{round}.1"));
                    let (email, password) = match n % 2 {
                        0 => ("hog@x".to_owned(), PASSWORD),
                        _ => (format!("u{n}.{round}@x"), "a wrong password"),
                    };
                    let reply = web.post("/api/login", &json!({"email": email, "password": password}));
                    assert!([200, 400, 429, 503].contains(&reply.status), "{} {}", reply.status, reply.text());
                    tried.fetch_add(1, SeqCst);
                    if reply.status != 200 {
                        thread::sleep(REFUSED_PAUSE);
                    }
                }
            });
        }
        // Whatever fails here must end the flood.
        let _over = End(&is_over);
        soon("the flood", || tried.load(SeqCst) > 48);
        for user in [&other, &hog].into_iter().cycle().take(20) {
            chat(&server, user).expect(200);
            user.program(&server.inference).get("/v1/models").expect(200);
            user.browser.header("accept", "text/html").get("/account").expect(200);
        }
    });
    server.sign_in("ann@x", PASSWORD);
}

#[test]
fn recordings_that_do_not_come_stop_nothing_else() {
    let (upstream, gate) = slow_streams();
    let inner = Arc::clone(&gate);
    let files = Upstream::start(move |seen, wire| {
        match seen.path.as_str() {
            "/now.wav" => {}
            // The head comes, but no more.
            "/begun.wav" => {
                wire.start("audio/wav");
                inner.wait();
            }
            _ => inner.wait(),
        }
        wire.reply(200, "audio/wav", wav());
    });
    let (_db, server) = start(&upstream, &[("MAX_FETCHES", "6"), ("AUDIO_URL_ALLOW", "127.0.0.1")]);
    let hog = server.sign_up("hog@x");
    let asked = |path: &str| json!({"audio_url": format!("{}{path}", files.url)});
    let fetch = |path: &str| Raw::post(&server.audio, &hog.secret, "/api/v1/audio-extraction", &asked(path));
    let stalled: Vec<_> = ["/a.wav", "/begun.wav", "/b.wav", "/begun.wav"].map(fetch).into();
    soon("four to be fetched", || gate.waiting() == 4);
    let extract = |user: &User| user.program(&server.audio).post("/api/v1/audio-extraction", &asked("/now.wav"));
    assert_share_is_used(&extract(&hog));
    let other = assert_others_are_served(&server, &hog, "ann@x");
    extract(&other).expect(200);
    chat(&server, &hog).expect(200);
    stalled.into_iter().for_each(Raw::leave);
    soon("the fetches to end with their clients", || extract(&hog).status == 200);
}

#[test]
fn slow_uploads_of_one_account_stop_nothing_else() {
    let (upstream, _) = slow_streams();
    let (_db, server) = start(&upstream, &[("MAX_UPLOADS", "6")]);
    let hog = server.sign_up("hog@x");
    let media_type = "multipart/form-data; boundary=bnd";
    // The server asks for the body only once the upload has its place.
    let expecting = format!("{media_type}\r\nExpect: 100-continue");
    let recording = textgen::wav::file(8000, 16, &vec![0; 2 << 20]);
    let upload = multipart(&[("model", b"w"), ("file*", &recording)]);
    let mut slow: Vec<_> = (0..4)
        .map(|_| {
            let path = "/v1/audio/transcriptions";
            let mut raw = Raw::head(&server.audio, &hog.secret, path, &expecting, upload.len());
            raw.until("100 Continue");
            raw.write(&upload[..100_000]);
            raw
        })
        .collect();
    let send =
        |user: &User| user.program(&server.audio).send("POST", "/v1/audio/transcriptions", Some(media_type), &upload);
    assert_share_is_used(&send(&hog));
    let other = assert_others_are_served(&server, &hog, "ann@x");
    send(&other).expect(200);
    for raw in &mut slow {
        raw.write(&upload[100_000..]);
        raw.until("Hello there.");
    }
    soon("the places to be free", || send(&hog).status == 200);
}

#[test]
fn the_prompts_of_one_request_take_places_too() {
    let gate = Arc::new(Gate::default());
    let inner = Arc::clone(&gate);
    let upstream = Upstream::start(move |_, wire| {
        inner.wait();
        wire.start("text/event-stream");
        wire.word("one");
        wire.finish(3, 1);
    });
    let (_db, server) = start(&upstream, &[("MAX_MODEL_CALLS", "6")]);
    let (hog, other) = (server.sign_up("hog@x"), server.sign_up("ann@x"));
    let prompts: Vec<_> = (0..12).map(|n| json!({"text": format!("{n}")})).collect();
    let mut bulk = Raw::post(&server.inference, &hog.secret, "/api/v1/generate-bulk", &json!(prompts));
    soon("four to be worked on", || gate.waiting() == 4);
    assert_share_is_used(&chat(&server, &hog));
    let mut others = stream_of(&server, &other);
    soon("the other's", || gate.waiting() == 5);
    gate.open();
    bulk.until("\r\n\r\n");
    bulk.until("]]");
    assert_eq!(bulk.got.matches("generated_text").count(), 12, "{}", bulk.got);
    assert!(others.rest().contains("[DONE]"));
    assert!(gate.most.load(SeqCst) <= 5, "never more than four of it");
    soon("the places to be free", || chat(&server, &hog).status != 429);
}

#[test]
fn with_the_defaults_hundreds_of_streams_and_fetches_of_one_account_stop_nothing_else() {
    // The test itself has the other ends of them all.
    textgen::system_limits::of_calls();
    let (upstream, gate) = slow_streams();
    let inner = Arc::clone(&gate);
    let files = Upstream::start(move |_, wire| {
        inner.wait();
        wire.reply(200, "audio/wav", wav());
    });
    let (_db, server) = start(&upstream, &[("AUDIO_URL_ALLOW", "127.0.0.1")]);
    let hog = server.sign_up("hog@x");
    let user = hog.program(&server.audio);
    let mut streams: Vec<_> = (0..512).map(|_| stream(&server, &hog)).collect();
    let asked = json!({"audio_url": format!("{}/a.wav", files.url)});
    let fetches: Vec<_> =
        (0..512).map(|_| Raw::post(&server.audio, &hog.secret, "/api/v1/audio-extraction", &asked)).collect();
    // Two thirds of 256.
    soon("all that it may have to be fetched", || gate.waiting() == 512 + 170);
    assert_share_is_used(&user.post("/api/v1/audio-extraction", &asked));
    assert_others_are_served(&server, &hog, "ann@x");
    fetches.into_iter().for_each(Raw::leave);
    gate.open();
    for raw in &mut streams {
        assert!(raw.rest().contains("[DONE]"), "{}", raw.got);
    }
}

fn stream_of(server: &Server, user: &User) -> Raw {
    Raw::post(&server.inference, &user.secret, CHAT, &body(true))
}
