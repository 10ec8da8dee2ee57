//! Who waits for whom: nobody for a slow handler.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use textgen::blocking;
use textgen::http::Response;
use textgen::server::Settings;

use super::client::{Client, LONG, Running, serve, settings};

/// A door that handlers wait at.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn wait(&self) {
        let open = self.0.lock().unwrap();
        let (_open, out) = self.1.wait_timeout_while(open, LONG, |open| !*open).unwrap();
        assert!(!out.timed_out());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

/// `/blocked` waits and says so, `/stuck` waits and does not.
fn gated(settings: Settings) -> (Running, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let inner = Arc::clone(&gate);
    let server = serve(settings, move |request| match request.path() {
        "/blocked" => match blocking::block_in_place(|| inner.wait()) {
            Ok(()) => Response::new(200),
            Err(blocking::Busy) => Response::new(503).header("Retry-After", "1"),
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

fn quick_ones_are_quick(server: &Running) {
    let began = Instant::now();
    for mut client in ask(server, 50, "/quick") {
        assert_eq!(client.reply().status, 204);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn far_more_blocked_handlers_than_cores() {
    let (server, gate) = gated(settings());
    let mut blocked = ask(&server, 200, "/blocked");
    server.until("all wait", |stats| stats.blocked == 200);
    quick_ones_are_quick(&server);
    gate.open();
    for client in &mut blocked {
        assert_eq!(client.reply().status, 200);
        assert_eq!(client.get("/quick").status, 204);
    }
    server.until("nobody waits", |stats| stats.blocked == 0);
}

#[test]
fn a_handler_that_does_not_say_that_it_waits() {
    let (server, gate) = gated(settings());
    let mut stuck = ask(&server, 30, "/stuck");
    server.until("all are stuck", |stats| stats.blocked == 30);
    quick_ones_are_quick(&server);
    gate.open();
    for client in &mut stuck {
        assert_eq!(client.reply().status, 200);
        assert_eq!(client.get("/quick").status, 204);
    }
    server.until("nobody waits", |stats| stats.blocked == 0);
}

#[test]
fn beyond_the_cap_it_is_503_at_once() {
    let (server, gate) = gated(Settings { max_blocked: 5, ..settings() });
    let mut blocked = ask(&server, 5, "/blocked");
    server.until("all wait", |stats| stats.blocked == 5);
    for mut client in ask(&server, 20, "/blocked") {
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
        // What need not wait is served.
        assert_eq!(client.get("/quick").status, 204);
        // The server's own waits are refused alike.
        client.send("POST /quick HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n");
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    }
    quick_ones_are_quick(&server);
    assert_eq!(server.handle.stats().refused, 40);
    gate.open();
    for client in &mut blocked {
        assert_eq!(client.reply().status, 200);
    }
    server.until("nobody waits", |stats| stats.blocked == 0);
    assert_eq!(server.connect().get("/blocked").status, 200);
}

#[test]
fn earlier_replies_do_not_wait_for_a_later_request() {
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
        // Each connection has two descriptors here, one at either end.
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
    let writer = std::thread::spawn(move || {
        let many = "GET /quick HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
        for _ in 0..50 {
            std::io::Write::write_all(&mut out, many.as_bytes()).unwrap();
        }
    });
    let reader = std::thread::spawn(move || (0..50_000).for_each(|_| assert_eq!(flood.reply().status, 204)));
    let mut other = server.connect();
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(other.get("/quick").status, 204);
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    writer.join().unwrap();
    reader.join().unwrap();
}

/// Clients in a closed loop for a while; how many handlers ran at once at most.
fn most_at_once(says_so: bool) -> usize {
    let settings = Settings { workers: 2, time_slice: LONG, ..settings() };
    let now = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let counts = Arc::clone(&now);
    let server = serve(settings, move |_| {
        let running = counts.0.fetch_add(1, SeqCst) + 1;
        counts.1.fetch_max(running, SeqCst);
        if says_so {
            blocking::note_short_wait();
        }
        thread::sleep(Duration::from_millis(2));
        counts.0.fetch_sub(1, SeqCst);
        Response::new(200)
    });
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut client = server.connect();
                (0..100).for_each(|_| assert_eq!(client.get("/").status, 200));
            });
        }
    });
    now.1.load(SeqCst)
}

#[test]
fn helpers_run_while_many_requests_wait_shortly() {
    assert_eq!(most_at_once(false), 2);
    assert_eq!(most_at_once(true), 10);
}

/// Clients of both workers; one worker is in a handler until all other clients have been answered often.
#[test]
fn a_worker_with_time_looks_after_the_connections_of_one_without() {
    const CLIENTS: usize = 8;
    let settings = Settings { workers: 2, time_slice: LONG, ..settings() };
    let (server, gate) = gated(settings);
    let mut stuck = ask(&server, 1, "/stuck");
    let content = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = server.connect();
                (0..50).for_each(|_| assert_eq!(client.get("/quick").status, 204));
                content.fetch_add(1, SeqCst);
                // The worker has time, but it is not asleep.
                while content.load(SeqCst) < CLIENTS {
                    assert_eq!(client.get("/quick").status, 204);
                }
            });
        }
    });
    gate.open();
    assert_eq!(stuck[0].reply().status, 200);
}
