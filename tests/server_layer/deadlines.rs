//! Clients that are slow, on purpose or not, do not delay others and are gone at their deadline.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use textgen::http::{BodyError, Request, Response};
use textgen::server::Settings;

use super::client::{LONG, Running, serve, settings};

const SHORT: Duration = Duration::from_millis(300);

fn impatient() -> Settings {
    Settings {
        head_timeout: SHORT,
        body_timeout: SHORT,
        idle_timeout: SHORT,
        write_timeout: SHORT,
        max_buffered_body: 1000,
        ..settings()
    }
}

fn reads_all() -> Running {
    serve(impatient(), |request: &mut Request| match request.body.into_bytes(1 << 30) {
        Ok(_) => Response::with_body(200, "text/plain", vec![b'x'; 4_000_000]),
        Err(BodyError::Timeout) => {
            let mut response = Response::new(408);
            response.close = true;
            response
        }
        Err(_) => Response::new(400),
    })
}

#[test]
fn half_a_head_or_body_is_a_408() {
    let server = reads_all();
    for request in [
        "GET / HTT",
        "GET / HTTP/1.1\r\nHost: h\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\nabc",
    ] {
        let mut client = server.connect();
        let began = Instant::now();
        let reply = client.send(request).reply();
        assert_eq!((reply.status, reply.header("connection")), (408, Some("close")), "{request:?}");
        assert!(began.elapsed() + Duration::from_millis(20) >= SHORT, "{request:?} {:?}", began.elapsed());
        client.assert_closed();
    }
}

#[test]
fn an_idle_connection_is_closed_silently() {
    let server = reads_all();
    server.connect().assert_closed();
    let mut client = server.connect();
    assert_eq!(client.get("/").status, 200);
    client.assert_closed();
}

/// Sends a byte now and then until the server closes the connection.
fn drip(server: &Running, start: &str, byte: &str) {
    let mut client = server.connect();
    let began = Instant::now();
    client.send(start);
    client.socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while began.elapsed() < LONG {
        let mut buffer = [0; 1024];
        match client.socket.read(&mut buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return,
        }
        if client.socket.write_all(byte.as_bytes()).is_err() {
            return;
        }
    }
    panic!("{start:?} lives forever");
}

#[test]
fn a_byte_now_and_then_does_not_keep_a_connection_open() {
    let server = reads_all();
    for (begin, byte) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n", "X: y\r\n"),
        ("GET /", "a"),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\n", "x"),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n", "x"),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
    ] {
        drip(&server, begin, byte);
    }
}

#[test]
fn a_body_that_came_fast_does_not_live_on_that() {
    let server = reads_all();
    // At 1 KiB a second, each would have bought half an hour.
    for length in [990, 2_000_000] {
        let start = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        drip(&server, &(start + &"x".repeat(length / 2)), "x");
    }
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(5));
    client.socket.read_exact(&mut vec![0; 3_000_000]).unwrap();
    server.until("who does not read on is cut off", |stats| stats.open_connections == 0);
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let server = reads_all();
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(5));
    }
    server.until("the slow readers are gone", |stats| stats.requests >= 20 && stats.open_connections == 0);
}

#[test]
fn a_client_that_does_not_read_a_stream_is_cut_off() {
    let server = serve(impatient(), |_| {
        Response::stream(
            "text/plain",
            Box::new(|out| {
                loop {
                    out.write_all(&[b'x'; 10_000])?;
                }
            }),
        )
    });
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    server.until("it has begun", |stats| stats.blocked == 1);
    server.until("it is cut", |stats| stats.blocked == 0 && stats.open_connections == 0);
}

#[test]
fn slow_clients_do_not_slow_others() {
    let server = serve(settings(), |request| {
        let length = if request.path() == "/large" { 8_000_000 } else { 10 };
        Response::with_body(200, "text/plain", vec![b'x'; length])
    });
    let mut slow = Vec::new();
    for i in 0..300 {
        let mut client = server.connect();
        client.send(match i % 3 {
            0 => "GET / HTTP/1.1\r\nHos",
            1 => "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nab",
            _ => "GET /large HTTP/1.1\r\nHost: h\r\n\r\n",
        });
        slow.push(client);
    }
    server.until("all are in", |stats| stats.requests == 100);
    let mut client = server.connect();
    for _ in 0..200 {
        assert_eq!(client.get("/").status, 200);
    }
    server.until("no thread is blocked", |stats| stats.blocked == 0);
}
