//! A TCP proxy to the database that can be cut and frozen, and that records the client's round trips.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::TestDb;

/// A proxy in front of PostgreSQL.
pub struct Proxy {
    address: SocketAddr,
    url: String,
    shared: Arc<Shared>,
    /// The socket, until it listens. Until then connections are refused.
    unlistened: Mutex<Option<Socket>>,
}

/// What a client sent before it waited for an answer: everything up to a Sync, or a simple query.
#[derive(Clone, Debug)]
pub struct RoundTrip {
    /// The client's `application_name`.
    pub program: String,
    /// The statements run or prepared, in order.
    pub sql: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// New connections are closed at once.
    Cut,
    /// Nothing is forwarded, and nothing is closed.
    Frozen,
    /// Everything received is dropped, without closing anything; these connections never recover.
    Lossy,
    /// Each answer is delayed.
    Slow(Duration),
    /// No answer is forwarded once a statement with this text was.
    DeafAfter(&'static str),
    /// No answer is forwarded.
    Deaf,
}

struct Shared {
    target: String,
    mode: Mutex<Mode>,
    thawed: Condvar,
    streams: Mutex<Vec<TcpStream>>,
    trips: Mutex<Vec<RoundTrip>>,
    ended: AtomicBool,
}

impl Proxy {
    /// A proxy to this database.
    pub fn to(db: &TestDb) -> Proxy {
        let proxy = Proxy::absent(db);
        proxy.appear();
        proxy
    }

    /// A proxy that refuses connections until [`Proxy::appear`].
    pub fn absent(db: &TestDb) -> Proxy {
        let url = db.url();
        let (credentials, rest) = url.rsplit_once('@').expect("the URL names a host");
        let (target, name) = rest.split_once('/').expect("the URL names a database");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            mode: Mutex::new(Mode::Open),
            thawed: Condvar::new(),
            streams: Mutex::default(),
            trips: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let url = format!("{credentials}@{address}/{name}");
        Proxy { address, url, shared, unlistened: Mutex::new(Some(socket)) }
    }

    /// Accepts connections from now on.
    pub fn appear(&self) {
        let socket = self.unlistened.lock().unwrap().take().expect("it takes connections already");
        socket.listen(128).unwrap();
        let (accepting, listener) = (self.shared.clone(), TcpListener::from(socket));
        thread::spawn(move || accepting.accept(&listener));
    }

    /// The database's URL through the proxy.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Closes all connections, and new ones as soon as they are accepted.
    pub fn cut(&self) {
        self.set(Mode::Cut);
        for stream in lock(&self.shared.streams).drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Forwards nothing and closes nothing, like a machine that lost power.
    pub fn freeze(&self) {
        self.set(Mode::Frozen);
    }

    /// Drops everything received without closing anything. Connections used meanwhile are lost for good.
    pub fn lose(&self) {
        self.set(Mode::Lossy);
    }

    /// Delays every answer.
    pub fn slow(&self, delay: Duration) {
        self.set(Mode::Slow(delay));
    }

    /// Forwards all statements, but no answers once it has forwarded a statement that contains `text`.
    pub fn forward_no_answer_to(&self, text: &'static str) {
        self.set(Mode::DeafAfter(text));
    }

    /// Forwards everything again.
    pub fn restore(&self) {
        self.set(Mode::Open);
    }

    fn set(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
        self.shared.thawed.notify_all();
    }

    /// The round trips since the last call.
    pub fn take_round_trips(&self) -> Vec<RoundTrip> {
        std::mem::take(&mut *self.shared.trips.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.cut();
        // Wakes the accepting thread, which then exits.
        let _ = TcpStream::connect(self.address);
    }
}

/// Destructors lock too, possibly after another thread has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn accept(self: Arc<Shared>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            // Held until the streams are registered, so that a cut closes them too.
            let mode = self.mode.lock().unwrap();
            let (Ok(client), false) = (client, *mode == Mode::Cut) else { continue };
            let Ok(server) = TcpStream::connect(&self.target) else { continue };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            self.streams.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
            drop(mode);
            let (there, back) = (self.clone(), self.clone());
            thread::spawn(move || there.pump(from_client, server, Some(Reader::default())));
            thread::spawn(move || back.pump(from_server, client, None));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, mut reader: Option<Reader>) {
        let mut piece = [0; 16 * 1024];
        loop {
            let n = from.read(&mut piece).unwrap_or(0);
            let mut mode = self.mode.lock().unwrap();
            while *mode == Mode::Frozen {
                mode = self.thawed.wait(mode).unwrap();
            }
            let now = *mode;
            drop(mode);
            match now {
                Mode::Lossy if n > 0 => return swallow(from, to),
                Mode::Slow(delay) if reader.is_none() => thread::sleep(delay),
                Mode::Deaf if reader.is_none() && n > 0 => continue,
                _ => {}
            }
            if let Some(reader) = &mut reader {
                let trips = reader.read(&piece[..n]);
                let runs =
                    |text: &str| trips.iter().any(|trip| !trip.sql.contains("prepare ") && trip.sql.contains(text));
                if let Mode::DeafAfter(text) = now
                    && runs(text)
                {
                    *self.mode.lock().unwrap() = Mode::Deaf;
                }
                // Recorded before it is forwarded, so that it is here once the client has its reply.
                self.trips.lock().unwrap().extend(trips);
            }
            if n == 0 || to.write_all(&piece[..n]).is_err() {
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return;
            }
        }
    }
}

/// Reads to the end and answers nothing.
fn swallow(mut from: TcpStream, to: TcpStream) {
    while matches!(from.read(&mut [0; 16 * 1024]), Ok(n) if n > 0) {}
    // Otherwise the other end would wait for ever.
    let _ = to.shutdown(Shutdown::Both);
}

/// Parses what a client sends (PostgreSQL's frontend protocol, version 3).
#[derive(Default)]
struct Reader {
    bytes: Vec<u8>,
    started: bool,
    program: String,
    /// The SQL of prepared statements, by name.
    statements: HashMap<String, String>,
    /// What was sent since the last Sync.
    pending: Vec<String>,
}

/// The code of a request for TLS: 80877103.
const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();

impl Reader {
    fn read(&mut self, bytes: &[u8]) -> Vec<RoundTrip> {
        self.bytes.extend_from_slice(bytes);
        let mut trips = Vec::new();
        while let Some((tag, body)) = self.next_message() {
            let ended = self.understand(tag, &body);
            if ended {
                let sql = std::mem::take(&mut self.pending).join("; ");
                trips.push(RoundTrip { program: self.program.clone(), sql });
            }
        }
        trips
    }

    fn next_message(&mut self) -> Option<(u8, Vec<u8>)> {
        // The first message has no tag.
        let tagged = usize::from(self.started);
        let length = self.bytes.get(tagged..tagged + 4)?;
        let end = tagged + u32::from_be_bytes(length.try_into().unwrap()) as usize;
        if self.bytes.len() < end {
            return None;
        }
        let message: Vec<u8> = self.bytes.drain(..end).collect();
        let tag = if self.started { message[0] } else { 0 };
        Some((tag, message[tagged + 4..].to_vec()))
    }

    /// Whether the client now waits for an answer.
    fn understand(&mut self, tag: u8, body: &[u8]) -> bool {
        let texts: Vec<String> = body.split(|b| *b == 0).map(|t| String::from_utf8_lossy(t).into_owned()).collect();
        match tag {
            // It asks whether the database speaks TLS, and begins once it knows.
            0 if body == SSL_REQUEST => {}
            0 => {
                self.started = true;
                // After the four bytes of the version, names and values alternate.
                let named = texts.iter().position(|text| text.ends_with("application_name"));
                self.program = named.map(|at| texts[at + 1].clone()).unwrap_or_default();
            }
            b'P' => {
                self.statements.insert(texts[0].clone(), texts[1].clone());
                self.pending.push(format!("prepare {}", texts[1]));
            }
            b'B' => self.pending.push(self.statements.get(&texts[1]).cloned().unwrap_or_default()),
            b'Q' => self.pending.push(texts[0].clone()),
            _ => {}
        }
        matches!(tag, b'S' | b'Q')
    }
}
