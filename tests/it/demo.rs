//! The demo engine, which answers every route without a model server.

use serde_json::{Value, json};

use crate::harness::{Raw, Server, TestDb, charges};

#[test]
fn the_demo_engine_answers_every_route_deterministically_and_says_so() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let user = server.sign_up("ann@example.com");
    let inference = user.program(&server.inference);
    let chat = json!({"messages": [{"role": "user", "content": "Good morning"}]});
    let text = "This is the demo engine. You said: Good morning";
    let cases: [(&str, Value, &str, Value); 7] = [
        ("/v1/chat/completions", chat.clone(), "/choices/0/message/content", json!(text)),
        ("/v1/completions", json!({"prompt": "Good morning", "max_tokens": 2}), "/choices/0/text", json!("This is ")),
        ("/v1/embeddings", json!({"input": "a"}), "/data/0/object", json!("embedding")),
        (
            "/api/v1/generate",
            json!({"text": "x", "max_sentences": 1}),
            "/0/generated_text",
            json!("This is the demo engine."),
        ),
        (
            "/api/v1/generate-bulk",
            json!([{"text": "x", "stop_sequences": ["demo"]}]),
            "/0/0/stop_reason",
            json!("demo"),
        ),
        ("/api/v1/feature-extraction", json!({"text": "x", "num_features": 1}), "/1", Value::Null),
        (
            "/api/v1/summarization",
            json!({"text": "x"}),
            "/generated_text",
            json!("This is the demo engine. You said: x"),
        ),
    ];
    for (path, body, pointer, expected) in cases {
        let reply = inference.post(path, &body).expect(200);
        assert_eq!(reply.header("x-textgen-engine"), Some("demo"), "{path}");
        assert_eq!(reply.json().pointer(pointer).unwrap_or(&Value::Null), &expected, "{path}");
        let again = inference.post(path, &body).expect(200);
        let blank = |mut value: Value| {
            value.as_object_mut().map(|object| object.remove("created"));
            value
        };
        assert_eq!(blank(reply.json()), blank(again.json()), "{path}");
    }
    assert_eq!(inference.get("/v1/models").expect(200).json()["data"][0]["id"], "demo");
    let mut streamed = chat;
    streamed["stream"] = json!(true);
    let mut raw = Raw::post(&server.inference, &user.secret, "/v1/chat/completions", &streamed);
    assert!(raw.rest().contains("X-Textgen-Engine: demo") && raw.got.contains("[DONE]"), "{}", raw.got);
    let speech = user.program(&server.audio).post("/v1/audio/speech", &json!({"input": "hello"})).expect(200);
    assert!(speech.body.starts_with(b"RIFF") && speech.header("x-textgen-engine") == Some("demo"));
    server.wait_until("the charges", || charges(&db).len() == 16);
    let log = server.log();
    assert!(log.contains("THE DEMO ENGINE ANSWERS") && log.contains("SPEECH_URL, IMAGES_URL"), "{log}");
}
