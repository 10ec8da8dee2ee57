//! A stop loses no request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use textgen::blocking::{self, Wait};
use textgen::http::Response;
use textgen::server::{self, Handler, Server, Settings};

use super::client::{Client, Gate, serve, settings};

#[test]
fn requests_in_flight_are_finished_and_idle_connections_closed() {
    let gate = Arc::new(Gate::default());
    let inner = Arc::clone(&gate);
    let mut server = serve(settings(), move |request| {
        if request.path() == "/slow" {
            blocking::block_in_place(Wait::Model, || inner.wait()).unwrap();
        }
        Response::new(200)
    });
    let mut idle = server.connect();
    assert_eq!(idle.get("/").status, 200);
    let mut busy = server.connect();
    busy.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    server.until("it is blocked", |stats| stats.blocked == 1);
    server.handle.stop();
    gate.open();
    let reply = busy.reply();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    busy.assert_closed();
    idle.assert_closed();
    server.stop_and_wait();
    assert!(std::net::TcpStream::connect(server.address).is_err());
}

#[test]
fn a_stop_does_not_wait_forever() {
    let mut server = serve(Settings { stop_timeout: Duration::from_millis(200), ..settings() }, |_| {
        std::thread::sleep(Duration::from_secs(20));
        Response::new(200)
    });
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    server.until("it is stuck", |stats| stats.blocked == 1);
    let began = Instant::now();
    server.stop_and_wait();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn a_server_stopped_before_it_runs_ends_at_once() {
    let server = Server::new(settings()).unwrap();
    server.handle().stop();
    server.run().unwrap();
}

/// Sends requests until `over`; returns how many got no answer.
fn load(address: SocketAddr, over: &AtomicBool, asked: &AtomicUsize) -> usize {
    let (mut lost, mut client) = (0, None);
    while !over.load(Ordering::Relaxed) {
        let connection = client.get_or_insert_with(|| Client::connect(address));
        let sent = std::io::Write::write_all(&mut connection.socket, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let reply = sent.ok().and_then(|()| connection.try_reply(true));
        asked.fetch_add(1, Ordering::Relaxed);
        match reply {
            Some(reply) if reply.header("connection").is_none() => {}
            Some(_) => client = None,
            None => {
                lost += 1;
                client = None;
            }
        }
    }
    lost
}

#[test]
fn a_restart_on_the_same_socket_under_load_loses_no_request() {
    let handler: Handler = Arc::new(|_| Response::new(200));
    let socket = server::bind(([127, 0, 0, 1], 0).into(), false).unwrap();
    let address = socket.local_addr().unwrap();
    let start = || {
        let mut server = Server::new(Settings { stop_idle_grace: Duration::from_secs(1), ..settings() }).unwrap();
        server.listen("test", socket.try_clone().unwrap(), Arc::clone(&handler)).unwrap();
        (server.handle(), std::thread::spawn(move || server.run().unwrap()))
    };
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (mut handle, mut thread) = start();
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
            std::thread::spawn(move || load(address, &over, &asked))
        })
        .collect();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(100));
        let (next, next_thread) = start();
        handle.stop();
        thread.join().unwrap();
        (handle, thread) = (next, next_thread);
    }
    over.store(true, Ordering::Relaxed);
    let lost: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    handle.stop();
    thread.join().unwrap();
    assert_eq!(lost, 0, "of {}", asked.load(Ordering::Relaxed));
    assert!(asked.load(Ordering::Relaxed) > 100);
}
