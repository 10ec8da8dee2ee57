//! Whatever two parsers could understand differently is refused, and what follows is never read as a request.

use textgen::http::Response;

use super::client::{serve, settings};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn refuses_ambiguous_requests_and_closes() {
    let server = serve(settings(), |request| {
        assert!(request.path() != "/smuggled", "the bytes after a refused request were read as a request");
        Response::new(200)
    });
    let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n");
    let chunked = |body: &str| format!("{}{body}", post("Transfer-Encoding: chunked"));
    let cases = [
        (400, post("Content-Length: 5\r\nTransfer-Encoding: chunked")),
        (400, post("Transfer-Encoding: chunked\r\nContent-Length: 5")),
        (400, post("Content-Length: 5\r\nContent-Length: 5")),
        (400, post("Content-Length: 5\r\nContent-Length: 6")),
        (400, post("Content-Length: 5,5")),
        (400, post("Content-Length: +5")),
        (400, post("Content-Length: -5")),
        (400, post("Content-Length: 0x5")),
        (400, post("Content-Length: 5 5")),
        (400, post("Content-Length: 18446744073709551616")),
        (400, post("Content-Length : 5")),
        (400, post("Transfer-Encoding: gzip")),
        (400, post("Transfer-Encoding: gzip, chunked")),
        (400, post("Transfer-Encoding: chunked, identity")),
        (400, post("Transfer-Encoding: \x0bchunked")),
        (400, post("X: a\r\n folded")),
        (400, post("X: a\0b")),
        (400, post("X: a\rb")),
        (400, post("X: a\nTransfer-Encoding: chunked")),
        (400, post(" X: a")),
        (400, post(": a")),
        (400, post("Host: other")),
        (400, "GET / HTTP/1.1\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\nHost: h\n\n".into()),
        (400, "GET  / HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (505, "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (400, "GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (400, "\x16\x03\x01\x02".into()),
        (505, "GET / HTTP/2.0\r\nHost: h\r\n\r\n".into()),
        (417, post("Expect: tea\r\nContent-Length: 5")),
        (400, chunked("5\nabcde\r\n0\r\n\r\n")),
        (400, chunked("5\r\nabcdef\r\n0\r\n\r\n")),
        (400, chunked("5\r\nabcde\n0\r\n\r\n")),
        (400, chunked("+5\r\nabcde\r\n0\r\n\r\n")),
        (400, chunked("0x5\r\nabcde\r\n0\r\n\r\n")),
        (400, chunked("5 \r\nabcde\r\n0\r\n\r\n")),
        (400, chunked("10000000000000005\r\nabcde\r\n0\r\n\r\n")),
        (400, chunked("0000000000000000000\r\n\r\n")),
        (400, chunked("5;\n\r\nabcde\r\n0\r\n\r\n")),
        (400, chunked("0\r\nX: y\n\r\n")),
        (400, chunked("\r\n0\r\n\r\n")),
    ];
    for (status, request) in cases {
        let mut client = server.connect();
        client.send(format!("{request}{SMUGGLED}"));
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{request:?}");
        client.assert_closed();
    }
}

#[test]
fn header_values_may_have_any_encoding() {
    let server = serve(settings(), |request| {
        let value = request.head.header_bytes("x").unwrap().to_vec();
        Response::with_body(200, "text/plain", value)
    });
    let mut client = server.connect();
    for value in [&b"\xff\xfe"[..], "žluťoučký".as_bytes(), b"\x80"] {
        let reply = client.send([b"GET / HTTP/1.1\r\nHost: h\r\nX: ", value, b"\r\n\r\n"].concat()).reply();
        assert_eq!((reply.status, &*reply.body), (200, value));
    }
}
