//! `Idempotency-Key`: the same request is charged once, and another request under the same key is charged again.

use std::sync::Mutex;

use serde_json::json;

use crate::harness::{Client, Server, TestDb, Upstream, User, final_charges};
use crate::recordings::{multipart, wav};

const BOUNDARY: Option<&str> = Some("multipart/form-data; boundary=bnd");

fn start(settings: &[(&str, &str)]) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let server = Server::start_demo(&db, settings);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

fn with_key(client: &Client) -> Client {
    client.header("idempotency-key", "k1")
}

/// Charges of two requests, each of which was sent twice.
#[track_caller]
fn assert_two_charges(db: &TestDb, server: Server) {
    let charges = final_charges(db, server);
    assert_eq!(charges.len(), 2, "{charges:?}");
}

#[test]
fn an_engine_of_another_name_is_another_request() {
    let (db, server, user) = start(&[]);
    let client = with_key(&user.program(&server.inference));
    for name in ["a", "a", "b", "b"] {
        client.post(&format!("/v1/engines/{name}/completions"), &json!({"prompt": "x"})).expect(200);
    }
    assert_two_charges(&db, server);
}

#[test]
fn a_translation_is_another_request_than_a_transcription() {
    let (db, server, user) = start(&[]);
    let client = with_key(&user.program(&server.audio));
    for translate in [&b"false"[..], b"false", b"true", b"true"] {
        let body = multipart(&[("translate_to_english", translate), ("audio_file*", &wav())]);
        client.send("POST", "/api/v1/audio-file-extraction", BOUNDARY, &body).expect(200);
    }
    assert_two_charges(&db, server);
}

#[test]
fn another_recording_in_an_upload_is_another_request() {
    let (db, server, user) = start(&[]);
    let client = with_key(&user.program(&server.audio));
    let longer = textgen::wav::file(8000, 16, &vec![0; 48_000]);
    // Larger than what is buffered before the handler runs.
    let large = textgen::wav::file(8000, 16, &vec![0; 3 << 20]);
    for recording in [&longer, &longer, &large, &large] {
        let body = multipart(&[("model", b"w"), ("file*", recording), ("language", b"de")]);
        client.send("POST", "/v1/audio/transcriptions", BOUNDARY, &body).expect(200);
    }
    assert_two_charges(&db, server);
}

#[test]
fn a_url_that_points_to_another_recording_is_another_request() {
    let recording = std::sync::Arc::new(Mutex::new(wav()));
    let served = recording.clone();
    let files = Upstream::start(move |_, wire| wire.reply(200, "audio/wav", served.lock().unwrap().clone()));
    let (db, server, user) = start(&[("AUDIO_URL_ALLOW", "127.0.0.1")]);
    let client = with_key(&user.program(&server.audio));
    let body = json!({"audio_url": format!("{}/a.wav", files.url)});
    for samples in [32_000, 32_000, 48_000, 48_000] {
        *recording.lock().unwrap() = textgen::wav::file(8000, 16, &vec![0; samples]);
        client.post("/api/v1/audio-extraction", &body).expect(200);
    }
    assert_two_charges(&db, server);
}

#[test]
fn another_text_in_the_speech_form_is_another_request() {
    let (db, server, user) = start(&[]);
    let client = with_key(&user.browser_of(&server));
    for text in ["one", "one", "two", "two"] {
        client.form("/playground/speak", &[("input", text)]).expect(200);
    }
    assert_two_charges(&db, server);
}
