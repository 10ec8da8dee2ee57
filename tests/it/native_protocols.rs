//! The Responses and the Messages protocol, where the model server speaks them: what is passed on, and what it costs.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::{Value, json};

use crate::budgets::key_with;
use crate::harness::{Client, Raw, ReceivedRequest, ReplyWriter, Server, TestDb, Upstream, User, charges, only_charge};
use crate::models::{apply, provider};

const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const WAIT: Duration = Duration::from_secs(25);

/// A server with a model `m`, of a provider that speaks only the two protocols. It costs a micro-dollar for each token that
/// it makes, and nothing else.
pub fn start(upstream: &Upstream) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let model = "[[model]]\nname = \"m\"\nprice = { input = \"0\", output = \"1\", request = \"0\" }\n\
        [[model.route]]\nprovider = \"p\"\nmodel = \"there\"\n";
    let provider = provider("p", upstream, "[\"responses\", \"messages\"]");
    apply(&db, &format!("{provider}api_key = \"env:UPSTREAM_KEY\"\n{model}"));
    let server = Server::start_with(&db, &[("UPSTREAM_KEY", "sk-upstream")]);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

fn respond(stream: bool) -> Value {
    json!({"model": "m", "input": "four words of it", "stream": stream, "metadata": {"x": "1"}})
}

fn message(stream: bool) -> Value {
    json!({"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "four words of it"}],
        "stream": stream, "metadata": {"x": "1"}})
}

fn named(wire: &mut ReplyWriter, data: &Value) -> bool {
    wire.chunk(format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap()))
}

fn response(status: &str, made: i64) -> Value {
    json!({"id": "resp_1", "object": "response", "created_at": 5, "model": "there", "status": status, "error": null,
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "one"}]}], "odd": true,
        "usage": {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 60}, "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 100 + made}})
}

fn begin_response(wire: &mut ReplyWriter) {
    wire.start("text/event-stream");
    let begun =
        json!({"id": "resp_1", "object": "response", "model": "there", "created_at": 5, "output": [], "usage": null});
    named(wire, &json!({"type": "response.created", "sequence_number": 0, "response": begun}));
}

fn response_word(wire: &mut ReplyWriter, word: &str) -> bool {
    named(wire, &json!({"type": "response.output_text.delta", "sequence_number": 1, "delta": word, "item_id": "i"}))
}

fn begin_message(wire: &mut ReplyWriter) {
    wire.start("text/event-stream");
    let usage = json!({"input_tokens": 10, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30, "output_tokens": 1});
    let begun = json!({"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage});
    named(wire, &json!({"type": "message_start", "message": begun}));
    named(wire, &json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}));
}

fn message_word(wire: &mut ReplyWriter, word: &str) -> bool {
    let delta = json!({"type": "text_delta", "text": word});
    named(wire, &json!({"type": "content_block_delta", "index": 0, "delta": delta}))
}

fn end_message(wire: &mut ReplyWriter, made: i64) {
    named(wire, &json!({"type": "content_block_stop", "index": 0}));
    let delta = json!({"stop_reason": "end_turn", "stop_sequence": null});
    // Cumulative, and some repeat a part of the first numbers.
    named(wire, &json!({"type": "message_delta", "delta": {}, "usage": {"output_tokens": made - 1}}));
    named(
        wire,
        &json!({"type": "message_delta", "delta": delta, "usage": {"input_tokens": 10, "output_tokens": made}}),
    );
    named(wire, &json!({"type": "message_stop"}));
    wire.end();
}

/// Answers in both protocols, as many tokens as were asked for, or three.
fn native(seen: &ReceivedRequest, wire: &mut ReplyWriter) {
    let body = seen.json();
    let asked = body["max_output_tokens"].as_i64().or(body["max_tokens"].as_i64());
    let is_stream = body["stream"] == true;
    match (seen.path.as_str(), is_stream) {
        ("/v1/responses", false) => wire.json(200, &response("completed", asked.unwrap_or(3))),
        ("/v1/responses", true) => {
            begin_response(wire);
            for _ in 0..asked.unwrap_or(3) {
                response_word(wire, "word ");
            }
            let last = response("completed", asked.unwrap_or(3));
            named(wire, &json!({"type": "response.completed", "sequence_number": 9, "response": last}));
            wire.end();
        }
        ("/v1/messages/count_tokens", _) => wire.json(200, &json!({"input_tokens": 77})),
        (_, false) => {
            let usage = json!({"input_tokens": 10, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30,
                "output_tokens": asked});
            wire.json(
                200,
                &json!({"id": "msg_1", "type": "message", "role": "assistant", "odd": true,
                "content": [{"type": "text", "text": "one"}], "stop_reason": "end_turn", "usage": usage}),
            );
        }
        (_, true) => {
            begin_message(wire);
            for _ in 0..asked.unwrap_or(3) {
                message_word(wire, "word ");
            }
            end_message(wire, asked.unwrap_or(3));
        }
    }
}

fn tokens(charge: &Value) -> Value {
    json!([
        charge["prompt_tokens"],
        charge["cached_input_tokens"],
        charge["cache_write_tokens"],
        charge["completion_tokens"],
        charge["estimated"],
        charge["route"]
    ])
}

#[test]
fn requests_and_replies_pass_as_they_are_and_are_charged_by_their_own_numbers() {
    let upstream = Upstream::start(native);
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    let replies = [(RESPONSES, respond(false)), (MESSAGES, message(false))].map(|(path, body)| {
        let reply = client.post(path, &body).expect(200).json();
        assert_eq!(reply["odd"], true, "fields that are not known pass");
        reply
    });
    assert_eq!(
        (&replies[0]["output"][0]["type"], &replies[1]["content"][0]["text"]),
        (&json!("message"), &json!("one"))
    );
    let streams = [(RESPONSES, respond(true)), (MESSAGES, message(true))]
        .map(|(path, body)| Raw::post(&server.inference, &user.secret, path, &body).rest().to_owned());
    assert!(
        streams[0].contains("event: response.completed\ndata: {") && !streams[0].contains("[DONE]"),
        "{}",
        streams[0]
    );
    assert!(streams[1].ends_with("\n0\r\n\r\n") && streams[1].contains("event: message_stop"), "{}", streams[1]);
    let seen = upstream.seen();
    for (seen, path) in seen.iter().zip([RESPONSES, MESSAGES]) {
        let body = seen.json();
        assert_eq!(
            (seen.path.as_str(), &body["model"], &body["metadata"]),
            (path, &json!("there"), &json!({"x": "1"}))
        );
        assert!(body.get("stream_options").is_none(), "{body}");
    }
    assert_eq!(seen[0].json()["store"], false, "nothing is stored in the provider's account");
    assert_eq!((seen[0].header("authorization"), seen[0].header("x-api-key")), (Some("Bearer sk-upstream"), None));
    assert_eq!(seen[1].header("x-api-key"), Some("sk-upstream"));
    assert_eq!(seen[1].header("anthropic-version"), Some("2023-06-01"));
    server.wait_until("the charges", || charges(&db).len() == 4);
    let charged: Vec<Value> = charges(&db).iter().map(tokens).collect();
    let expected = [
        json!([40, 60, 0, 3, false, RESPONSES]),
        json!([10, 60, 30, 50, false, MESSAGES]),
        json!([40, 60, 0, 3, false, RESPONSES]),
        json!([10, 60, 30, 50, false, MESSAGES]),
    ];
    assert_eq!(charged, expected);
}

#[test]
fn clients_of_messages_send_their_own_headers_and_get_errors_in_its_shape() {
    let upstream = Upstream::start(|seen, wire| match seen.json()["model"].as_str() {
        Some("there") => native(seen, wire),
        other => panic!("{other:?}"),
    });
    let (db, server, user) = start(&upstream);
    let bare = server.inference.anonymous();
    let client = bare
        .header("x-api-key", &user.secret)
        .header("anthropic-version", "2099-01-01")
        .header("anthropic-beta", "a,b");
    client.post(MESSAGES, &message(false)).expect(200);
    let seen = upstream.only();
    assert_eq!((seen.header("anthropic-version"), seen.header("anthropic-beta")), (Some("2099-01-01"), Some("a,b")));
    assert_ne!(seen.header("x-api-key"), Some(user.secret.as_str()));
    let count = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    assert_eq!(client.post("/v1/messages/count_tokens", &count).expect(200).json(), json!({"input_tokens": 77}));
    bare.post("/v1/messages/count_tokens", &count).expect(401);
    let error = |reply: Value| json!([reply["type"], reply["error"]["type"]]);
    let unauthorized = bare.post(MESSAGES, &message(false)).expect(401).json();
    assert_eq!(error(unauthorized), json!(["error", "authentication_error"]));
    let mut unknown = message(false);
    unknown["model"] = json!("nothing of the kind");
    assert_eq!(error(client.post(MESSAGES, &unknown).expect(404).json()), json!(["error", "not_found_error"]));
    let mut fast = message(false);
    fast["speed"] = json!("fast");
    let refused = client.post(MESSAGES, &fast).expect(400).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("speed"), "{refused}");
    let mut stored = respond(false);
    stored["previous_response_id"] = json!("resp_1");
    let refused = client.post(RESPONSES, &stored).expect(400).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("previous_response_id"), "{refused}");
    assert_eq!(upstream.seen().len(), 2, "what is refused reaches no model server");
    assert_eq!(tokens(&only_charge(&db, &server))[3], 50, "counting is free");
}

#[test]
fn a_budget_bounds_what_is_made_and_a_longer_stream_is_cut() {
    // It makes more than it is asked for in streams.
    let upstream = Upstream::start(|seen, wire| {
        let (body, is_response) = (seen.json(), seen.path == RESPONSES);
        if body["stream"] != true {
            return native(seen, wire);
        }
        match is_response {
            true => begin_response(wire),
            false => begin_message(wire),
        }
        let word = if is_response { response_word } else { message_word };
        while word(wire, "word ") {}
    });
    let (db, server, user) = start(&upstream);
    for (path, field) in [(RESPONSES, "max_output_tokens"), (MESSAGES, "max_tokens")] {
        let (id, client) = key_with(&user, &server, 25);
        let body = |most: i64, stream: bool| {
            let mut body = if path == RESPONSES { respond(stream) } else { message(stream) };
            body[field] = json!(most);
            body
        };
        client.post(path, &body(10, false)).expect(200);
        client.post(path, &body(10, false)).expect(200);
        let cut = client.post(path, &body(10, true)).expect(200).text();
        assert_eq!(upstream.seen().last().unwrap().json()[field], 5, "what is left");
        let words = cut.matches("word ").count();
        assert_eq!(words, 5, "{cut}");
        let (end, reason) = if path == RESPONSES {
            ("event: response.incomplete\n", "\"max_output_tokens\"")
        } else {
            ("event: message_stop\n", "\"stop_reason\":\"max_tokens\"")
        };
        assert!(cut.contains(end) && cut.contains(reason), "{cut}");
        client.post(path, &body(10, false)).expect(402);
        client.post(path, &body(10, true)).expect(402);
        let spent = || {
            db.count(&format!("SELECT coalesce(sum(cost_micros), 0)::bigint FROM usage_events WHERE key_id = '{id}'"))
        };
        server.wait_until("all of it to be charged", || spent() == 25);
    }
}

fn stream_left(path: &str, body: &Value) -> Value {
    let (tell, told) = channel();
    let is_response = path == RESPONSES;
    let tell = Mutex::new(tell);
    let upstream = Upstream::start(move |_, wire| {
        match is_response {
            true => begin_response(wire),
            false => begin_message(wire),
        }
        for text in ["one ", "two ", "three ", "last "] {
            if is_response {
                response_word(wire, text)
            } else {
                message_word(wire, text)
            };
        }
        tell.lock().unwrap().send(wire.is_left_within(20)).unwrap();
    });
    let (db, server, user) = start(&upstream);
    let mut raw = Raw::post(&server.inference, &user.secret, path, body);
    raw.until("last");
    raw.leave();
    assert_eq!(told.recv_timeout(WAIT), Ok(true), "the model server is told");
    only_charge(&db, &server)
}

#[test]
fn a_client_that_leaves_pays_for_what_was_made() {
    let charge = stream_left(RESPONSES, &respond(true));
    assert!((4..=8).contains(&charge["completion_tokens"].as_i64().unwrap()), "{charge}");
    assert!(charge["prompt_tokens"].as_i64() >= Some(4) && charge["estimated"] == true, "{charge}");
    let charge = stream_left(MESSAGES, &message(true));
    assert!((4..=8).contains(&charge["completion_tokens"].as_i64().unwrap()), "{charge}");
    assert_eq!(tokens(&charge).as_array().unwrap()[..3], [10, 60, 30], "as its first event says");
}

#[test]
fn errors_on_the_way_have_the_shape_of_the_protocol() {
    let upstream = Upstream::start(|seen, wire| match (seen.path.as_str(), seen.json()["metadata"].as_str()) {
        ("/v1/responses", Some("failed")) => {
            begin_response(wire);
            let failed = response("failed", 2);
            named(wire, &json!({"type": "response.failed", "sequence_number": 3, "response": failed}));
            wire.end();
        }
        ("/v1/responses", _) => {
            begin_response(wire);
            response_word(wire, "one ");
            wire.die();
        }
        (_, Some("early")) => {
            begin_message(wire);
            let error = json!({"type": "overloaded_error", "message": "of sk-secret"});
            named(wire, &json!({"type": "error", "error": error}));
            wire.end();
        }
        _ => {
            begin_message(wire);
            message_word(wire, "one ");
            wire.die();
        }
    });
    let (db, server, user) = start(&upstream);
    let stream = |path: &str, mut body: Value, field: Value| {
        body["metadata"] = field;
        Raw::post(&server.inference, &user.secret, path, &body).rest().to_owned()
    };
    let early = stream(MESSAGES, message(true), json!("early"));
    assert!(early.contains("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\""), "{early}");
    assert!(!early.contains("sk-secret") && early.matches("event: error").count() == 1, "{early}");
    assert!(charges(&db).is_empty(), "nothing was made");
    let died = stream(MESSAGES, message(true), Value::Null);
    assert!(died.contains("\"type\":\"api_error\""), "{died}");
    let died = stream(RESPONSES, respond(true), Value::Null);
    assert!(died.contains("event: error\ndata: {") && died.contains("\"sequence_number\":2"), "{died}");
    let failed = stream(RESPONSES, respond(true), json!("failed"));
    assert!(failed.contains("event: response.failed") && !failed.contains("event: error"), "{failed}");
    server.wait_until("the charges", || charges(&db).len() == 3);
    assert_eq!(tokens(&charges(&db)[2]), json!([40, 60, 0, 2, false, RESPONSES]));
}

#[test]
fn a_key_for_repetitions_holds_in_both_protocols() {
    let upstream = Upstream::start(native);
    let (db, server, user) = start(&upstream);
    let client: Client = user.program(&server.inference);
    for (n, (path, body)) in
        [(RESPONSES, respond(false)), (RESPONSES, respond(true)), (MESSAGES, message(false)), (MESSAGES, message(true))]
            .into_iter()
            .enumerate()
    {
        let client = client.header("Idempotency-Key", &format!("key-{n}"));
        let first = client.post(path, &body).expect(200);
        let second = client.post(path, &body).expect(200);
        assert_eq!((first.text(), second.header("idempotent-replayed")), (second.text(), Some("true")));
        assert_eq!(first.header("content-type"), second.header("content-type"));
        let mut other = body;
        other["metadata"] = json!({"x": "2"});
        client.post(path, &other).expect(422);
    }
    assert_eq!(upstream.seen().len(), 4);
    server.wait_until("the charges", || charges(&db).len() == 4);
}

#[test]
fn a_model_makes_no_more_than_the_catalogue_says() {
    let upstream = Upstream::start(native);
    let db = TestDb::new();
    let model = crate::models::model("m", "max_output_tokens = 7", 1, &[("p", "there", 0)]);
    apply(&db, &[provider("p", &upstream, "[\"responses\", \"messages\"]"), model].join("\n"));
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    let mut response = respond(false);
    response["max_output_tokens"] = json!(50);
    client.post(RESPONSES, &response).expect(200);
    client.post(MESSAGES, &message(false)).expect(200);
    let seen = upstream.seen();
    assert_eq!((&seen[0].json()["max_output_tokens"], &seen[1].json()["max_tokens"]), (&json!(7), &json!(7)));
}

#[test]
fn a_provider_that_lacks_the_route_or_is_down_is_asked_for_a_chat_or_another_one_is() {
    let chats = |seen: &ReceivedRequest, wire: &mut ReplyWriter| match seen.path.as_str() {
        "/v1/chat/completions" => {
            let choice = json!({"index": 0, "message": {"content": "of a chat"}, "finish_reason": "stop"});
            wire.json(200, &json!({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}));
        }
        _ => wire.json(404, &json!({"detail": "Not Found"})),
    };
    let (boastful, down) = (Upstream::start(chats), Upstream::constant(503, json!({"error": {"message": "busy"}})));
    let db = TestDb::new();
    let all = "[\"chat\", \"responses\", \"messages\"]";
    let providers = [
        provider("boastful", &boastful, all),
        provider("down", &down, "[\"responses\", \"messages\"]"),
        provider("chats", &boastful, "[\"chat\"]"),
    ];
    let model = |name: &str, routes: &[(&str, &str, i64)]| crate::models::model(name, "", 1, routes);
    let models = [
        model("m", &[("boastful", "there", 0)]),
        model("n", &[("down", "there", 0), ("chats", "there", 1)]),
        model("o", &[("down", "there", 0)]),
    ];
    apply(&db, &[&providers[..], &models[..]].concat().join("\n"));
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    for (path, body) in [(RESPONSES, respond(false)), (MESSAGES, message(false))] {
        let mut body = body;
        for name in ["m", "n"] {
            body["model"] = json!(name);
            let reply = client.post(path, &body).expect(200).text();
            assert!(reply.contains("of a chat"), "{reply}");
        }
        body["model"] = json!("o");
        client.post(path, &body).expect(503);
        body["model"] = json!("m");
        // No chat has it.
        body["min_p"] = json!(0.1);
        client.post(path, &body).expect(404);
    }
    server.wait_until("the charges", || charges(&db).len() == 4);
    assert!(charges(&db).iter().all(|charge| charge["completion_tokens"] == 4));
}

#[test]
fn the_demo_engine_speaks_both() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    let text = "This is the demo engine. You said: Good morning";
    let response = client.post(RESPONSES, &json!({"input": "Good morning"})).expect(200).json();
    assert_eq!(response["output"][0]["content"][0]["text"], text);
    let asked = json!({"max_tokens": 3, "messages": [{"role": "user", "content": "Good morning"}]});
    let message = client.post(MESSAGES, &asked).expect(200).json();
    assert_eq!(
        (&message["content"][0]["text"], &message["stop_reason"]),
        (&json!("This is the "), &json!("max_tokens"))
    );
    assert_eq!(client.post("/v1/messages/count_tokens", &asked).expect(200).json(), json!({"input_tokens": 2}));
    let mut streamed = asked;
    streamed["stream"] = json!(true);
    let events = Raw::post(&server.inference, &user.secret, MESSAGES, &streamed).rest().to_owned();
    assert!(events.contains("X-Textgen-Engine: demo") && events.contains("event: message_stop\ndata: {"), "{events}");
    let streamed = json!({"input": "Good morning", "stream": true, "max_output_tokens": 1});
    let events = Raw::post(&server.inference, &user.secret, RESPONSES, &streamed).rest().to_owned();
    assert!(events.contains("event: response.incomplete\ndata: {"), "{events}");
    server.wait_until("the charges", || charges(&db).len() == 4);
}

/// Counting is free, so what a provider answers to it must not close the provider for those who pay.
#[test]
fn a_provider_that_does_not_count_works_on() {
    let upstream = Upstream::start(|seen, wire| match seen.path.as_str() {
        "/v1/messages/count_tokens" => {
            let head = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 2\r\n\r\n{}";
            wire.raw(head);
        }
        _ => native(seen, wire),
    });
    let (_db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    let count = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    for _ in 0..10 {
        let counted = client.post("/v1/messages/count_tokens", &count).expect(200).json();
        assert!(counted["input_tokens"].as_i64().unwrap() > 0, "an estimate");
    }
    client.post(MESSAGES, &message(false)).expect(200);
}
