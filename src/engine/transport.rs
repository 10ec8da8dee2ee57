//! Sockets to upstreams, for `ureq`: each wait for the upstream also watches the client on whose behalf it is, so that
//! a client that leaves ends it.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, RustlsConnector, Transport};

use crate::{blocking, memory};

use super::buffers::IdleBuffers;

/// Sockets without TLS or with it, as the address says. `stall` is how long the other side may take to read more.
pub(super) fn connector(stall: Duration) -> impl Connector {
    ().chain(Sockets { stall }).chain(RustlsConnector::default()).chain(SentWatch)
}

/// The client has gone.
#[derive(Debug, thiserror::Error)]
#[error("the client has left")]
struct ClientLeft;

/// Whether the client that this thread works for has ended its connection, or its side of it.
pub(crate) fn client_left() -> bool {
    blocking::client().is_some_and(|client| {
        let mut fds = [PollFd::from_borrowed_fd(client.as_fd(), hang_up())];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|n| n > 0)
    })
}

/// That an end was seen.
#[cfg(target_os = "linux")]
fn hang_up() -> PollFlags {
    PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR
}

/// That an end was seen: of both sides, or it is not seen here.
#[cfg(not(target_os = "linux"))]
fn hang_up() -> PollFlags {
    PollFlags::HUP | PollFlags::ERR
}

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    static CONNECTED: Cell<bool> = const { Cell::new(false) };
    static SENT: Cell<bool> = const { Cell::new(false) };
}

/// Sets a thread's variable, and sets it back when dropped.
struct ResetOnDrop<T: Copy + 'static>(&'static std::thread::LocalKey<Cell<T>>, T);

impl<T: Copy + 'static> ResetOnDrop<T> {
    fn set(variable: &'static std::thread::LocalKey<Cell<T>>, value: T) -> ResetOnDrop<T> {
        ResetOnDrop(variable, variable.replace(value))
    }
}

impl<T: Copy + 'static> Drop for ResetOnDrop<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Runs `work`, in which waits for upstreams end at the latest after `time`.
pub(super) fn with_deadline<R>(time: Duration, work: impl FnOnce() -> R) -> R {
    with_deadline_at(Instant::now().checked_add(time), work)
}

/// Runs `work`, in which waits for upstreams end at this time, if there is one.
pub(super) fn with_deadline_at<R>(deadline: Option<Instant>, work: impl FnOnce() -> R) -> R {
    let _reset = ResetOnDrop::set(&DEADLINE, deadline);
    work()
}

/// Ends the waits of the current [`with_deadline_at`] at this time.
pub(super) fn set_deadline(deadline: Option<Instant>) {
    DEADLINE.set(deadline);
}

/// Runs `work`, and tells whether it opened a connection; if not, it used one that was kept.
pub(super) fn note_connecting<R>(work: impl FnOnce() -> R) -> (R, bool) {
    let _reset = ResetOnDrop::set(&CONNECTED, false);
    let result = work();
    (result, CONNECTED.get())
}

/// Notes that a request begins, of which nothing was sent yet.
pub(super) fn note_request() {
    SENT.set(false);
    memory::note_stack_used();
}

/// Whether all of this thread's latest request was sent, to an upstream that took the connection.
pub(super) fn was_request_sent() -> bool {
    SENT.get()
}

/// Whether waiting took too long.
pub(super) fn is_timeout(e: &io::Error) -> bool {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<Error>());
    e.kind() == io::ErrorKind::TimedOut || matches!(inner, Some(Error::Timeout(_)))
}

/// Notes when an upstream is waited for, which is when all of the request was sent. It is outside of TLS, which waits
/// for its handshake before that.
#[derive(Debug)]
struct SentWatch;

#[derive(Debug)]
struct Watched<T>(T);

impl<T: Transport> Connector<T> for SentWatch {
    type Out = Watched<T>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<T>) -> Result<Option<Watched<T>>, Error> {
        Ok(chained.map(Watched))
    }
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        SENT.set(true);
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

#[derive(Debug)]
struct Sockets {
    stall: Duration,
}

impl Connector<()> for Sockets {
    type Out = Socket;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Socket>, Error> {
        CONNECTED.set(true);
        let mut last = Error::HostNotFound;
        let until = deadline(details.timeout);
        for address in &details.addrs {
            match connect(address, until) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    return Ok(Some(Socket { stream, buffers: IdleBuffers::new(), stall: self.stall }));
                }
                Err(e) if e.kind() == io::ErrorKind::TimedOut => last = Error::Timeout(details.timeout.reason),
                Err(e) => last = Error::Io(e),
            }
        }
        Err(last)
    }
}

fn connect(address: &SocketAddr, until: Option<Instant>) -> io::Result<TcpStream> {
    match until {
        None => TcpStream::connect(address),
        Some(until) => match until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => TcpStream::connect_timeout(address, left),
        },
    }
}

struct Socket {
    stream: TcpStream,
    buffers: IdleBuffers,
    stall: Duration,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("peer", &self.stream.peer_addr().ok()).finish()
    }
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let until = deadline(timeout);
        let mut sent = 0;
        while sent < amount {
            match (&self.stream).write(&self.buffers.output()[sent..amount]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let stall = Instant::now().checked_add(self.stall);
                    wait(&self.stream, PollFlags::OUT, earlier(until, stall), timeout)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let until = deadline(timeout);
        loop {
            match (&self.stream).read(self.buffers.input_append_buf()) {
                Ok(n) => {
                    self.buffers.input_appended(n);
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.buffers.free();
                    wait(&self.stream, PollFlags::IN, until, timeout)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Between two calls nothing comes: bytes or an end mean that it is of no more use.
    fn is_open(&mut self) -> bool {
        let read = (&self.stream).read(&mut [0]);
        matches!(read, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

fn deadline(timeout: NextTimeout) -> Option<Instant> {
    let own = (!timeout.after.is_not_happening()).then(|| Instant::now() + *timeout.after);
    earlier(own, DEADLINE.get())
}

/// The earlier of two times, where there are two.
pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Waits for this long are frequent; during longer ones, memory is given back.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// Waits for the upstream; fails when the time is over or the client has left.
fn wait(stream: &TcpStream, wanted: PollFlags, until: Option<Instant>, timeout: NextTimeout) -> Result<(), Error> {
    let client = blocking::client();
    let mut is_short = true;
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(Error::Timeout(timeout.reason));
        }
        let upstream = PollFd::new(stream, wanted);
        let mut fds = match &client {
            Some(client) => [upstream, PollFd::from_borrowed_fd(client.as_fd(), hang_up())],
            None => [upstream.clone(), upstream],
        };
        let watched = if client.is_some() { &mut fds[..] } else { &mut fds[..1] };
        let time = if is_short { Some(left.map_or(SHORT_WAIT, |left| left.min(SHORT_WAIT))) } else { left };
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        match poll(watched, time.as_ref()) {
            Ok(0) if is_short => {
                is_short = false;
                memory::release_stack();
                continue;
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io::Error::from(e).into()),
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        if client.is_some() && !fds[1].revents().is_empty() {
            return Err(Error::Other(Box::new(ClientLeft)));
        }
    }
}
