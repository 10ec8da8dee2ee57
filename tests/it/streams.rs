//! Streamed replies: their pieces, their usage, and how they end.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Raw, ReplyWriter, Server, TestDb, Upstream, User, charges, final_charges, only_charge};

const CHAT: &str = "/v1/chat/completions";

fn streamed(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "four words of it"}], "stream": true})
}

fn start(upstream: &Upstream) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url)]);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

/// A model server whose script can wait for the test and send it results.
fn scripted(
    script: impl Fn(&mut ReplyWriter, &Receiver<()>, &Sender<bool>) + Send + Sync + 'static,
) -> (Upstream, Sender<()>, Receiver<bool>) {
    let ((go, wait), (tell, told)) = (channel(), channel());
    let (wait, tell) = (Mutex::new(wait), Mutex::new(tell));
    (Upstream::start(move |_, wire| script(wire, &wait.lock().unwrap(), &tell.lock().unwrap())), go, told)
}

#[test]
fn each_piece_is_sent_as_soon_as_it_arrives() {
    let (upstream, go, _) = scripted(|wire, wait, _| {
        wire.start("text/event-stream");
        for word in ["one", "two", "three"] {
            wait.recv().unwrap();
            wire.word(word);
        }
        wait.recv().unwrap();
        wire.finish(10, 3);
    });
    let (db, server, user) = start(&upstream);
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed("m"));
    // The head is sent before the first piece exists.
    raw.until("\r\n\r\n");
    assert!(raw.got.starts_with("HTTP/1.1 200") && raw.got.contains("text/event-stream"), "{}", raw.got);
    for word in ["one", "two", "three"] {
        go.send(()).unwrap();
        raw.until(word);
    }
    assert!(!raw.got.contains("[DONE]") && charges(&db).is_empty());
    go.send(()).unwrap();
    let all = raw.rest();
    assert!(all.contains("data: [DONE]\n\n") && all.contains("\"finish_reason\":\"stop\""), "{all}");
    assert!(!all.contains("usage"), "not asked for: {all}");
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    assert_eq!(upstream.only().json()["stream_options"], options);
    let charge = only_charge(&db, &server);
    assert_eq!((&charge["prompt_tokens"], &charge["completion_tokens"]), (&json!(10), &json!(3)));
}

#[test]
fn usage_is_sent_only_if_asked_for() {
    let upstream = Upstream::start(|_, wire| {
        wire.start("text/event-stream; charset=utf-8");
        // Events split at odd places, CRLF line ends, a comment, and usage on every piece.
        wire.chunk(": hello\r\n\r\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"con");
        wire.chunk("tent\":\"a\"}}],\"usage\":null}\r");
        wire.chunk("\n\r\n");
        wire.finish(10, 1);
    });
    let (_db, server, user) = start(&upstream);
    let mut asked = streamed("m");
    asked["stream_options"] = json!({"include_usage": true, "x": 1});
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &asked);
    let all = raw.rest();
    assert!(all.contains("\"prompt_tokens\":10") && all.contains("\"usage\":null") && all.contains(": hello"), "{all}");
    let sent = json!({"x": 1, "include_usage": true, "continuous_usage_stats": true});
    assert_eq!(upstream.only().json()["stream_options"], sent);
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed("m"));
    assert!(!raw.rest().contains("usage") && raw.got.contains("\"content\":\"a\""), "{}", raw.got);
}

#[test]
fn usage_with_each_piece_is_sent_only_if_asked_for() {
    let upstream = Upstream::start(|_, wire| {
        wire.start("text/event-stream");
        for made in 1..=3 {
            wire.word_with_usage("w", 10, made);
        }
        wire.finish(10, 3);
    });
    let (db, server, user) = start(&upstream);
    let ask = |options: Option<Value>| {
        let mut body = streamed("m");
        if let Some(options) = options {
            body["stream_options"] = options;
        }
        let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &body);
        raw.rest().to_owned()
    };
    let numbers = |text: &str| text.matches("\"completion_tokens\"").count();
    let none = ask(None);
    assert!(!none.contains("usage") && none.matches("\"content\":\"w\"").count() == 3, "{none}");
    let last = ask(Some(json!({"include_usage": true})));
    assert_eq!((numbers(&last), last.matches("\"usage\":null").count()), (1, 3), "{last}");
    let all = ask(Some(json!({"include_usage": true, "continuous_usage_stats": true})));
    assert_eq!(numbers(&all), 4, "{all}");
    for charge in final_charges(&db, server) {
        assert_eq!((&charge["completion_tokens"], &charge["estimated"]), (&json!(3), &json!(false)));
    }
}

#[test]
fn completions_stream_too() {
    let (upstream, go, _) = scripted(|wire, wait, _| {
        wire.start("text/event-stream");
        wire.event(r#"{"choices":[{"index":0,"text":"one","finish_reason":null}]}"#);
        wait.recv().unwrap();
        wire.event(r#"{"choices":[{"index":0,"text":" two","finish_reason":"stop"}]}"#);
        wire.event("[DONE]");
        wire.end();
    });
    let (db, server, user) = start(&upstream);
    let body = json!({"prompt": "a", "stream": true});
    let mut raw = Raw::post(&server.inference, &user.secret, "/v1/completions", &body);
    raw.until("one");
    go.send(()).unwrap();
    assert!(raw.rest().contains("[DONE]"));
    let estimate = only_charge(&db, &server)["completion_tokens"].as_i64().unwrap();
    assert!((2..=3).contains(&estimate), "tokens are counted if the server reports no usage: {estimate}");
}

#[test]
fn disconnecting_ends_the_upstream_call_and_charges_what_was_generated() {
    let (upstream, _go, told) = scripted(|wire, _, tell| {
        wire.start("text/event-stream");
        for word in ["one", "two", "three"] {
            wire.word(word);
        }
        // Sends nothing more: only the client's disconnect can end this.
        tell.send(wire.is_left_within(20)).unwrap();
    });
    let (db, server, user) = start(&upstream);
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed("m"));
    raw.until("three");
    raw.leave();
    assert_eq!(told.recv_timeout(Duration::from_secs(25)), Ok(true), "the upstream call is ended");
    let charge = only_charge(&db, &server);
    let estimate = charge["completion_tokens"].as_i64().unwrap();
    assert!((3..=5).contains(&estimate) && charge["model"] == "m", "{charge}");
    assert!(charge["prompt_tokens"].as_i64() >= Some(4) && charge["estimated"] == true);
}

#[test]
fn disconnecting_before_the_first_byte_ends_the_upstream_call_and_charges_the_prompt() {
    let (upstream, _go, told) = scripted(|wire, _, tell| {
        tell.send(true).unwrap();
        tell.send(wire.is_left_within(20)).unwrap();
    });
    let (db, server, user) = start(&upstream);
    let raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed("m"));
    assert!(told.recv_timeout(Duration::from_secs(25)).unwrap(), "the upstream call has begun");
    raw.leave();
    assert_eq!(told.recv_timeout(Duration::from_secs(25)), Ok(true), "the upstream call is ended");
    let charge = only_charge(&db, &server);
    assert!(charge["prompt_tokens"].as_i64() >= Some(4) && charge["estimated"] == true, "{charge}");
    assert_eq!((&charge["completion_tokens"], &charge["model"]), (&json!(0), &json!("m")));
}

#[test]
fn disconnecting_before_the_model_server_has_the_request_costs_nothing() {
    // One that takes the connection, but does not read.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(1).unwrap();
    let listener = std::net::TcpListener::from(socket);
    let url = format!("http://{}", listener.local_addr().unwrap());
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("INFERENCE_URL", &url), ("INFERENCE_MODEL", "m")]);
    let user = server.sign_up("ann@example.com");
    let mut body = streamed("m");
    body["messages"][0]["content"] = "x".repeat(7 << 20).into();
    let raw = Raw::post(&server.inference, &user.secret, CHAT, &body);
    let connection = listener.accept().unwrap();
    raw.leave();
    assert_eq!(final_charges(&db, server), [] as [Value; 0]);
    drop(connection);
}

#[test]
fn a_model_server_that_dies_ends_the_stream_with_an_error_and_the_output_is_charged() {
    let upstream = Upstream::start(|seen, wire| {
        if seen.json()["model"] == "close" {
            // Without chunks or a length, only the missing [DONE] shows that the reply is incomplete.
            wire.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"one\"}}]}\n\n");
            return wire.die();
        }
        wire.start("text/event-stream");
        wire.word("one");
        wire.word("two");
        wire.chunk("data: {\"choices\":[{\"index\":0,\"del");
        wire.die();
    });
    let (db, server, user) = start(&upstream);
    for (model, tokens) in [("m", 2), ("close", 1)] {
        let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed(model));
        let all = raw.rest();
        assert!(all.contains("one") && all.ends_with("0\r\n\r\n"), "{all}");
        assert!(all.contains(r#"data: {"error":{"message":"The model server"#) && !all.contains("[DONE]"), "{all}");
        let charged = || charges(&db).into_iter().find(|charge| charge["model"] == model);
        server.wait_until("a charge", || charged().is_some());
        let estimate = charged().unwrap()["completion_tokens"].as_i64().unwrap();
        assert!((tokens..=tokens + 2).contains(&estimate), "{model}: {estimate}");
    }
}

#[test]
fn a_model_server_that_dies_without_output_is_not_charged() {
    let upstream = Upstream::start(|seen, wire| {
        wire.start("text/event-stream");
        if seen.json()["model"] == "one" {
            wire.word("one");
        }
        wire.die();
    });
    let (db, server, user) = start(&upstream);
    for model in ["nothing", "one", "nothing"] {
        let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed(model));
        assert!(raw.rest().contains("\"error\""), "{}", raw.got);
    }
    let charged: Vec<Value> = final_charges(&db, server).iter().map(|charge| charge["model"].clone()).collect();
    assert_eq!(charged, ["one"]);
}

#[test]
fn an_unstreamed_reply_is_passed_on() {
    let upstream = Upstream::start(|seen, wire| match seen.json()["model"].as_str() {
        Some("html") => wire.reply(200, "text/html", "<html>"),
        Some("refuse") => wire.json(400, &json!({"error": {"message": "no"}})),
        _ => wire.json(
            200,
            &json!({"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
        ),
    });
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    assert_eq!(client.post(CHAT, &streamed("m")).expect(200).json()["choices"][0]["message"]["content"], "a");
    assert_eq!(only_charge(&db, &server)["completion_tokens"], 2);
    client.post(CHAT, &streamed("html")).expect(502);
    assert_eq!(client.post(CHAT, &streamed("refuse")).expect(400).json()["error"]["message"], "no");
}

#[test]
fn many_slow_streams_do_not_delay_other_requests() {
    let open = Arc::new(Mutex::new(()));
    let held = open.lock().unwrap();
    let gate = open.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.start("text/event-stream");
        wire.word("one");
        drop(gate.lock().unwrap());
        wire.finish(1, 1);
    });
    let (_db, server, user) = start(&upstream);
    let mut raws: Vec<_> = (0..100).map(|_| Raw::post(&server.inference, &user.secret, CHAT, &streamed("m"))).collect();
    for raw in &mut raws {
        raw.until("one");
    }
    user.program(&server.inference).get("/api/current-user").expect(200);
    drop(held);
    for raw in &mut raws {
        assert!(raw.rest().contains("[DONE]"));
    }
}
