//! Clients that get all they want before the model server has told what it used, or nothing at all: neither is free.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Raw, ReplyWriter, Server, TestDb, Upstream, User, charges, final_charges, only_charge};

const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

fn start(upstream: &Upstream) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url)]);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

/// What `/api/v1/generate` answers when it is to stop at the word that stands at the end, and what is charged.
fn generate(upstream: &Upstream) -> (Value, Value) {
    let (db, server, user) = start(upstream);
    let body = json!({"text": "Write END when done", "stop_sequences": ["END"]});
    let reply = user.program(&server.inference).post("/api/v1/generate", &body).expect(200).json();
    (reply[0].clone(), only_charge(&db, &server))
}

/// All of the answer, up to the stop sequence and with something behind it.
fn answer(wire: &mut ReplyWriter) {
    wire.start("text/event-stream");
    for word in ["An ", "answer. ", "EN", "D", " more"] {
        wire.word(word);
    }
}

#[test]
fn a_stop_sequence_does_not_hide_what_was_thought() {
    let upstream = Upstream::start(|_, wire| {
        answer(wire);
        wire.finish(40, 5005);
    });
    let (reply, charge) = generate(&upstream);
    assert_eq!((&reply["generated_text"], &reply["stop_reason"]), (&json!("An answer. "), &json!("END")));
    assert_eq!((&charge["prompt_tokens"], &charge["completion_tokens"]), (&json!(40), &json!(5005)));
    assert_eq!(charge["estimated"], false);
}

#[test]
fn a_reply_that_was_stopped_is_whole_however_the_rest_of_it_ends() {
    let endings: [fn(&mut ReplyWriter); 4] = [
        |wire| wire.die(),
        |wire| {
            wire.event(r#"{"error":{"message":"out of memory"}}"#);
            wire.end();
        },
        |wire| wire.end(),
        |wire| {
            wire.event(STOP);
            wire.event("[DONE]");
            wire.end();
        },
    ];
    for ending in endings {
        let upstream = Upstream::start(move |_, wire| {
            answer(wire);
            ending(wire);
        });
        let (reply, charge) = generate(&upstream);
        assert_eq!((&reply["generated_text"], &reply["stop_reason"]), (&json!("An answer. "), &json!("END")));
        assert!(charge["completion_tokens"].as_i64() >= Some(5) && charge["estimated"] == true, "{charge}");
    }
}

#[test]
fn a_model_that_is_known_to_show_all_is_ended_at_a_stop_sequence() {
    let upstream = Upstream::start(|seen, wire| {
        if seen.json()["stream"] != true {
            let choice = json!({"message": {"content": "one two three"}, "finish_reason": "stop"});
            let usage = json!({"prompt_tokens": 4, "completion_tokens": 3});
            return wire.json(200, &json!({"choices": [choice], "usage": usage}));
        }
        answer(wire);
        assert!(wire.is_left_within(8));
    });
    let (_db, server, user) = start(&upstream);
    let text = user.program(&server.inference);
    let whole = json!({"model": "m", "messages": [{"role": "user", "content": "some words"}]});
    text.post("/v1/chat/completions", &whole).expect(200);
    let body = json!({"text": "Write END when done", "model": "m", "stop_sequences": ["END"]});
    let reply = text.post("/api/v1/generate", &body).expect(200).json();
    assert_eq!(reply[0]["generated_text"], "An answer. ");
}

#[test]
fn the_rest_of_a_stopped_reply_is_not_waited_for_without_end() {
    let upstream = Upstream::start(|_, wire| {
        answer(wire);
        while wire.word("more ") {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let (reply, charge) = generate(&upstream);
    assert_eq!(reply["generated_text"], "An answer. ");
    assert!(charge["completion_tokens"].as_i64() > Some(5) && charge["estimated"] == true, "{charge}");
}

/// Asks by a stream, and leaves when the word `last` has come; `then` is called after that. What is charged.
fn charge_of_one_who_left(db: &TestDb, server: &Server, user: &User, then: impl FnOnce()) -> Value {
    let before = charges(db).len();
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "some words"}], "stream": true});
    let mut raw = Raw::post(&server.inference, &user.secret, "/v1/chat/completions", &body);
    raw.until("last");
    raw.leave();
    then();
    server.wait_until("the charge of one who left", || charges(db).len() > before);
    charges(db).pop().unwrap()
}

/// A model server that sends its numbers at the end, and what its model thinks never. Its first stream ends when the test
/// says so, others do not.
fn secretive() -> (Upstream, Sender<()>) {
    let (go, wait) = channel();
    let (calls, wait) = (AtomicUsize::new(0), Mutex::new(wait));
    let upstream = Upstream::start(move |seen, wire| {
        if seen.json()["stream"] != true {
            let usage = json!({"prompt_tokens": 40, "completion_tokens": 3007});
            let choice = json!({"message": {"content": "an answer"}, "finish_reason": "stop"});
            return wire.json(200, &json!({"choices": [choice], "usage": usage}));
        }
        wire.start("text/event-stream");
        for word in ["An ", "answer. ", "last"] {
            wire.word(word);
        }
        match calls.fetch_add(1, SeqCst) {
            0 => {
                wait.lock().unwrap().recv().unwrap();
                wire.finish(40, 5003);
            }
            _ => assert!(wire.is_left_within(25)),
        }
    });
    (upstream, go)
}

#[test]
fn what_a_model_hides_is_charged_to_those_who_leave_at_the_last_word() {
    let (upstream, go) = secretive();
    let (db, server, user) = start(&upstream);
    let whole = json!({"model": "m", "messages": [{"role": "user", "content": "some words"}]});
    user.program(&server.inference).post("/v1/chat/completions", &whole).expect(200);
    server.wait_until("the first charge", || charges(&db).len() == 1);
    // Its numbers come after the client has left.
    let charge = charge_of_one_who_left(&db, &server, &user, || go.send(()).unwrap());
    assert_eq!((&charge["completion_tokens"], &charge["estimated"]), (&json!(5003), &json!(false)), "{charge}");
    // They do not come at all.
    let charge = charge_of_one_who_left(&db, &server, &user, || {});
    let made = charge["completion_tokens"].as_i64().unwrap();
    assert!((5003..5100).contains(&made) && charge["estimated"] == true, "{charge}");
}

#[test]
fn what_a_model_hides_is_charged_on_the_older_routes() {
    let upstream = Upstream::start(|seen, wire| {
        answer(wire);
        if seen.text().contains("endless") {
            while wire.word("more ") {
                std::thread::sleep(Duration::from_millis(50));
            }
        } else {
            wire.finish(40, 5005);
        }
    });
    let (db, server, user) = start(&upstream);
    for text in ["Write END when done", "Write END and be endless"] {
        let body = json!({"text": text, "stop_sequences": ["END"]});
        user.program(&server.inference).post("/api/v1/generate", &body).expect(200);
    }
    let charges = final_charges(&db, server);
    assert_eq!(charges[0]["completion_tokens"], 5005);
    assert!(charges[1]["completion_tokens"].as_i64() >= Some(5000) && charges[1]["estimated"] == true, "{charges:?}");
}

/// A client that resets its connection at about the time when the head of its reply is written: what it sees of the reply,
/// if anything, is of no use to it, but the model has read the prompt.
#[test]
fn a_stream_whose_head_cannot_be_written_is_charged() {
    const CALLS: usize = 60;
    // The client's connection, which the model server resets at some moment around its own answer.
    let client: Arc<Mutex<Option<TcpStream>>> = Arc::default();
    let called = Arc::clone(&client);
    let upstream = Upstream::start(move |seen, wire| {
        let stream = called.lock().unwrap().take();
        let delay = seen.json()["seed"].as_u64().unwrap() * 10;
        wire.start("text/event-stream");
        std::thread::sleep(Duration::from_micros(delay));
        drop(stream);
        wire.is_left_within(20);
    });
    let (db, server, user) = start(&upstream);
    for number in 0..CALLS {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "some words"}], "stream": true,
            "seed": number})
        .to_string();
        let mut stream = TcpStream::connect(server.inference.socket()).unwrap();
        // The reply to the first request is not read, so that the end of the connection is a reset.
        write!(stream, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        while stream.peek(&mut [0]).unwrap() == 0 {}
        let copy = stream.try_clone().unwrap();
        *client.lock().unwrap() = Some(copy);
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nSecret: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            user.secret,
            body.len()
        )
        .unwrap();
        drop(stream);
        server.wait_until("the charge of a stream that was not sent", || charges(&db).len() > number);
    }
    let charges = final_charges(&db, server);
    assert_eq!(charges.len(), CALLS);
    for charge in &charges {
        assert!(charge["prompt_tokens"].as_i64() > Some(0) && charge["estimated"] == true, "{charge}");
    }
}
