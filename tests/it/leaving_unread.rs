//! Clients that get all they want before the model server has told what it used, or nothing at all: neither is free.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{ReplyWriter, Server, TestDb, Upstream, User, charges, final_charges, only_charge};

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
