//! Slow handlers and busy connections do not keep others waiting.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use textgen::blocking::{self, Places, Wait};
use textgen::http::Response;
use textgen::server::Settings;

use super::client::{Client, Gate, LONG, Running, serve, settings};

/// Handlers of `/blocked` wait at the gate and announce that they block; those of `/stuck` wait and do not.
fn gated(settings: Settings) -> (Running, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let inner = Arc::clone(&gate);
    let server = serve(settings, move |request| match request.path() {
        "/blocked" => match blocking::block_in_place(Wait::Model, || inner.wait()) {
            Ok(()) => Response::new(200),
            Err(_) => Response::new(503).header("Retry-After", "1"),
        },
        "/stuck" => {
            inner.wait();
            Response::new(200)
        }
        _ => Response::new(204),
    });
    (server, gate)
}

fn ask(server: &Running, n: usize, path: &str) -> Vec<Client> {
    let mut clients: Vec<_> = (0..n).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    clients
}

/// Returns although the gate is closed.
fn assert_others_are_served(server: &Running) {
    for mut client in ask(server, 50, "/quick") {
        assert_eq!(client.reply().status, 204);
    }
}

#[test]
fn far_more_blocked_handlers_than_cores() {
    let (server, gate) = gated(settings());
    let mut blocked = ask(&server, 200, "/blocked");
    server.until("all are blocked", |stats| stats.blocked == 200);
    assert_others_are_served(&server);
    gate.open();
    for client in &mut blocked {
        assert_eq!(client.reply().status, 200);
        assert_eq!(client.get("/quick").status, 204);
    }
    server.until("no thread is blocked", |stats| stats.blocked == 0);
}

#[test]
fn handlers_that_block_without_announcing_it() {
    let (server, gate) = gated(settings());
    let mut stuck = ask(&server, 30, "/stuck");
    server.until("all are stuck", |stats| stats.blocked == 30);
    assert_others_are_served(&server);
    gate.open();
    for client in &mut stuck {
        assert_eq!(client.reply().status, 200);
        assert_eq!(client.get("/quick").status, 204);
    }
    server.until("no thread is blocked", |stats| stats.blocked == 0);
}

#[test]
fn beyond_the_limit_of_blocked_threads_it_is_503_at_once() {
    // Of eight, one address has five.
    let (server, gate) = gated(Settings { places: Places::new(|_| 8), ..settings() });
    let mut blocked = ask(&server, 5, "/blocked");
    server.until("all are blocked", |stats| stats.blocked == 5);
    for mut client in ask(&server, 20, "/blocked") {
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
        // What does not block is served.
        assert_eq!(client.get("/quick").status, 204);
        // So is what waits for something else, such as a body that is streamed.
        client.send("POST /quick HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n");
        assert_eq!(client.reply().status, 204);
    }
    assert_others_are_served(&server);
    assert_eq!(server.handle.stats().refused, 20);
    gate.open();
    for client in &mut blocked {
        assert_eq!(client.reply().status, 200);
    }
    server.until("no thread is blocked", |stats| stats.blocked == 0);
    assert_eq!(server.connect().get("/blocked").status, 200);
}

#[test]
fn earlier_responses_do_not_wait_for_a_later_request() {
    let (server, gate) = gated(settings());
    let mut client = server.connect();
    client.send("GET /quick HTTP/1.1\r\nHost: h\r\n\r\nGET /blocked HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.reply().status, 204);
    gate.open();
    assert_eq!(client.reply().status, 200);
}

#[test]
fn thousands_of_connections_at_once_are_all_answered() {
    let (server, _gate) = gated(settings());
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    for _ in 0..3 {
        // Each connection takes two descriptors in this process.
        for mut client in ask(&server, 1500, "/quick") {
            assert_eq!(client.reply().status, 204);
        }
    }
}

#[test]
fn a_connection_that_floods_does_not_starve_another() {
    let (server, _gate) = gated(Settings { workers: 1, ..settings() });
    let mut flood = server.connect();
    let mut out = flood.socket.try_clone().unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let until_over = Arc::clone(&is_over);
    let writer = thread::spawn(move || {
        let many = "GET /quick HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
        let mut sent = 0;
        while !until_over.load(SeqCst) {
            std::io::Write::write_all(&mut out, many.as_bytes()).unwrap();
            sent += 1000;
        }
        out.shutdown(Shutdown::Write).unwrap();
        sent
    });
    let reader = thread::spawn(move || {
        let mut answered = 0;
        while let Some(reply) = flood.try_reply(true) {
            assert_eq!(reply.status, 204);
            answered += 1;
        }
        answered
    });
    server.until("the flood has begun", |stats| stats.requests > 1000);
    let mut other = server.connect();
    for _ in 0..50 {
        assert_eq!(other.get("/quick").status, 204);
    }
    is_over.store(true, SeqCst);
    assert_eq!(writer.join().unwrap(), reader.join().unwrap());
}

/// Clients ask again and again until `enough` handlers have run at a time, or each has been answered 100 times. Returns
/// how many handlers ran at a time at most.
fn most_at_a_time(announce: bool, enough: usize) -> usize {
    let settings = Settings { workers: 2, time_slice: LONG, ..settings() };
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inner_running, inner_most) = (Arc::clone(&running), Arc::clone(&most));
    let server = serve(settings, move |_| {
        inner_most.fetch_max(inner_running.fetch_add(1, SeqCst) + 1, SeqCst);
        if announce {
            blocking::note_short_wait();
        }
        thread::sleep(Duration::from_millis(2));
        inner_running.fetch_sub(1, SeqCst);
        Response::new(200)
    });
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut client = server.connect();
                let mut answered = 0;
                while answered < 100 || (most.load(SeqCst) < enough && began.elapsed() < LONG) {
                    assert_eq!(client.get("/").status, 200);
                    answered += 1;
                }
            });
        }
    });
    most.load(SeqCst)
}

#[test]
fn helpers_run_while_many_requests_wait_for_a_short_time() {
    assert_eq!(most_at_a_time(false, 2), 2, "helpers ran although no handler waited");
    assert_eq!(most_at_a_time(true, 10), 10, "four helpers per worker are in use");
}

/// The clients' connections belong to both workers. One of these is in a handler until all clients have been answered
/// ten times.
#[test]
fn a_worker_serves_the_connections_of_one_that_is_busy() {
    const CLIENTS: usize = 8;
    let settings = Settings { workers: 2, time_slice: LONG, ..settings() };
    let (server, gate) = gated(settings);
    let mut stuck = ask(&server, 1, "/stuck");
    server.until("one worker is busy", |stats| stats.requests == 1);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = server.connect();
                (0..10).for_each(|_| assert_eq!(client.get("/quick").status, 204));
                if done.fetch_add(1, SeqCst) + 1 == CLIENTS {
                    gate.open();
                }
                // Keeps the other worker from parking, but leaves it time for connections that are not its own.
                while done.load(SeqCst) < CLIENTS {
                    thread::sleep(Duration::from_millis(1));
                    assert_eq!(client.get("/quick").status, 204);
                }
            });
        }
    });
    assert_eq!(stuck[0].reply().status, 200);
}
