//! The text routes of the old system.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::harness::{Raw, ReplyWriter, Server, TestDb, Upstream, User, charges, only_charge};

fn start(script: impl Fn(&Value, &mut ReplyWriter) + Send + Sync + 'static) -> (TestDb, Server, User, Upstream) {
    let upstream = Upstream::start(move |seen, wire| script(&seen.json(), wire));
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url)]);
    let user = server.sign_up("ann@example.com");
    (db, server, user, upstream)
}

fn speak(wire: &mut ReplyWriter, words: &[&str], finish: &str) {
    wire.start("text/event-stream");
    for word in words {
        wire.word(word);
    }
    wire.event(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}).to_string());
    wire.event(r#"{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":6}}"#);
    wire.event("[DONE]");
    wire.end();
}

#[test]
fn text_is_generated_and_charged() {
    let (db, server, user, upstream) = start(|_, wire| speak(wire, &["Hello", " there."], "length"));
    let client = user.program(&server.inference);
    let reply = client.post("/api/v1/generate", &json!({"text": "Hi", "max_length": 2, "model": "best"})).expect(200);
    assert_eq!(
        reply.text(),
        r#"[{"generated_text":"Hello there.","stop_reason":"max_length","thinking_content":null}]"#
    );
    let seen = upstream.only();
    assert_eq!(seen.path, "/v1/chat/completions");
    let seen = seen.json();
    assert_eq!(
        (&seen["model"], &seen["max_tokens"], &seen["temperature"]),
        (&json!("test-model"), &json!(2), &json!(0.7))
    );
    let charge = only_charge(&db, &server);
    assert_eq!((&charge["completion_tokens"], &charge["route"]), (&json!(6), &json!("/api/v1/generate")));
    assert_eq!(
        client.post("/api/v1/generate", &json!({"text": ""})).expect(400).json(),
        json!({"detail": "Please enter some text"})
    );
    assert_eq!(
        client.post("/api/v1/generate", &json!({})).expect(422).json()["detail"][0]["loc"],
        json!(["body", "text"])
    );
    client.get("/api/v1/generate").expect(405);
}

#[test]
fn stop_sequences_and_sentence_limits_end_the_upstream_call() {
    let (db, server, user, _) = start(|_, wire| {
        wire.start("text/event-stream");
        for (word, made) in ["One. ", "Two. ", "Th", "ree. ", "Four. "].into_iter().zip(1..) {
            wire.word_with_usage(word, 3, made);
        }
        assert!(wire.is_left_within(20), "no further text is generated");
    });
    let client = user.program(&server.inference);
    let ask = |more: Value| {
        let mut body = json!({"text": "Hi"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.post("/api/v1/generate", &body).expect(200).json()[0].clone()
    };
    let answer = ask(json!({"stop_sequences": ["Five", "Three"]}));
    assert_eq!((&answer["generated_text"], &answer["stop_reason"]), (&json!("One. Two. "), &json!("Three")));
    let answer = ask(json!({"max_sentences": 1}));
    assert_eq!((&answer["generated_text"], &answer["stop_reason"]), (&json!("One."), &json!("max_sentences")));
    server.wait_until("the charges", || charges(&db).len() == 2);
}

#[test]
fn several_results_work_with_a_model_server_that_returns_one() {
    let (db, server, user, upstream) = start(|body, wire| speak(wire, &[&body["seed"].to_string()], "stop"));
    let body = json!({"text": "Hi", "number_of_results": 3, "seed": 7});
    let reply = user.program(&server.inference).post("/api/v1/generate", &body).expect(200).json();
    let texts: Vec<_> = reply.as_array().unwrap().iter().map(|r| r["generated_text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["7", "8", "9"]);
    assert_eq!(upstream.seen()[0].json()["n"], 3);
    let charge = only_charge(&db, &server);
    assert_eq!((&charge["completion_tokens"], &charge["requests"]), (&json!(18), &json!(1)));
}

#[test]
fn a_strict_model_server_gets_only_parameters_it_knows() {
    let (_db, server, user, upstream) = start(|body, wire| match body.get("top_k") {
        Some(_) => wire.json(400, &json!({"error": {"message": "Unrecognized request argument supplied: top_k"}})),
        None => speak(wire, &["ok"], "stop"),
    });
    let client = user.program(&server.inference);
    let reply = client.post("/api/v1/generate", &json!({"text": "Hi"})).expect(200).json();
    assert_eq!((&reply[0]["generated_text"], &reply[0]["stop_reason"]), (&json!("ok"), &json!("stop")));
    assert!(upstream.seen().last().unwrap().json().get("repetition_penalty").is_none());
}

#[test]
fn bulk_generation_keeps_the_order_and_is_one_charge() {
    let (db, server, user, upstream) = start(|body, wire| {
        let text = body["messages"][0]["content"].as_str().unwrap().to_owned();
        if text == "fail" {
            return wire.json(400, &json!({"error": {"message": "no"}}));
        }
        speak(wire, &[&text], "stop");
    });
    let client = user.program(&server.inference);
    assert_eq!(client.post("/api/v1/generate-bulk", &json!([])).expect(200).text(), "[]");
    let texts: Vec<_> = (0..20).map(|n| json!({"text": n.to_string()})).collect();
    let reply = client.post("/api/v1/generate-bulk", &json!(texts)).expect(200).json();
    let found: Vec<_> = reply.as_array().unwrap().iter().map(|r| r[0]["generated_text"].clone()).collect();
    assert_eq!(json!(found), json!((0..20).map(|n| n.to_string()).collect::<Vec<_>>()));
    let charge = only_charge(&db, &server);
    assert_eq!((&charge["completion_tokens"], &charge["requests"]), (&json!(120), &json!(20)));
    let before = upstream.seen().len();
    client.post("/api/v1/generate-bulk", &json!([{"text": "a"}, {"text": ""}])).expect(400);
    client.post("/api/v1/generate-bulk", &json!({"text": "a"})).expect(400);
    assert_eq!(upstream.seen().len(), before, "no upstream call is started");
    assert_eq!(client.post("/api/v1/generate-bulk", &json!([{"text": "fail"}])).expect(400).json()["detail"], "no");
}

#[test]
fn summarization_prompts_ask_for_a_summary() {
    let (_db, server, user, upstream) = start(|_, wire| speak(wire, &[" Short. "], "stop"));
    let reply =
        user.program(&server.inference).post("/api/v1/summarization", &json!({"text": "Long.", "max_length": 9}));
    assert_eq!(reply.expect(200).text(), r#"{"generated_text":"Short."}"#);
    let seen = upstream.only().json();
    assert_eq!((&seen["max_tokens"], &seen["messages"][1]["content"]), (&json!(9), &json!("Long.")));
}

#[test]
fn disconnecting_from_a_bulk_request_ends_its_upstream_calls() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let (_db, server, user, _) = start(move |_, wire| {
        tell.lock().unwrap().send(false).unwrap();
        let left = wire.is_left_within(20);
        tell.lock().unwrap().send(left).unwrap();
    });
    let body = json!([{"text": "a"}, {"text": "b"}]);
    let raw = Raw::post(&server.inference, &user.secret, "/api/v1/generate-bulk", &body);
    assert!(!told.recv().unwrap() && !told.recv().unwrap());
    raw.leave();
    assert!(told.recv().unwrap() && told.recv().unwrap(), "both upstream calls are ended");
}

#[test]
fn stop_sequences_are_bounded() {
    let (_db, server, user, upstream) = start(|_, wire| speak(wire, &["ok"], "stop"));
    let client = user.program(&server.inference);
    let many: Vec<_> = (0..10_000).map(|n| n.to_string()).collect();
    client.post("/api/v1/generate", &json!({"text": "Hi", "stop_sequences": many})).expect(400);
    client.post("/api/v1/generate", &json!({"text": "Hi", "stop_sequences": ["x".repeat(1001)]})).expect(400);
    assert!(upstream.seen().is_empty());
    client.post("/api/v1/generate", &json!({"text": "Hi", "stop_sequences": many[..256]})).expect(200);
}

/// A model server that makes one completion for each call, and fails at the third.
#[test]
fn completions_that_were_made_are_charged_though_a_later_call_fails() {
    let calls = AtomicUsize::new(0);
    let (db, server, user, upstream) = start(move |_, wire| match calls.fetch_add(1, Relaxed) {
        2 | 5 => wire.json(400, &json!({"error": {"message": "no more"}})),
        _ => speak(wire, &["Hi"], "stop"),
    });
    let client = user.program(&server.inference).header("idempotency-key", "k1");
    let request = json!({"text": "a", "number_of_results": 4});
    client.post("/api/v1/generate", &request).expect(400);
    let charge = only_charge(&db, &server);
    assert_eq!((&charge["prompt_tokens"], &charge["completion_tokens"]), (&json!(8), &json!(12)));
    // Nothing is kept: a repetition is a new request. So it is with many texts.
    client.post("/api/v1/generate-bulk", &json!([request])).expect(400);
    server.wait_until("the second charge", || charges(&db).len() == 2);
    let reply = client.post("/api/v1/generate", &request).expect(200);
    assert_eq!(reply.json().as_array().unwrap().len(), 4);
    assert_eq!(upstream.seen().len(), 10);
    let made: Vec<i64> = charges(&db).iter().map(|charge| charge["completion_tokens"].as_i64().unwrap()).collect();
    assert_eq!(made, [12, 12, 24]);
    assert_eq!(db.count("SELECT count(*) FROM kept_replies"), 1);
}
