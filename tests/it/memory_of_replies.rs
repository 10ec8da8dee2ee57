//! The memory budget and what is sent: replies of models, lists and downloads take memory before they are read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::documents::save;
use crate::harness::{Server, TestDb, Upstream, at_once, charges};
use crate::memory::{MIB, assert_within, server};

/// The least budget that can be set.
const BUDGET: usize = 64 * MIB;

/// A server with a budget of so many bytes, and a model server.
fn server_of(db: &TestDb, upstream: &Upstream, budget: usize) -> Server {
    Server::start_with(
        db,
        &[("INFERENCE_URL", &upstream.url), ("EMBEDDINGS_URL", &upstream.url), ("MEMORY_BUDGET", &budget.to_string())],
    )
}

#[test]
fn replies_of_models_take_a_share_and_are_charged_if_there_is_none() {
    let upstream = Upstream::start(|_, wire| {
        let vector = "A".repeat(16 * MIB);
        let usage = r#""usage":{"prompt_tokens":7,"total_tokens":7}"#;
        wire.reply(200, "application/json", format!(r#"{{"data":[{{"embedding":"{vector}","index":0}}],{usage}}}"#));
    });
    let db = TestDb::new();
    let server = server_of(&db, &upstream, BUDGET);
    let (user, other) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    let client = user.program(&server.inference);
    let replies = at_once(24, |_| client.post("/v1/embeddings", &json!({"model": "e", "input": "Hello"})).status);
    assert!(replies.iter().all(|status| [200, 429, 503].contains(status)), "{replies:?}");
    let served = replies.iter().filter(|status| **status == 200).count();
    assert!(served < 24, "{replies:?}");
    assert_within(&server, BUDGET);
    let charged = charges(&db);
    assert_eq!(charged.len(), upstream.seen().len(), "each that a model has made");
    assert!(charged.iter().all(|charge| charge["embedding_tokens"] == 7 && charge["estimated"] == false));
    server.wait_until("the memory to be free again", || {
        let reply = other.program(&server.inference).post("/v1/embeddings", &json!({"model": "e", "input": "Hello"}));
        reply.status == 200
    });
}

#[test]
fn a_reply_that_has_no_room_is_refused_before_the_model_has_worked() {
    let is_released = Arc::new(AtomicBool::new(false));
    let released = Arc::clone(&is_released);
    let upstream = Upstream::start(move |_, wire| {
        while !released.load(Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        wire.json(200, &json!({"data": [], "usage": {"prompt_tokens": 1}}));
    });
    let db = TestDb::new();
    let server = server_of(&db, &upstream, BUDGET);
    let client = server.sign_up("ann@example.com").program(&server.inference);
    let embed = |inputs: usize| client.post("/v1/embeddings", &json!({"model": "e", "input": vec!["a"; inputs]}));
    let reply = embed(2049).expect(400).json();
    assert_eq!(reply["error"]["message"], "input must have at most 2048 elements");
    // 16 MiB each are expected, and an account has two thirds.
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        let _end = crate::harness::End(&is_released);
        for _ in 0..6 {
            scope.spawn(|| match embed(2048).status {
                200 => assert!(is_released.load(Relaxed)),
                status => {
                    assert!([429, 503].contains(&status), "{status}");
                    refused.fetch_add(1, Relaxed);
                }
            });
        }
        server.wait_until("the others to be refused", || refused.load(Relaxed) == 4 && upstream.seen().len() == 2);
    });
    assert_eq!((upstream.seen().len(), charges(&db).len()), (2, 2));
    client.post("/v1/embeddings", &json!({"model": "e", "input": vec![1; 3000]})).expect(200);
}

#[test]
fn texts_that_are_collected_take_memory() {
    let upstream = Upstream::start(|_, wire| {
        wire.start("text/event-stream");
        let word = "word ".repeat(12_000);
        for _ in 0..100 {
            // It may have been left.
            if !wire.word(&word) {
                return;
            }
        }
        wire.finish(5, 1_200_000);
    });
    let db = TestDb::new();
    let server = server_of(&db, &upstream, BUDGET);
    let client = server.sign_up("ann@example.com").program(&server.inference);
    let texts: Vec<Value> = (0..40).map(|n| json!({"text": format!("Text {n}"), "max_length": 2_000_000})).collect();
    let reply = client.post("/api/v1/generate-bulk", &Value::from(texts));
    assert!([429, 503].contains(&reply.status), "{}", reply.status);
    assert_within(&server, BUDGET);
    server.wait_until("what was made to be charged", || !charges(&db).is_empty());
    assert!(charges(&db)[0]["completion_tokens"].as_i64().unwrap() > 100_000, "{:?}", charges(&db));
}

#[test]
fn lists_take_memory_before_they_are_read() {
    let db = TestDb::new();
    let server = server(&db, BUDGET);
    let user = server.sign_up("ann@example.com");
    db.run(&format!(
        "INSERT INTO documents (id, user_id, title, content) SELECT 'doc_' || n, '{}', repeat('ü', 12000), 'x'
        FROM generate_series(1, 1000) n",
        user.id
    ));
    let page = user.browser.get("/api/docs/list?content=false");
    assert!([429, 503].contains(&page.status), "{}", page.status);
    let mut ids = BTreeSet::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/docs/list?content=false&limit=100&after={after}");
        let page = user.browser.get(&path).expect(200).json();
        for document in page["documents"].as_array().unwrap() {
            assert!(document.get("content").is_none() && document["title"].as_str().unwrap().len() == 24_000);
            ids.insert(document["id"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        next.clone_into(&mut after);
    }
    assert_eq!(ids.len(), 1000);
}

#[test]
fn a_download_is_complete_and_takes_little_memory() {
    let db = TestDb::new();
    let server = server(&db, BUDGET);
    let user = server.sign_up("ann@example.com");
    db.run(&format!(
        "INSERT INTO usage_daily (user_id, day, server, route, model, key_id, events, prompt_tokens, completion_tokens,
            embedding_tokens, audio_millis, characters, requests, cost_micros)
        SELECT '{}', date '2026-01-01' + n / 1000, 'inference', '/v1/chat/completions', 'model-' || n % 10,
            'key' || n % 1000, 1, n, 2, 0, 0, 0, 1, 3 FROM generate_series(0, 99999) n",
        user.id
    ));
    let csv = user.browser.get("/usage.csv?from=2026-01-01&to=2026-12-31").expect(200).text();
    let lines: Vec<&str> = csv.lines().skip(1).collect();
    assert_eq!((lines.len(), lines.iter().collect::<BTreeSet<_>>().len()), (100_000, 100_000));
    assert!(
        lines.is_sorted_by_key(|line| &line[..10]) && lines[0].starts_with("2026-01-01,inference,"),
        "{}",
        lines[0]
    );
    let part = user.browser.get("/usage.csv?from=2026-01-03&to=2026-01-04").expect(200).text();
    assert_eq!(part.lines().count(), 2001);
}

#[test]
fn the_head_of_a_large_document_reads_none_of_it() {
    let db = TestDb::new();
    let server = server(&db, BUDGET);
    let user = server.sign_up("ann@example.com");
    let small = save(&user.browser, &json!({"content": "x".repeat(1000)}));
    for id in [&small, "doc_large"] {
        if id == "doc_large" {
            db.run(&format!(
                "INSERT INTO documents (id, user_id, content, is_public) VALUES ('doc_large', '{}', repeat('x', {}), true)",
                user.id,
                24 * MIB
            ));
        } else {
            user.browser.post("/api/docs/publish", &json!({"id": id})).expect(200);
        }
        for (client, path) in [
            (server.web.anonymous(), format!("/api/docs/get?id={id}")),
            (server.web.anonymous().header("accept", "text/html"), format!("/public/{id}")),
            (user.browser.clone(), format!("/documents/{id}")),
        ] {
            let head = client.send("HEAD", &path, None, b"").expect(200);
            assert!(head.body.is_empty() && head.header("content-type").is_some(), "{path}");
            assert_eq!(head.header("content-length").is_some(), id != "doc_large", "{path}");
        }
    }
    // There is no memory for the text itself.
    server.web.anonymous().get("/api/docs/get?id=doc_large").expect(503);
    user.browser.send("HEAD", "/api/docs/list", None, b"").expect(200);
}
