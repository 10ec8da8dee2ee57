//! Recordings given by `audio_url`: which addresses are fetched.

use serde_json::json;

use crate::harness::{Upstream, charges};
use crate::recordings::{heard, start, wav};

/// Serves one file or a redirect, and counts the requests.
fn files() -> (String, Upstream) {
    let files = Upstream::start(|seen, wire| match seen.path.as_str() {
        "/a.wav" => wire.reply(200, "audio/wav", wav()),
        "/empty" => wire.reply(200, "audio/wav", ""),
        "/text" => wire.reply(200, "text/html", "<html>"),
        "/huge" => drop(wire.raw("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")),
        "/endless" => {
            wire.start("audio/wav");
            let mut piece = wav();
            while wire.chunk(&piece) {
                piece.resize(1 << 20, 0);
            }
        }
        "/here" => drop(wire.raw("HTTP/1.1 302 X\r\nLocation: /a.wav\r\nContent-Length: 0\r\n\r\n")),
        "/loop" => drop(wire.raw("HTTP/1.1 302 X\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n")),
        "/inside" => drop(wire.raw("HTTP/1.1 302 X\r\nLocation: http://127.0.0.2:1/\r\nContent-Length: 0\r\n\r\n")),
        "/file" => drop(wire.raw("HTTP/1.1 302 X\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n")),
        _ => wire.reply(404, "text/plain", "no"),
    });
    (files.url.clone(), files)
}

#[test]
fn a_public_audio_url_is_fetched_and_transcribed() {
    let upstream = Upstream::constant(200, heard());
    let (files, _) = files();
    let (db, server, user) = start(&upstream, &[("AUDIO_URL_ALLOW", "127.0.0.1")]);
    let client = user.program(&server.audio);
    let ask = |path: &str| client.post("/api/v1/audio-extraction", &json!({"audio_url": format!("{files}{path}")}));
    for path in ["/a.wav", "/here"] {
        assert_eq!(ask(path).expect(200).json()["text"], " Hello there.");
    }
    let seen = upstream.seen();
    assert!(seen[0].body.windows(wav().len()).any(|piece| piece == wav()));
    assert!(seen[0].text().contains("filename=\"audio.wav\"\r\nContent-Type: audio/wav\r\n"));
    for (path, status) in [
        ("/empty", 400),
        ("/text", 400),
        ("/none", 400),
        ("/loop", 400),
        ("/huge", 413),
        ("/endless", 413),
        ("/inside", 400),
        ("/file", 400),
    ] {
        let reply = ask(path);
        assert!(reply.json()["detail"].is_string(), "{path}");
        reply.expect(status);
    }
    server.wait_until("the charges", || charges(&db).len() == 2);
    assert_eq!(charges(&db)[0]["audio_millis"], 2000);
    client.post("/api/v1/audio-extraction", &json!({})).expect(400);
    client.post("/api/v1/audio-extraction", &json!({"audio_url": 1})).expect(422);
}

#[test]
fn urls_on_private_networks_are_not_fetched() {
    let upstream = Upstream::constant(200, heard());
    let (url, files) = files();
    let (_db, server, user) = start(&upstream, &[]);
    let port = url.rsplit_once(':').unwrap().1;
    let client = user.program(&server.audio);
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0", "127.1", "2130706433", "0.0.0.0"] {
        let asked = json!({"audio_url": format!("http://{host}:{port}/a.wav")});
        client.post("/api/v1/audio-extraction", &asked).expect(400);
    }
    for url in ["file:///etc/passwd", "gopher://127.0.0.1/", "http://169.254.169.254/latest/meta-data/"] {
        client.post("/api/v1/audio-extraction", &json!({"audio_url": url})).expect(400);
    }
    assert!(files.seen().is_empty() && upstream.seen().is_empty());
}
