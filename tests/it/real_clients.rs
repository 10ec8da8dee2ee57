//! Libraries that people use, against the demo engine and a scripted model server that speaks only chat. `tests/clients/run`
//! installs them and runs these.

use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::harness::{ReceivedRequest, ReplyWriter, Server, TestDb, Upstream, charges};
use crate::recordings::{heard, wav};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nand so on";

/// Answers a chat: calls the tool that it is given for two cities, tells the results, or says hello.
fn answer(request: &Value) -> Value {
    let messages = request["messages"].as_array().cloned().unwrap_or_default();
    let results: Vec<&str> = messages
        .iter()
        .filter(|message| message["role"] == "tool")
        .map(|message| message["content"].as_str().or(message["content"][0]["text"].as_str()).unwrap_or("?"))
        .collect();
    let tool = &request["tools"][0]["function"]["name"];
    if !results.is_empty() {
        return json!({"role": "assistant", "content": results.join(", ")});
    }
    if tool.is_string() {
        let call = |(n, city): (usize, &str)| {
            let function = json!({"name": tool, "arguments": json!({"city": city}).to_string()});
            json!({"index": n, "id": format!("call_{n}"), "type": "function", "function": function})
        };
        let calls: Vec<Value> = ["Oslo", "Rome"].into_iter().enumerate().map(call).collect();
        return json!({"role": "assistant", "content": null, "tool_calls": calls});
    }
    let is_structured = request["response_format"]["type"] == "json_schema";
    json!({"role": "assistant", "content": if is_structured { r#"{"city":"Oslo","degrees":7}"# } else { "Hello there." }})
}

fn chat(request: &Value, wire: &mut ReplyWriter) {
    let message = answer(request);
    let reason = if message["tool_calls"].is_array() { "tool_calls" } else { "stop" };
    let usage = json!({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12});
    let reply = |kind: &str, choices: Value, usage: &Value| {
        json!({"id": "chatcmpl-1", "object": kind, "created": 1, "model": request["model"], "choices": choices,
            "usage": usage})
    };
    if request["stream"] != true {
        let choices = json!([{"index": 0, "message": message, "finish_reason": reason}]);
        return wire.json(200, &reply("chat.completion", choices, &usage));
    }
    wire.start("text/event-stream");
    let kind = "chat.completion.chunk";
    let mut delta = |delta: Value, reason: Value| {
        let choices = json!([{"index": 0, "delta": delta, "finish_reason": reason}]);
        wire.event(&reply(kind, choices, &Value::Null).to_string());
    };
    match message["content"].as_str() {
        Some(text) => text.split_inclusive(' ').for_each(|word| delta(json!({"content": word}), Value::Null)),
        None => delta(json!({"tool_calls": message["tool_calls"]}), Value::Null),
    }
    delta(json!({}), json!(reason));
    wire.event(&reply(kind, json!([]), &usage).to_string());
    wire.event("[DONE]");
    wire.end();
}

fn embeddings(request: &Value) -> Value {
    let bytes: Vec<u8> = [0.5_f32, -0.5].iter().flat_map(|number| number.to_le_bytes()).collect();
    let vector = match request["encoding_format"] == "base64" {
        true => json!(BASE64_STANDARD.encode(bytes)),
        false => json!([0.5, -0.5]),
    };
    let count = request["input"].as_array().map_or(1, Vec::len);
    let one = |index| json!({"object": "embedding", "index": index, "embedding": vector});
    json!({"object": "list", "model": request["model"], "data": (0..count).map(one).collect::<Vec<_>>(),
        "usage": {"prompt_tokens": 2, "total_tokens": 2}})
}

fn respond(seen: &ReceivedRequest, wire: &mut ReplyWriter) {
    match seen.path.as_str() {
        "/v1/chat/completions" => chat(&seen.json(), wire),
        "/v1/embeddings" => wire.json(200, &embeddings(&seen.json())),
        "/v1/audio/speech" => wire.reply(200, "audio/wav", wav()),
        "/v1/audio/transcriptions" => wire.json(200, &heard()),
        "/v1/images/generations" | "/v1/images/edits" => {
            wire.json(200, &json!({"created": 1, "data": [{"b64_json": BASE64_STANDARD.encode(PNG)}]}));
        }
        "/v1/moderations" => {
            let result = json!({"flagged": false, "categories": {}, "category_scores": {}});
            wire.json(200, &json!({"id": "m", "model": "m", "results": [result]}));
        }
        _ => wire.json(404, &json!({"error": {"message": "no such route"}})),
    }
}

/// Runs a script of `tests/clients` against both engines. Each call of a model must be in the ledger, and nothing else.
#[track_caller]
fn run_client(script: &str) {
    let program = match script.rsplit_once('.') {
        Some((_, "py")) => std::env::var("CLIENTS_PYTHON").expect("CLIENTS_PYTHON is not set: use tests/clients/run"),
        _ => "node".to_owned(),
    };
    let upstream = Upstream::start(respond);
    let urls = ["INFERENCE_URL", "EMBEDDINGS_URL", "TRANSCRIBE_URL", "SPEECH_URL", "IMAGES_URL", "MODERATIONS_URL"];
    let settings = urls.map(|name| (name, upstream.url.as_str()));
    for (engine, model) in [("demo", "demo"), ("scripted", "m")] {
        let db = TestDb::new();
        let server = match engine {
            "demo" => Server::start_demo(&db, &[]),
            _ => Server::start_with(&db, &settings),
        };
        let user = server.sign_up("ann@example.com");
        let output = Command::new(&program)
            .arg(script)
            .current_dir(format!("{}/tests/clients", env!("CARGO_MANIFEST_DIR")))
            .envs([("MODEL", model), ("ENGINE", engine)])
            .envs([("OPENAI_API_KEY", &user.secret), ("ANTHROPIC_API_KEY", &user.secret)])
            .env("OPENAI_BASE_URL", format!("{}/v1", server.inference.0))
            .env("ANTHROPIC_BASE_URL", &server.inference.0)
            .output()
            .unwrap();
        let [printed, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        assert!(output.status.success(), "{script} with the {engine} engine: {printed}{errors}\n{}", server.log());
        println!("{script}, {engine}: {printed}");
        assert_eq!(server.stop(), 0);
        let charged = charges(&db).len();
        match engine {
            "demo" => assert!(charged > 0),
            _ => assert_eq!(charged, upstream.seen().len(), "{:?}", upstream.seen()),
        }
    }
}

macro_rules! clients {
    ($($name:ident: $script:literal,)*) => {
        $(
            #[test]
            #[ignore = "tests/clients/run runs it"]
            fn $name() {
                run_client($script);
            }
        )*
    };
}

clients! {
    openai_for_python: "openai_library.py",
    anthropic_for_python: "anthropic_library.py",
    langchain: "langchain_library.py",
    openai_agents: "agents_library.py",
    llm: "llm_program.py",
    openai_for_javascript: "openai_library.mjs",
    anthropic_for_javascript: "anthropic_library.mjs",
    vercels_ai_sdk: "ai_sdk.mjs",
}
