//! The OpenAI-compatible JSON routes, and the model servers behind them.

use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Server, TestDb, Upstream, User, charges, final_charges, only_charge};

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"test-model","choices":
    [{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],
    "usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18},"x_unknown":1e400}"#;

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
}

fn start(urls: &[&str], settings: &[(&str, &str)]) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let url = urls.join(",");
    let settings: Vec<_> = [("INFERENCE_URL", url.as_str())].into_iter().chain(settings.iter().copied()).collect();
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

#[test]
fn a_chat_is_passed_through_unchanged_and_charged() {
    let upstream = Upstream::start(|_, wire| wire.reply(200, "application/json", ANSWER));
    let (db, server, user) = start(&[&upstream.url], &[("INFERENCE_API_KEY", "theirs")]);
    let body = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url",
        "image_url":{"url":"data:image/png;base64,AA=="}}]}],"tools":[{"x":1.50}],"response_format":{"type":"json_schema"},"y":"\ud800"}"#;
    let client = user.program(&server.inference).header("authorization", "Bearer nothing");
    let reply = client.send("POST", "/v1/chat/completions", Some("application/json"), body.as_bytes()).expect(200);
    assert_eq!(reply.text(), ANSWER);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let seen = upstream.only();
    assert_eq!(seen.path, "/v1/chat/completions");
    let squeezed = |text: &str| text.replace(['\n', ' '], "");
    assert_eq!(squeezed(&seen.text()), squeezed(body), "untouched");
    assert_eq!(seen.header("authorization"), Some("Bearer theirs"));
    assert!(!format!("{seen:?}").contains(&user.secret), "the client's secret is not sent to the model server");
    let charge = only_charge(&db, &server);
    let expected = json!({"route": "/v1/chat/completions", "server": "inference", "model": "m", "prompt_tokens": 11,
        "completion_tokens": 7, "requests": 1, "user_id": user.id});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&charge[key], value, "{key}");
    }
    assert!(charge["latency_micros"].as_i64() > Some(0) && charge["key_id"].is_string());
    assert!(!server.log().contains("theirs") && !server.log().contains(&user.secret));
}

#[test]
fn every_route_requires_a_secret_and_refuses_before_reading_the_body() {
    let upstream = Upstream::constant(200, json!({}));
    let (_db, server, user) = start(&[&upstream.url], &[]);
    let openai = ["/v1/chat/completions", "/v1/completions", "/v1/engines/x/completions", "/v1/embeddings"];
    let audio = ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"];
    for (address, paths) in [(&server.inference, &openai[..]), (&server.audio, &audio[..])] {
        for path in paths {
            for client in [address.anonymous(), address.with_secret("wrong"), address.with_cookie(&user.token)] {
                let reply = client.send("POST", path, Some("application/json"), b"{").expect(401);
                assert_eq!(reply.json()["error"]["code"], "invalid_api_key", "{path}");
            }
        }
    }
    let ours = [
        "/api/v1/generate",
        "/api/v1/generate-bulk",
        "/api/v1/feature-extraction",
        "/api/v1/summarization",
        "/api/v1/generate_speech",
        "/api/v1/audio-extraction",
        "/api/v1/audio-file-extraction",
    ];
    for path in ours {
        let client = server.inference.anonymous().header("x-rapid-api-key", "any");
        let reply = client.send("POST", path, Some("application/json"), b"{").expect(401);
        assert!(reply.json()["detail"].as_str().unwrap().starts_with("Invalid Secret"), "{path}");
    }
    server.inference.anonymous().get("/v1/models").expect(401);
    assert!(upstream.seen().is_empty());
    // A large body without a valid credential is refused before it is read.
    let mut raw =
        crate::harness::Raw::head(&server.inference, "wrong", "/v1/chat/completions", "application/json", 7 << 20);
    raw.until("HTTP/1.1 401");
}

#[test]
fn a_missing_model_server_is_reported_with_the_setting_to_change() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    for (address, path, variable) in [
        (&server.inference, "/v1/chat/completions", "INFERENCE_URL"),
        (&server.inference, "/v1/embeddings", "EMBEDDINGS_URL"),
        (&server.inference, "/v1/images/generations", "IMAGES_URL"),
        (&server.inference, "/v1/rerank", "RERANK_URL"),
        (&server.inference, "/v1/moderations", "MODERATIONS_URL"),
        (&server.audio, "/v1/audio/transcriptions", "TRANSCRIBE_URL"),
        (&server.audio, "/v1/audio/speech", "SPEECH_URL"),
    ] {
        let reply = user.program(address).post(path, &chat()).expect(503);
        assert!(reply.json()["error"]["message"].as_str().unwrap().contains(variable), "{}", reply.text());
    }
    let reply = user.program(&server.inference).post("/api/v1/generate", &json!({"text": "a"})).expect(503);
    assert!(reply.json()["detail"].as_str().unwrap().contains("INFERENCE_URL"));
    assert_eq!(final_charges(&db, server), [] as [Value; 0]);
}

#[test]
fn errors_have_the_openai_format() {
    let refusal =
        json!({"error": {"message": "too long", "type": "invalid_request_error", "param": "messages", "code": "x"}});
    let theirs = refusal.clone();
    let upstream = Upstream::start(move |seen, wire| match seen.json()["model"].as_str().unwrap() {
        "refuse" => wire.json(400, &theirs),
        "detail" => wire.json(422, &json!({"detail": "no such field"})),
        "text" => wire.reply(404, "text/plain", "nothing"),
        "key" => wire.json(401, &json!({"error": {"message": "bad key sk-123"}})),
        "fault" => wire.json(500, &json!({"error": "stack trace"})),
        "rate" => wire.raw("HTTP/1.1 429 X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n").then_some(()).unwrap(),
        "html" => wire.reply(200, "text/html", "<html>"),
        "nonsense" => wire.reply(200, "application/json", "{\"choices\":["),
        _ => wire.die(),
    });
    let (db, server, user) = start(&[&upstream.url], &[]);
    let client = user.program(&server.inference);
    let ask = |model: &str, status: u16| {
        let reply = client.post("/v1/chat/completions", &json!({"model": model, "messages": []})).expect(status);
        assert!(reply.json()["error"]["message"].is_string(), "{}", reply.text());
        reply
    };
    assert_eq!(ask("refuse", 400).json(), refusal);
    assert_eq!(ask("detail", 422).json()["error"]["message"], "no such field");
    ask("text", 404);
    assert!(!ask("key", 502).text().contains("sk-123"));
    assert!(!ask("fault", 502).text().contains("stack"));
    assert_eq!(ask("rate", 429).header("retry-after"), Some("7"));
    ask("html", 502);
    ask("nonsense", 502);
    ask("die", 502);
    for (body, status) in [
        ("{", 400),
        ("[]", 400),
        ("{}", 400),
        (r#"{"messages":1}"#, 400),
        (r#"{"messages":[],"model":1}"#, 400),
        (r#"{"messages":[],"model":"a\u0000b"}"#, 400),
    ] {
        let reply = client.send("POST", "/v1/chat/completions", Some("application/json"), body.as_bytes());
        assert!(reply.expect(status).json()["error"]["message"].is_string(), "{body}");
    }
    assert_eq!(client.get("/v1/nothing").expect(404).json()["error"]["message"], "Not Found");
    assert_eq!(final_charges(&db, server), [] as [Value; 0]);
}

#[test]
fn completions_accept_what_clients_send() {
    let upstream = Upstream::start(|_, wire| {
        wire.json(200, &json!({"object": "text_completion", "choices": [{"text": "x".repeat(40), "index": 0}]}));
    });
    let (db, server, user) = start(&[&upstream.url], &[]);
    let client = user.program(&server.inference);
    let body = json!({"prompt": ["a", "b"], "stop": "x", "suffix": null, "stream": false, "unknown": {"a": 1}});
    client.post("/v1/completions", &body).expect(200);
    let seen = upstream.only().json();
    assert_eq!(
        (&seen["model"], &seen["max_tokens"], &seen["unknown"]),
        (&json!("test-model"), &Value::Null, &json!({"a": 1}))
    );
    // The model server reports no usage, so the text is counted, with a margin.
    let estimate = only_charge(&db, &server)["completion_tokens"].as_i64().unwrap();
    assert!((5..=40).contains(&estimate), "{estimate}");
    client.post("/v1/engines/text-davinci-003/completions", &json!({"prompt": "a"})).expect(200);
    client.post("/v1/engines/test-model/completions", &json!({"prompt": "a", "max_tokens": 5})).expect(200);
    let seen: Vec<_> = upstream.seen().iter().map(|seen| (seen.path.clone(), seen.json()["model"].clone())).collect();
    assert!(seen.iter().all(|(path, model)| path == "/v1/completions" && model == "test-model"), "{seen:?}");
    assert_eq!(
        client.post("/v1/completions", &json!({"prompt": ""})).expect(400).json()["error"]["message"],
        "Please enter some text"
    );
    client.post("/v1/completions", &json!({})).expect(400);
}

#[test]
fn models_and_embeddings() {
    let upstream = Upstream::start(|_, wire| {
        let vector = |index: i64| json!({"object": "embedding", "index": index, "embedding": [0.5, -0.25, 1.0]});
        let usage = json!({"prompt_tokens": 5, "total_tokens": 5});
        wire.json(200, &json!({"object": "list", "data": [vector(0), vector(1)], "model": "e", "usage": usage}));
    });
    let (db, server, user) = start(&[&upstream.url], &[("EMBEDDINGS_URL", &upstream.url), ("EMBEDDINGS_MODEL", "e")]);
    let client = user.program(&server.inference);
    assert_eq!(client.get("/v1/models").expect(200).json()["data"][0]["id"], "test-model");
    assert_eq!(client.get("/v1/models/test-model").expect(200).json()["id"], "test-model");
    client.get("/v1/models/other").expect(404);
    let reply = client.post("/v1/embeddings", &json!({"input": ["a", "b"], "encoding_format": "base64"})).expect(200);
    assert_eq!(reply.json()["data"][1]["index"], 1);
    assert_eq!(upstream.only().json(), json!({"input": ["a", "b"], "encoding_format": "base64", "model": "e"}));
    assert_eq!(only_charge(&db, &server)["embedding_tokens"], 5);
    for (body, expected) in [
        (json!({"text": "a"}), json!([0.5, -0.25, 1.0])),
        (json!({"text": "a", "num_features": 2}), json!([0.5, -0.25])),
        (json!({"text": "a", "num_features": null}), json!([0.5, -0.25, 1.0])),
    ] {
        assert_eq!(client.post("/api/v1/feature-extraction", &body).expect(200).json(), expected);
    }
    client.post("/api/v1/feature-extraction", &json!({"num_features": 2})).expect(422);
    // Not every format is one whose usage can be read.
    let (asked, bytes) = (upstream.seen().len(), json!({"input": "a", "encoding_format": "bytes"}));
    let refused = client.post("/v1/embeddings", &bytes).expect(400).text();
    assert!(refused.contains("encoding_format must be one of"), "{refused}");
    client.post("/v1/embeddings", &json!({"input": "a", "encoding_format": null})).expect(200);
    assert_eq!(upstream.seen().len(), asked + 1);
}

#[test]
fn a_failing_model_server_is_skipped_and_retried_later() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed_url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let unable = Upstream::constant(503, json!({"error": "loading"}));
    let dying = Upstream::start(|_, wire| wire.die());
    let works = Upstream::start(|_, wire| wire.reply(200, "application/json", ANSWER));
    let (db, server, user) = start(&[&closed_url, &unable.url, &dying.url, &works.url], &[("INFERENCE_MODEL", "m")]);
    let client = user.program(&server.inference);
    for _ in 0..12 {
        client.post("/v1/chat/completions", &chat()).expect(200);
    }
    assert_eq!(works.seen().len(), 12);
    assert!(
        unable.seen().len() <= 4 && dying.seen().len() <= 4,
        "servers that failed are not called again during their cool-down"
    );
    server.wait_until("the charges", || charges(&db).len() == 12);
    // The first server starts again at the same address.
    let back = TcpListener::bind(closed_url.strip_prefix("http://").unwrap()).unwrap();
    let answered = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = answered.clone();
    thread::spawn(move || {
        for mut stream in back.incoming().flatten() {
            use std::io::{Read, Write};
            let mut head = vec![0; 65536];
            let _ = stream.read(&mut head);
            counted.fetch_add(usize::from(head.starts_with(b"POST")), Ordering::Relaxed);
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            );
        }
    });
    server.wait_until("it to be tried again", || {
        client.post("/v1/chat/completions", &chat()).expect(200);
        answered.load(Ordering::Relaxed) > 0
    });
}

#[test]
fn requests_go_to_the_least_busy_model_server() {
    // Each keeps its request until the other has one too.
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(2));
    let make = || {
        let barrier = barrier.clone();
        Upstream::start(move |_, wire| {
            barrier.wait();
            wire.reply(200, "application/json", ANSWER);
        })
    };
    let (one, two) = (make(), make());
    let (_db, server, user) = start(&[&one.url, &two.url], &[]);
    for _ in 0..3 {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| user.program(&server.inference).post("/v1/chat/completions", &chat()).expect(200));
            }
        });
    }
    assert_eq!((one.seen().len(), two.seen().len()), (3, 3));
}

#[test]
fn a_late_model_server_is_504_and_a_repeated_request_is_charged_once() {
    let calls = Mutex::new(0);
    let upstream = Upstream::start(move |_, wire| {
        *calls.lock().unwrap() += 1;
        if *calls.lock().unwrap() > 1 {
            assert!(wire.is_left_within(20), "the upstream call is ended");
            return;
        }
        wire.reply(200, "application/json", ANSWER);
    });
    let (db, server, user) = start(&[&upstream.url], &[("UPSTREAM_TIMEOUT", "2")]);
    let client = user.program(&server.inference).header("idempotency-key", "k1");
    client.post("/v1/chat/completions", &chat()).expect(200);
    client.post("/v1/chat/completions", &chat()).expect(200);
    let reply = user.program(&server.inference).post("/v1/chat/completions", &chat()).expect(504);
    assert_eq!(reply.json()["error"]["type"], "server_error");
    assert_eq!(final_charges(&db, server).len(), 1);
}

#[test]
fn replies_that_come_compressed_are_understood() {
    let zipped = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let upstream = Upstream::start(move |seen, wire| {
        let request = seen.json();
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 1});
        let (status, media_type, text) = match (request["model"].as_str(), request["stream"] == true) {
            (Some("refuse"), _) => (400, "application/json", json!({"error": {"message": "too long"}}).to_string()),
            (_, true) => {
                let piece = json!({"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]});
                let end = json!({"choices": [], "usage": usage});
                (200, "text/event-stream", format!("data: {piece}\n\ndata: {end}\n\ndata: [DONE]\n\n"))
            }
            _ => {
                let message = json!({"role": "assistant", "content": "Hi"});
                let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
                (200, "application/json", json!({"choices": [choice], "usage": usage}).to_string())
            }
        };
        let body = zipped(&text);
        wire.raw(format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        wire.raw(body);
    })
    .listing(&["m", "refuse"]);
    let (db, server, user) = start(&[&upstream.url], &[]);
    let client = user.program(&server.inference);
    let asked = |model: &str, stream: bool| json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hello"}]});
    let whole = client.post("/v1/chat/completions", &asked("m", false)).expect(200);
    assert_eq!(whole.json()["choices"][0]["message"]["content"], "Hi");
    assert_eq!(whole.header("content-encoding"), None);
    let streamed = client.post("/v1/chat/completions", &asked("m", true)).expect(200).text();
    assert!(streamed.contains("\"Hi\"") && streamed.contains("[DONE]"), "{streamed}");
    assert!(client.post("/v1/chat/completions", &asked("refuse", false)).expect(400).text().contains("too long"));
    let charges = final_charges(&db, server);
    assert!(charges.len() == 2 && charges.iter().all(|charge| charge["completion_tokens"] == 1), "{charges:?}");
}
