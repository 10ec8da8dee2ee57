//! Opens many connections to a server and keeps them open: `crowd ADDRESS COUNT SECONDS KIND [MORE]`.
//!
//! The kinds: `idle` sends one request, reads the reply and then stays silent; `head` sends a byte of a head a second;
//! `body` likewise a byte of a body; `deaf` requests a path (MORE) repeatedly and never reads; `stream` requests a
//! streamed chat with a model (MORE) using the secret `$SECRET`, reads it, and then requests the next one.
//!
//! Prints `ready` when all are open. Ends when the time is over, when all are closed, or on SIGTERM; streams are then
//! read to their end. The last line shows how many connections the server closed, and the age in seconds of the first
//! and the last of these: `closed N of COUNT first S last S`. For streams it shows how many were complete:
//! `whole N broken N`.

use std::env;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Each tick handles a part of the connections: handling all at once would distort what is measured at the same time.
const TICK: Duration = Duration::from_millis(20);

/// The receive buffer and maximum segment size of a client that does not read. The server's kernel derives the size of
/// its send buffer from the latter. Both are small, so that replies block at once and not after megabytes.
const DEAF_BUFFER: usize = 4096;
const DEAF_SEGMENT: u32 = 536;

/// The end of a stream, and what a complete one contains before it.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
const DONE: &[u8] = b"[DONE]";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Idle,
    Head,
    Body,
    Deaf,
    Stream,
}

impl Kind {
    fn parse(name: &str) -> Option<Kind> {
        Some(match name {
            "idle" => Kind::Idle,
            "head" => Kind::Head,
            "body" => Kind::Body,
            "deaf" => Kind::Deaf,
            "stream" => Kind::Stream,
            _ => return None,
        })
    }

    /// The number of ticks between two checks of a connection.
    fn period(self) -> Option<usize> {
        match self {
            Kind::Idle => None,
            Kind::Head | Kind::Body | Kind::Deaf => Some(50),
            Kind::Stream => Some(2),
        }
    }
}

/// What all connections do.
struct Behaviour {
    address: SocketAddr,
    kind: Kind,
    request: Vec<u8>,
}

/// One connection.
struct Member {
    socket: TcpStream,
    opened: Instant,
    /// The last bytes of a stream.
    tail: Vec<u8>,
}

/// How connections ended.
#[derive(Default)]
struct Outcomes {
    closed: Vec<Duration>,
    whole: usize,
    broken: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, address, count, seconds, kind, more @ ..] = arguments.as_slice() else {
        return Err("usage: crowd ADDRESS COUNT SECONDS idle|head|body|deaf|stream [PATH|MODEL]".into());
    };
    let asked_to_end = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&asked_to_end))?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    let behaviour = Behaviour::new(address, kind, more.first().map(String::as_str))?;
    let mut crowd = (0..count.parse()?).map(|_| behaviour.join().map(Some)).collect::<Result<Vec<_>, _>>()?;
    println!("ready");
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let mut outcomes = Outcomes::default();
    let mut tick = 0;
    while Instant::now() < end && crowd.iter().any(Option::is_some) {
        let ending = asked_to_end.load(Ordering::Relaxed);
        if ending && behaviour.kind != Kind::Stream {
            break;
        }
        if let Some(period) = behaviour.kind.period() {
            for member in crowd.iter_mut().skip(tick % period).step_by(period) {
                behaviour.advance(member, ending, &mut outcomes);
            }
        }
        thread::sleep(TICK);
        tick += 1;
    }
    if behaviour.kind == Kind::Stream {
        println!("whole {} broken {}", outcomes.whole, outcomes.broken + crowd.iter().flatten().count());
        return Ok(());
    }
    if behaviour.kind == Kind::Idle {
        let gone = crowd.iter_mut().flatten().filter_map(|member| (!member.is_open()).then(|| member.opened.elapsed()));
        outcomes.closed.extend(gone);
    }
    let seconds = |age: Option<&Duration>| age.map_or(0.0, Duration::as_secs_f64);
    let (first, last) = (seconds(outcomes.closed.iter().min()), seconds(outcomes.closed.iter().max()));
    println!("closed {} of {count} first {first:.1} last {last:.1}", outcomes.closed.len());
    Ok(())
}

impl Behaviour {
    fn new(address: &str, kind: &str, more: Option<&str>) -> Result<Behaviour, Box<dyn Error>> {
        let kind = Kind::parse(kind).ok_or("the kinds are idle, head, body, deaf and stream")?;
        let path = more.unwrap_or("/liveness_check");
        let get = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        let request = match kind {
            Kind::Idle => get,
            Kind::Head => "GET / HTTP/1.1\r\nHost: h\r\nX: ".to_owned(),
            Kind::Body => "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n".to_owned(),
            Kind::Deaf => get.repeat(100),
            Kind::Stream => {
                let secret = env::var("SECRET").map_err(|_| "SECRET is not set")?;
                let model = more.ok_or("which model?")?;
                let body =
                    format!(r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}"#);
                format!(
                    "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nsecret: {secret}\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
        };
        Ok(Behaviour { address: address.parse()?, kind, request: request.into_bytes() })
    }

    /// Opens another connection and starts its activity.
    fn join(&self) -> Result<Member, Box<dyn Error>> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        if self.kind == Kind::Deaf {
            socket.set_recv_buffer_size(DEAF_BUFFER)?;
            socket.set_tcp_mss(DEAF_SEGMENT)?;
        }
        socket.connect(&self.address.into())?;
        let mut socket = TcpStream::from(socket);
        socket.write_all(&self.request)?;
        if self.kind == Kind::Idle && socket.read(&mut [0; 4096])? == 0 {
            return Err("closed before it answered".into());
        }
        socket.set_nonblocking(true)?;
        Ok(Member { socket, opened: Instant::now(), tail: Vec::new() })
    }

    /// Performs the next action of a connection, and removes it once it is closed or finished.
    fn advance(&self, place: &mut Option<Member>, ending: bool, outcomes: &mut Outcomes) {
        let Some(member) = place else { return };
        if self.kind == Kind::Stream {
            let whole = match member.read_stream() {
                Ok(false) => return,
                Ok(true) => true,
                Err(_) => false,
            };
            outcomes.whole += usize::from(whole);
            outcomes.broken += usize::from(!whole);
            let goes_on = whole && !ending && member.socket.write_all(&self.request).is_ok();
            *place = place.take().filter(|_| goes_on);
            return;
        }
        let sent = match self.kind {
            Kind::Deaf => member.socket.write(&self.request),
            _ => member.socket.write(b"x"),
        };
        let open = match sent {
            Ok(_) => self.kind == Kind::Deaf || member.is_open(),
            Err(e) => e.kind() == ErrorKind::WouldBlock,
        };
        if !open {
            outcomes.closed.push(member.opened.elapsed());
            *place = None;
        }
    }
}

impl Member {
    /// Whether the server has not closed the connection.
    fn is_open(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    /// Reads the available part of a stream. Returns whether it is complete; an error if it was cut off.
    fn read_stream(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        loop {
            let n = match self.socket.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            };
            self.tail.extend_from_slice(&bytes[..n]);
            let surplus = self.tail.len().saturating_sub(64);
            self.tail.drain(..surplus);
            if self.tail.ends_with(LAST_CHUNK) {
                let whole = self.tail.windows(DONE.len()).any(|window| window == DONE);
                self.tail.clear();
                return if whole { Ok(true) } else { Err(ErrorKind::InvalidData.into()) };
            }
        }
    }
}
