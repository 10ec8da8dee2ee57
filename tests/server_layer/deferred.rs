//! Replies that are held until something else has happened.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use textgen::blocking;
use textgen::http::{Deferred, Notifier, Response};
use textgen::server::Settings;

use super::client::{Client, LONG, Running, serve, settings};

/// The signals of the replies that are held.
type Signals = Arc<Mutex<Vec<Notifier>>>;

fn held(mut response: Response, signals: &Signals) -> Response {
    let signals = Arc::clone(signals);
    response.deferred = Some(Deferred::new(move |signal| signals.lock().unwrap().push(signal), |response| response));
    response
}

/// `/held…` is held, `/late` too but nobody keeps its signal, `/waits` is after a wait; each says its path.
fn holding(settings: Settings) -> (Running, Signals) {
    let signals = Signals::default();
    let inner = Arc::clone(&signals);
    let server = serve(settings, move |request| {
        let read = request.body.into_bytes(1024 * 1024).unwrap().len();
        let mut response = Response::with_body(200, "text/plain", format!("{} {read}", request.path()).into_bytes());
        match request.path() {
            "/late" => response.deferred = Some(Deferred::new(|_| {}, |_| Response::new(503))),
            "/panics" => response.deferred = Some(Deferred::new(|signal| signal(), |_| panic!("on purpose"))),
            "/at-once" => response.deferred = Some(Deferred::new(|signal| signal(), |r| r.header("X-Decided", "yes"))),
            "/waits" => {
                blocking::block_in_place(|| std::thread::sleep(Duration::from_millis(20))).unwrap();
                response = held(response, &inner);
            }
            path if path.starts_with("/held") => response = held(response, &inner),
            _ => {}
        }
        response
    });
    (server, signals)
}

fn until_held(signals: &Signals, count: usize) {
    let began = Instant::now();
    while signals.lock().unwrap().len() < count {
        assert!(began.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn release(signals: &Signals) {
    let all = std::mem::take(&mut *signals.lock().unwrap());
    for signal in all {
        signal();
    }
}

fn assert_silent(client: &mut Client) {
    client.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(client.socket.read(&mut [0]).is_err(), "a byte came before its time");
    client.socket.set_read_timeout(Some(LONG)).unwrap();
}

#[test]
fn many_are_held_without_a_thread() {
    let (server, signals) = holding(settings());
    let before = server.handle.stats().threads;
    let mut clients: Vec<Client> = (0..300).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    until_held(&signals, 300);
    assert_silent(&mut clients[0]);
    assert_eq!(server.connect().get("/quick").text(), "/quick 0");
    let stats = server.handle.stats();
    assert_eq!((stats.blocked, stats.threads, stats.requests), (0, before.max(2), 301));
    release(&signals);
    for client in &mut clients {
        assert_eq!(client.reply().text(), "/held 0");
        assert_eq!(client.get("/quick").text(), "/quick 0");
    }
}

#[test]
fn pipelined_replies_keep_their_order() {
    let (server, signals) = holding(settings());
    let mut client = server.connect();
    for path in ["/quick", "/held", "/held-too", "/at-once", "/quick"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    // What came before does not wait.
    assert_eq!(client.reply().text(), "/quick 0");
    for path in ["/held 0", "/held-too 0"] {
        until_held(&signals, 1);
        assert_silent(&mut client);
        assert_eq!(signals.lock().unwrap().len(), 1);
        release(&signals);
        assert_eq!(client.reply().text(), path);
    }
    let at_once = client.reply();
    assert_eq!((at_once.text(), at_once.header("x-decided")), ("/at-once 0", Some("yes")));
    assert_eq!(client.reply().text(), "/quick 0");
}

#[test]
fn a_client_may_send_more_or_leave_while_its_reply_is_held() {
    let (server, signals) = holding(settings());
    let (mut busy, mut done, mut gone) = (server.connect(), server.connect(), server.connect());
    for client in [&mut busy, &mut done, &mut gone] {
        client.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    until_held(&signals, 3);
    busy.send("GET /quick HTT");
    done.socket.shutdown(std::net::Shutdown::Write).unwrap();
    drop(gone);
    std::thread::sleep(Duration::from_millis(30));
    busy.send("P/1.1\r\nHost: h\r\n\r\n");
    assert_silent(&mut busy);
    release(&signals);
    assert_eq!(busy.reply().text(), "/held 0");
    assert_eq!(busy.reply().text(), "/quick 0");
    assert_eq!(done.reply().text(), "/held 0");
    done.assert_closed();
    drop(busy);
    server.until("all are gone", |stats| stats.open_connections == 0);
}

#[test]
fn after_a_wait_and_behind_a_body_that_was_streamed() {
    let (server, signals) = holding(Settings { max_buffered_body: 1000, ..settings() });
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let (path, length) = if n % 2 == 0 { ("/waits", 0) } else { ("/held", 100_000) };
        client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        client.send(vec![b'x'; length]);
    }
    until_held(&signals, 20);
    server.until("no thread waits", |stats| stats.blocked == 0);
    release(&signals);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply().text(), if n % 2 == 0 { "/waits 0" } else { "/held 100000" });
        assert_eq!(client.get("/quick").text(), "/quick 0");
    }
}

#[test]
fn what_is_never_decided_is_sent_as_it_stands_at_the_end() {
    let (server, _signals) = holding(Settings { deferred_timeout: Duration::from_millis(300), ..settings() });
    let mut client = server.connect();
    client.send("GET /late HTTP/1.1\r\nHost: h\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (503, Some("close")));
    client.assert_closed();
}

#[test]
fn a_panic_costs_that_reply_only() {
    let (server, _signals) = holding(settings());
    let mut client = server.connect();
    assert_eq!(client.get("/panics").status, 500);
    assert_eq!(client.get("/quick").status, 200);
}

#[test]
fn a_stop_waits_for_it() {
    let (mut server, signals) = holding(settings());
    let mut client = server.connect();
    client.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n");
    until_held(&signals, 1);
    server.handle.stop();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.handle.stats().open_connections, 1);
    release(&signals);
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    server.stop_and_wait();
}

#[test]
fn replies_are_held_without_a_thread_only_up_to_a_limit_of_memory() {
    let large = |_: &mut textgen::http::Request| {
        let mut response = Response::with_body(200, "text/plain", vec![b'x'; 100_000]);
        let begin = |signal: Notifier| {
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_secs(1));
                signal();
            });
        };
        response.deferred = Some(Deferred::new(begin, |response| response));
        response
    };
    let server = serve(Settings { max_unsent_total: 1_000_000, max_blocked: 30, ..settings() }, large);
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    server.until("threads wait for those beyond it", |stats| stats.blocked == 30);
    let replies: Vec<_> = clients.iter_mut().map(Client::reply).collect();
    let whole = replies.iter().filter(|reply| reply.status == 200 && reply.body.len() == 100_000).count();
    let refused = replies.iter().filter(|reply| reply.status == 503).count();
    // About ten are held, thirty are waited for.
    assert_eq!(whole + refused, 60);
    assert!((38..=42).contains(&whole), "{whole}");
}

#[test]
fn a_client_far_ahead_of_its_held_replies_is_answered_in_order() {
    let (server, signals) = holding(settings());
    let mut client = server.connect();
    let mut socket = client.socket.try_clone().unwrap();
    let request = |n| format!("GET /held/{n} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
    let requests: Vec<u8> = (0..20_000).flat_map(request).collect();
    // Nobody reads all of it: the write ends when the connection does.
    let sender = std::thread::spawn(move || drop(std::io::Write::write_all(&mut socket, &requests)));
    for n in 0..2000 {
        until_held(&signals, 1);
        release(&signals);
        assert_eq!(client.reply().text(), format!("/held/{n} 0"));
    }
    client.socket.shutdown(std::net::Shutdown::Both).unwrap();
    server.until("it is gone", |stats| {
        release(&signals);
        stats.open_connections == 0
    });
    sender.join().unwrap();
}
