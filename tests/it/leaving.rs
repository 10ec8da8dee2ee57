//! Clients that disconnect, and replies that break off: what the model has made is charged, and charged once.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Raw, ReceivedRequest, ReplyWriter, Server, TestDb, Upstream, User, charges, final_charges, only_charge,
};
use crate::recordings::{heard, multipart, wav};

const CHAT: &str = "/v1/chat/completions";
const WAIT: Duration = Duration::from_secs(25);

/// A model server whose script can tell the test something and wait for it.
struct Scripted {
    upstream: Upstream,
    go: Sender<()>,
    told: Receiver<bool>,
}

fn scripted(
    script: impl Fn(&ReceivedRequest, &mut ReplyWriter, &Receiver<()>, &Sender<bool>) + Send + Sync + 'static,
) -> Scripted {
    let ((go, wait), (tell, told)) = (channel(), channel());
    let (wait, tell) = (Mutex::new(wait), Mutex::new(tell));
    let upstream = Upstream::start(move |seen, wire| script(seen, wire, &wait.lock().unwrap(), &tell.lock().unwrap()));
    Scripted { upstream, go, told }
}

fn start(upstream: &Upstream) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let url = upstream.url.as_str();
    let settings = ["INFERENCE_URL", "EMBEDDINGS_URL", "SPEECH_URL", "TRANSCRIBE_URL"].map(|name| (name, url));
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

fn streamed() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "four words of it"}], "stream": true})
}

#[test]
fn once_the_model_has_finished_its_usage_is_read_without_the_client() {
    let Scripted { upstream, go, .. } = scripted(|_, wire, wait, _| {
        wire.start("text/event-stream");
        wire.word("one");
        wire.event(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        wait.recv().unwrap();
        wire.event(r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":350}}"#);
        wire.event("[DONE]");
        wire.end();
    });
    let (db, server, user) = start(&upstream);
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed());
    raw.until("\"stop\"");
    raw.leave();
    go.send(()).unwrap();
    let charge = only_charge(&db, &server);
    assert_eq!((&charge["prompt_tokens"], &charge["completion_tokens"]), (&json!(1000), &json!(350)));
    assert_eq!(charge["estimated"], false);
}

#[test]
fn with_several_choices_all_must_have_finished() {
    let Scripted { upstream, told, .. } = scripted(|_, wire, _, tell| {
        wire.start("text/event-stream");
        wire.word("one");
        wire.event(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        tell.send(wire.is_left_within(20)).unwrap();
    });
    let (db, server, user) = start(&upstream);
    let mut body = streamed();
    body["n"] = json!(2);
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &body);
    raw.until("\"stop\"");
    raw.leave();
    assert_eq!(told.recv_timeout(WAIT), Ok(true), "the other choice is not made any further");
    assert_eq!(only_charge(&db, &server)["estimated"], true);
}

/// Streams a chat, and leaves when the last word has come: the model server is told. What was charged.
fn charge_of_one_who_left_at_the_last_word(upstream: &Upstream, told: &Receiver<bool>) -> Value {
    charge_of_one_who_left(upstream, told, &streamed())
}

fn charge_of_one_who_left(upstream: &Upstream, told: &Receiver<bool>, request: &Value) -> Value {
    let (db, server, user) = start(upstream);
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, request);
    raw.until("last");
    raw.leave();
    assert_eq!(told.recv_timeout(WAIT), Ok(true));
    only_charge(&db, &server)
}

#[test]
fn numbers_that_came_on_the_way_do_not_hide_what_came_behind_them() {
    let Scripted { upstream, told, .. } = scripted(|_, wire, _, tell| {
        wire.start("text/event-stream");
        wire.event(
            r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}"#,
        );
        for word in ["b", "c", "last"] {
            wire.word(word);
        }
        tell.send(wire.is_left_within(20)).unwrap();
    });
    let charge = charge_of_one_who_left_at_the_last_word(&upstream, &told);
    assert_eq!((&charge["prompt_tokens"], &charge["estimated"]), (&json!(7), &json!(true)));
    assert!(charge["completion_tokens"].as_i64() >= Some(4), "{charge}");
}

#[test]
fn numbers_with_each_piece_are_exact_when_the_client_leaves() {
    let Scripted { upstream, told, .. } = scripted(|_, wire, _, tell| {
        wire.start("text/event-stream");
        for made in 1..=5 {
            wire.word_with_usage(if made == 5 { "last" } else { "several words at once" }, 1000, made);
        }
        tell.send(wire.is_left_within(20)).unwrap();
    });
    let charge = charge_of_one_who_left_at_the_last_word(&upstream, &told);
    assert_eq!((&charge["prompt_tokens"], &charge["completion_tokens"]), (&json!(1000), &json!(5)));
    assert_eq!(charge["estimated"], false);
}

#[test]
fn no_client_can_switch_the_numbers_off() {
    for (options, n) in [
        (json!({"include_usage": true, "continuous_usage_stats": false}), 1),
        (json!({"x": 1}), 1),
        (json!({"include_usage": false}), 2),
    ] {
        let Scripted { upstream, told, .. } = scripted(|seen, wire, _, tell| {
            assert_eq!(seen.json()["stream_options"]["continuous_usage_stats"], true);
            wire.start("text/event-stream");
            // Much more was thought than is shown.
            wire.word_with_usage("last", 1000, 5000);
            tell.send(wire.is_left_within(20)).unwrap();
        });
        let mut request = streamed();
        (request["stream_options"], request["n"]) = (options, json!(n));
        let charge = charge_of_one_who_left(&upstream, &told, &request);
        assert_eq!((&charge["prompt_tokens"], &charge["completion_tokens"]), (&json!(1000), &json!(5000)));
    }
}

#[test]
fn what_a_request_that_is_not_streamed_asks_for_changes_nothing_for_streams() {
    let Scripted { upstream, told, .. } = scripted(|seen, wire, _, tell| {
        let body = seen.json();
        if body["stream"] != true {
            // As vLLM has it.
            let error = json!({"error": {"message": "stream_options can only be set if stream=True"}});
            let is_asked = body["stream_options"].as_object().is_some_and(|options| !options.is_empty());
            return wire.json(if is_asked { 400 } else { 200 }, &error);
        }
        assert_eq!(body["stream_options"]["continuous_usage_stats"], true);
        wire.start("text/event-stream");
        wire.word_with_usage("last", 1000, 5000);
        tell.send(wire.is_left_within(20)).unwrap();
    });
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    for options in [
        json!({"continuous_usage_stats": true}),
        json!({"include_usage": true, "continuous_usage_stats": true}),
        json!({"include_usage": true}),
    ] {
        let body = json!({"model": "m", "messages": [], "stream": false, "stream_options": options});
        client.post(CHAT, &body).expect(400);
    }
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &streamed());
    raw.until("last");
    raw.leave();
    assert_eq!(told.recv_timeout(WAIT), Ok(true));
    assert_eq!(only_charge(&db, &server)["completion_tokens"], 5000);
}

#[test]
fn fewer_choices_than_were_asked_for_and_odd_ones_are_charged_by_their_numbers() {
    let contents = [json!("short"), json!([{"type": "text", "text": "short"}]), json!({"odd": [1]})];
    for content in contents {
        let upstream = Upstream::start(move |_, wire| {
            let usage = json!({"prompt_tokens": 20_000, "completion_tokens": 3000});
            wire.json(200, &json!({"choices": [{"index": null, "message": {"content": content}}], "usage": usage}));
        });
        let (db, server, user) = start(&upstream);
        let request = json!({"model": "m", "messages": [], "n": 2});
        user.program(&server.inference).post(CHAT, &request).expect(200);
        let charge = only_charge(&db, &server);
        assert_eq!((&charge["prompt_tokens"], &charge["completion_tokens"]), (&json!(20_000), &json!(3000)));
        assert_eq!(charge["estimated"], false);
    }
}

#[test]
fn replies_in_one_piece_are_read_to_their_end_and_charged() {
    let Scripted { upstream, go, told } = scripted(|seen, wire, wait, tell| {
        tell.send(true).unwrap();
        wait.recv().unwrap();
        if seen.path.ends_with("speech") {
            return wire.reply(200, "audio/wav", wav());
        }
        let usage = json!({"prompt_tokens": 11, "completion_tokens": 7});
        wire.json(200, &json!({"choices": [{"message": {"content": "a"}, "text": "a"}], "data": [{"embedding": [1]}], "usage": usage}));
    });
    let (db, server, user) = start(&upstream);
    let messages = json!([{"role": "user", "content": "a"}]);
    let calls = [
        (&server.inference, CHAT, json!({"model": "m", "messages": messages})),
        (&server.inference, "/v1/completions", json!({"model": "m", "prompt": "a"})),
        (&server.inference, "/v1/embeddings", json!({"model": "m", "input": "a"})),
        (&server.inference, "/api/v1/feature-extraction", json!({"text": "a"})),
        (&server.audio, "/v1/audio/speech", json!({"model": "m", "input": "abc"})),
        (&server.audio, "/api/v1/generate_speech", json!({"text": "abc"})),
    ];
    for (number, (address, path, body)) in calls.iter().enumerate() {
        let raw = Raw::post(address, &user.secret, path, body);
        assert_eq!(told.recv_timeout(WAIT), Ok(true), "{path}: the call has begun");
        raw.leave();
        go.send(()).unwrap();
        server.wait_until(path, || charges(&db).len() > number);
    }
    let number = calls.len();
    let charges = final_charges(&db, server);
    assert_eq!(charges.len(), number, "{charges:?}");
    for charge in &charges {
        assert_eq!(charge["estimated"], false, "{charge}");
    }
    assert_eq!((&charges[0]["completion_tokens"], &charges[2]["embedding_tokens"]), (&json!(7), &json!(11)));
    assert_eq!((&charges[4]["characters"], &charges[5]["characters"]), (&json!(3), &json!(3)));
}

#[test]
fn the_older_text_routes_charge_what_was_made_until_the_client_disconnected() {
    let Scripted { upstream, told, .. } = scripted(|_, wire, _, tell| {
        wire.start("text/event-stream");
        for word in ["one", "two", "three"] {
            wire.word(word);
        }
        tell.send(true).unwrap();
        tell.send(wire.is_left_within(20)).unwrap();
    });
    let (db, server, user) = start(&upstream);
    for (number, path) in ["/api/v1/generate", "/api/v1/summarization"].into_iter().enumerate() {
        let raw = Raw::post(&server.inference, &user.secret, path, &json!({"text": "a b c"}));
        assert_eq!(told.recv_timeout(WAIT), Ok(true));
        raw.leave();
        assert_eq!(told.recv_timeout(WAIT), Ok(true), "{path}: the call is ended");
        server.wait_until(path, || charges(&db).len() > number);
        let charge = &charges(&db)[number];
        assert!(charge["completion_tokens"].as_i64() >= Some(3) && charge["estimated"] == true, "{charge}");
    }
}

#[test]
fn of_many_prompts_those_that_are_done_are_charged_and_the_others_not_begun() {
    let Scripted { upstream, told, .. } = scripted(|_, wire, _, tell| {
        // The script runs for one call at a time, so the first ones are done before the one that waits.
        wire.start("text/event-stream");
        wire.word("one");
        tell.send(true).unwrap();
        if wire.is_left_within(1) {
            return;
        }
        wire.finish(10, 2);
    });
    let (db, server, user) = start(&upstream);
    let body: Vec<_> = (0..40).map(|_| json!({"text": "a"})).collect();
    let raw = Raw::post(&server.inference, &user.secret, "/api/v1/generate-bulk", &json!(body));
    told.recv_timeout(WAIT).unwrap();
    told.recv_timeout(WAIT).unwrap();
    raw.leave();
    let charge = only_charge(&db, &server);
    assert!((1..=10).contains(&charge["requests"].as_i64().unwrap()), "{charge}");
    assert!(charge["completion_tokens"].as_i64() >= Some(2), "{charge}");
    assert!(upstream.seen().len() <= 10, "{}", upstream.seen().len());
}

#[test]
fn a_recording_is_charged_once_its_upload_is_complete() {
    let Scripted { upstream, go, told } = scripted(|_, wire, wait, tell| {
        tell.send(true).unwrap();
        wait.recv().unwrap();
        wire.json(200, &heard());
    });
    let (db, server, user) = start(&upstream);
    let body = multipart(&[("file*", &wav()), ("model", b"w")]);
    let media_type = "multipart/form-data; boundary=bnd";
    let mut raw = Raw::head(&server.audio, &user.secret, "/v1/audio/transcriptions", media_type, body.len());
    raw.write(&body);
    assert_eq!(told.recv_timeout(WAIT), Ok(true), "the call has begun");
    raw.leave();
    go.send(()).unwrap();
    server.wait_until("a charge", || !charges(&db).is_empty());
    let mut raw = Raw::head(&server.audio, &user.secret, "/v1/audio/transcriptions", media_type, body.len());
    raw.write(&body[..body.len() - 20]);
    raw.leave();
    let charges = final_charges(&db, server);
    assert_eq!((charges.len(), &charges[0]["audio_millis"]), (1, &json!(2000)), "{charges:?}");
}

#[test]
fn a_reply_that_fails_half_way_is_not_charged_under_the_clients_key() {
    let upstream = Upstream::start(|seen, wire| {
        wire.start("text/event-stream");
        wire.word("one");
        if seen.json()["temperature"] == 1 {
            return wire.die();
        }
        wire.finish(10, 3);
    });
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference).header("idempotency-key", "k1");
    let mut body = streamed();
    body["temperature"] = json!(1);
    for _ in 0..2 {
        client.post(CHAT, &body).expect(200);
    }
    assert_eq!(final_charges(&db, server).len(), 2, "neither is the reply to the request");
}

#[test]
fn what_a_model_server_breaks_off_is_charged_as_a_part_on_any_route() {
    let upstream = Upstream::start(|seen, wire| {
        if seen.path.ends_with("speech") {
            wire.start("audio/wav");
            wire.chunk("a beginning");
        } else {
            wire.start("text/event-stream");
            wire.word_with_usage("one", 10, 1);
            wire.word_with_usage("two", 10, 2);
        }
        wire.die();
    });
    let (db, server, user) = start(&upstream);
    let text = user.program(&server.inference).header("idempotency-key", "k1");
    text.post("/api/v1/generate", &json!({"text": "a"})).expect(502);
    text.post("/api/v1/generate-bulk", &json!([{"text": "a"}])).expect(502);
    text.post("/api/v1/summarization", &json!({"text": "a"})).expect(502);
    let speech = json!({"model": "m", "input": "abc"}).to_string();
    let mut raw = Raw::head(&server.audio, &user.secret, "/v1/audio/speech", "application/json", speech.len());
    raw.write(speech.as_bytes());
    raw.until("a beginnin");
    let charges = final_charges(&db, server);
    let used = |unit: &str| charges.iter().map(|charge| charge[unit].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!(used("prompt_tokens"), [10, 10, 10, 0], "{charges:?}");
    assert_eq!(used("completion_tokens"), [2, 2, 2, 0], "{charges:?}");
    assert_eq!((used("characters"), &charges[3]["estimated"]), (vec![0, 0, 0, 3], &json!(true)), "{charges:?}");
}

#[test]
fn an_error_sent_as_a_success_costs_nothing_on_any_route() {
    let upstream = Upstream::start(|seen, wire| {
        if !seen.path.ends_with("completions") {
            return wire.json(200, &json!({"error": {"message": "out of memory"}}));
        }
        wire.start("text/event-stream");
        wire.event(r#"{"error":{"message":"out of memory"}}"#);
        wire.event("[DONE]");
        wire.end();
    });
    let (db, server, user) = start(&upstream);
    let text = user.program(&server.inference);
    text.post("/api/v1/generate", &json!({"text": "a"})).expect(502);
    text.post("/api/v1/generate-bulk", &json!([{"text": "a"}])).expect(502);
    text.post("/api/v1/summarization", &json!({"text": "a"})).expect(502);
    text.post("/api/v1/feature-extraction", &json!({"text": "a"})).expect(502);
    let audio = user.program(&server.audio);
    audio.post("/v1/audio/speech", &json!({"model": "m", "input": "a"})).expect(502);
    audio.post("/api/v1/generate_speech", &json!({"text": "a"})).expect(502);
    let body = multipart(&[("file*", &wav()), ("model", b"gpt-4o-transcribe")]);
    let media_type = Some("multipart/form-data; boundary=bnd");
    audio.send("POST", "/v1/audio/transcriptions", media_type, &body).expect(502);
    assert_eq!(final_charges(&db, server), [] as [Value; 0]);
}

#[test]
fn pictures_tools_and_reasoning_are_part_of_an_estimate() {
    let upstream = Upstream::start(|_, wire| {
        wire.start("text/event-stream");
        wire.event(r#"{"choices":[{"index":0,"delta":{"reasoning_content":"one two three four"}}]}"#);
        wire.word("five");
        wire.event(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        wire.event("[DONE]");
        wire.end();
    });
    let (db, server, user) = start(&upstream);
    let mut body = streamed();
    let picture = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    body["messages"][0]["content"] = json!([{"type": "text", "text": "What is it?"}, picture, picture]);
    body["tools"] = json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]);
    user.program(&server.inference).post(CHAT, &body).expect(200);
    let charge = only_charge(&db, &server);
    let tokens = |name: &str| charge[name].as_i64().unwrap();
    assert!((2 * 1445 + 20..2 * 1445 + 80).contains(&tokens("prompt_tokens")), "{charge}");
    assert!((5..10).contains(&tokens("completion_tokens")) && charge["estimated"] == true, "{charge}");
}
