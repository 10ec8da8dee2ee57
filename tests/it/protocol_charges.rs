//! The Responses and the Messages protocol: no work of a model goes uncharged, or is charged otherwise than it was done.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::{Value, json};

use crate::budgets::{self, key_with};
use crate::harness::{Raw, ReplyWriter, Server, TestDb, Upstream, charges, only_charge};
use crate::models::{apply, model, provider};
use crate::native_protocols::start as start_native;

const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const MIB: usize = 1024 * 1024;
const WAIT: Duration = Duration::from_secs(25);

fn ask(path: &str, text: &str, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": text}]);
    match path {
        RESPONSES => json!({"model": "m", "input": messages, "max_output_tokens": 50, "stream": stream}),
        _ => json!({"model": "m", "messages": messages, "max_tokens": 50, "stream": stream}),
    }
}

fn named(wire: &mut ReplyWriter, data: &Value) -> bool {
    wire.chunk(format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap()))
}

fn word(wire: &mut ReplyWriter, word: &str) -> bool {
    named(wire, &json!({"type": "response.output_text.delta", "delta": word}))
}

fn completed(wire: &mut ReplyWriter, usage: &Value) {
    named(wire, &json!({"type": "response.completed", "response": {"id": "r", "output": [], "usage": usage}}));
    wire.end();
}

fn numbers(charge: &Value) -> Value {
    json!([charge["prompt_tokens"], charge["completion_tokens"], charge["estimated"]])
}

#[test]
fn what_is_not_known_to_be_charged_reaches_no_model_server() {
    let upstream = Upstream::constant(500, json!({}));
    let (_db, server, user) = start_native(&upstream);
    let client = user.program(&server.inference);
    let added = json!({"type": "tool_addition", "definition": {"type": "web_search_20250305", "name": "x"}});
    for (path, field, value, named) in [
        (RESPONSES, "context_management", json!([{"type": "compaction"}]), "context_management"),
        (RESPONSES, "multi_agent", json!({"enabled": true}), "multi_agent"),
        (RESPONSES, "previous_input_messages", json!([{"role": "user", "content": "x"}]), "previous_input_messages"),
        (RESPONSES, "input", json!([{"type": "compaction_trigger"}]), "input[0]"),
        (RESPONSES, "input", json!([{"id": "msg_1"}]), "input[0]"),
        (MESSAGES, "compaction", json!({"type": "auto"}), "compaction"),
        (MESSAGES, "messages", json!([{"role": "user", "content": [added]}]), "messages[0].content[0].type"),
    ] {
        let mut body = ask(path, "x", false);
        body[field] = value;
        let refused = client.post(path, &body).expect(400).json();
        assert!(refused["error"]["message"].as_str().unwrap().contains(named), "{refused}");
        assert_eq!(refused["type"], if path == MESSAGES { json!("error") } else { Value::Null });
    }
    assert!(upstream.seen().is_empty());
}

/// What a model wrote to shorten a conversation is in these numbers alone.
#[test]
fn all_iterations_of_a_message_are_charged() {
    let upstream = Upstream::start(|seen, wire| {
        let part = |input: i64, output: i64| json!({"input_tokens": input, "output_tokens": output});
        let usage = json!({"input_tokens": 10, "output_tokens": 3, "iterations": [part(900, 70), part(10, 3)]});
        if seen.json()["stream"] != true {
            return wire
                .json(200, &json!({"type": "message", "content": [{"type": "text", "text": "x"}], "usage": usage}));
        }
        wire.start("text/event-stream");
        named(wire, &json!({"type": "message_start", "message": {"id": "m", "usage": part(10, 1)}}));
        named(wire, &json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}));
        named(wire, &json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}));
        // Some servers repeat numbers that they do not know as 0.
        named(wire, &json!({"type": "message_delta", "delta": {}, "usage": part(0, 0)}));
        named(wire, &json!({"type": "message_stop"}));
        wire.end();
    });
    let (db, server, user) = start_native(&upstream);
    let client = user.program(&server.inference);
    for stream in [false, true] {
        client.post(MESSAGES, &ask(MESSAGES, "x", stream)).expect(200);
    }
    server.wait_until("the charges", || charges(&db).len() == 2);
    assert!(charges(&db).iter().all(|charge| numbers(charge) == json!([910, 73, false])), "{:?}", charges(&db));
}

#[test]
fn a_text_that_looks_like_a_picture_is_charged_as_a_text() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::start(move |_, wire| {
        wire.start("text/event-stream");
        word(wire, "first");
        tell.lock().unwrap().send(wire.is_left_within(20)).unwrap();
    });
    let (db, server, user) = start_native(&upstream);
    let text = format!("data:text/plain;base64,{}", "Aa0".repeat(20_000));
    let mut raw = Raw::post(&server.inference, &user.secret, RESPONSES, &ask(RESPONSES, &text, true));
    raw.until("first");
    raw.leave();
    assert_eq!(told.recv_timeout(WAIT), Ok(true));
    let charge = only_charge(&db, &server);
    assert!(charge["prompt_tokens"].as_i64() > Some(15_000), "{charge}");
}

#[test]
fn a_client_that_leaves_a_document_pays_what_its_numbers_say() {
    let (tell, told) = channel();
    let (go, wait) = channel();
    let (tell, wait) = (Mutex::new(tell), Mutex::new(wait));
    let upstream = Upstream::start(move |_, wire| {
        wire.start("text/event-stream");
        word(wire, "first");
        wait.lock().unwrap().recv_timeout(WAIT).unwrap();
        tell.lock().unwrap().send(wire.is_left_within(1)).unwrap();
        completed(wire, &json!({"input_tokens": 90_000, "output_tokens": 40}));
    });
    let (db, server, user) = start_native(&upstream);
    let mut body = ask(RESPONSES, "x", true);
    body["input"][0]["content"] = json!([{"type": "input_file", "file_url": "https://example.com/long.pdf"}]);
    let mut raw = Raw::post(&server.inference, &user.secret, RESPONSES, &body);
    raw.until("first");
    raw.leave();
    go.send(()).unwrap();
    assert_eq!(told.recv_timeout(WAIT), Ok(false), "the reply is read on");
    assert_eq!(numbers(&only_charge(&db, &server)), json!([90_000, 40, false]));
}

#[test]
fn a_budget_must_pay_for_as_much_of_a_document_as_a_model_may_read() {
    let upstream = Upstream::constant(500, json!({}));
    let db = TestDb::new();
    let priced = "[[model]]\nname = \"m\"\nprice = { input = \"1\", output = \"1\", request = \"0\" }\n\
        [[model.route]]\nprovider = \"p\"\nmodel = \"there\"\n";
    apply(&db, &[provider("p", &upstream, "[\"responses\", \"messages\"]"), priced.to_owned()].join("\n"));
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let (_, poor) = key_with(&user, &server, 500_000);
    let source = json!({"type": "url", "url": "https://example.com/long.pdf"});
    let mut message = ask(MESSAGES, "x", false);
    message["messages"][0]["content"] = json!([{"type": "document", "source": source}]);
    let mut response = ask(RESPONSES, "x", false);
    response["input"][0]["content"] = json!([{"type": "input_file", "file_data": "data:application/pdf;base64,AAAA"}]);
    poor.post(MESSAGES, &message).expect(402);
    poor.post(RESPONSES, &response).expect(402);
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_reply_that_is_too_long_is_charged() {
    let upstream = Upstream::start(|_, wire| {
        let text = json!({"type": "text", "text": "x".repeat(65 * MIB)});
        wire.json(
            200,
            &json!({"type": "message", "content": [text], "usage": {"input_tokens": 9, "output_tokens": 9}}),
        );
    });
    let (db, server, user) = start_native(&upstream);
    user.program(&server.inference).post(MESSAGES, &ask(MESSAGES, "four words of it", false)).expect(502);
    let charge = only_charge(&db, &server);
    assert!(charge["prompt_tokens"].as_i64() >= Some(4) && charge["estimated"] == true, "{charge}");
}

/// A chat's reply that cannot be told in the client's protocol was made all the same.
#[test]
fn a_reply_that_cannot_be_translated_is_charged() {
    let upstream = Upstream::start(|seen, wire| {
        let body = seen.json();
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 30});
        let text = body["messages"][0]["content"].as_str().unwrap();
        let finish = if text == "fails" { "error" } else { "stop" };
        let call = |n: u64| json!({"index": n, "id": format!("c{n}"), "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let calls: Vec<Value> = (0..if text == "calls" { 1100 } else { 0 }).map(call).collect();
        let message = json!({"role": "assistant", "content": "word", "tool_calls": calls});
        if body["stream"] != true {
            let choices = match text {
                "odd" => json!({"0": {"message": "odd"}}),
                _ => json!([{"index": 0, "message": message, "finish_reason": finish}]),
            };
            return wire.json(200, &json!({"choices": choices, "usage": usage}));
        }
        wire.start("text/event-stream");
        wire.event(&json!({"choices": [{"index": 0, "delta": message, "finish_reason": finish}]}).to_string());
        wire.event(&json!({"choices": [], "usage": usage}).to_string());
        wire.event("[DONE]");
        wire.end();
    });
    let (db, server, user) = budgets::start(&upstream, &[]);
    let client = user.program(&server.inference);
    for path in [RESPONSES, MESSAGES] {
        for text in ["calls", "odd", "fails"] {
            client.post(path, &ask(path, text, false)).expect(502);
        }
        let failed = client.post(path, &ask(path, "fails", true)).expect(200).text();
        assert!(failed.contains("event: error\n") && !failed.contains("completed") && !failed.contains("message_stop"));
    }
    server.wait_until("the charges", || charges(&db).len() == 8);
    assert!(charges(&db).iter().all(|charge| numbers(charge) == json!([7, 30, false])), "{:?}", charges(&db));
}

#[test]
fn an_event_may_repeat_the_request_and_one_that_is_too_long_is_charged() {
    let upstream = Upstream::start(|seen, wire| {
        wire.start("text/event-stream");
        let repeated = if seen.text().contains("too long") { 33 * MIB } else { 9 * MIB };
        let response = json!({"id": "r", "instructions": "x".repeat(repeated)});
        named(wire, &json!({"type": "response.created", "response": response}));
        word(wire, "word");
        completed(wire, &json!({"input_tokens": 900, "output_tokens": 4}));
    });
    let (db, server, user) = start_native(&upstream);
    let client = user.program(&server.inference);
    client.post(RESPONSES, &ask(RESPONSES, "long", true)).expect(200);
    assert_eq!(numbers(&only_charge(&db, &server)), json!([900, 4, false]));
    let failed = client.post(RESPONSES, &ask(RESPONSES, "too long, far too long", true)).expect(200).text();
    assert!(failed.contains("event: error\n"), "{}", failed.len());
    server.wait_until("the charge", || charges(&db).len() == 2);
    let charge = charges(&db).pop().unwrap();
    assert!(charge["prompt_tokens"].as_i64() >= Some(4) && charge["estimated"] == true, "{charge}");
}

#[test]
fn what_was_made_is_counted_once_where_no_numbers_come() {
    let upstream = Upstream::start(|_, wire| {
        wire.start("text/event-stream");
        for _ in 0..20 {
            word(wire, "word ");
        }
        let text = json!({"type": "output_text", "text": "word ".repeat(20)});
        let output = json!([{"type": "message", "id": "msg_1", "role": "assistant", "content": [text]}]);
        named(wire, &json!({"type": "response.completed", "response": {"id": "r", "output": output}}));
        wire.end();
    });
    let (db, server, user) = start_native(&upstream);
    user.program(&server.inference).post(RESPONSES, &ask(RESPONSES, "x", true)).expect(200);
    let made = only_charge(&db, &server)["completion_tokens"].as_i64().unwrap();
    assert!((20..=27).contains(&made), "{made}");
}

#[test]
fn a_request_that_is_sent_again_as_a_chat_is_set_aside_once() {
    let upstream = Upstream::start(|seen, wire| match seen.path.as_str() {
        "/v1/chat/completions" => {
            let choice = json!({"index": 0, "message": {"content": "x"}, "finish_reason": "stop"});
            wire.json(200, &json!({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}));
        }
        _ => wire.json(404, &json!({"detail": "Not Found"})),
    });
    let db = TestDb::new();
    let priced = "[[model]]\nname = \"m\"\nprice = { input = \"0\", output = \"1\", request = \"0\" }\n\
        [[model.route]]\nprovider = \"p\"\nmodel = \"there\"\n";
    apply(&db, &[provider("p", &upstream, "[\"chat\", \"responses\", \"messages\"]"), priced.to_owned()].join("\n"));
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    for path in [RESPONSES, MESSAGES] {
        let (_, client) = key_with(&user, &server, 60);
        client.post(path, &ask(path, "x", false)).expect(200);
        assert_eq!(upstream.seen().last().unwrap().json()["max_tokens"], 50, "as much as was asked for");
    }
}

/// Values take many times the bytes of their JSON.
#[test]
fn requests_of_many_values_are_translated_within_the_memory_budget() {
    let upstream = Upstream::constant(500, json!({}));
    let db = TestDb::new();
    apply(&db, &[provider("p", &upstream, "[\"chat\"]"), model("m", "", 1, &[("p", "there", 0)])].join("\n"));
    let server = Server::start_with(&db, &[("MEMORY_BUDGET", &(64 * MIB).to_string())]);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    let many = format!("[0{}]", ",[0]".repeat(MIB));
    for (path, field) in [(RESPONSES, "metadata"), (RESPONSES, "input"), (MESSAGES, "metadata")] {
        let mut body = ask(path, "x", false).to_string();
        body.truncate(body.len() - 1);
        let body = match field {
            "input" => format!(r#"{{"model":"m","input":{many}}}"#),
            _ => format!(r#"{body},"{field}":{many}}}"#),
        };
        let refused = client.send("POST", path, Some("application/json"), body.as_bytes());
        assert!([429, 503].contains(&refused.status), "{} {}", refused.status, refused.text());
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn whole_numbers_keep_their_digits_or_are_refused() {
    let upstream = budgets::obedient();
    let (_db, server, user) = budgets::start(&upstream, &[]);
    let client = user.program(&server.inference);
    let with = |number: &str| {
        let schema = format!(r#"{{"type":"object","properties":{{"a":{{"const":{number}}}}}}}"#);
        format!(r#"{{"model":"m","input":"x","tools":[{{"type":"function","name":"f","parameters":{schema}}}]}}"#)
    };
    let send = |number: &str| client.send("POST", RESPONSES, Some("application/json"), with(number).as_bytes());
    let refused = send("123456789012345678901234567890").expect(400).text();
    assert!(refused.contains("123456789012345678901234567890"), "{refused}");
    send("18446744073709551615").expect(200);
    assert!(upstream.only().text().contains(":18446744073709551615"));
}
