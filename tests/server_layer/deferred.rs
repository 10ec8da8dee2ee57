//! Deferred responses: they are sent when something else has happened. Postponed requests: they are handled again then.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use textgen::blocking::{self, Places, Wait};
use textgen::http::{Deferred, Notifier, Postponed, Response};
use textgen::server::Settings;

use super::client::{Client, LONG, Running, serve, settings};

/// The notifiers of the responses that are deferred now.
type Notifiers = Arc<Mutex<Vec<Notifier>>>;

fn defer(mut response: Response, notifiers: &Notifiers) -> Response {
    let notifiers = Arc::clone(notifiers);
    response.deferred =
        Some(Deferred::new(move |notifier| notifiers.lock().unwrap().push(notifier), |response| response));
    response
}

/// Responses to `/deferred…` are deferred; those to `/late` too, but their notifiers are dropped; those to `/blocks`
/// after the handler has blocked. Each contains its path and the length of the request's body.
fn deferring(settings: Settings) -> (Running, Notifiers) {
    let notifiers = Notifiers::default();
    let inner = Arc::clone(&notifiers);
    let server = serve(settings, move |request| {
        let read = request.body.into_bytes(1024 * 1024).unwrap().len();
        let mut response = Response::with_body(200, "text/plain", format!("{} {read}", request.path()).into_bytes());
        match request.path() {
            "/late" => response.deferred = Some(Deferred::new(|_| {}, |_| Response::new(503))),
            "/panics" => response.deferred = Some(Deferred::new(|notifier| notifier(), |_| panic!("on purpose"))),
            "/at-once" => {
                response.deferred =
                    Some(Deferred::new(|notifier| notifier(), |r: Response| r.header("X-Completed", "yes")));
            }
            "/blocks" => {
                blocking::block_in_place(Wait::Database, || std::thread::sleep(Duration::from_millis(20))).unwrap();
                response = defer(response, &inner);
            }
            path if path.starts_with("/deferred") => response = defer(response, &inner),
            _ => {}
        }
        response
    });
    (server, notifiers)
}

/// Requests to `/postponed…` are postponed once. Each response contains its path and the length of the request's body,
/// which is read last.
fn postponing(settings: Settings) -> (Running, Notifiers) {
    let notifiers = Notifiers::default();
    let inner = Arc::clone(&notifiers);
    let server = serve(settings, move |request| {
        let begun = request.postponed.take().map(|postponed| *postponed.begun.downcast::<Arc<()>>().unwrap());
        if begun.is_none() && request.path().starts_with("/postponed") {
            let (begun, notifiers) = (Box::new(Arc::new(())), Arc::clone(&inner));
            request.postponed = Some(Postponed { since: Instant::now(), begun, unanswered: None });
            return Response::postponed(Box::new(move |notifier| notifiers.lock().unwrap().push(notifier)));
        }
        let read = request.body.into_bytes(1024 * 1024).unwrap().len();
        Response::with_body(200, "text/plain", format!("{} {read}", request.path()).into_bytes())
    });
    (server, notifiers)
}

#[test]
fn many_are_postponed_without_a_thread() {
    let (server, notifiers) = postponing(Settings { time_slice: LONG, ..settings() });
    let mut clients: Vec<Client> = (0..300).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("POST /postponed HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n01234");
    }
    until_deferred(&notifiers, 300);
    assert_silent(&mut clients[0]);
    assert_eq!(server.connect().get("/quick").text(), "/quick 0");
    assert_eq!((server.handle.stats().blocked, server.handle.stats().threads), (0, 2));
    notify(&notifiers);
    for client in &mut clients {
        assert_eq!(client.reply().text(), "/postponed 5");
        assert_eq!(client.get("/quick").text(), "/quick 0");
    }
    assert!(notifiers.lock().unwrap().is_empty(), "no request is postponed twice");
}

#[test]
fn responses_to_pipelined_requests_that_are_postponed_keep_their_order() {
    let (server, notifiers) = postponing(settings());
    let mut client = server.connect();
    for path in ["/quick", "/postponed", "/postponed-too", "/quick"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    assert_eq!(client.reply().text(), "/quick 0");
    for path in ["/postponed 0", "/postponed-too 0"] {
        until_deferred(&notifiers, 1);
        assert_silent(&mut client);
        notify(&notifiers);
        assert_eq!(client.reply().text(), path);
    }
    assert_eq!(client.reply().text(), "/quick 0");
}

#[test]
fn a_postponed_request_is_refused_after_a_time_out_and_none_is_kept_beyond_the_memory() {
    let patient = Settings { deferred_timeout: Duration::from_millis(200), ..settings() };
    let (server, notifiers) = postponing(patient);
    let mut client = server.connect();
    assert_eq!(client.get("/postponed").status, 503);
    // A notifier that is called late must not meet the response to another request.
    client.assert_closed();
    assert_eq!(notifiers.lock().unwrap().len(), 1, "it was never notified");
    notify(&notifiers);

    let (server, notifiers) = postponing(Settings { max_memory: 3000, ..settings() });
    let post = format!("POST /postponed HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n{}", "x".repeat(2000));
    let (mut first, mut second) = (server.connect(), server.connect());
    first.send(&post);
    until_deferred(&notifiers, 1);
    second.send(&post);
    assert_eq!(second.reply().status, 503);
    notify(&notifiers);
    assert_eq!(first.reply().text(), "/postponed 2000");
    second.send(&post);
    until_deferred(&notifiers, 1);
    notify(&notifiers);
    assert_eq!(second.reply().text(), "/postponed 2000");
}

fn until_deferred(notifiers: &Notifiers, count: usize) {
    let began = Instant::now();
    while notifiers.lock().unwrap().len() < count {
        assert!(began.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn notify(notifiers: &Notifiers) {
    let all = std::mem::take(&mut *notifiers.lock().unwrap());
    for notifier in all {
        notifier();
    }
}

fn assert_silent(client: &mut Client) {
    client.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(client.socket.read(&mut [0]).is_err(), "a response was sent before it was complete");
    client.socket.set_read_timeout(Some(LONG)).unwrap();
}

#[test]
fn many_are_deferred_without_a_thread() {
    // No handler loses its slot, however busy the machine is.
    let (server, notifiers) = deferring(Settings { time_slice: LONG, ..settings() });
    let mut clients: Vec<Client> = (0..300).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("GET /deferred HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    until_deferred(&notifiers, 300);
    assert_silent(&mut clients[0]);
    assert_eq!(server.connect().get("/quick").text(), "/quick 0");
    let stats = server.handle.stats();
    assert_eq!((stats.blocked, stats.threads, stats.requests), (0, 2, 301));
    notify(&notifiers);
    for client in &mut clients {
        assert_eq!(client.reply().text(), "/deferred 0");
        assert_eq!(client.get("/quick").text(), "/quick 0");
    }
}

#[test]
fn pipelined_responses_keep_their_order() {
    let (server, notifiers) = deferring(settings());
    let mut client = server.connect();
    for path in ["/quick", "/deferred", "/deferred-too", "/at-once", "/quick"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    // The one before does not wait.
    assert_eq!(client.reply().text(), "/quick 0");
    for path in ["/deferred 0", "/deferred-too 0"] {
        until_deferred(&notifiers, 1);
        assert_silent(&mut client);
        assert_eq!(notifiers.lock().unwrap().len(), 1);
        notify(&notifiers);
        assert_eq!(client.reply().text(), path);
    }
    let at_once = client.reply();
    assert_eq!((at_once.text(), at_once.header("x-completed")), ("/at-once 0", Some("yes")));
    assert_eq!(client.reply().text(), "/quick 0");
}

#[test]
fn a_client_may_send_more_or_leave_while_its_response_is_deferred() {
    let (server, notifiers) = deferring(settings());
    let (mut busy, mut done, mut gone) = (server.connect(), server.connect(), server.connect());
    for client in [&mut busy, &mut done, &mut gone] {
        client.send("GET /deferred HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    until_deferred(&notifiers, 3);
    busy.send("GET /quick HTT");
    done.socket.shutdown(std::net::Shutdown::Write).unwrap();
    drop(gone);
    std::thread::sleep(Duration::from_millis(30));
    busy.send("P/1.1\r\nHost: h\r\n\r\n");
    assert_silent(&mut busy);
    notify(&notifiers);
    assert_eq!(busy.reply().text(), "/deferred 0");
    assert_eq!(busy.reply().text(), "/quick 0");
    assert_eq!(done.reply().text(), "/deferred 0");
    done.assert_closed();
    drop(busy);
    server.until("all are gone", |stats| stats.open_connections == 0);
}

#[test]
fn after_a_handler_that_blocked_and_after_a_streamed_body() {
    let (server, notifiers) = deferring(Settings { max_buffered_body: 1000, ..settings() });
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let (path, length) = if n % 2 == 0 { ("/blocks", 0) } else { ("/deferred", 100_000) };
        client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        client.send(vec![b'x'; length]);
    }
    until_deferred(&notifiers, 20);
    server.until("no thread is blocked", |stats| stats.blocked == 0);
    notify(&notifiers);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply().text(), if n % 2 == 0 { "/blocks 0" } else { "/deferred 100000" });
        assert_eq!(client.get("/quick").text(), "/quick 0");
    }
}

#[test]
fn without_a_notification_it_is_completed_at_its_deadline() {
    let (server, _notifiers) = deferring(Settings { deferred_timeout: Duration::from_millis(300), ..settings() });
    let mut client = server.connect();
    client.send("GET /late HTTP/1.1\r\nHost: h\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (503, Some("close")));
    client.assert_closed();
}

#[test]
fn a_panic_costs_that_response_only() {
    let (server, _notifiers) = deferring(settings());
    let mut client = server.connect();
    assert_eq!(client.get("/panics").status, 500);
    assert_eq!(client.get("/quick").status, 200);
}

#[test]
fn a_stop_waits_for_the_response() {
    let (mut server, notifiers) = deferring(settings());
    let mut client = server.connect();
    client.send("GET /deferred HTTP/1.1\r\nHost: h\r\n\r\n");
    until_deferred(&notifiers, 1);
    server.handle.stop();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.handle.stats().open_connections, 1);
    notify(&notifiers);
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    server.stop_and_wait();
}

#[test]
fn the_memory_of_deferred_responses_is_bounded() {
    let notifiers = Notifiers::default();
    let inner = Arc::clone(&notifiers);
    let limits = Settings { max_memory: 1_000_000, places: Places::new(|_| 45), time_slice: LONG, ..settings() };
    let server = serve(limits, move |_| defer(Response::with_body(200, "text/plain", vec![b'x'; 100_000]), &inner));
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    // Ten fit, or nine if the tenth and the eleventh are measured at the same time. Threads wait for thirty more.
    server.until("all are deferred, waited for or refused", |stats| {
        let deferred = u64::try_from(notifiers.lock().unwrap().len()).unwrap();
        stats.blocked == 30 && deferred + stats.refused == 60
    });
    let deferred = notifiers.lock().unwrap().len();
    assert!((39..=40).contains(&deferred), "{deferred}");
    notify(&notifiers);
    let replies: Vec<_> = clients.iter_mut().map(Client::reply).collect();
    let complete = replies.iter().filter(|reply| reply.status == 200 && reply.body.len() == 100_000).count();
    let refused = replies.iter().filter(|reply| reply.status == 503).count();
    assert_eq!((complete, refused), (deferred, 60 - deferred));
}

#[test]
fn a_client_far_ahead_of_its_responses_is_answered_in_order() {
    let (server, notifiers) = deferring(settings());
    let mut client = server.connect();
    let mut socket = client.socket.try_clone().unwrap();
    let request = |n| format!("GET /deferred/{n} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
    let requests: Vec<u8> = (0..20_000).flat_map(request).collect();
    // The server never reads all of it: the write ends with the connection.
    let sender = std::thread::spawn(move || drop(std::io::Write::write_all(&mut socket, &requests)));
    for n in 0..2000 {
        until_deferred(&notifiers, 1);
        notify(&notifiers);
        assert_eq!(client.reply().text(), format!("/deferred/{n} 0"));
    }
    client.socket.shutdown(std::net::Shutdown::Both).unwrap();
    server.until("it is gone", |stats| {
        notify(&notifiers);
        stats.open_connections == 0
    });
    sender.join().unwrap();
}
