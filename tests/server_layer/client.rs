//! A server for one test, a client that sees every byte, and a gate for handlers to wait at.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use textgen::http::{Request, Response};
use textgen::server::{self, Handle, Handler, Server, Settings};

/// Longer than any wait on any machine: a test that reaches it has failed.
pub const LONG: Duration = Duration::from_secs(30);

pub struct Running {
    pub address: SocketAddr,
    pub handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Two workers, so that a handler that blocks one is noticed, and quick stops.
pub fn settings() -> Settings {
    Settings { workers: 2, stop_idle_grace: Duration::from_millis(50), ..Settings::default() }
}

pub fn serve(settings: Settings, handler: impl Fn(&mut Request) -> Response + Send + Sync + 'static) -> Running {
    let handler: Handler = Arc::new(handler);
    let socket = server::bind(([127, 0, 0, 1], 0).into(), false).unwrap();
    let mut server = Server::new(settings).unwrap();
    let address = server.listen("test", socket, handler).unwrap();
    let handle = server.handle();
    let thread = Some(std::thread::spawn(move || server.run().unwrap()));
    Running { address, handle, thread }
}

/// A server that answers with the path of the request.
pub fn echo_path() -> Running {
    serve(settings(), |request| Response::with_body(200, "text/plain", request.path().to_owned().into_bytes()))
}

impl Running {
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    pub fn stop_and_wait(&mut self) {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap();
    }

    /// Waits until `condition` holds.
    pub fn until(&self, what: &str, condition: impl Fn(server::Stats) -> bool) {
        let began = Instant::now();
        while !condition(self.handle.stats()) {
            assert!(began.elapsed() < LONG, "waited in vain until {what}: {:?}", self.handle.stats());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// A gate that handlers wait at until it is opened.
#[derive(Default)]
pub struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub fn wait(&self) {
        let is_open = self.0.lock().unwrap();
        let (_is_open, timeout) = self.1.wait_timeout_while(is_open, LONG, |is_open| !*is_open).unwrap();
        assert!(!timeout.timed_out());
    }

    pub fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

pub struct Client {
    pub socket: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.split("\r\n").filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.set_write_timeout(Some(LONG)).unwrap();
        Client { socket, read: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        self.socket.write_all(bytes.as_ref()).unwrap();
        self
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).reply()
    }

    /// The next reply, with its body.
    pub fn reply(&mut self) -> Reply {
        self.try_reply(true).expect("a reply")
    }

    /// The next reply to `HEAD`.
    pub fn head_reply(&mut self) -> Reply {
        self.try_reply(false).expect("a reply")
    }

    /// The next reply, or `None` if the connection ends before it is complete.
    pub fn try_reply(&mut self, with_body: bool) -> Option<Reply> {
        let end = loop {
            match self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                Some(at) => break at,
                None if !self.receive() => return None,
                None => {}
            }
        };
        let head = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, head, body: Vec::new() };
        if !with_body || matches!(status, 100..=199 | 204 | 304) {
        } else if let Some(length) = reply.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.read.len() < length {
                self.receive().then_some(())?;
            }
            reply.body = self.read.drain(..length).collect();
        } else if reply.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk()? {
                reply.body.extend(chunk);
            }
        } else {
            reply.body = self.rest();
        }
        Some(reply)
    }

    /// The next chunk; `Some(None)` at the end of the body, `None` at the end of the connection.
    pub fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.read.windows(2).position(|w| w == b"\r\n") {
                let size = usize::from_str_radix(std::str::from_utf8(&self.read[..at]).unwrap(), 16).unwrap();
                if self.read.len() >= at + 4 + size {
                    let chunk: Vec<u8> = self.read.drain(..at + 4 + size).skip(at + 2).take(size).collect();
                    return Some(if size == 0 { None } else { Some(chunk) });
                }
            }
            self.receive().then_some(())?;
        }
    }

    /// Everything until the server closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.receive() {}
        std::mem::take(&mut self.read)
    }

    /// Asserts that the server closes the connection and sends nothing more.
    pub fn assert_closed(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.rest()), "", "unexpected bytes before the connection was closed");
    }

    fn receive(&mut self) -> bool {
        let mut buffer = [0; 8 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(n) => {
                self.read.extend_from_slice(&buffer[..n]);
                n > 0
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => false,
            Err(e) => panic!("receiving: {e}"),
        }
    }
}
