//! Requests to models with pictures in them, of up to 32 MiB.

use serde_json::{Value, json};

use crate::harness::{Server, TestDb, Upstream, User};
use crate::memory::{MIB, assert_within};

const LIMIT: usize = 32 * MIB;

fn start(budget: usize) -> (TestDb, Server, User, Upstream) {
    let db = TestDb::new();
    let answer = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "A cat"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}});
    let upstream = Upstream::constant(200, answer);
    let settings = [("INFERENCE_URL", upstream.url.as_str()), ("MEMORY_BUDGET", &budget.to_string())];
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@example.com");
    (db, server, user, upstream)
}

#[test]
fn pictures_reach_the_model_in_any_protocol() {
    const BUDGET: usize = 512 * MIB;
    let (_db, server, user, upstream) = start(BUDGET);
    let client = user.program(&server.inference);
    let picture = "A".repeat(31 * MIB);
    let url = format!("data:image/png;base64,{picture}");
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]}]});
    client.post("/v1/chat/completions", &chat).expect(200);
    let (picture, smaller) = (&picture[..9 * MIB], url.len() - 22 * MIB);
    let message = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture}}]}]});
    client.post("/v1/messages", &message).expect(200);
    let seen = upstream.seen();
    assert_eq!(seen.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["/v1/chat/completions"; 2]);
    let sent: Value = seen[0].json();
    assert!(sent["messages"] == chat["messages"], "{} bytes", seen[0].body.len());
    assert!(
        seen[1].json()["messages"][0]["content"][0]["image_url"]["url"] == json!(url[..smaller]),
        "{} bytes",
        seen[1].body.len()
    );
    assert_within(&server, BUDGET);

    // Above the limit, the error says what it is, before anything is read.
    let too_long = json!({"model": "m", "prompt": "A".repeat(LIMIT)}).to_string();
    let refused = client.send("POST", "/v1/completions", Some("application/json"), too_long.as_bytes()).expect(413);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains(&LIMIT.to_string()), "{}", refused.text());
}

#[test]
fn bodies_of_names_take_a_share() {
    const BUDGET: usize = 64 * MIB;
    let (_db, server, user, upstream) = start(BUDGET);
    let client = user.program(&server.inference);
    let names = |length: usize, name: &dyn Fn(usize) -> String| {
        let mut text = String::with_capacity(length + 100);
        text.push_str(r#"{"model":"m","metadata":{"first":0"#);
        for n in 0.. {
            if text.len() > length {
                break;
            }
            text.push_str(&format!(r#","{}":0"#, name(n)));
        }
        text + r#"},"messages":[{"role":"user","content":"Hi"}]}"#
    };
    // For two megabytes there is room.
    let few = names(2 * MIB, &|n| format!("{n:x}"));
    client.send("POST", "/v1/chat/completions", Some("application/json"), few.as_bytes()).expect(200);
    let many = names(12 * MIB, &|n| format!("{n:x}"));
    let escaped = names(12 * MIB, &|n| format!("\\u0061{n:x}"));
    for body in [many, escaped] {
        let reply = client.send("POST", "/v1/chat/completions", Some("application/json"), body.as_bytes());
        assert!([429, 503].contains(&reply.status), "{}", reply.text());
    }
    assert_eq!(upstream.seen().len(), 1);
    assert_within(&server, BUDGET);
}

/// Of a text where something else is expected, errors repeat nothing: each of these characters would be six of it.
#[test]
fn texts_in_the_wrong_place_are_not_repeated() {
    const BUDGET: usize = 128 * MIB;
    let (_db, server, user, _upstream) = start(BUDGET);
    let text = format!("\"{}\"", "\u{7f}".repeat(12 * MIB));
    let chat = |field: &str, value: &str| {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],"{field}":{value}}}"#)
    };
    let content = |part: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#);
    let picture = content(&format!(r#"{{"type":"image_url","image_url":{text}}}"#));
    let source = content(&format!(r#"{{"type":"document","source":{text}}}"#));
    let (completions, messages) = ("/v1/chat/completions", "/v1/messages");
    for (path, body) in [
        (completions, &text),
        (messages, &text),
        ("/v1/messages/count_tokens", &text),
        ("/v1/embeddings", &text),
        ("/api/v1/generate-bulk", &text),
        ("/api/v1/generate-bulk", &format!("[{text}]")),
        (completions, &chat("stream", &text)),
        (completions, &chat("n", &text)),
        (completions, &chat("tools", &format!("[{text}]"))),
        (completions, &picture),
        (messages, &source),
    ] {
        let client = user.program(&server.inference);
        let reply = client.send("POST", path, Some("application/json"), body.as_bytes());
        assert!(reply.body.len() < 10_000, "{path}: {} bytes", reply.body.len());
    }
    let reply = user.browser.send("POST", "/api/docs/save", Some("application/json"), text.as_bytes());
    assert!(reply.expect(400).body.len() < 10_000);
    assert_within(&server, BUDGET);
}
