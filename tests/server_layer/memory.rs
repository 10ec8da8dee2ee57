//! Clients that hold memory and are slow give it up when others need it.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use textgen::http::{BodyError, Request, Response};
use textgen::server::{ClientAddress, Settings};

use super::client::{Client, LONG, Running, serve, settings};

const MEMORY: usize = 600_000;
/// More than the kernel takes of a response that nobody reads.
const LARGE: usize = 12_000_000;

/// A server whose clients say who they are, and which reads bodies of more than 100 kB while they arrive.
fn server(max_memory: usize) -> Running {
    let client = ClientAddress::new(|request: &Request| {
        request.header("x").and_then(|address| address.parse().ok()).unwrap_or(IpAddr::from([127, 0, 0, 1]))
    });
    // Whoever is slow has time.
    let (body_timeout, write_timeout) = (10 * LONG, 10 * LONG);
    let settings =
        Settings { max_memory, max_buffered_body: 100_000, client, body_timeout, write_timeout, ..settings() };
    serve(settings, |request| match (request.path() == "/large", request.body.into_bytes(1 << 30)) {
        (true, Ok(_)) => Response::with_body(200, "text/plain", vec![b'x'; LARGE]),
        (_, Ok(_)) => Response::new(200),
        (_, Err(BodyError::Timeout)) => Response::new(408),
        (_, Err(BodyError::Refused(_))) => Response::new(503).header("Retry-After", "1"),
        (_, Err(_)) => Response::new(400),
    })
}

/// Sends the first `sent` bytes of a body.
fn begin(server: &Running, from: &str, length: usize, sent: usize) -> Client {
    let mut client = server.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nX: {from}\r\nContent-Length: {length}\r\n\r\n"));
    // It may be refused meanwhile.
    let _ = client.socket.write_all(&vec![b'x'; sent]);
    client
}

/// Does this until one of them is told that its time is over.
fn until_one_is_ended(clients: &mut Vec<Client>, again: impl Fn()) {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < LONG && !clients.is_empty(), "nobody is ended");
        again();
        let mut is_ended = false;
        clients.retain_mut(|client| {
            client.socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let is_answered = client.socket.peek(&mut [0]).is_ok();
            client.socket.set_read_timeout(Some(LONG)).unwrap();
            if is_answered {
                let reply = client.reply();
                assert_eq!(reply.header("connection"), Some("close"));
                is_ended |= reply.status == 408;
            }
            !is_answered
        });
        if is_ended {
            return;
        }
    }
}

/// Sends bodies until one is taken.
fn until_taken(server: &Running, from: &str, length: usize) {
    let began = Instant::now();
    while begin(server, from, length, length).reply().status != 200 {
        assert!(began.elapsed() < LONG, "there is no memory for another");
    }
}

#[test]
fn slow_bodies_of_those_who_hold_the_most_end_when_others_need_their_memory() {
    for (length, sent) in [(90_000, 80_000), (180_000, 150_000)] {
        let server = server(MEMORY);
        // Five parties hold ten elevenths of it.
        let parties = (1..=5).flat_map(|party| std::iter::repeat_n(format!("10.0.{party}.1"), MEMORY / length));
        let mut slow: Vec<Client> = parties.map(|from| begin(&server, &from, length, sent)).collect();
        // The first may be taken while not all of the others have come.
        until_one_is_ended(&mut slow, || until_taken(&server, "10.1.0.1", 180_000));
        assert!(!slow.is_empty(), "no more are ended than needed");
    }
}

#[test]
fn a_large_body_waits_until_slow_ones_have_ended() {
    let server = server(MEMORY);
    let mut slow: Vec<_> = (0..2).map(|_| begin(&server, "10.0.1.1", 180_000, 150_000)).collect();
    // They are known to be slow after a second.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(begin(&server, "10.1.0.1", 250_000, 250_000).reply().status, 200, "at the first try");
    until_one_is_ended(&mut slow, || {});
}

#[test]
fn slow_readers_are_cut_off_when_others_need_their_memory() {
    let server = server(3 * LARGE);
    let mut slow: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send("GET /large HTTP/1.1\r\nHost: h\r\nX: 10.0.1.1\r\nConnection: close\r\n\r\n");
    }
    server.until("both are unread", |stats| stats.memory_used >= 2 * LARGE);
    until_taken(&server, "10.1.0.1", LARGE - 1_000_000);
    server.until("one is cut off", |stats| stats.evicted == 1 && stats.open_connections <= 2);
    let whole = slow.into_iter().filter_map(|mut client| client.try_reply(true)).count();
    assert_eq!(whole, 1);
}

#[test]
fn a_reader_is_not_cut_off_for_what_others_leave_unread() {
    let server = server(5 * LARGE);
    let ask = |from: &str| {
        let mut client = server.connect();
        client.send(format!("GET /large HTTP/1.1\r\nHost: h\r\nX: {from}\r\nConnection: close\r\n\r\n"));
        client
    };
    // It waits longest of all.
    let mut reader = ask("10.1.0.1");
    server.until("its reply waits", |stats| stats.memory_used >= LARGE);
    let mut unread = Vec::new();
    for sent in 2..=20 {
        unread.push(ask("10.0.1.1"));
        server.until("it is answered", |stats| stats.requests == sent);
    }
    server.until("most are cut", |stats| stats.open_connections <= 7);
    assert_eq!(reader.try_reply(true).map(|reply| reply.body.len()), Some(LARGE));
}

#[test]
fn incomplete_heads_behind_a_proxy_are_those_of_its_clients() {
    let server = server(100_000);
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nX: 10.0.{n}.1\r\n\r\n"));
        assert_eq!(client.reply().status, 200);
        // All of one address would have two thirds, seven of these.
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nX: 10.0.{n}.1\r\nY: {}", "x".repeat(9000)));
    }
    for client in &mut clients {
        assert_eq!(client.send("\r\n\r\n").reply().status, 200);
    }
}
