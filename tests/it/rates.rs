//! Rate limits of keys and accounts: requests and tokens a minute, requests at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::budgets::{chat, obedient, start};
use crate::harness::{Client, Reply, Server, Upstream, User, done, run, soon};

pub const CHAT: &str = "/v1/chat/completions";

/// A new key with these rate limits: its id and its secret.
pub fn rated(user: &User, rate: &Value) -> (String, String) {
    let key = user.browser.post("/api/keys", &json!({"name": "k", "rate": rate})).expect(200).json();
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

fn client(user: &User, server: &Server, rate: &Value) -> (String, Client) {
    let (id, secret) = rated(user, rate);
    (id, server.inference.with_secret(&secret))
}

/// What the headers say of requests or tokens: limit, what is left, and in how many seconds all is.
fn rate_status(reply: &Reply, of: &str) -> Option<(i64, i64, i64)> {
    let header = |what: &str| reply.header(&format!("x-ratelimit-{what}-{of}"));
    let number = |what: &str| header(what).map(|text| text.parse::<i64>().unwrap());
    let reset = header("reset").map(|text| match text.split_once('m') {
        Some((minutes, seconds)) => {
            60 * minutes.parse::<i64>().unwrap() + seconds.trim_end_matches('s').parse::<i64>().unwrap()
        }
        None => text.trim_end_matches('s').parse().unwrap(),
    });
    Some((number("limit")?, number("remaining")?, reset?))
}

/// A stream whose pieces come until it is told to end.
pub fn patient() -> (Upstream, Arc<AtomicBool>) {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let upstream = Upstream::start(move |seen, wire| {
        if seen.json()["stream"] != true {
            return wire.json(200, &json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}));
        }
        wire.start("text/event-stream");
        let began = std::time::Instant::now();
        // Not without end, as the clients of a test that fails read on.
        let is_told = || over.load(SeqCst) || began.elapsed() > Duration::from_secs(120);
        while !is_told() && wire.word("x") {
            thread::sleep(Duration::from_millis(20));
        }
        wire.finish(1, 1);
    });
    (upstream, is_over)
}

pub fn stream() -> Value {
    let mut request = chat(100_000);
    request["stream"] = json!(true);
    request
}

#[test]
fn a_key_admits_as_many_requests_in_a_minute_as_it_may() {
    let upstream = obedient();
    let (_db, server, user) = start(&upstream, &[]);
    let (id, client) = client(&user, &server, &json!({"requests_per_minute": 3}));
    // What is refused uses nothing.
    client.post(CHAT, &json!({"model": "no-such-model", "messages": []})).expect(404);
    client.post(CHAT, &json!({"model": "m", "messages": [], "max_tokens": "many"}));
    for left in [2, 1, 0] {
        let reply = client.post(CHAT, &chat(1)).expect(200);
        let (limit, remaining, reset) = rate_status(&reply, "requests").unwrap();
        assert_eq!((limit, remaining), (3, left));
        assert!((58..=61).contains(&reset), "{reset}");
        assert_eq!(rate_status(&reply, "tokens"), None);
    }
    let called = upstream.seen().len();
    let reply = client.post(CHAT, &chat(1)).expect(429);
    let error = reply.json()["error"].clone();
    assert_eq!(json!([error["type"], error["code"]]), json!(["rate_limit_error", "rate_limit_exceeded"]));
    let seconds: i64 = reply.header("retry-after").unwrap().parse().unwrap();
    let millis: i64 = reply.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((55..=60).contains(&seconds) && (millis + 999) / 1000 == seconds, "{seconds} {millis}");
    assert_eq!(rate_status(&reply, "requests").map(|(limit, left, _)| (limit, left)), Some((3, 0)));
    assert_eq!(upstream.seen().len(), called);
    // Other errors of it have the headers too; other keys are free.
    client.post("/api/v1/generate", &json!({"text": "Hello"})).expect(429);
    let free = user.program(&server.inference).post(CHAT, &chat(1)).expect(200);
    assert_eq!(rate_status(&free, "requests"), None);
    // More of them are admitted at once if the limit is raised, and all without one.
    let update = |rate: Value| {
        user.browser.post("/api/keys/update", &json!({"id": id, "rate": rate})).expect(200).json()["rate"].clone()
    };
    let raised = update(json!({"requests_per_minute": 5}));
    assert_eq!(raised, json!({"requests_per_minute": 5, "tokens_per_minute": null, "concurrent": null}));
    for status in [200, 200, 429] {
        client.post(CHAT, &chat(1)).expect(status);
    }
    assert_eq!(update(json!({"concurrent": 7}))["requests_per_minute"], 5);
    assert_eq!(update(json!({"concurrent": null}))["concurrent"], json!(null));
    client.post(CHAT, &chat(1)).expect(429);
    assert_eq!(update(json!(null)), json!(null));
    assert_eq!(rate_status(&client.post(CHAT, &chat(1)).expect(200), "requests"), None);
}

#[test]
fn a_request_that_a_budget_refuses_or_a_kept_reply_answers_uses_no_limit() {
    let upstream = obedient();
    let (_db, server, user) = start(&upstream, &[]);
    let body = json!({"name": "k", "rate": {"requests_per_minute": 3}, "budget": {"limit_micros": 20}});
    let key = user.browser.post("/api/keys", &body).expect(200).json();
    let client = server.inference.with_secret(key["secret"].as_str().unwrap());
    let once = client.header("idempotency-key", "k1");
    for _ in 0..5 {
        once.post(CHAT, &chat(20)).expect(200);
        client.post(CHAT, &chat(20)).expect(402);
    }
    let raise = json!({"id": key["id"], "budget": {"limit_micros": 2000}});
    user.browser.post("/api/keys/update", &raise).expect(200);
    for status in [200, 200, 429] {
        client.post(CHAT, &chat(1)).expect(status);
    }
    once.post(CHAT, &chat(20)).expect(200);
}

#[test]
fn the_account_and_the_key_both_limit_the_rate() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let settings = [("DATABASE_URL", db.url())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let limit = |args: &[&str]| done(run(&[&["limit"], args].concat(), &settings, ""));
    let text = limit(&["set", "ann@example.com", "--requests-per-minute", "5", "--concurrent", "9"]);
    assert!(text.contains("5 requests a minute, 9 requests at once"), "{text}");
    let (first, second) =
        (client(&user, &server, &json!({"requests_per_minute": 2})).1, user.program(&server.inference));
    soon("the account's limit to hold", || {
        rate_status(&second.post(CHAT, &chat(1)), "requests").is_some_and(|(limit, ..)| limit == 5)
    });
    let before = rate_status(&second.post(CHAT, &chat(1)).expect(200), "requests").unwrap().1;
    assert!(before >= 2, "{before}");
    first.post(CHAT, &chat(1)).expect(200);
    first.post(CHAT, &chat(1)).expect(200);
    first.post(CHAT, &chat(1)).expect(429);
    for _ in 0..before - 2 {
        second.post(CHAT, &chat(1)).expect(200);
    }
    second.post(CHAT, &chat(1)).expect(429);
    let shown = limit(&["show", "ann@example.com"]);
    assert!(shown.contains("REQUESTS/MINUTE") && shown.lines().count() >= 4, "{shown}");
    limit(&["remove", "ann@example.com", "--rates"]);
    soon("the account's limit to end", || second.post(CHAT, &chat(1)).status == 200);
    assert_eq!(db.count("SELECT count(*) FROM rate_limits"), 1);
}

#[test]
fn the_tokens_of_a_minute_are_limited() {
    let upstream =
        Upstream::constant(200, json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 90}}));
    let (_db, server, user) = start(&upstream, &[]);
    let (_, client) = client(&user, &server, &json!({"tokens_per_minute": 1000}));
    // Each may use 505 tokens, and uses 100.
    for left in [900, 800, 700, 600, 500] {
        let reply = client.post(CHAT, &chat(500)).expect(200);
        assert_eq!(rate_status(&reply, "tokens").map(|(limit, left, _)| (limit, left)), Some((1000, left)));
    }
    let reply = client.post(CHAT, &chat(500)).expect(429);
    let wait: i64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((55..=60).contains(&wait), "{wait}");
    client.post(CHAT, &chat(400)).expect(200);
    // A reply is never longer than the limit of a minute, whatever is asked for.
    let limits: Vec<Value> = upstream.seen().iter().map(|seen| seen.json()["max_tokens"].clone()).collect();
    assert_eq!(limits, [500, 500, 500, 500, 500, 400]);
    let (_, other) = self::client(&user, &server, &json!({"tokens_per_minute": 300}));
    let mut endless = chat(1);
    endless.as_object_mut().unwrap().remove("max_tokens");
    other.post(CHAT, &endless).expect(200);
    let asked = upstream.seen().last().unwrap().json()["max_tokens"].as_i64().unwrap();
    assert!((100..300).contains(&asked), "{asked}");
    // Nor is a prompt that can never be admitted tried again.
    let long = json!({"model": "m", "messages": [{"role": "user", "content": "word ".repeat(1000)}]});
    let refused = other.post(CHAT, &long).expect(429);
    assert_eq!((refused.header("x-should-retry"), refused.header("retry-after")), (Some("false"), None));
}

#[test]
fn so_many_requests_run_at_once() {
    let (upstream, is_over) = patient();
    let (_db, server, user) = start(&upstream, &[]);
    let (id, client) = client(&user, &server, &json!({"concurrent": 2}));
    thread::scope(|scope| {
        let streams: Vec<_> = (0..2).map(|_| scope.spawn(|| client.post(CHAT, &stream()))).collect();
        soon("two streams", || upstream.seen().len() == 2);
        let refused = client.post(CHAT, &chat(1)).expect(429);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains("at once"));
        assert_eq!(rate_status(&refused, "requests"), None);
        // A place more.
        let more = json!({"id": id, "rate": {"concurrent": 3}});
        user.browser.post("/api/keys/update", &more).expect(200);
        client.post(CHAT, &chat(1)).expect(200);
        is_over.store(true, SeqCst);
        for stream in streams {
            stream.join().unwrap().expect(200);
        }
    });
    for _ in 0..10 {
        client.post(CHAT, &chat(1)).expect(200);
    }
}

#[test]
fn a_rotated_key_shares_its_limits_with_the_new_one() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let (id, old) = client(&user, &server, &json!({"requests_per_minute": 2}));
    let rotated = user.browser.post("/api/keys/rotate", &json!({"id": id, "grace_seconds": 3600})).expect(200).json();
    assert_eq!(rotated["rate"]["requests_per_minute"], 2);
    let new = server.inference.with_secret(rotated["secret"].as_str().unwrap());
    old.post(CHAT, &chat(1)).expect(200);
    new.post(CHAT, &chat(1)).expect(200);
    for client in [old, new] {
        client.post(CHAT, &chat(1)).expect(429);
    }
    user.browser.post("/api/delete-account", &json!({"password": crate::harness::PASSWORD})).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM rate_limits"), 0);
}
