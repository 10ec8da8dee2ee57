//! A server for one test, and a client that sees every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use textgen::http::{Request, Response};
use textgen::server::{self, Handle, Handler, Server, Settings};

/// Long enough for any machine; a test that waits for it has failed.
pub const LONG: Duration = Duration::from_secs(30);

pub struct Running {
    pub address: SocketAddr,
    pub handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Few workers, so that a wait of one is felt, and quick stops.
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

/// A server that says which path was asked for.
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

    /// Waits until this holds of the server.
    pub fn until(&self, what: &str, holds: impl Fn(server::Stats) -> bool) {
        let began = Instant::now();
        while !holds(self.handle.stats()) {
            assert!(began.elapsed() < LONG, "{what} does not come true: {:?}", self.handle.stats());
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

    /// The next reply, or `None` when the connection ends before it is whole.
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

    /// The next chunk; `Some(None)` at the end of the body, `None` at that of the connection.
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

    /// Everything until the other side ends the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.receive() {}
        std::mem::take(&mut self.read)
    }

    /// Asserts that the server ends the connection without a further byte.
    pub fn assert_closed(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.rest()), "", "bytes before the end");
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
