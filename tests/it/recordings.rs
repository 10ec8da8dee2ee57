//! Uploaded recordings, and speech.

use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{
    Client, Raw, Reply, Server, TestDb, Upstream, User, accept_call, charges, final_charges, only_charge,
};

const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

/// Two seconds of silence, 8 kHz, 16 bit.
pub(crate) fn wav() -> Vec<u8> {
    textgen::wav::file(8000, 16, &vec![0; 32_000])
}

pub(crate) fn heard() -> Value {
    json!({"task": "transcribe", "language": "english", "duration": 2.0, "text": " Hello there.", "segments": [
        {"id": 0, "seek": 0, "start": 0.0, "end": 1.5, "text": " Hello", "tokens": [1], "temperature": 0.0,
            "avg_logprob": -0.1, "compression_ratio": 1.0, "no_speech_prob": 0.01},
        {"id": 1, "seek": 0, "start": 1.5, "end": 2.0, "text": " there.", "tokens": [2], "temperature": 0.0,
            "avg_logprob": -0.1, "compression_ratio": 1.0, "no_speech_prob": 0.01}]})
}

pub(crate) fn start(upstream: &Upstream, settings: &[(&str, &str)]) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let mut all = vec![("TRANSCRIBE_URL", upstream.url.as_str()), ("SPEECH_URL", upstream.url.as_str())];
    all.extend(settings);
    let server = Server::start_with(&db, &all);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

/// A multipart body. A field whose name ends in `*` is a file.
pub(crate) fn multipart(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let (name, file) = name.strip_suffix('*').map_or((*name, ""), |name| (name, "; filename=\"a b/../x.wav\""));
        write!(body, "--bnd\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").unwrap();
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--bnd--\r\n");
    body
}

pub fn post(client: &Client, path: &str, fields: &[(&str, &[u8])]) -> Reply {
    client.send("POST", path, Some("multipart/form-data; boundary=bnd"), &multipart(fields))
}

#[test]
fn a_recording_is_transcribed_and_charged_by_length() {
    let upstream = Upstream::constant(200, heard());
    let (db, server, user) = start(&upstream, &[]);
    let client = user.program(&server.audio);
    let wav = wav();
    let reply = post(&client, TRANSCRIPTIONS, &[("model", b"w"), ("file*", &wav), ("language", b"de"), ("x", b"y")]);
    assert_eq!(reply.expect(200).json(), json!({"text": " Hello there."}));
    let seen = upstream.only();
    assert_eq!(seen.path, TRANSCRIPTIONS);
    assert!(seen.body.windows(wav.len()).any(|piece| piece == wav), "the model server received the complete file");
    let text = seen.text();
    for part in [
        "name=\"model\"\r\n\r\nw\r\n",
        "name=\"language\"\r\n\r\nde\r\n",
        "name=\"x\"\r\n\r\ny\r\n",
        "filename=\"x.wav\"",
        "name=\"response_format\"\r\n\r\nverbose_json\r\n",
    ] {
        assert!(text.contains(part), "{part}");
    }
    let charge = only_charge(&db, &server);
    assert_eq!(
        (&charge["audio_millis"], &charge["model"], &charge["server"]),
        (&json!(2000), &json!("w"), &json!("audio"))
    );
    for (format, expected) in [
        ("text", "Hello there.\n"),
        ("srt", "1\n00:00:00,000 --> 00:00:01,500\nHello\n\n2\n00:00:01,500 --> 00:00:02,000\nthere.\n\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello\n\n00:00:01.500 --> 00:00:02.000\nthere.\n\n"),
    ] {
        let reply = post(&client, TRANSCRIPTIONS, &[("file*", &wav), ("response_format", format.as_bytes())]);
        assert_eq!(reply.expect(200).text(), expected);
    }
    let reply = post(&client, "/v1/audio/translations", &[("file*", &wav), ("response_format", b"verbose_json")]);
    assert_eq!(reply.expect(200).json(), heard());
    assert_eq!(upstream.seen().last().unwrap().path, "/v1/audio/translations");
}

#[test]
fn invalid_recordings_are_refused_before_the_model_server() {
    let upstream = Upstream::constant(200, heard());
    let (_db, server, user) = start(&upstream, &[]);
    let client = user.program(&server.audio);
    let wav = wav();
    let large = vec![b'x'; 2 << 20];
    let cases: [&[(&str, &[u8])]; 8] = [
        &[("file*", b"")],
        &[("file*", b"hello, this is text")],
        &[("file*", &large)],
        &[("file*", &wav[..30])],
        &[("model", b"w")],
        &[("file*", &wav), ("file*", &wav)],
        &[("file*", &wav), ("other*", b"x")],
        &[("file*", &wav), ("model", b"a\nb")],
    ];
    for fields in cases {
        let reply = post(&client, TRANSCRIPTIONS, fields).expect(400);
        assert!(reply.json()["error"]["message"].is_string());
        let reply = post(&client, "/api/v1/audio-file-extraction", fields).expect(400);
        assert!(reply.json()["detail"].is_string());
    }
    let cut = &multipart(&[("file*", &wav)])[..2000];
    client.send("POST", TRANSCRIPTIONS, Some("multipart/form-data; boundary=bnd"), cut).expect(400);
    client.send("POST", TRANSCRIPTIONS, Some("multipart/form-data"), cut).expect(400);
    client.send("POST", TRANSCRIPTIONS, Some("application/json"), b"{}").expect(400);
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen().len());
    // Errors that only a model can detect are passed on.
    let broken = Upstream::constant(400, json!({"error": {"message": "cannot decode"}}));
    let (db, server, user) = start(&broken, &[]);
    let reply = post(&user.program(&server.audio), TRANSCRIPTIONS, &[("file*", &wav)]).expect(400);
    assert_eq!(reply.json()["error"]["message"], "cannot decode");
    assert_eq!(final_charges(&db, server), [] as [Value; 0]);
}

#[test]
fn a_large_recording_streams_through() {
    // The model server receives the start before the client has sent the end.
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        use std::io::{BufRead, BufReader, Read};
        let stream = accept_call(&listener);
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while line.trim() != "0" {
            line.clear();
            if reader.read_line(&mut line).unwrap() == 0 {
                return;
            }
            if let Ok(size) = usize::from_str_radix(line.trim(), 16) {
                let mut chunk = vec![0; size + 2];
                reader.read_exact(&mut chunk).unwrap();
                let _ = tell.lock().unwrap().send(size);
            }
        }
        let body = heard().to_string();
        write!(
            &stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
    });
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("TRANSCRIBE_URL", &url), ("TRANSCRIBE_MODEL", "w")]);
    let user = server.sign_up("ann@example.com");
    let samples = vec![0; 40 << 20];
    let body = multipart(&[("model", b"w"), ("file*", &textgen::wav::file(8000, 16, &samples))]);
    let mut raw =
        Raw::head(&server.audio, &user.secret, TRANSCRIPTIONS, "multipart/form-data; boundary=bnd", body.len());
    raw.write(&body[..2 << 20]);
    let mut arrived = 0;
    while arrived < 1 << 20 {
        arrived += told.recv().unwrap();
    }
    let before = memory(&server);
    raw.write(&body[2 << 20..]);
    raw.until("Hello there.");
    assert!(memory(&server) < before + (8 << 20), "{before} {}", memory(&server));
    assert_eq!(
        only_charge(&db, &server)["audio_millis"],
        2_621_440,
        "the duration that the model server reports is not used"
    );
}

/// Resident memory in bytes.
fn memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    // Not measured where there is no /proc.
    let Ok(status) = status else { return 0 };
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_transcript_can_be_streamed() {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, wire| {
        wire.start("text/event-stream");
        wire.event(r#"{"type":"transcript.text.delta","delta":"one"}"#);
        wait.lock().unwrap().recv().unwrap();
        wire.event(
            r#"{"type":"transcript.text.done","text":"one two","usage":{"type":"tokens","input_tokens":14,"output_tokens":5}}"#,
        );
        wire.end();
    });
    let (db, server, user) = start(&upstream, &[]);
    let body = multipart(&[("file*", &wav()), ("stream", b"true"), ("response_format", b"json"), ("model", b"w")]);
    let mut raw =
        Raw::head(&server.audio, &user.secret, TRANSCRIPTIONS, "multipart/form-data; boundary=bnd", body.len());
    raw.write(&body);
    raw.until("one");
    go.send(()).unwrap();
    assert!(raw.rest().contains("one two") && !raw.got.contains("error"), "{}", raw.got);
    assert!(upstream.only().text().contains("name=\"response_format\"\r\n\r\njson"));
    let charge = only_charge(&db, &server);
    assert_eq!(charge["audio_millis"], 2000, "the duration is that of the file's frames");
    assert_eq!((&charge["prompt_tokens"], &charge["completion_tokens"]), (&json!(14), &json!(5)));
}

#[test]
fn too_large_a_recording_is_413() {
    let upstream = Upstream::constant(200, heard());
    let (_db, server, user) = start(&upstream, &[]);
    let length = 101 << 20;
    let mut raw = Raw::head(&server.audio, &user.secret, TRANSCRIPTIONS, "multipart/form-data; boundary=bnd", length);
    let mut start = multipart(&[("model", b"w"), ("file*", &wav())]);
    start.truncate(20_000);
    raw.write(&start);
    let piece = vec![0; 1 << 20];
    for _ in 0..100 {
        raw.write(&piece);
    }
    raw.until("HTTP/1.1 413");
    raw.until("\"message\":\"The body must not be larger");
}

#[test]
fn old_clients_upload_files() {
    let upstream = Upstream::constant(200, heard());
    let (db, server, user) = start(&upstream, &[]);
    let path = "/api/v1/audio-file-extraction";
    let wav = wav();
    for address in [&server.audio, &server.inference] {
        let client = user.program(address);
        let reply = post(&client, path, &[("audio_file*", &wav)]).expect(200).json();
        assert_eq!(reply["text"], " Hello there.");
        let keys: Vec<_> = reply["segments"][0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys.join(" "), "seek start end text temperature avg_logprob compression_ratio no_speech_prob");
        let reply = post(&client, path, &[("audio_file*", &wav), ("include_segments", b"false")]).expect(200);
        assert_eq!(reply.text(), r#"{"text":" Hello there.","segments":[]}"#);
        let reply = post(
            &client,
            path,
            &[("audio_file*", &wav), ("translate_to_english", b"true"), ("output_filetype", b"srt")],
        );
        assert_eq!(reply.header("content-disposition"), Some("attachment; filename=audio.srt"));
        assert_eq!(upstream.seen().last().unwrap().path, "/v1/audio/translations");
        let srt: String = serde_json::from_slice(&reply.expect(200).body).unwrap();
        assert!(srt.starts_with("1\n0:00:00,000 --> 0:00:01,500\nHello\n"), "{srt}");
        let reply = post(&client, path, &[("output_filetype", b"txt")]).expect(400);
        assert_eq!(reply.json()["detail"], "Either audio_file or audio_url must be provided");
    }
    server.wait_until("the charges", || charges(&db).len() == 6);
}

#[test]
fn old_clients_options_are_read_before_the_model_server_has_a_recording() {
    let upstream = Upstream::constant(200, heard());
    let (_db, server, user) = start(&upstream, &[]);
    let (wav, client) = (wav(), user.program(&server.audio));
    for option in [("output_filetype", &b"x"[..]), ("include_segments", b"x")] {
        for fields in [[option, ("audio_file*", &wav)], [("audio_file*", &wav), option]] {
            post(&client, "/api/v1/audio-file-extraction", &fields).expect(400);
        }
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn speech_is_streamed_and_charged_by_the_character() {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, wire| {
        wire.start("audio/mpeg");
        wire.chunk("first");
        wire.chunk("second");
        wait.lock().unwrap().recv().unwrap();
        wire.chunk("third");
        wire.end();
    });
    let (db, server, user) = start(&upstream, &[]);
    let body = json!({"model": "t", "input": "Grüße", "voice": "alloy", "x": 1});
    let mut raw = Raw::post(&server.audio, &user.secret, "/v1/audio/speech", &body);
    // The last byte is held back until more arrives.
    raw.until("econ");
    assert!(raw.got.contains("firs"), "{}", raw.got);
    assert!(raw.got.contains("audio/mpeg") && charges(&db).is_empty());
    go.send(()).unwrap();
    assert!(raw.rest().contains("thir"));
    assert_eq!(upstream.only().json(), body);
    let charge = only_charge(&db, &server);
    assert_eq!((&charge["characters"], &charge["route"]), (&json!(5), &json!("/v1/audio/speech")));
    // Events are no audio that could be passed on.
    let events = json!({"model": "t", "input": "a", "voice": "alloy", "stream_format": "sse"});
    user.program(&server.audio).post("/v1/audio/speech", &events).expect(400);
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn old_clients_get_wav_files() {
    let upstream = Upstream::start(|seen, wire| {
        // A streaming server does not know the length when it writes the header.
        let mut file = textgen::wav::file(24_000, 16, &[7; 100]);
        file[40..44].copy_from_slice(&[0xff; 4]);
        // Some do not say that it is WAV; then it is read to its end.
        wire.reply(200, if seen.json()["input"] == "Hi" { "audio/wav" } else { "application/octet-stream" }, file);
    });
    let (db, server, user) = start(&upstream, &[]);
    for address in [&server.audio, &server.inference] {
        let reply =
            user.program(address).post("/api/v1/generate_speech", &json!({"text": "Hi", "speaker": "Male fast"}));
        assert_eq!(reply.header("content-type"), Some("audio/wav"));
        assert_eq!(reply.expect(200).body[44..], [7; 100]);
    }
    let whole = user.program(&server.audio).post("/api/v1/generate_speech", &json!({"text": "Ho"})).expect(200);
    assert_eq!(whole.body, textgen::wav::file(24_000, 16, &[7; 100]));
    let seen = upstream.seen()[0].json();
    assert_eq!(
        (&seen["voice"], &seen["response_format"], &seen["input"]),
        (&json!("am_adam"), &json!("wav"), &json!("Hi"))
    );
    server.wait_until("the charges", || charges(&db).len() == 3);
    let reply = user.program(&server.audio).post("/api/v1/generate_speech", &json!({"text": ""})).expect(200);
    assert_eq!((reply.body.len(), reply.header("content-type")), (44, Some("audio/wav")));
    assert_eq!(upstream.seen().len(), 3);
    user.program(&server.audio).post("/api/v1/generate_speech", &json!({})).expect(422);
}

#[test]
fn old_clients_hear_speech_while_it_is_made() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let upstream = Upstream::start(move |seen, wire| {
        let is_cut = seen.json()["input"] == "cut";
        wire.start(if is_cut { "application/octet-stream" } else { "audio/wav" });
        wire.chunk(textgen::wav::file(24_000, 16, b"first"));
        if is_cut {
            return wire.die();
        }
        gate.lock().unwrap().recv().unwrap();
        wire.chunk(b"second");
        wire.end();
    });
    let (db, server, user) = start(&upstream, &[]);
    let path = "/api/v1/generate_speech";
    // Nothing was sent yet of one that is read to its end.
    user.program(&server.audio).post(path, &json!({"text": "cut"})).expect(502);
    let mut raw = Raw::post(&server.audio, &user.secret, path, &json!({"text": "Hi"}));
    raw.until("firs");
    go.send(()).unwrap();
    // The last byte comes in a chunk of its own, as it waits for the charge.
    assert!(raw.rest().contains("secon"), "{}", raw.got);
    assert_eq!(only_charge(&db, &server)["characters"], 2);
    assert_eq!(final_charges(&db, server).len(), 1);
}

#[test]
fn disconnecting_during_an_upload_ends_the_upstream_call() {
    let ended = Arc::new(Mutex::new(false));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = ended.clone();
    thread::spawn(move || {
        use std::io::Read;
        let mut stream = accept_call(&listener);
        let mut piece = vec![0; 65536];
        while stream.read(&mut piece).is_ok_and(|n| n > 0) {}
        *seen.lock().unwrap() = true;
    });
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("TRANSCRIBE_URL", &url), ("TRANSCRIBE_MODEL", "w")]);
    let user = server.sign_up("ann@example.com");
    let body = multipart(&[("model", b"w"), ("file*", &textgen::wav::file(8000, 16, &vec![0; 4 << 20]))]);
    let mut raw =
        Raw::head(&server.audio, &user.secret, TRANSCRIPTIONS, "multipart/form-data; boundary=bnd", body.len());
    raw.write(&body[..3 << 20]);
    raw.leave();
    server.wait_until("the call to be ended", || *ended.lock().unwrap());
    assert_eq!(final_charges(&db, server), [] as [Value; 0]);
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/audio");
    std::fs::read(format!("{folder}/{name}")).unwrap()
}

/// Transcribes a recording in a format, and returns what is charged: milliseconds, and whether they are an estimate.
fn charge_for(reply: &Value, recording: &[u8], fields: &[(&str, &[u8])]) -> (i64, bool) {
    let upstream = Upstream::constant(200, reply.clone());
    let (db, server, user) = start(&upstream, &[]);
    let mut all: Vec<(&str, &[u8])> = vec![("file*", recording)];
    all.extend(fields);
    post(&user.program(&server.audio), TRANSCRIPTIONS, &all).expect(200);
    let charge = only_charge(&db, &server);
    (charge["audio_millis"].as_i64().unwrap(), charge["estimated"].as_bool().unwrap())
}

#[test]
fn recordings_are_charged_by_their_frames() {
    let silent = json!({"text": "Hello."});
    for (name, expected) in [
        ("streamed.wav", 1000),
        ("opus-6k.ogg", 3500),
        ("mediarecorder.webm", 3500),
        ("vbr.mp3", 2037),
        ("moov-last.m4a", 2000),
    ] {
        let (millis, estimated) = charge_for(&silent, &fixture(name), &[("model", b"w")]);
        assert!((expected..=expected + 60).contains(&millis) && !estimated, "{name}: {millis}");
    }
}

#[test]
fn the_longer_duration_is_charged_where_the_model_server_disagrees() {
    let opus = fixture("opus-6k.ogg");
    let says = |seconds: f64| json!({"text": "Hello.", "duration": seconds});
    assert_eq!(charge_for(&says(3.6), &opus, &[]), (3600, false));
    assert_eq!(charge_for(&says(7.0), &opus, &[]), (7000, false));
    let (millis, _) = charge_for(&says(0.5), &opus, &[]);
    assert!((3500..=3560).contains(&millis), "{millis}");
    let usage = json!({"text": "Hello.", "usage": {"type": "duration", "seconds": 3.6}});
    assert_eq!(charge_for(&usage, &opus, &[("model", b"gpt-x")]), (3600, false));
}

#[test]
fn every_format_is_charged_alike() {
    let upstream = Upstream::constant(200, json!({"text": "Hello.", "duration": 3.6}));
    let (db, server, user) = start(&upstream, &[]);
    let opus = fixture("opus-6k.webm");
    let formats = [&b"json"[..], b"text", b"srt", b"vtt", b"verbose_json"];
    for format in formats {
        let fields: [(&str, &[u8]); 2] = [("file*", &opus), ("response_format", format)];
        post(&user.program(&server.audio), TRANSCRIPTIONS, &fields).expect(200);
    }
    server.wait_until("the charges", || charges(&db).len() == formats.len());
    assert!(charges(&db).iter().all(|charge| charge["audio_millis"] == 3600), "{:?}", charges(&db));
}

#[test]
fn recordings_that_cannot_be_measured_are_refused() {
    let upstream = Upstream::constant(200, heard());
    let (_db, server, user) = start(&upstream, &[]);
    let refusal = |path: &str, fields: &[(&str, &[u8])]| {
        let reply = post(&user.program(&server.audio), path, fields).expect(400).json();
        let message = reply["error"]["message"].as_str().or(reply["detail"].as_str());
        message.unwrap().to_owned()
    };
    let expected = "The recording's length cannot be measured; send WAV, MP3, FLAC, Ogg, WebM, MP4 or AAC";
    let amr = [&b"#!AMR\n"[..], &[0; 9000]].concat();
    // An MP3 file that turns to garbage, small and above a mebibyte.
    let garbage = [fixture("vbr.mp3"), vec![0x55; 191_983]].concat();
    let large = [fixture("vbr.mp3"), vec![0x55; 2 << 20]].concat();
    for file in [&amr, &garbage, &large] {
        assert_eq!(refusal(TRANSCRIPTIONS, &[("file*", file), ("model", b"w")]), expected);
    }
    assert_eq!(refusal("/api/v1/audio-file-extraction", &[("audio_file*", &garbage)]), expected);
    let opus = refusal(TRANSCRIPTIONS, &[("file*", &fixture("opus.mp4"))]);
    assert!(opus.ends_with("send Opus as Ogg or WebM, and MP3 as it is"), "{opus}");
    assert!(upstream.seen().is_empty());
}

#[test]
fn the_length_of_a_forwarded_recording_is_estimated_where_it_cannot_be_measured() {
    // An MP3 file that turns to garbage, forwarded while it is received: at 500 bytes per second.
    let garbage = [fixture("vbr.mp3"), vec![0x55; 1_191_983]].concat();
    let millis = i64::try_from(garbage.len()).unwrap() * 2;
    let charge = |reply: &Value| {
        let upstream = Upstream::constant(200, reply.clone());
        let (db, server, user) = start(&upstream, &[]);
        post(&user.program(&server.audio), TRANSCRIPTIONS, &[("model", b"w"), ("file*", &garbage)]).expect(200);
        let charge = only_charge(&db, &server);
        (charge["audio_millis"].as_i64().unwrap(), charge["estimated"].as_bool().unwrap())
    };
    assert_eq!(charge(&json!({"text": "Hello."})), (millis, true));
    assert_eq!(charge(&json!({"text": "Hello.", "duration": 2.0})), (2000, false));
}
