//! Bodies of requests: collected in memory or streamed, chunked, announced by `Expect`, left unread.

use std::io::Read;
use std::net::Shutdown;

use textgen::http::{BodyError, Request, Response};

use super::client::{Running, serve, settings};

/// Answers with the length and the sum of the body, and whether it was collected in memory. `/unread` reads nothing.
fn summing() -> Running {
    let settings = textgen::server::Settings { max_buffered_body: 100_000, max_body: 50_000_000, ..settings() };
    serve(settings, |request: &mut Request| {
        if request.path() == "/unread" {
            return Response::new(200);
        }
        let is_buffered = request.body.is_buffered();
        match request.body.into_bytes(1 << 30) {
            Ok(bytes) => {
                let sum: u64 = bytes.iter().map(|b| u64::from(*b)).sum();
                Response::with_body(200, "text/plain", format!("{} {sum} {is_buffered}", bytes.len()).into_bytes())
            }
            Err(BodyError::Timeout) => Response::new(408),
            Err(_) => Response::new(400),
        }
    })
}

fn body(length: usize) -> (Vec<u8>, u64) {
    let bytes: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let sum = bytes.iter().map(|b| u64::from(*b)).sum();
    (bytes, sum)
}

fn chunked(bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in bytes.chunks(piece) {
        out.extend(format!("{:X};x=y\r\n", part.len()).bytes());
        out.extend(part);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\nTrailer: x\r\n\r\n");
    out
}

#[test]
fn bodies_of_all_lengths_and_encodings_and_the_request_after() {
    let server = summing();
    let mut client = server.connect();
    for length in [1, 10, 40_000, 99_999, 100_000, 100_001, 1_000_000, 5_000_000] {
        let (bytes, sum) = body(length);
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        client.send(&bytes).send("GET /unread HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.reply().text(), format!("{length} {sum} {}", length <= 100_000));
        assert_eq!(client.reply().status, 200);
        for piece in [1000, 70_000] {
            client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send(chunked(&bytes, piece)).send("GET /unread HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(client.reply().text(), format!("{length} {sum} {}", length <= 100_000));
            assert_eq!(client.reply().status, 200);
        }
    }
    server.until("no thread is blocked", |stats| stats.blocked == 0);
}

#[test]
fn pipelined_bodies_byte_by_byte() {
    let server = summing();
    let mut client = server.connect();
    let one = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    let two = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for byte in format!("{one}{two}{one}").bytes() {
        client.send([byte]);
    }
    for _ in 0..3 {
        assert_eq!(client.reply().text(), "3 294 true");
    }
}

#[test]
fn sends_100_when_a_client_waits_for_it() {
    let server = summing();
    for length in [5, 200_000] {
        let mut client = server.connect();
        let (bytes, sum) = body(length);
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"));
        assert_eq!(client.reply().status, 100);
        client.send(&bytes);
        assert!(client.reply().text().starts_with(&format!("{length} {sum} ")));
        assert_eq!(client.get("/unread").status, 200);
    }
}

#[test]
fn does_not_send_100_when_the_body_is_not_read() {
    let server = summing();
    let mut client = server.connect();
    client.send("POST /unread HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 200000\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    client.assert_closed();
}

#[test]
fn a_large_body_left_unread_closes_the_connection_but_the_response_arrives() {
    let server = summing();
    let mut client = server.connect();
    client.send("POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n");
    client.send(vec![b'x'; 3_000_000]);
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    client.assert_closed();
}

#[test]
fn too_large_is_413_before_it_is_sent() {
    let server = summing();
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 50000001\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
    client.assert_closed();
}

#[test]
fn a_chunked_body_beyond_the_limit_is_an_error_to_the_handler() {
    let settings = textgen::server::Settings { max_buffered_body: 1000, max_body: 100_000, ..settings() };
    let server = serve(settings, |request| {
        let mut sink = Vec::new();
        Response::new(if request.body.read_to_end(&mut sink).is_err() { 413 } else { 200 })
    });
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(chunked(&vec![b'x'; 400_000], 5000));
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
}

#[test]
fn a_truncated_body_is_refused() {
    let server = summing();
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    client.socket.shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nabc");
    client.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply().status, 400);
    client.assert_closed();
}

#[test]
fn a_reader_kept_beyond_the_request_reads_nothing_more() {
    let kept: std::sync::Arc<std::sync::Mutex<Vec<textgen::http::Body>>> = std::sync::Arc::default();
    let keep = std::sync::Arc::clone(&kept);
    let settings = textgen::server::Settings { max_buffered_body: 10, ..settings() };
    let server = serve(settings, move |request| {
        keep.lock().unwrap().push(std::mem::take(&mut request.body));
        Response::new(200)
    });
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n");
    assert_eq!(client.reply().status, 200);
    client.assert_closed();
    let mut body = kept.lock().unwrap().pop().unwrap();
    assert!(body.read(&mut [0; 5]).is_err());
}
