//! Model servers that refuse what not every server knows, and uploads that fail on the client's side.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Raw, ReceivedRequest, ReplyWriter, Server, TestDb, Upstream, final_charges, only_charge};
use crate::recordings::{heard, multipart, post, start, wav};

const CHAT: &str = "/v1/chat/completions";
const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const FORM: &str = "multipart/form-data; boundary=bnd";

fn streamed() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "four words of it"}], "stream": true})
}

fn strict_chat(seen: &ReceivedRequest, wire: &mut ReplyWriter) {
    if !seen.json()["stream_options"].is_null() {
        return wire.json(422, &json!({"detail": [{"loc": ["body", "stream_options"], "msg": "extra fields"}]}));
    }
    wire.start("text/event-stream");
    wire.word("one");
    wire.word(" two");
    wire.event("[DONE]");
    wire.end();
}

#[test]
fn stream_options_are_omitted_for_servers_that_refuse_them() {
    let upstream = Upstream::start(strict_chat);
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url)]);
    let user = server.sign_up("ann@example.com");
    let ask = |body: &Value| {
        let mut raw = Raw::post(&server.inference, &user.secret, CHAT, body);
        raw.rest().to_owned()
    };
    // What a client writes there may be refused for a reason of its own, and changes nothing for others.
    let mut own = streamed();
    own["stream_options"] = json!({"nonsense": 1});
    let mut raw = Raw::post(&server.inference, &user.secret, CHAT, &own);
    raw.until("extra fields");
    assert_eq!(upstream.seen().len(), 2, "once more without usage for each piece");
    // First without usage for each piece, then without any.
    for calls in [5, 6, 7] {
        assert!(ask(&streamed()).contains("[DONE]"));
        assert_eq!(upstream.seen().len(), calls, "only the first request is retried");
    }
    let charges = final_charges(&db, server);
    assert_eq!(charges.len(), 3);
    for charge in charges {
        let estimate = charge["completion_tokens"].as_i64().unwrap();
        assert!((2..=4).contains(&estimate) && charge["estimated"] == true, "{charge}");
        assert!(charge["prompt_tokens"].as_i64() >= Some(4));
    }
}

#[test]
fn usage_with_each_piece_is_not_asked_of_servers_that_refuse_it() {
    let named = json!({"error": {"message": "Unknown parameter: 'stream_options.continuous_usage_stats'."}});
    for refusal in [named, json!({"error": {"message": "Invalid request"}})] {
        let upstream = Upstream::start(move |seen, wire| {
            let body = seen.json();
            let is_strange = body["model"] == "strange" || !body["stream_options"]["continuous_usage_stats"].is_null();
            if is_strange {
                return wire.json(400, &refusal);
            }
            wire.start("text/event-stream");
            wire.word("one");
            wire.finish(10, 3);
        });
        let db = TestDb::new();
        let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url)]);
        let user = server.sign_up("ann@example.com");
        let client = user.program(&server.inference);
        for calls in [2, 3] {
            assert!(client.post(CHAT, &streamed()).expect(200).text().contains("[DONE]"));
            assert_eq!(upstream.seen().len(), calls, "only the first request is retried");
        }
        assert_eq!(upstream.seen()[2].json()["stream_options"], json!({"include_usage": true}));
        // What is refused for another reason is refused without, too.
        let mut strange = streamed();
        strange["model"] = json!("strange");
        client.post(CHAT, &strange).expect(400);
        let charges = final_charges(&db, server);
        assert_eq!(charges.len(), 2);
        for charge in charges {
            assert_eq!((&charge["completion_tokens"], &charge["estimated"]), (&json!(3), &json!(false)));
        }
    }
}

#[test]
fn json_is_requested_if_verbose_json_is_refused() {
    let upstream = Upstream::start(|seen, wire| match seen.text().contains("\r\n\r\nverbose_json\r\n") {
        true => wire.json(400, &json!({"error": {"message": "response_format 'verbose_json' is not supported"}})),
        false => wire.json(200, &json!({"text": "Hello there."})),
    });
    let (db, server, user) = start(&upstream, &[("TRANSCRIBE_MODEL", "w")]);
    let client = user.program(&server.audio);
    let post = |fields: &[(&str, &[u8])]| client.send("POST", TRANSCRIPTIONS, Some(FORM), &multipart(fields));
    let wav = wav();
    assert_eq!(post(&[("file*", &wav)]).expect(200).json(), json!({"text": "Hello there."}));
    assert_eq!(upstream.seen().len(), 2);
    let srt = post(&[("file*", &wav), ("response_format", b"srt")]).expect(200);
    assert_eq!(srt.text(), "1\n00:00:00,000 --> 00:00:02,000\nHello there.\n\n");
    assert_eq!(upstream.seen().len(), 3, "the retry is remembered");
    assert!(upstream.seen()[2].text().contains("name=\"response_format\"\r\n\r\njson\r\n"));
    let charges = final_charges(&db, server);
    assert_eq!(charges.iter().map(|charge| charge["audio_millis"].clone()).collect::<Vec<_>>(), [2000, 2000]);
}

#[test]
fn fields_that_name_another_recording_are_refused() {
    let upstream = Upstream::constant(200, heard());
    let (_db, server, user) = start(&upstream, &[]);
    let client = user.program(&server.audio);
    let wav = wav();
    let message = |path: &str, fields: &[(&str, &[u8])]| {
        post(&client, path, fields).expect(400).json()["error"]["message"].to_string()
    };
    for name in ["url", "file_url", "file_id", "audio_url", "URL"] {
        let elsewhere = (name, &b"https://example.com/long.mp3"[..]);
        for path in [TRANSCRIPTIONS, "/v1/audio/translations"] {
            for fields in [[elsewhere, ("file*", &wav), ("model", b"w")], [("model", b"w"), ("file*", &wav), elsewhere]]
            {
                let said = message(path, &fields);
                assert!(said.contains(&format!("The field {} is not", name.to_lowercase())), "{said}");
            }
        }
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn one_models_refusal_of_verbose_json_is_not_held_against_another() {
    let upstream = Upstream::start(|seen, wire| {
        let (body, verbose) = (seen.text(), "\r\n\r\nverbose_json\r\n");
        match body.contains("\r\n\r\nplain\r\n") && body.contains(verbose) {
            true => wire.json(400, &json!({"error": {"message": "response_format 'verbose_json' is not supported"}})),
            false => wire.json(200, &heard()),
        }
    });
    let upstream = upstream.listing(&["plain", "other"]);
    let (_db, server, user) = start(&upstream, &[]);
    let client = user.program(&server.audio);
    let wav = wav();
    let large = textgen::wav::file(8000, 16, &vec![0; 4 << 20]);
    for (model, wav, calls) in
        [(&b"plain"[..], &wav, 2), (b"plain", &wav, 3), (b"other", &wav, 4), (b"other", &large, 5)]
    {
        post(&client, TRANSCRIPTIONS, &[("model", model), ("file*", wav)]).expect(200);
        assert_eq!(upstream.seen().len(), calls, "the retry is remembered");
        let is_verbose = upstream.seen()[calls - 1].text().contains("\r\n\r\nverbose_json\r\n");
        assert_eq!(is_verbose, model == b"other");
    }
}

#[test]
fn an_invalid_format_is_not_remembered_as_unsupported() {
    let upstream = Upstream::start(|seen, wire| match seen.text().contains("\r\n\r\nodd\r\n") {
        true => wire.json(400, &json!({"error": {"message": "response_format must be json or verbose_json"}})),
        false => wire.json(200, &heard()),
    });
    let (_db, server, user) = start(&upstream, &[("TRANSCRIBE_MODEL", "w")]);
    let client = user.program(&server.audio);
    let wav = wav();
    let odd = multipart(&[("file*", &wav), ("response_format", b"odd")]);
    client.send("POST", TRANSCRIPTIONS, Some(FORM), &odd).expect(400);
    client.send("POST", TRANSCRIPTIONS, Some(FORM), &multipart(&[("file*", &wav)])).expect(200);
    assert_eq!(upstream.seen().len(), 2);
    assert!(upstream.seen()[1].text().contains("verbose_json"));
}

#[test]
fn an_error_that_quotes_a_large_upload_switches_no_format_off() {
    let upstream = Upstream::start(|seen, wire| match seen.text().contains("\r\n\r\nresponse_format\r\n") {
        true => wire.json(400, &json!({"error": {"message": "Invalid language 'response_format'"}})),
        false => wire.json(200, &heard()),
    });
    let (_db, server, user) = start(&upstream, &[("TRANSCRIBE_MODEL", "w")]);
    let client = user.program(&server.audio);
    let large = textgen::wav::file(8000, 16, &vec![0; 4 << 20]);
    let post = |fields: &[(&str, &[u8])]| client.send("POST", TRANSCRIPTIONS, Some(FORM), &multipart(fields));
    post(&[("file*", &wav())]).expect(200);
    post(&[("language", b"response_format"), ("file*", &large)]).expect(400);
    post(&[("file*", &wav())]).expect(200);
    assert!(upstream.seen()[2].text().contains("verbose_json"));
}

#[test]
fn a_failed_upload_does_not_count_against_the_server() {
    let upstream = Upstream::constant(200, heard());
    let (db, server, user) = start(&upstream, &[("TRANSCRIBE_MODEL", "w")]);
    let large = textgen::wav::file(8000, 16, &vec![0; 4 << 20]);
    let whole = multipart(&[("file*", &large)]);
    for _ in 0..3 {
        // The client leaves in the middle.
        let mut raw = Raw::head(&server.audio, &user.secret, TRANSCRIPTIONS, FORM, whole.len());
        raw.write(&whole[..3 << 20]);
        raw.leave();
        // The client sends a form that has no end.
        let client = user.program(&server.audio);
        client.send("POST", TRANSCRIPTIONS, Some(FORM), &whole[..3 << 20]).expect(400);
        // Fields are wrong behind the recording.
        let wrong = multipart(&[("file*", &large), ("model", b"a\nb")]);
        client.send("POST", TRANSCRIPTIONS, Some(FORM), &wrong).expect(400);
    }
    user.program(&server.audio).send("POST", TRANSCRIPTIONS, Some(FORM), &whole).expect(200);
    assert_eq!(only_charge(&db, &server)["audio_millis"], 262_144);
    assert!(!server.log().contains("provider"), "{}", server.log());
}

#[test]
fn an_upload_goes_to_another_server_while_nothing_of_it_was_read() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let unreachable = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let works = Upstream::constant(200, heard()).without_list();
    let urls = format!("{unreachable},{}", works.url);
    let (_db, server, user) = start(&works, &[("TRANSCRIBE_MODEL", "w"), ("TRANSCRIBE_URL", &urls)]);
    let large = textgen::wav::file(8000, 16, &vec![0; 4 << 20]);
    let body = multipart(&[("file*", &large)]);
    server.wait_until("the other server to be tried first", || {
        user.program(&server.audio).send("POST", TRANSCRIPTIONS, Some(FORM), &body).expect(200);
        server.log().contains(&format!("provider {unreachable} failed"))
    });
    let received = works.seen();
    assert!(
        received.iter().all(|seen| seen.body.windows(large.len()).any(|piece| piece == large)),
        "the file is whole"
    );
}

#[test]
fn an_upload_that_was_read_is_not_sent_to_another_server() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let uploads = Arc::new(AtomicUsize::new(0));
    let counter = uploads.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut start = [0; 4];
            // The others are questions for the list of models.
            if stream.read_exact(&mut start).is_ok() && start == *b"POST" {
                counter.fetch_add(1, Ordering::Relaxed);
                // Reads a part of the upload, and breaks off.
                let _ = stream.read_exact(&mut vec![0; 500_000]);
            }
        }
    });
    let unused = Upstream::constant(200, heard());
    let urls = format!("{url},{url},{url}");
    let (db, server, user) = start(&unused, &[("TRANSCRIBE_MODEL", "w"), ("TRANSCRIBE_URL", &urls)]);
    let body = multipart(&[("file*", &textgen::wav::file(8000, 16, &vec![0; 4 << 20]))]);
    user.program(&server.audio).send("POST", TRANSCRIPTIONS, Some(FORM), &body).expect(502);
    assert_eq!(uploads.load(Ordering::Relaxed), 1);
    assert_eq!(final_charges(&db, server), [] as [Value; 0]);
}
