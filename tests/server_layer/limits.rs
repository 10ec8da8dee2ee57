//! Limits: bytes of a head, connections, descriptors, memory, blocked threads.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use textgen::blocking::{self, Places, Wait};
use textgen::http::Response;
use textgen::server::{self, Server, Settings};

use super::client::{Client, LONG, echo_path, serve, settings};

#[test]
fn a_head_has_a_limit() {
    let server = echo_path();
    let mut client = server.connect();
    let fits = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(15 * 1024));
    assert_eq!(client.send(fits).reply().status, 200);
    for request in [
        format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(20_000)),
        format!("GET /{}", "x".repeat(16 * 1024)),
        format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(101)),
        format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", format!("X: {}\r\n", "y".repeat(1000)).repeat(17)),
        "\r\n".repeat(10_000),
    ] {
        for piece in [request.len(), 999] {
            let mut client = server.connect();
            for part in request.as_bytes().chunks(piece) {
                // The server may refuse it before the last piece is sent.
                let _ = std::io::Write::write_all(&mut client.socket, part);
            }
            assert_eq!(client.reply().status, 431);
            client.assert_closed();
        }
    }
}

#[test]
fn the_oldest_idle_connections_are_evicted() {
    let server = serve(Settings { max_connections: Some(20), ..settings() }, |_| Response::new(200));
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = server.connect();
        assert_eq!(client.get("/").status, 200);
        assert!(server.handle.stats().open_connections <= 21);
        clients.push(client);
    }
    assert!(server.handle.stats().evicted >= 180);
    for client in &mut clients[..100] {
        client.assert_closed();
    }
    assert_eq!(clients[199].get("/").status, 200);
}

#[test]
fn a_burst_far_above_the_limit_is_answered() {
    let server = serve(Settings { max_connections: Some(20), ..settings() }, |_| Response::new(200));
    let mut clients: Vec<_> = (0..400).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
}

#[test]
fn connections_without_a_request_are_evicted_after_a_while() {
    // Their own deadline never comes.
    let limits = Settings { max_connections: Some(10), idle_timeout: 10 * LONG, ..settings() };
    let server = serve(limits, |_| Response::new(200));
    let _silent: Vec<_> = (0..20).map(|_| server.connect()).collect();
    assert_eq!(server.connect().get("/").status, 200);
}

#[test]
fn slow_heads_are_evicted_if_nothing_is_idle() {
    // Their own deadline never comes.
    let limits = Settings { max_connections: Some(10), head_timeout: 10 * LONG, ..settings() };
    let server = serve(limits, |_| Response::new(200));
    let mut slow: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send("GET / HTT");
    }
    assert_eq!(server.connect().get("/").status, 200);
}

#[test]
fn the_memory_of_incomplete_bodies_is_bounded() {
    let server = serve(Settings { max_memory: 100_000, ..settings() }, |_| Response::new(200));
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 50000\r\n\r\n").send(vec![b'x'; 49_999]);
        client.socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    }
    let began = Instant::now();
    while !clients.iter().any(|client| client.socket.peek(&mut [0]).is_ok()) {
        assert!(began.elapsed() < LONG, "no connection is refused");
    }
    let mut refused = 0;
    for client in &mut clients {
        client.socket.set_read_timeout(Some(LONG)).unwrap();
        let _ = std::io::Write::write_all(&mut client.socket, b"x");
        let reply = client.reply();
        refused += usize::from(reply.status == 503 && reply.header("retry-after") == Some("1"));
    }
    assert!((1..3).contains(&refused), "{refused}");
    assert_eq!(server.connect().get("/").status, 200);
}

#[test]
fn the_memory_of_incomplete_heads_is_bounded() {
    let server = serve(Settings { max_memory: 100_000, ..settings() }, |_| Response::new(200));
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(9000)));
    }
    // One address has two thirds.
    server.until("most are closed", |stats| stats.open_connections <= 7);
    assert_eq!(server.connect().get("/").status, 200);
    drop(clients);
    server.until("all are gone", |stats| stats.open_connections == 0);
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(9000)));
    client.send("\r\n\r\n");
    assert_eq!(client.reply().status, 200, "what they held is free again");
}

/// Run by the next test in a process of its own that has few descriptors.
#[test]
#[ignore = "a part of another test"]
fn child_with_few_descriptors() {
    rlimit::setrlimit(rlimit::Resource::NOFILE, 104, 104).unwrap();
    // A fixed number, as each worker takes some descriptors.
    let mut server = Server::new(Settings { workers: 2, ..settings() }).unwrap();
    // Now fewer are left than the server expects.
    let hoard: Vec<_> = (0..45).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
    let sockets = server::inherited().unwrap();
    let handle = server.handle();
    for socket in sockets {
        let handle = handle.clone();
        let handler: server::Handler = std::sync::Arc::new(move |request| {
            if request.path() == "/quit" {
                handle.stop();
            }
            Response::new(200)
        });
        server.listen("passed", socket, handler).unwrap();
    }
    server.run().unwrap();
    drop(hoard);
}

/// Starts the test above with a listening socket passed as descriptor 3.
fn passed(socket: std::net::TcpListener) -> Command {
    let script = "LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec 3<&0 </dev/null; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "limits::child_with_few_descriptors", "--ignored"]);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(socket))).stdout(Stdio::null());
    command
}

#[test]
fn a_passed_socket_is_served_and_running_out_of_descriptors_is_survived() {
    let socket = server::bind(([127, 0, 0, 1], 0).into(), false).unwrap();
    let address = socket.local_addr().unwrap();
    let mut child = passed(socket).spawn().unwrap();
    let mut clients = Vec::new();
    for _ in 0..300 {
        let mut client = Client::connect(address);
        assert_eq!(client.get("/").status, 200);
        clients.push(client);
    }
    // All at once, while those before are still open.
    let mut flood: Vec<_> = (0..300).map(|_| Client::connect(address)).collect();
    drop(clients);
    let mut answered = 0;
    for client in &mut flood {
        let sent = std::io::Write::write_all(&mut client.socket, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        answered += usize::from(sent.is_ok() && client.try_reply(true).is_some());
    }
    assert!(answered > 0);
    drop(flood);
    assert_eq!(Client::connect(address).get("/").status, 200);
    assert_eq!(Client::connect(address).get("/quit").status, 200);
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_memory_of_unread_responses_is_bounded() {
    const REPLY: usize = 20_000_000;
    let limit = Settings { max_memory: 5 * REPLY, ..settings() };
    let server = serve(limit, |_| Response::with_body(200, "text/plain", vec![b'x'; REPLY]));
    let mut clients = Vec::new();
    for sent in 1..=40 {
        clients.push(server.connect());
        clients.last_mut().unwrap().send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        server.until("it is answered", |stats| stats.requests == sent);
    }
    server.until("most are cut", |stats| stats.open_connections <= 7);
    assert_eq!(server.connect().get("/").body.len(), REPLY, "a client that reads is served");
    assert!(
        clients[0].try_reply(true).is_none_or(|reply| reply.body.len() < REPLY),
        "the oldest connection was closed"
    );
}

#[test]
fn slow_bodies_leave_threads_to_others() {
    // Of six, one address has four.
    let settings = Settings { places: Places::new(|_| 6), max_buffered_body: 1000, ..settings() };
    let server = serve(settings, |request| {
        let body = request.body.into_bytes(1 << 20).map_or(0, |body| body.len());
        match request.path() {
            "/hash" => blocking::block_in_place(Wait::LogIn, || ()).map_or(Response::new(503), |()| Response::new(200)),
            _ => Response::new(if body == 5000 { 200 } else { 400 }),
        }
    });
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n";
    let mut slow: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send(head).send("x".repeat(2000));
    }
    server.until("four are streamed", |stats| stats.blocked == 4);
    let reply = server.connect().send(head).send("x".repeat(2000)).reply();
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(server.connect().get("/hash").status, 200);
    for client in &mut slow {
        assert_eq!(client.send("x".repeat(3000)).reply().status, 200);
    }
    assert_eq!(server.connect().send(head).send("x".repeat(5000)).reply().status, 200);
}
