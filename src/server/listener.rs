//! Listening sockets, and the thread that takes connections in and never ends before the server does.

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
use super::connection::Connection;
use super::{Handler, Shared};

/// Connections that the kernel holds for us until we take them in; it may allow fewer.
const BACKLOG: i32 = 4096;
const WAKER: Token = Token(usize::MAX);
/// The pause after an `accept` that failed for want of something that others must free first.
const PAUSE: Duration = Duration::from_millis(2);

/// Opens a listening socket; with `reuse_port` several processes may have one at the same address.
///
/// # Errors
/// The address is taken, not ours, or not allowed to us.
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

/// The listening sockets handed to this process by systemd or whoever started it (`LISTEN_FDS`), in their order.
///
/// # Errors
/// One of them is no listening TCP socket.
pub fn inherited() -> io::Result<Vec<TcpListener>> {
    let mut descriptors = ListenFd::from_env();
    (0..descriptors.len()).filter_map(|i| descriptors.take_tcp_listener(i).transpose()).collect()
}

/// A listening socket and who serves its connections.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) name: &'static str,
    pub(super) handler: Handler,
}

/// The thread's state.
pub(super) struct Acceptor {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    poll: Poll,
    next_slot: usize,
}

impl Acceptor {
    /// Prepares to accept; also returns what interrupts the wait.
    pub(super) fn new(shared: Arc<Shared>, listeners: Vec<Listener>) -> io::Result<(Acceptor, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        for (i, listener) in listeners.iter().enumerate() {
            listener.socket.set_nonblocking(true)?;
            poll.registry().register(&mut SourceFd(&listener.socket.as_raw_fd()), Token(i), Interest::READABLE)?;
        }
        Ok((Acceptor { shared, listeners, poll, next_slot: 0 }, waker))
    }

    /// Accepts until the server stops; then takes in what is queued already and closes the listening sockets.
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
                thread::sleep(PAUSE);
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
                    if let Err(e) = adopt(&self.shared, stream, peer, handler, self.next_slot) {
                        log::debug!("{name}: a connection of {peer} was lost: {e}");
                    }
                    self.next_slot = self.next_slot.wrapping_add(1);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // Some handshake ended before we came to it: that says nothing about the next.
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    failures += 1;
                    let level = if failures == 1 { log::Level::Warn } else { log::Level::Debug };
                    log::log!(level, "{name}: cannot accept: {e}");
                    if self.shared.is_stopping() && failures > 100 {
                        return;
                    }
                    if is_exhausted(&e) {
                        self.shared.shed(1 + self.shared.open.load(Relaxed) / 32);
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Waits until there is room for one more connection, having the oldest idle ones closed.
    fn make_room(&self) {
        let limit = self.shared.max_connections;
        while self.shared.open.load(Relaxed) >= limit && !self.shared.is_stopping() {
            // Some of those found may turn out to have a request by now, and stay.
            let found = self.shared.shed(1 + limit / 64);
            thread::sleep(if found > 0 { PAUSE / 10 } else { PAUSE * 10 });
        }
    }
}

fn adopt(shared: &Shared, stream: TcpStream, peer: SocketAddr, handler: &Handler, turn: usize) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let slot = turn % shared.settings.workers;
    let until = shared.clock.now() + millis(shared.settings.idle_timeout);
    let handler = Arc::clone(handler);
    shared.open.fetch_add(1, Relaxed);
    let adopted = shared.slots[slot].adopt(|token| Connection::new(stream, peer, handler, (slot, token), until));
    if adopted.is_err() {
        shared.open.fetch_sub(1, Relaxed);
    }
    adopted
}

fn ignore_interruption(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(e) }
}

/// Out of descriptors (`ENFILE`, `EMFILE`) or memory: closing something helps.
fn is_exhausted(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(23 | 24)) || e.kind() == io::ErrorKind::OutOfMemory
}
