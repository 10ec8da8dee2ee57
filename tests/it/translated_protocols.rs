//! The Responses and the Messages protocol for a model server that speaks only chat: requests and replies are translated.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::{Value, json};

use crate::budgets::{key_with, obedient, start};
use crate::harness::{Client, Raw, ReceivedRequest, ReplyWriter, Server, Upstream, User, charges, only_charge};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const BOTH: [&str; 2] = [RESPONSES, MESSAGES];
const WAIT: Duration = Duration::from_secs(25);

/// The same question in each protocol, for a reply of at most so many tokens.
fn ask(path: &str, most: i64, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": "four words of it"}]);
    match path {
        RESPONSES => {
            json!({"model": "m", "input": messages, "max_output_tokens": most, "stream": stream, "store": false})
        }
        _ => json!({"model": "m", "messages": messages, "max_tokens": most, "stream": stream}),
    }
}

fn weather(path: &str, stream: bool) -> Value {
    let mut body = ask(path, 50, stream);
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    body["tools"] = match path {
        RESPONSES => json!([{"type": "function", "name": "weather", "parameters": schema}]),
        _ => json!([{"name": "weather", "input_schema": schema}]),
    };
    if path == MESSAGES {
        body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    }
    body
}

/// Thinks, says something and calls two tools.
fn thinks_and_calls(seen: &ReceivedRequest, wire: &mut ReplyWriter) {
    let call = |index: u64, arguments: &str| {
        json!({"index": index, "id": format!("call_{index}"), "type": "function",
            "function": {"name": "weather", "arguments": arguments}})
    };
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130,
        "prompt_tokens_details": {"cached_tokens": 60}, "completion_tokens_details": {"reasoning_tokens": 9}});
    if seen.json()["stream"] != true {
        let calls = [call(0, r#"{"city":"Rome"}"#), call(1, r#"{"city":"Oslo"}"#)];
        let message = json!({"role": "assistant", "content": "Let me see.", "reasoning_content": "Two cities.", "tool_calls": calls});
        let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
        return wire.json(200, &json!({"id": "x", "choices": [choice], "usage": usage}));
    }
    let delta =
        |delta: Value, finish: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    let more =
        |index: u64, arguments: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]});
    wire.start("text/event-stream");
    for piece in [
        json!({"role": "assistant", "content": ""}),
        json!({"reasoning_content": "Two "}),
        json!({"reasoning_content": "cities."}),
        json!({"content": "Let me "}),
        json!({"content": "see."}),
        json!({"tool_calls": [call(0, "")]}),
        more(0, r#"{"city""#),
        more(0, r#":"Rome"}"#),
        json!({"tool_calls": [call(1, r#"{"city":"Oslo"}"#)]}),
    ] {
        wire.event(&delta(piece, Value::Null).to_string());
    }
    wire.event(&delta(json!({}), json!("tool_calls")).to_string());
    wire.event(&json!({"choices": [], "usage": usage}).to_string());
    wire.event("[DONE]");
    wire.end();
}

/// The data of the events of a reply.
fn events(raw: &str) -> Vec<Value> {
    raw.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn stream(server: &Server, user: &User, path: &str, body: &Value) -> String {
    Raw::post(&server.inference, &user.secret, path, body).rest().to_owned()
}

/// A reply without what is another's in each: the ids and the time.
fn without_ids(mut reply: Value) -> Value {
    let mut fields = vec![&mut reply];
    while let Some(value) = fields.pop() {
        match value {
            Value::Object(object) => {
                for name in ["id", "created_at"] {
                    object.remove(name);
                }
                fields.extend(object.values_mut());
            }
            Value::Array(list) => fields.extend(list),
            _ => {}
        }
    }
    reply
}

#[test]
fn a_chat_answers_in_both_protocols_and_costs_what_it_used() {
    let upstream = Upstream::start(thinks_and_calls);
    let (db, server, user) = start(&upstream, &[]);
    let client = user.program(&server.inference);

    let response = client.post(RESPONSES, &weather(RESPONSES, false)).expect(200).json();
    let kinds: Vec<&Value> = response["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(json!(kinds), json!(["reasoning", "message", "function_call", "function_call"]));
    assert_eq!(
        (&response["output"][3]["arguments"], &response["status"]),
        (&json!(r#"{"city":"Oslo"}"#), &json!("completed"))
    );
    assert_eq!(response["usage"]["output_tokens_details"]["reasoning_tokens"], 9);
    assert_eq!(response["usage"]["input_tokens_details"]["cached_tokens"], 60);
    assert_eq!(json!([response["usage"]["input_tokens"], response["store"]]), json!([100, false]));

    let message = client.post(MESSAGES, &weather(MESSAGES, false)).expect(200).json();
    let expected = json!([
        {"type": "thinking", "thinking": "Two cities.", "signature": ""},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "call_0", "name": "weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
    ]);
    assert_eq!((&message["content"], &message["stop_reason"]), (&expected, &json!("tool_use")));
    let usage = json!({"input_tokens": 40, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 60, "output_tokens": 30});
    assert_eq!(message["usage"], usage);

    let streamed = events(&stream(&server, &user, RESPONSES, &weather(RESPONSES, true)));
    let numbers: Vec<u64> = streamed.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..streamed.len() as u64).collect::<Vec<_>>());
    let last = streamed.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(without_ids(last["response"].clone()), without_ids(response));
    let streamed = events(&stream(&server, &user, MESSAGES, &weather(MESSAGES, true)));
    let kinds: Vec<&str> = streamed.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        (kinds[0], kinds[kinds.len() - 2], kinds[kinds.len() - 1]),
        ("message_start", "message_delta", "message_stop")
    );
    assert_eq!(streamed[kinds.len() - 2]["usage"], usage);
    let shown =
        json!(streamed.iter().map(|event| event["delta"]["partial_json"].as_str().unwrap_or("")).collect::<String>());
    assert_eq!(shown, r#"{"city":"Rome"}{"city":"Oslo"}"#);

    let seen = upstream.seen();
    assert!(seen.iter().all(|seen| seen.path == CHAT), "{seen:?}");
    let question = json!([{"role": "user", "content": "four words of it"}]);
    for seen in &seen {
        let body = seen.json();
        assert_eq!((&body["messages"], &body["max_tokens"], &body["store"]), (&question, &json!(50), &Value::Null));
    }
    server.wait_until("the charges", || charges(&db).len() == 4);
    for charge in charges(&db) {
        let numbers = json!([
            charge["prompt_tokens"],
            charge["cached_input_tokens"],
            charge["completion_tokens"],
            charge["estimated"]
        ]);
        assert_eq!(numbers, json!([40, 60, 30, false]), "{charge}");
        assert!(BOTH.contains(&charge["route"].as_str().unwrap()));
    }
}

#[test]
fn each_piece_is_sent_as_soon_as_it_arrives_and_the_last_ones_once_it_is_charged() {
    for path in BOTH {
        let (go, wait) = channel();
        let wait = Mutex::new(wait);
        let upstream = Upstream::start(move |_, wire| {
            let next = || wait.lock().unwrap().recv().unwrap();
            wire.start("text/event-stream");
            for word in ["one", "two"] {
                next();
                wire.word(word);
            }
            next();
            wire.finish(10, 2);
        });
        let (db, server, user) = start(&upstream, &[]);
        let mut raw = Raw::post(&server.inference, &user.secret, path, &ask(path, 50, true));
        raw.until("\r\n\r\n");
        for word in ["one", "two"] {
            go.send(()).unwrap();
            raw.until(word);
        }
        assert!(charges(&db).is_empty() && !raw.got.contains("completed") && !raw.got.contains("message_stop"));
        go.send(()).unwrap();
        let all = raw.rest();
        assert!(all.contains("event: response.completed") || all.contains("event: message_stop"), "{all}");
        assert_eq!(only_charge(&db, &server)["completion_tokens"], 2);
    }
}

#[test]
fn a_budget_holds_for_what_is_translated() {
    for path in BOTH {
        let upstream = obedient();
        let (_db, server, user) = start(&upstream, &[]);
        let (_, client) = key_with(&user, &server, 25);
        let made = |reply: Value| reply["usage"]["output_tokens"].as_i64().unwrap();
        assert_eq!(made(client.post(path, &ask(path, 10, false)).expect(200).json()), 10);
        assert_eq!(made(client.post(path, &ask(path, 10, false)).expect(200).json()), 10);
        let reply = client.post(path, &ask(path, 10, false)).expect(200).json();
        assert_eq!(made(reply.clone()), 5, "what is left");
        assert!(reply["status"] == "incomplete" || reply["stop_reason"] == "max_tokens", "{reply}");
        let refused = client.post(path, &ask(path, 10, true)).expect(402).json();
        let expected = if path == MESSAGES { "billing_error" } else { "insufficient_quota" };
        assert_eq!(refused["error"]["type"], expected);
    }
}

#[test]
fn a_stream_that_is_longer_than_what_was_paid_for_is_cut() {
    for path in BOTH {
        let upstream = Upstream::start(|_, wire| {
            wire.start("text/event-stream");
            while wire.word("word ") {}
        });
        let (db, server, user) = start(&upstream, &[]);
        let (_, client) = key_with(&user, &server, 5);
        let all = client.post(path, &ask(path, 10, true)).expect(200).text();
        let events = events(&all);
        let deltas = events.iter().filter(|event| {
            event["type"].as_str().unwrap().ends_with("text.delta") || event["type"] == "content_block_delta"
        });
        assert_eq!(deltas.count(), 5, "{all}");
        let last = events.last().unwrap();
        match path {
            RESPONSES => {
                assert_eq!(
                    (&last["type"], &last["response"]["usage"]["output_tokens"]),
                    (&json!("response.incomplete"), &json!(5))
                );
                assert_eq!(last["response"]["output"][0]["content"][0]["text"], "word word word word word ");
            }
            _ => assert!(last["type"] == "message_stop" && all.contains("\"stop_reason\":\"max_tokens\""), "{all}"),
        }
        assert_eq!(only_charge(&db, &server)["completion_tokens"], 5);
    }
}

#[test]
fn a_client_that_leaves_pays_for_what_was_made() {
    for path in BOTH {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |_, wire| {
            wire.start("text/event-stream");
            wire.word_with_usage("one", 10, 1);
            wire.word_with_usage("last", 10, 2);
            tell.lock().unwrap().send(wire.is_left_within(20)).unwrap();
        });
        let (db, server, user) = start(&upstream, &[]);
        let mut raw = Raw::post(&server.inference, &user.secret, path, &ask(path, 50, true));
        raw.until("last");
        raw.leave();
        assert_eq!(told.recv_timeout(WAIT), Ok(true), "the model server is told");
        let charge = only_charge(&db, &server);
        assert_eq!(json!([charge["prompt_tokens"], charge["completion_tokens"]]), json!([10, 2]));
    }
}

#[test]
fn failures_have_the_shape_of_the_protocol_before_and_within_a_stream() {
    let upstream = Upstream::start(|seen, wire| match seen.json()["max_tokens"].as_i64() {
        Some(1) => wire.json(400, &json!({"error": {"message": "too warm", "type": "invalid_request_error"}})),
        Some(2) => wire.json(200, &json!({"choices": {"odd": 1}})),
        Some(3) => {
            wire.start("text/event-stream");
            wire.word("one");
            wire.event(&json!({"error": {"message": "of sk-secret"}}).to_string());
            wire.end();
        }
        _ => {
            wire.start("text/event-stream");
            wire.word("one");
            wire.die();
        }
    });
    let (db, server, user) = start(&upstream, &[]);
    let client = user.program(&server.inference);
    for path in BOTH {
        let error = |reply: Value| match path {
            MESSAGES => json!([reply["type"], reply["error"]["type"], reply["error"]["message"]]),
            _ => json!(["error", reply["error"]["type"], reply["error"]["message"]]),
        };
        let refused = client.post(path, &ask(path, 1, false)).expect(400).json();
        assert_eq!(error(refused), json!(["error", "invalid_request_error", "too warm"]));
        client.post(path, &ask(path, 2, false)).expect(502);
        for most in [3, 4] {
            let all = stream(&server, &user, path, &ask(path, most, true));
            let last = events(&all).pop().unwrap();
            assert!(
                last["type"] == "error" && !all.contains("sk-secret") && all.matches("event: error").count() == 1,
                "{all}"
            );
        }
    }
    server.wait_until("the charges", || charges(&db).len() == 4);
    let made = |charge: &Value| charge["completion_tokens"].as_i64().unwrap();
    assert!(charges(&db).iter().all(|charge| (1..=2).contains(&made(charge))), "what was made");
}

#[test]
fn what_cannot_be_translated_is_refused_before_anything_is_asked() {
    let upstream = Upstream::constant(500, json!({}));
    let (_db, server, user) = start(&upstream, &[]);
    let client = user.program(&server.inference).header("Idempotency-Key", "k");
    for (path, field, value) in [
        (RESPONSES, "new_field", json!(1)),
        (RESPONSES, "truncation", json!("auto")),
        (RESPONSES, "store", json!(true)),
        (MESSAGES, "new_field", json!(1)),
        (MESSAGES, "tools", json!([{"type": "bash_20250124", "name": "bash"}])),
    ] {
        let mut body = ask(path, 5, false);
        body[field] = value;
        let refused = client.post(path, &body).expect(400).json();
        assert!(refused["error"]["message"].as_str().unwrap().contains(field), "{refused}");
    }
    let count = json!({"model": "m", "messages": [{"role": "user", "content": "Hello there, friend"}]});
    let counted = client.post("/v1/messages/count_tokens", &count).expect(200).json()["input_tokens"].as_i64().unwrap();
    assert!((5..30).contains(&counted), "{counted}");
    assert!(upstream.seen().is_empty());
    let limited = json!({"name": "k", "rate": {"requests_per_minute": 1}});
    let key = user.browser.post("/api/keys", &limited).expect(200).json()["secret"].as_str().unwrap().to_owned();
    let client = server.inference.with_secret(&key);
    client.post("/v1/messages/count_tokens", &count).expect(200);
    let refused = client.post("/v1/messages/count_tokens", &count).expect(429);
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
}

#[test]
fn a_repetition_gets_the_kept_translation() {
    let upstream = Upstream::start(thinks_and_calls);
    let (db, server, user) = start(&upstream, &[]);
    let client: Client = user.program(&server.inference);
    for (n, (path, stream)) in
        [(RESPONSES, false), (RESPONSES, true), (MESSAGES, false), (MESSAGES, true)].into_iter().enumerate()
    {
        let client = client.header("Idempotency-Key", &format!("key-{n}"));
        let first = client.post(path, &weather(path, stream)).expect(200);
        let second = client.post(path, &weather(path, stream)).expect(200);
        assert_eq!((first.text(), second.header("idempotent-replayed")), (second.text(), Some("true")));
    }
    assert_eq!(upstream.seen().len(), 4);
    server.wait_until("the charges", || charges(&db).len() == 4);
}

#[test]
fn a_server_that_streams_unasked_or_does_not_stream_is_translated_all_the_same() {
    let upstream = Upstream::start(|seen, wire| {
        // The other way round.
        let mut body = seen.json();
        body["stream"] = json!(body["stream"] != true);
        let turned = ReceivedRequest { body: body.to_string().into_bytes(), ..seen.clone() };
        thinks_and_calls(&turned, wire);
    });
    let (db, server, user) = start(&upstream, &[]);
    let client = user.program(&server.inference);
    for path in BOTH {
        let whole = client.post(path, &weather(path, false)).expect(200);
        assert_eq!(whole.header("content-type"), Some("application/json"));
        assert!(whole.json()["usage"]["output_tokens"] == 30 && whole.text().contains("Oslo"), "{}", whole.text());
        let streamed = client.post(path, &weather(path, true)).expect(200);
        assert!(streamed.header("content-type").unwrap().starts_with("text/event-stream"));
        let last = events(&streamed.text()).pop().unwrap();
        assert!(last["type"] == "response.completed" || last["type"] == "message_stop", "{last}");
    }
    server.wait_until("the charges", || charges(&db).len() == 4);
    assert!(charges(&db).iter().all(|charge| charge["completion_tokens"] == 30 && charge["estimated"] == false));
}
