//! Which model server gets a call, and what happens when it fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Raw, ReplyWriter, Server, TestDb, Upstream, User, final_charges};

const CHAT: &str = "/v1/chat/completions";
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],
    "usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}"#;

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
}

fn streamed(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": true})
}

fn start(upstreams: &[&Upstream], settings: &[(&str, &str)]) -> (TestDb, Server, User, Client) {
    let db = TestDb::new();
    let urls: Vec<_> = upstreams.iter().map(|upstream| upstream.url.as_str()).collect();
    let urls = urls.join(",");
    let settings: Vec<_> = [("INFERENCE_URL", urls.as_str())].into_iter().chain(settings.iter().copied()).collect();
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    (db, server, user, client)
}

fn works() -> Upstream {
    Upstream::start(|_, wire| wire.reply(200, "application/json", ANSWER))
}

fn busy(wire: &mut ReplyWriter, header: &str) {
    wire.raw(format!("HTTP/1.1 429 X\r\n{header}\r\nContent-Length: 0\r\n\r\n"));
}

fn seen(upstreams: &[&Upstream]) -> Vec<usize> {
    upstreams.iter().map(|upstream| upstream.seen().len()).collect()
}

#[test]
fn a_server_is_left_alone_for_as_long_as_it_asks() {
    for (header, millis) in [("Retry-After: 2", 2000), ("Retry-After: 1.5", 1500), ("retry-after-ms: 1700", 1700)] {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let times = asked.clone();
        let asks = Upstream::start(move |_, wire| {
            let mut times = times.lock().unwrap();
            times.push(Instant::now());
            match times.len() {
                1 => busy(wire, header),
                _ => wire.reply(200, "application/json", ANSWER),
            }
        });
        let other = works();
        let (_db, server, _, client) = start(&[&asks, &other], &[]);
        server.wait_until("the server to be asked again", || {
            client.post(CHAT, &chat("m")).expect(200);
            asked.lock().unwrap().len() > 1
        });
        let asked = asked.lock().unwrap();
        assert!(asked[1] - asked[0] >= Duration::from_millis(millis), "{header}: {:?}", asked[1] - asked[0]);
    }
}

#[test]
fn a_server_that_keeps_asking_for_a_pause_gets_one_even_if_there_is_no_other() {
    let asks = Upstream::start(|_, wire| busy(wire, "Retry-After: 30"));
    let (_db, _server, _, client) = start(&[&asks], &[]);
    let began = Instant::now();
    for _ in 0..40 {
        let reply = client.post(CHAT, &chat("m")).expect(429);
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&seconds), "{seconds}");
        assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    }
    let calls = asks.seen().len() as u64;
    assert!(calls <= 4 + began.elapsed().as_secs(), "{calls} calls in {:?}", began.elapsed());
}

#[test]
fn what_one_request_causes_is_not_held_against_the_servers() {
    let make = || {
        Upstream::start(|seen, wire| match seen.json()["model"].as_str() {
            Some("poison") => wire.json(500, &json!({"error": "trace"})),
            Some("wrong") => wire.json(400, &json!({"error": {"message": "no"}})),
            _ => wire.reply(200, "application/json", ANSWER),
        })
    };
    let (one, two) = (make(), make());
    let (db, server, _, client) = start(&[&one, &two], &[]);
    client.post(CHAT, &chat("wrong")).expect(400);
    assert_eq!(seen(&[&one, &two]).iter().sum::<usize>(), 1, "the client's mistake is not tried again");
    let before = seen(&[&one, &two]);
    client.post(CHAT, &chat("poison")).expect(502);
    let after = seen(&[&one, &two]);
    assert!(after.iter().zip(&before).all(|(after, before)| after - before == 1), "each is tried once: {after:?}");
    for _ in 0..10 {
        client.post(CHAT, &chat("poison")).expect(502);
        client.post(CHAT, &chat("m")).expect(200);
        client.post(CHAT, &chat("m")).expect(200);
    }
    assert!(!server.log().contains("left out"), "{}", server.log());
    assert_eq!(final_charges(&db, server).len(), 20);
}

#[test]
fn what_no_server_could_read_reaches_none() {
    let make = || Upstream::start(|_, wire| wire.die());
    let (one, two) = (make(), make());
    let (_db, server, _, client) = start(&[&one, &two], &[]);
    let deep = format!(r#"{{"model":"m","messages":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    client.send("POST", CHAT, Some("application/json"), deep.as_bytes()).expect(400);
    assert_eq!(seen(&[&one, &two]), [0, 0]);
    assert!(!server.log().contains("provider"), "{}", server.log());
}

#[test]
fn an_unsupported_call_does_not_count_as_a_failure() {
    let upstream = Upstream::start(|seen, wire| match seen.path.as_str() {
        CHAT => wire.reply(200, "application/json", ANSWER),
        _ => wire.json(501, &json!({"error": {"message": "not implemented"}})),
    });
    let (_db, server, _, client) = start(&[&upstream], &[]);
    for _ in 0..5 {
        client.post("/v1/completions", &json!({"prompt": "a", "model": "m"})).expect(502);
    }
    client.post(CHAT, &chat("m")).expect(200);
    assert!(!server.log().contains("left out"), "{}", server.log());
}

#[test]
fn a_request_that_breaks_servers_is_not_tried_on_all_of_them() {
    let make = || Upstream::start(|_, wire| wire.die());
    let all = [make(), make(), make(), make(), make()];
    let (_db, _server, _, client) = start(&all.iter().collect::<Vec<_>>(), &[]);
    client.post(CHAT, &chat("m")).expect(502);
    let tried = seen(&all.iter().collect::<Vec<_>>());
    assert_eq!(tried.iter().filter(|calls| **calls > 0).count(), 3, "{tried:?}");
}

#[test]
fn a_key_that_a_server_refuses_is_502_for_the_client() {
    let refuses = Upstream::constant(401, json!({"error": {"message": "Incorrect API key: sk-abc***xyz"}}));
    let unpaid = Upstream::constant(402, json!({"error": {"message": "no credit on sk-abc***xyz"}}));
    let works = works();
    let (_db, server, _, client) = start(&[&refuses, &unpaid, &works], &[]);
    for _ in 0..6 {
        client.post(CHAT, &chat("m")).expect(200);
    }
    let log = server.log();
    assert!(log.contains("ERROR") && log.contains("401, the API key is refused"), "{log}");
    let (_db, _server, _, client) = start(&[&refuses, &unpaid], &[]);
    for _ in 0..3 {
        let reply = client.post(CHAT, &chat("m")).expect(502);
        assert!(!reply.text().contains("abc"), "{}", reply.text());
    }
}

#[test]
fn the_best_of_all_failures_is_passed_on() {
    let unable = Upstream::constant(503, json!({"error": {"message": "loading"}}));
    let faulty = Upstream::constant(500, json!({}));
    let busy = Upstream::start(|_, wire| busy(wire, "Retry-After: 7"));
    let dies = Upstream::start(|_, wire| wire.die());
    let (_db, _server, _, client) = start(&[&busy, &unable, &dies, &faulty], &[]);
    for _ in 0..3 {
        let reply = client.post(CHAT, &chat("m")).expect(429);
        assert_eq!(reply.header("retry-after"), Some("7"));
    }
}

#[test]
fn another_server_is_asked_when_one_does_not_begin_in_time() {
    let late = Upstream::start(|_, wire| assert!(wire.is_left_within(20)));
    let works = works();
    let (_db, server, _, client) = start(&[&late, &works], &[("UPSTREAM_FIRST_BYTE_TIMEOUT", "1")]);
    server.wait_until("the late server to be tried", || {
        client.post(CHAT, &chat("m")).expect(200);
        !late.seen().is_empty()
    });
    let (_db, _server, _, client) = start(&[&late], &[("UPSTREAM_FIRST_BYTE_TIMEOUT", "1")]);
    client.post(CHAT, &chat("m")).expect(504);
}

#[test]
fn nothing_is_tried_again_once_a_reply_has_begun() {
    let dies = Upstream::start(|_, wire| {
        wire.raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"choices\":");
        wire.die();
    });
    let (_db, _server, _, client) = start(&[&dies, &dies], &[]);
    client.post(CHAT, &chat("m")).expect(502);
    assert_eq!(dies.seen().len(), 1);
}

#[test]
fn a_live_stream_may_last_longer_than_a_call_but_not_pause() {
    let upstream = Upstream::start(|seen, wire| {
        wire.start("text/event-stream");
        for word in ["one", "two", "three", "four", "five"] {
            wire.word(word);
            thread::sleep(Duration::from_millis(500));
        }
        match seen.json()["model"] == "pause" {
            true => assert!(wire.is_left_within(20), "the call is ended"),
            false => wire.finish(10, 5),
        }
    });
    let settings = [("UPSTREAM_TIMEOUT", "1"), ("UPSTREAM_IDLE_TIMEOUT", "2")];
    let (_db, server, user, _) = start(&[&upstream], &settings);
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed("m"));
    assert!(raw.rest().contains("[DONE]"), "{}", raw.got);
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed("pause"));
    let all = raw.rest();
    assert!(all.contains("five") && all.contains("took too long") && !all.contains("[DONE]"), "{all}");
}

#[test]
fn the_calls_of_a_server_at_once_are_bounded() {
    let (full, done) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (entered, leave) = (full.clone(), done.clone());
    let upstream = Upstream::start(move |seen, wire| {
        if seen.json()["model"] == "slow" {
            entered.wait();
            leave.wait();
        }
        wire.reply(200, "application/json", ANSWER);
    });
    let (_db, _server, _, client) = start(&[&upstream], &[("UPSTREAM_MAX_CONCURRENT", "1")]);
    thread::scope(|scope| {
        scope.spawn(|| client.post(CHAT, &chat("slow")).expect(200));
        full.wait();
        let reply = client.post(CHAT, &chat("m")).expect(503);
        assert!(reply.header("retry-after").is_some());
        done.wait();
    });
    client.post(CHAT, &chat("m")).expect(200);
    assert_eq!(upstream.seen().len(), 2);
}

#[test]
fn all_attempts_of_a_request_share_its_id() {
    let unable = Upstream::constant(503, json!({}));
    let faulty = Upstream::constant(500, json!({}));
    let (_db, server, _, client) = start(&[&unable, &faulty], &[]);
    let client = client.header("x-request-id", "my-own.id");
    let reply = client.post(CHAT, &chat("m"));
    assert_eq!(reply.header("x-request-id"), Some("my-own.id"));
    assert_eq!(unable.only().header("x-request-id"), Some("my-own.id"));
    assert_eq!(faulty.only().header("x-request-id"), Some("my-own.id"));
    let is_attempt = |line: &&str| line.contains("provider http") && line.contains("(request my-own.id)");
    server.wait_until("the log", || server.log().lines().filter(is_attempt).count() == 2);
    let log = server.log();
    assert!(log.contains("status 503") && log.contains("status 500") && log.contains(" ms"), "{log}");
}

#[test]
fn a_kept_connection_that_ends_when_it_is_used_again_is_no_failure() {
    // Answers one request of each connection, and ends it when the second one arrives.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ended = Arc::new(AtomicUsize::new(0));
    let counter = ended.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let counter = counter.clone();
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let _ = read_request(&mut reader);
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}", ANSWER.len());
                let _ = write!(stream, "{head}\r\n\r\n{ANSWER}");
                if read_request(&mut reader).is_some() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let other = works();
    let db = TestDb::new();
    for urls in [url.clone(), format!("{url},{}", other.url)] {
        let server = Server::start_with(&db, &[("INFERENCE_URL", &urls), ("INFERENCE_MODEL", "m")]);
        let email = format!("ann{}@example.com", urls.len());
        let client = server.sign_up(&email).program(&server.inference);
        for _ in 0..12 {
            client.post(CHAT, &chat("m")).expect(200);
        }
        assert!(!server.log().contains("failed"), "{}", server.log());
        assert!(ended.swap(0, Ordering::Relaxed) > 2, "connections are used again");
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<()> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    reader.take(length).read_to_end(&mut Vec::new()).ok().map(drop)
}
