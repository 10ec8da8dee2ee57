//! One request, one bill: what a request means and what it used is read as the model server reads and reports it.

use serde_json::{Value, json};

use crate::harness::{Server, TestDb, Upstream, User, charges, only_charge};

fn start(upstream: &Upstream) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url)]);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

fn chat(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hello"}]})
}

#[test]
fn ambiguous_json_is_refused() {
    let upstream = Upstream::constant(200, json!({"choices": []}));
    let (db, server, user) = start(&upstream);
    let messages = r#""messages":[{"role":"user","content":"Hello"}]"#;
    for body in [
        format!(r#"{{"model":"cheap","model":"dear",{messages}}}"#),
        format!(r#"{{"model":"cheap","mod\u0065l":"dear",{messages}}}"#),
        format!(r#"{{"model":"cheap","Model":"dear",{messages}}}"#),
        format!(r#"{{"model":"m","MAX_TOKENS":9,{messages}}}"#),
        format!(r#"{{"model":"m","stream":1,{messages}}}"#),
        format!(r#"{{"model":"m","stream":"true",{messages}}}"#),
        format!(r#"{{"model":"m","n":"8",{messages}}}"#),
        format!(r#"{{"model":"m","n":8.0,{messages}}}"#),
        format!(r#"{{"model":"m","n":129,{messages}}}"#),
        format!(r#"{{"model":"m","best_of":{0},"max_tokens":{0},{messages}}}"#, u64::MAX),
        format!(r#"{{"model":"m","best_of":2,{messages}}}"#),
        format!(r#"{{"model":"m","max_tokens":10.0,{messages}}}"#),
        format!(r#"{{"model":"m","max_tokens":1,"n_predict":1000,{messages}}}"#),
        format!(r#"{{"model":"cheap","models":["dear"],{messages}}}"#),
        format!(r#"{{"model":"cheap","Fallbacks":["dear"],{messages}}}"#),
        format!(r#"{{"model":"m","search_parameters":{{"mode":"on"}},{messages}}}"#),
        format!(
            r#"{{"model":"m","tools":[{{"type":"function","function":{{}}}},{{"type":"web_search"}}],{messages}}}"#
        ),
        format!(r#"{{"model":"m","tools":{{"type":"web_search"}},{messages}}}"#),
        format!(r#"{{"model":"m","service_tier":"priority",{messages}}}"#),
        format!(r#"{{"model":"m","service_tier":["priority"],{messages}}}"#),
        r#"{"model":"m","messages":[{"role":"user","content":"a","content":"b"}]}"#.to_owned(),
        format!(r#"{{"model":"m",{messages},"x":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000)),
    ] {
        let client = user.program(&server.inference);
        let reply = client.send("POST", "/v1/chat/completions", Some("application/json"), body.as_bytes()).expect(400);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error", "{}", reply.text());
    }
    assert!(upstream.seen().is_empty() && charges(&db).is_empty());
}

#[test]
fn usual_service_tiers_and_no_more_choices_than_are_returned_pass() {
    let upstream =
        Upstream::constant(200, json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}));
    let (_db, server, user) = start(&upstream);
    let tools = json!([{"type": "function", "function": {"name": "f"}}, {"type": "custom"}]);
    for (name, value) in [
        ("service_tier", json!("auto")),
        ("service_tier", Value::Null),
        ("best_of", json!(1)),
        ("tools", tools),
        ("tools", Value::Null),
    ] {
        let mut body = chat(false);
        body[name] = value;
        user.program(&server.inference).post("/v1/chat/completions", &body).expect(200);
    }
}

#[test]
fn ambiguous_bodies_are_refused_on_the_older_routes_too() {
    let upstream = Upstream::constant(200, json!({"choices": []}));
    let db = TestDb::new();
    let url = upstream.url.as_str();
    let settings = ["INFERENCE_URL", "EMBEDDINGS_URL", "SPEECH_URL", "TRANSCRIBE_URL"].map(|name| (name, url));
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@example.com");
    let (text, audio) = (user.program(&server.inference), user.program(&server.audio));
    let (json, form) = ("application/json", "application/x-www-form-urlencoded");
    let multipart_type = "multipart/form-data; boundary=bnd";
    let twice = |file: &str, name: &str| {
        let recording = crate::recordings::wav();
        crate::recordings::multipart(&[(name, b"true"), (file, &recording), (name, b"false")])
    };
    for (client, path, media_type, body) in [
        (&text, "/api/v1/generate", json, br#"{"text":"a","text":"b"}"#.to_vec()),
        (&text, "/api/v1/generate", json, br#"{"text":"a","x":{"y":1,"y":2}}"#.to_vec()),
        (&text, "/api/v1/generate-bulk", json, br#"[{"text":"a"},{"text":"a","mod\u0065l":"x","model":"y"}]"#.to_vec()),
        (&text, "/api/v1/summarization", json, br#"{"text":"a","max_length":1,"max_length":9}"#.to_vec()),
        (&text, "/api/v1/feature-extraction", json, br#"{"text":"a","text":"b"}"#.to_vec()),
        (&text, "/v1/embeddings", json, br#"{"input":"a","input":"b"}"#.to_vec()),
        (&audio, "/api/v1/generate_speech", json, br#"{"text":"a","text":"b"}"#.to_vec()),
        (&audio, "/v1/audio/speech", json, br#"{"input":"a","input":"b"}"#.to_vec()),
        (&audio, "/v1/audio/speech", json, br#"{"input":"a","Model":"b"}"#.to_vec()),
        (&audio, "/api/v1/audio-extraction", json, br#"{"audio_url":"http://a/","audio_url":"http://b/"}"#.to_vec()),
        (&audio, "/api/v1/audio-file-extraction", multipart_type, twice("audio_file*", "translate_to_english")),
        (&audio, "/v1/audio/transcriptions", multipart_type, twice("file*", "stream")),
        (
            &audio,
            "/v1/audio/transcriptions",
            multipart_type,
            crate::recordings::multipart(&[("stream", b"yes"), ("file*", &crate::recordings::wav())]),
        ),
        (
            &audio,
            "/v1/audio/transcriptions",
            multipart_type,
            crate::recordings::multipart(&[("Model", b"dear"), ("model", b"m"), ("file*", &crate::recordings::wav())]),
        ),
        (
            &audio,
            "/v1/audio/transcriptions",
            multipart_type,
            crate::recordings::multipart(&[("fallbacks", b"dear"), ("file*", &crate::recordings::wav())]),
        ),
    ] {
        let reply = client.send("POST", path, Some(media_type), &body);
        assert_eq!(reply.status, 400, "{path} {}", reply.text());
    }
    let browser = user.browser_of(&server);
    browser.send("POST", "/playground/speak", Some(form), b"input=a&input=b").expect(400);
    browser.send("POST", "/playground/speak", Some(json), br#"{"input":"a","input":"b"}"#).expect(400);
    browser.send("POST", "/playground/ask", Some(form), b"prompt=a&model=x&model=y").expect(400);
    assert!(charges(&db).is_empty() && upstream.seen().iter().all(|seen| seen.path.contains("audio")));
}

#[test]
fn an_error_with_a_success_status_is_not_charged() {
    let upstream = Upstream::start(|seen, wire| {
        if seen.json()["stream"] != true {
            return wire.json(200, &json!({"error": {"message": "too long, sk-123", "code": 400}}));
        }
        wire.start("text/event-stream");
        wire.event(r#"{"error":{"message":"too long, sk-123"}}"#);
        wire.event("[DONE]");
        wire.end();
    });
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    let reply = client.post("/v1/chat/completions", &chat(false)).expect(502);
    assert!(!reply.text().contains("sk-123"), "{}", reply.text());
    let reply = client.post("/v1/chat/completions", &chat(true)).expect(200);
    assert!(reply.text().contains("server_error") && !reply.text().contains("[DONE]"), "{}", reply.text());
    drop(server);
    assert!(charges(&db).is_empty());
}

#[test]
fn usage_is_read_correctly_in_every_format() {
    let shapes = [
        (json!({"prompt_tokens": 11.0, "completion_tokens": "7"}), (11, 0, 0, 7)),
        (json!({"input_tokens": 11, "output_tokens": 7}), (11, 0, 0, 7)),
        (
            json!({"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}),
            (7, 4, 0, 7),
        ),
        (
            json!({"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 7}),
            (3, 5, 2, 7),
        ),
        (
            json!({"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 41,
                "completion_tokens_details": {"reasoning_tokens": 25}}),
            (11, 0, 0, 30),
        ),
    ];
    for (usage, expected) in shapes {
        let sent = usage.clone();
        let upstream = Upstream::start(move |seen, wire| {
            let choice =
                json!({"index": 0, "finish_reason": "stop", "message": {"content": "Hi"}, "delta": {"content": "Hi"}});
            let reply = json!({"choices": [choice], "usage": sent});
            if seen.json()["stream"] == true {
                wire.start("text/event-stream");
                // In the middle of the stream, with choices, and twice: the latest numbers hold.
                wire.event(r#"{"choices":[{"index":0,"delta":{"content":"H"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#);
                wire.event(&reply.to_string());
                wire.event(&json!({"choices": [], "usage": sent}).to_string());
                wire.event("[DONE]");
                wire.end();
            } else {
                wire.json(200, &reply);
            }
        });
        for stream in [false, true] {
            let (db, server, user) = start(&upstream);
            user.program(&server.inference).post("/v1/chat/completions", &chat(stream)).expect(200);
            let charge = only_charge(&db, &server);
            let column = |name: &str| charge[name].as_i64().unwrap();
            let counted =
                ["prompt_tokens", "cached_input_tokens", "cache_write_tokens", "completion_tokens"].map(column);
            assert_eq!(counted, [expected.0, expected.1, expected.2, expected.3], "{usage}, stream: {stream}");
            assert_eq!(charge["estimated"], false, "{usage}");
        }
    }
}

#[test]
fn a_charge_without_reported_usage_is_marked_as_an_estimate() {
    let upstream = Upstream::constant(200, json!({"choices": [{"index": 0, "message": {"content": "Hi there"}}]}));
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    client.post("/v1/chat/completions", &chat(false)).expect(200);
    assert_eq!(only_charge(&db, &server)["estimated"], true);
    let usage = user.program(&server.web).get("/api/usage").expect(200).json();
    assert_eq!(usage["usage"][0]["estimated"], 1, "{usage}");
    let browser = user.browser_of(&server);
    let page = browser.get("/usage").expect(200).text();
    assert!(page.contains(">estimate</span>") && page.contains(">1 estimated</span>"), "{page}");
    crate::harness::run(&["user", "promote", "ann@example.com"], &[("DATABASE_URL", &db.url())], "");
    let admin = || browser.header("accept", "text/html").get(&format!("/admin/users/{}", user.id));
    server.wait_until("the promotion to be seen", || admin().status == 200);
    assert!(admin().text().contains(">estimate</span>"), "{}", admin().text());
    let csv = browser.get("/usage.csv").expect(200).text();
    let column = csv.lines().next().unwrap().split(',').position(|name| name == "estimated").unwrap();
    assert_eq!(csv.lines().nth(1).unwrap().split(',').nth(column), Some("1"), "{csv}");
}
