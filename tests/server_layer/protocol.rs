//! What HTTP/1.1 and 1.0 require of a server, given valid requests.

use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;

use textgen::http::{Content, Response};

use super::client::{LONG, echo_path, serve, settings};

#[test]
fn keeps_a_connection_open() {
    let server = echo_path();
    let mut client = server.connect();
    for i in 0..100 {
        let reply = client.get(&format!("/{i}"));
        assert_eq!((reply.status, reply.text()), (200, &*format!("/{i}")));
        assert_eq!(reply.header("connection"), None);
        assert!(reply.header("date").unwrap().ends_with(" GMT"));
    }
    assert_eq!(server.handle.stats().open_connections, 1);
}

#[test]
fn answers_pipelined_requests_in_order_in_pieces_of_any_size() {
    let server = echo_path();
    let requests: Vec<_> = (0..200).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    let all = requests.concat();
    for piece in [all.len(), 1000, 37] {
        let mut client = server.connect();
        for part in all.as_bytes().chunks(piece) {
            client.send(part);
        }
        for i in 0..200 {
            assert_eq!(client.reply().text(), format!("/{i}"));
        }
    }
}

#[test]
fn reads_a_head_byte_by_byte() {
    let server = echo_path();
    let mut client = server.connect();
    for byte in b"GET /slowly HTTP/1.1\r\nHost: h\r\n\r\n" {
        client.send([*byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.reply().text(), "/slowly");
}

#[test]
fn closes_when_asked_and_after_http_10() {
    let server = echo_path();
    for request in ["GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"] {
        let mut client = server.connect();
        assert_eq!(client.send(request).reply().header("connection"), Some("close"));
        client.assert_closed();
    }
    let mut client = server.connect();
    for _ in 0..2 {
        let reply = client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").reply();
        assert_eq!(reply.header("connection"), Some("keep-alive"));
    }
}

#[test]
fn a_client_that_closed_its_side_still_gets_its_responses() {
    let server = echo_path();
    let mut client = server.connect();
    client.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    client.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply().text(), "/a");
    assert_eq!(client.reply().text(), "/b");
    client.assert_closed();
}

#[test]
fn responses_without_a_body() {
    let server = serve(settings(), |request| match request.path() {
        "/204" => Response::new(204),
        "/304" => Response::with_body(304, "text/plain", &b"never sent"[..]),
        "/stream" => Response::stream("text/plain", Box::new(|_| panic!("not for HEAD"))),
        _ => Response::with_body(200, "text/plain", vec![b'x'; 100_000]),
    });
    let mut client = server.connect();
    for path in ["/204", "/304"] {
        let reply = client.get(path);
        assert_eq!((reply.header("content-length"), reply.header("transfer-encoding")), (None, None));
    }
    let reply = client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").head_reply();
    assert_eq!(reply.header("content-length"), Some("100000"));
    let reply = client.send("HEAD /stream HTTP/1.1\r\nHost: h\r\n\r\n").head_reply();
    assert_eq!(reply.status, 200);
    assert_eq!(client.get("/").body.len(), 100_000);
}

#[test]
fn streams_each_piece_at_once() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let server = serve(settings(), move |_| {
        let wait = std::sync::Arc::clone(&wait);
        Response::stream(
            "text/event-stream",
            Box::new(move |out| {
                for piece in ["one", "two", "", "three"] {
                    out.write_all(piece.as_bytes())?;
                    wait.lock().unwrap().recv_timeout(LONG).unwrap();
                }
                Ok(())
            }),
        )
    });
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = client.head_reply();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    for piece in ["one", "two", "three"] {
        // The writer is let on only after its piece has arrived.
        assert_eq!(client.chunk().unwrap().unwrap(), piece.as_bytes());
        go.send(()).unwrap();
        if piece == "two" {
            go.send(()).unwrap();
        }
    }
    assert_eq!(client.chunk(), Some(None));
    for _ in 0..4 {
        go.send(()).unwrap();
    }
    assert_eq!(client.get("/").text(), "onetwothree");
    for _ in 0..4 {
        go.send(()).unwrap();
    }
    let old = client.send("GET / HTTP/1.0\r\n\r\n").reply();
    assert_eq!((old.header("transfer-encoding"), old.text()), (None, "onetwothree"));
}

#[test]
fn sends_from_readers_and_cuts_off_what_fails() {
    let server = serve(settings(), |request| match request.path() {
        "/short" => {
            let mut response = Response::new(200);
            response.content = Content::Reader(Box::new(&b"abc"[..]), 10);
            response
        }
        "/broken" => Response::stream(
            "text/plain",
            Box::new(|out| {
                out.write_all(b"begun")?;
                Err(std::io::Error::other("on purpose"))
            }),
        ),
        "/panic" => Response::stream("text/plain", Box::new(|_| panic!("on purpose"))),
        _ => {
            let mut response = Response::new(200);
            response.content = Content::Reader(Box::new(std::io::repeat(b'x')), 3_000_000);
            response
        }
    });
    assert_eq!(server.connect().get("/").body.len(), 3_000_000);
    for path in ["/short", "/broken", "/panic"] {
        let mut client = server.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(client.try_reply(true), None, "{path} looks complete");
    }
    assert_eq!(server.connect().get("/").status, 200);
}

#[test]
fn a_large_response_waits_for_a_slow_client_without_a_thread() {
    let server = serve(settings(), |_| Response::with_body(200, "text/plain", vec![b'x'; 20_000_000]));
    let mut slow: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    server.until("all are under way", |stats| stats.requests == 8);
    server.until("no thread is blocked", |stats| stats.blocked == 0);
    assert_eq!(server.connect().get("/").body.len(), 20_000_000);
    for client in &mut slow {
        assert_eq!(client.reply().body.len(), 20_000_000);
    }
}

#[test]
fn a_panic_is_a_500_for_that_request_alone() {
    let server = serve(settings(), |request| {
        assert!(request.path() != "/panic", "on purpose");
        Response::new(200)
    });
    let mut client = server.connect();
    for _ in 0..20 {
        let reply = client.get("/panic");
        assert_eq!((reply.status, reply.text()), (500, r#"{"detail":"Internal Server Error"}"#));
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn a_response_may_close_the_connection() {
    let server = serve(settings(), |_| {
        let mut response = Response::new(200);
        response.close = true;
        response
    });
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3));
    assert_eq!(client.reply().header("connection"), Some("close"));
    client.assert_closed();
}
