//! The name and the media type of a recording reach the model server, as far as they say what it is.

use std::io::Write;

use crate::harness::Upstream;
use crate::recordings::{heard, start, wav};

const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

#[test]
fn the_model_server_gets_the_name_and_the_media_type_of_a_recording() {
    let upstream = Upstream::constant(200, heard());
    let (_db, server, user) = start(&upstream, &[]);
    let client = user.program(&server.audio);
    for (head, expected) in [
        ("filename=\"blob\"\r\nContent-Type: audio/webm;codecs=opus", ("blob.wav", "audio/wav")),
        ("filename=\"rec ü.wav\"\r\nContent-Type: audio/x-wav; x=y", ("rec ü.wav", "audio/x-wav; x=y")),
        ("filename*=UTF-8''na%C3%AFve.WAV", ("naïve.WAV", "audio/wav")),
        ("filename=\"../a/speech.pcm\"\r\nContent-Type: audio/pcm;rate=8000", ("speech.pcm.wav", "audio/wav")),
        ("filename=\"\"", ("audio.wav", "audio/wav")),
    ] {
        let mut body = Vec::new();
        write!(body, "--bnd\r\nContent-Disposition: form-data; name=\"file\"; {head}\r\n\r\n").unwrap();
        body.extend_from_slice(&wav());
        body.extend_from_slice(b"\r\n--bnd--\r\n");
        client.send("POST", TRANSCRIPTIONS, Some("multipart/form-data; boundary=bnd"), &body).expect(200);
        let seen = upstream.seen().pop().unwrap().text();
        let (name, media_type) = expected;
        let expected = format!("name=\"file\"; filename=\"{name}\"\r\nContent-Type: {media_type}\r\n\r\n");
        assert!(seen.contains(&expected), "{head}");
    }
}
