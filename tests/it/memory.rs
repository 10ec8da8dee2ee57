//! The memory budget: what requests hold together stays within it, and an account or network that takes its share leaves
//! others theirs. Memory is what the kernel counts: the most that was ever resident (`VmHWM`).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use serde_json::json;

use crate::documents::save;
use crate::harness::{PASSWORD, Server, TestDb, User, at_once, retry_while_unavailable};

pub(crate) const MIB: usize = 1024 * 1024;

/// What a process takes besides the budget: its code, caches, threads and password hashes.
const BESIDES: usize = 100_000_000;

/// A server with a budget of so many bytes.
pub(crate) fn server(db: &TestDb, budget: usize) -> Server {
    let server = Server::start_with(db, &[("MEMORY_BUDGET", &budget.to_string())]);
    println!("{} MB at the start", peak(&server) / 1_000_000);
    server
}

/// The most memory that the server ever had, in bytes.
fn peak(server: &Server) -> usize {
    memory(server, "VmHWM:")
}

/// The memory that it has.
fn resident(server: &Server) -> usize {
    memory(server, "VmRSS:")
}

fn memory(server: &Server, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

#[track_caller]
pub(crate) fn assert_within(server: &Server, budget: usize) {
    let peak = peak(server);
    println!("{} MB of a budget of {} MB", peak / 1_000_000, budget / 1_000_000);
    assert!(peak < budget + BESIDES, "{} MB", peak / 1_000_000);
}

/// Sends a request, or a part of it, and does not read the reply.
fn send(server: &Server, head: &str, body: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(server.web.socket()).unwrap();
    socket.write_all(format!("{head}\r\n\r\n").as_bytes()).unwrap();
    // The server may refuse it before it has read all of it.
    let _ = socket.write_all(body);
    socket
}

/// The status of the reply.
fn status(socket: &mut TcpStream) -> u16 {
    let mut start = [0; 12];
    socket.read_exact(&mut start).unwrap();
    std::str::from_utf8(&start[9..]).unwrap().parse().unwrap()
}

#[track_caller]
fn assert_served(server: &Server, user: &User, other: &User) {
    server.sign_in(&other.email, PASSWORD).get("/api/current-user").expect(200);
    other.browser.get("/api/docs/list").expect(200);
    save(&other.browser, &json!({"content": "x".repeat(2 * MIB)}));
    user.browser.get("/api/current-user").expect(200);
    server.web.anonymous().get("/readyz").expect(200);
}

#[test]
fn fields_that_nobody_asked_for_take_no_memory() {
    const BUDGET: usize = 256 * MIB;
    let db = TestDb::new();
    let server = server(&db, BUDGET);
    let user = server.sign_up("ann@example.com");
    let many = |count: usize, first: &str, next: &str| format!(r#"{{"x":[{first}{}]}}"#, next.repeat(count));
    for body in [many(24 * MIB, "0", ",0"), many(16 * MIB, "[]", ",[]"), many(6 * MIB, "{}", r#",{"":0}"#)] {
        let reply = user.browser.send("POST", "/api/docs/save", Some("application/json"), body.as_bytes());
        assert_eq!(reply.expect(200).json()["success"], true);
    }
    let names: String = (0..5_000_000).fold(String::new(), |all, n| all + &n.to_string() + "=&");
    let reply = user.browser.send("POST", "/documents/x", Some("application/x-www-form-urlencoded"), names.as_bytes());
    reply.expect(400);
    assert_within(&server, BUDGET);
}

#[test]
fn uploads_that_are_held_take_a_share() {
    const BUDGET: usize = 64 * MIB;
    let db = TestDb::new();
    let server = server(&db, BUDGET);
    let (user, other) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    let head = format!(
        "POST /api/docs/save HTTP/1.1\r\nHost: h\r\nsecret: {}\r\nContent-Type: application/json\r\nContent-Length: {}",
        user.secret,
        8 * MIB
    );
    let start = [&br#"{"content":""#[..], &vec![b'x'; 8 * MIB - 100]].concat();
    let mut held: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..60).map(|_| scope.spawn(|| send(&server, &head, &start))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_served(&server, &user, &other);
    assert_within(&server, BUDGET);
    let mut answered = 0;
    for socket in &mut held {
        socket.set_nonblocking(true).unwrap();
        if socket.peek(&mut [0]).is_ok_and(|n| n > 0) {
            socket.set_nonblocking(false).unwrap();
            assert!([429, 503].contains(&status(socket)));
            answered += 1;
        }
    }
    assert!(answered > 40, "{answered} were refused");
    drop(held);
    server.wait_until("the memory to be free again", || {
        user.browser.post("/api/docs/save", &json!({"content": "x".repeat(7 * MIB)})).status == 200
    });
}

/// They come as fast as they must, and would for a quarter of an hour.
#[test]
fn a_few_accounts_cannot_hold_the_memory_with_slow_uploads() {
    const BUDGET: usize = 64 * MIB;
    let db = TestDb::new();
    let server = server(&db, BUDGET);
    let other = server.sign_up("bob@example.com");
    let start = [&br#"{"content":""#[..], &vec![b'x'; 7 * MIB]].concat();
    let slow = (0..4).map(|n| server.sign_up(&format!("ann{n}@example.com")));
    let mut held: Vec<_> = slow
        .flat_map(|user| {
            let head = format!(
                "POST /api/docs/save HTTP/1.1\r\nHost: h\r\nsecret: {}\r\nContent-Type: application/json\r\nContent-Length: {}",
                user.secret,
                8 * MIB
            );
            (0..5).map(|_| send(&server, &head, &start)).collect::<Vec<_>>()
        })
        .collect();
    server.wait_until("there to be memory for another", || {
        for socket in &mut held {
            // It may have ended.
            let _ = socket.write_all(&[b'x'; 4096]);
        }
        other.browser.post("/api/docs/save", &json!({"content": "x".repeat(7 * MIB)})).status == 200
    });
    let mut statuses: Vec<u16> = Vec::new();
    server.wait_until("one of them to be told", || {
        for socket in &mut held {
            socket.set_nonblocking(true).unwrap();
            let is_answered = socket.peek(&mut [0; 12]).is_ok_and(|n| n == 12);
            socket.set_nonblocking(false).unwrap();
            if is_answered {
                statuses.push(status(socket));
            }
        }
        statuses.contains(&408)
    });
    assert_within(&server, BUDGET);
}

#[test]
fn bodies_that_are_not_complete_take_a_share() {
    const BUDGET: usize = 64 * MIB;
    let db = TestDb::new();
    let server = server(&db, BUDGET);
    let (user, other) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    let head = format!("POST /api/login HTTP/1.1\r\nHost: h\r\nContent-Length: {MIB}");
    let start = vec![b'x'; MIB - 100];
    let held: Vec<_> = (0..200).map(|_| send(&server, &head, &start)).collect();
    assert_served(&server, &user, &other);
    assert_within(&server, BUDGET);
    drop(held);
}

#[test]
fn pages_that_nobody_reads_take_a_share() {
    const BUDGET: usize = 128 * MIB;
    let db = TestDb::new();
    let server = server(&db, BUDGET);
    let (user, other) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    let id = save(&user.browser, &json!({"content": "\"".repeat(8 * MIB)}));
    user.browser.post("/api/docs/publish", &json!({"id": id})).expect(200);
    let page = server.web.anonymous().header("accept", "text/html").get(&format!("/public/{id}")).expect(200);
    assert!(page.body.len() > 5 * 8 * MIB);
    let secret = format!("\r\nsecret: {}", user.secret);
    for (path, secret) in
        [(format!("/public/{id}"), ""), (format!("/api/docs/get?id={id}"), ""), (format!("/documents/{id}"), &secret)]
    {
        let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\nAccept: text/html{secret}");
        let unread: Vec<_> = (0..60).map(|_| send(&server, &head, b"")).collect();
        assert_served(&server, &user, &other);
        drop(unread);
        server.wait_until("the memory to be free again", || {
            server.web.anonymous().header("accept", "text/html").get(&format!("/public/{id}")).status == 200
        });
    }
    assert_within(&server, BUDGET);
}

#[test]
fn lists_of_large_documents_that_nobody_reads_take_a_share() {
    const BUDGET: usize = 128 * MIB;
    let db = TestDb::new();
    let server = server(&db, BUDGET);
    let (user, other) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    db.run(&format!(
        "INSERT INTO documents (id, user_id, content) SELECT 'doc_' || n, '{}', repeat('\"', {}) FROM generate_series(1, 5) n",
        user.id,
        2 * MIB
    ));
    let list = user.browser.get("/api/docs/list").expect(200).json();
    let sizes =
        list["documents"].as_array().unwrap().iter().map(|document| document["content"].as_str().unwrap().len());
    assert_eq!(sizes.collect::<Vec<_>>(), [2 * MIB; 5]);
    let head = format!("GET /api/docs/list HTTP/1.1\r\nHost: h\r\nsecret: {}", user.secret);
    let unread: Vec<_> = (0..40).map(|_| send(&server, &head, b"")).collect();
    assert_served(&server, &user, &other);
    assert_within(&server, BUDGET);
    drop(unread);
    server.wait_until("the memory to be free again", || user.browser.get("/api/docs/list").status == 200);
}

#[test]
fn prompts_with_many_values_take_a_share() {
    const BUDGET: usize = 64 * MIB;
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[("MEMORY_BUDGET", &BUDGET.to_string())]);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    let many = |first: &str, element: &str| {
        format!("[{first}{}]", format!(",{element}").repeat(7 * MIB / (element.len() + 1)))
    };
    let nested = format!(r#"[{{"text":"Hello","x":{}}}]"#, many("0", "0"));
    for body in [many("{}", "{}"), many(r#"{"a":0}"#, r#"{"a":0}"#), many(r#"{"a":[[]]}"#, r#"{"a":[[]]}"#), nested] {
        let reply = client.send("POST", "/api/v1/generate-bulk", Some("application/json"), body.as_bytes());
        assert!([400, 429, 503].contains(&reply.status), "{}", reply.text());
    }
    let text = json!([{"text": "1,2,3,[{ ".repeat(10_000)}]);
    client.post("/api/v1/generate-bulk", &text).expect(200);
    assert_within(&server, BUDGET);
}

/// The driver keeps buffers for each connection, as large as the largest row that it has read and the largest parameters
/// that it has sent.
#[test]
fn connections_to_the_database_keep_no_large_buffers() {
    const CONNECTIONS: usize = 16;
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("MEMORY_BUDGET", "2000000000")]);
    let user = server.sign_up("ann@example.com");
    let at_once = |work: &(dyn Fn() + Sync)| at_once(CONNECTIONS, |_| work());
    at_once(&|| drop(user.browser.get("/api/docs/list")));
    let before = resident(&server);
    let content = "x".repeat(8 * MIB);
    for _ in 0..3 {
        let write = || user.browser.post("/api/docs/save", &json!({"content": content}));
        at_once(&|| drop(retry_while_unavailable(write).expect(200)));
        let id = save(&user.browser, &json!({"content": content}));
        let read = || user.browser.get(&format!("/api/docs/get?id={id}"));
        at_once(&|| drop(retry_while_unavailable(read).expect(200)));
    }
    let after = resident(&server);
    println!(
        "{} MB before, {} MB after, at most {} MB",
        before / 1_000_000,
        after / 1_000_000,
        peak(&server) / 1_000_000
    );
    assert!(after < before + 100_000_000, "{} MB stay", (after - before) / 1_000_000);
}
