//! Listening sockets, and the thread that accepts connections until the server stops.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Protocol, Socket, Type};

use super::clock::millis;
use super::connection::{Connection, Handler};
use super::shared::Shared;

/// Connections that the kernel may queue until they are accepted. It may allow fewer.
const BACKLOG: i32 = 4096;
const WAKER: Token = Token(usize::MAX);
/// The pause after `accept` failed for lack of descriptors or memory.
const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// Opens a listening socket. With `reuse_port`, several processes can listen at the same address.
///
/// # Errors
/// The address is in use, does not belong to this machine, or is not permitted.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The listening sockets passed to this process by systemd or another parent (`LISTEN_FDS`), in their order.
///
/// # Errors
/// One of them is not a listening TCP socket.
pub fn inherited() -> io::Result<Vec<TcpListener>> {
    let mut descriptors = ListenFd::from_env();
    (0..descriptors.len()).filter_map(|i| descriptors.take_tcp_listener(i).transpose()).collect()
}

/// A listening socket and the handler of its connections.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) name: &'static str,
    pub(super) handler: Handler,
}

/// The thread that accepts connections.
pub(super) struct Acceptor {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    poll: Poll,
    next_slot: usize,
}

impl Acceptor {
    /// Starts to watch the listening sockets. Also returns a waker for the thread.
    pub(super) fn new(shared: Arc<Shared>, listeners: Vec<Listener>) -> io::Result<(Acceptor, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        for (i, listener) in listeners.iter().enumerate() {
            listener.socket.set_nonblocking(true)?;
            poll.registry().register(&mut SourceFd(&listener.socket.as_raw_fd()), Token(i), Interest::READABLE)?;
        }
        Ok((Acceptor { shared, listeners, poll, next_slot: 0 }, waker))
    }

    /// Accepts until the server stops, then accepts what is still queued and closes the listening sockets.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(16);
        loop {
            let stopping = self.shared.is_stopping();
            for i in 0..self.listeners.len() {
                self.accept_all(i);
            }
            if stopping {
                return;
            }
            if let Err(e) = self.poll.poll(&mut events, None).or_else(ignore_interruption) {
                log::error!("cannot wait for connections: {e}");
                thread::sleep(RETRY_PAUSE);
            }
        }
    }

    /// Accepts until the queue is empty.
    fn accept_all(&mut self, listener: usize) {
        let mut failures = 0;
        loop {
            self.make_room();
            let Listener { socket, name, handler } = &self.listeners[listener];
            match socket.accept() {
                Ok((stream, peer)) => {
                    failures = 0;
                    if let Err(e) = register(&self.shared, stream, peer, handler, self.next_slot) {
                        log::debug!("{name}: a connection from {peer} was lost: {e}");
                    }
                    self.next_slot = self.next_slot.wrapping_add(1);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The client disconnected before it was accepted; the next one may still be there.
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    failures += 1;
                    let level = if failures == 1 { log::Level::Warn } else { log::Level::Debug };
                    log::log!(level, "{name}: cannot accept: {e}");
                    if self.shared.is_stopping() && failures > 100 {
                        return;
                    }
                    if is_exhausted(&e) {
                        self.shared.evict_idle(1 + self.shared.open.load(Relaxed) / 32);
                    }
                    thread::sleep(RETRY_PAUSE);
                }
            }
        }
    }

    /// Waits until there is room for one more connection, and has idle ones closed to make room.
    fn make_room(&self) {
        let limit = self.shared.max_connections;
        while self.shared.open.load(Relaxed) >= limit && !self.shared.is_stopping() {
            // Some of those may have received a request meanwhile, and stay open.
            let found = self.shared.evict_idle(1 + limit / 64);
            thread::sleep(if found > 0 { RETRY_PAUSE / 10 } else { RETRY_PAUSE * 10 });
        }
    }
}

fn register(shared: &Shared, stream: TcpStream, peer: SocketAddr, handler: &Handler, n: usize) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let slot = n % shared.settings.workers;
    let deadline = shared.clock.now() + millis(shared.settings.idle_timeout);
    let handler = Arc::clone(handler);
    shared.open.fetch_add(1, Relaxed);
    let registered =
        shared.slots[slot].register(|token| Connection::new(stream, peer, handler, (slot, token), deadline));
    if registered.is_err() {
        shared.open.fetch_sub(1, Relaxed);
    }
    registered
}

fn ignore_interruption(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(e) }
}

/// Out of descriptors (`ENFILE`, `EMFILE`) or memory: closing connections helps.
fn is_exhausted(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(23 | 24)) || e.kind() == io::ErrorKind::OutOfMemory
}
