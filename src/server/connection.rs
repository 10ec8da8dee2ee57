//! The state of a connection between turns, while no thread works on it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::blocking::Party;
use crate::http::{Completion, Request, Response};
use crate::memory_budget::{Holder, Reservation};

use super::incoming::BodyAccumulator;
use super::outgoing::{ClientCapabilities, Unsent};
use super::sync::{CompletionFlag, Ownership};
use super::transfer::Transfer;

/// Answers requests. It may panic (the client gets a 500). It may block; if for long, then inside
/// [`block_in_place`](crate::blocking::block_in_place); if that is
/// [`Refused`](crate::blocking::Refused), the response should be a 503 or 429 with `Retry-After`.
pub type Handler = Arc<dyn Fn(&mut Request) -> Response + Send + Sync>;

/// What a connection is waiting for, which determines what happens at its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerKind {
    /// A request after the first.
    NextRequest = 0,
    /// The rest of a request's head.
    Head = 1,
    /// The rest of a request's body.
    Body = 2,
    /// The client, to take more of the response.
    Write = 3,
    /// The client, to close its side.
    Linger = 4,
    FirstRequest = 5,
    /// The completion of a deferred response, or what a postponed request waits for.
    Deferred = 6,
}

impl TimerKind {
    /// Whether no request is in progress.
    pub(super) fn is_idle(self) -> bool {
        matches!(self, TimerKind::NextRequest | TimerKind::FirstRequest)
    }
}

/// A connection to a client. Any thread may use all fields except `state`.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) handler: Handler,
    /// The index of the slot where it is registered, and its token there.
    pub(super) slot: usize,
    pub(super) token: usize,
    pub(super) ownership: Ownership,
    /// The client has closed its side. The owner must read until the end of the stream then, as no event will follow.
    hung_up: AtomicBool,
    /// It is to be closed unless it is busy.
    eviction_requested: AtomicBool,
    /// The body or the response that takes long, if there is one. The lock is held for a moment only.
    pub(super) transfer: Mutex<Option<Transfer>>,
    /// Set when the deferred response can be completed, or the postponed request handled.
    pub(super) completion: CompletionFlag,
    /// The deadline in milliseconds of the server's clock, times eight, plus the [`TimerKind`].
    timer: AtomicU64,
    /// Only the owner locks it.
    pub(super) state: Mutex<ConnectionState>,
}

/// The state that one turn of a connection leaves for the next.
#[derive(Default)]
pub(super) struct ConnectionState {
    pub(super) phase: Phase,
    /// Bytes received but not processed yet: an incomplete head, or pipelined requests that wait for an earlier one.
    pub(super) received: Vec<u8>,
    pub(super) received_memory: Option<Reservation>,
    /// Whose the latest request is, before its handler has found out; a proxy sends those of many.
    pub(super) party: Option<Party>,
    /// `received` is an incomplete head, and need not be parsed again before more bytes arrive.
    pub(super) is_partial_head: bool,
    pub(super) unsent: Unsent,
    /// What to do when `unsent` has been sent.
    pub(super) after_response: AfterResponse,
    /// The connection is registered for writability as well.
    pub(super) watches_writability: bool,
}

impl Connection {
    /// Whose its latest request is. An incomplete head does not tell.
    pub(super) fn party(&self, state: &ConnectionState) -> Party {
        state.party.unwrap_or_else(|| Party::network(self.peer.ip()))
    }
}

/// What the connection receives next.
#[derive(Default)]
pub(super) enum Phase {
    /// A head, or nothing yet.
    #[default]
    Head,
    /// A body that is collected in memory.
    Body(Box<BodyAccumulator>),
    /// Nothing until the deferred response is sent, or the postponed request handled.
    Deferred(Box<Deferral>),
    /// Nothing: our side is shut down, and bytes are discarded until the client closes its side.
    Linger { discarded: u64 },
}

/// What waits until the connection's completion flag is set.
pub(super) enum Deferral {
    Response(DeferredResponse),
    Request(PostponedRequest),
}

/// A request whose handler is to be called again.
pub(super) struct PostponedRequest {
    pub(super) request: Request,
    /// It has waited too long, and is refused. A notifier that is called later must not meet another response, so the
    /// connection ends.
    pub(super) is_late: bool,
    pub(super) memory: Reservation,
}

/// A response that must not be sent yet, with what is needed to send it.
pub(super) struct DeferredResponse {
    pub(super) completion: Completion<Response>,
    pub(super) response: Response,
    pub(super) client: ClientCapabilities,
    /// The whole body of the request has been received.
    pub(super) body_received: bool,
    pub(super) memory: Reservation,
}

/// What follows a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AfterResponse {
    /// The next request.
    #[default]
    KeepAlive,
    /// Close at once.
    Close,
    /// Close after the client has read the response: closing a socket with unread input could destroy the response.
    Linger,
}

impl ConnectionState {
    /// Takes the body that is being collected, if there is one.
    pub(super) fn take_body(&mut self) -> Option<BodyAccumulator> {
        match std::mem::take(&mut self.phase) {
            Phase::Body(body) => Some(*body),
            _ => None,
        }
    }

    /// Takes the deferred response or postponed request, if there is one.
    pub(super) fn take_deferred(&mut self) -> Option<Deferral> {
        if !matches!(self.phase, Phase::Deferred(_)) {
            return None;
        }
        match std::mem::take(&mut self.phase) {
            Phase::Deferred(deferred) => Some(*deferred),
            _ => None,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// An unowned connection. Its first request must arrive before `deadline`.
    pub(super) fn new(
        socket: TcpStream,
        peer: SocketAddr,
        handler: Handler,
        (slot, token): (usize, usize),
        deadline: u64,
    ) -> Self {
        let connection = Connection {
            socket,
            peer,
            handler,
            slot,
            token,
            ownership: Ownership::new(),
            hung_up: AtomicBool::new(false),
            eviction_requested: AtomicBool::new(false),
            transfer: Mutex::new(None),
            completion: CompletionFlag::new(),
            timer: AtomicU64::new(0),
            state: Mutex::default(),
        };
        connection.set_timer(TimerKind::FirstRequest, deadline);
        connection
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(super) fn set_hung_up(&self) {
        self.hung_up.store(true, Release);
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.hung_up.load(Acquire)
    }

    pub(super) fn request_eviction(&self) {
        self.eviction_requested.store(true, Relaxed);
    }

    pub(super) fn is_eviction_requested(&self) -> bool {
        self.eviction_requested.load(Relaxed)
    }

    /// A body is being received, or a response sent, that takes long.
    pub(super) fn begin_transfer(&self, holder: Holder) {
        *self.transfer.lock() = Some(Transfer::new(holder));
    }

    /// Waits for the client to go on with a transfer, which begins with the first such wait.
    pub(super) fn resume_transfer(&self, holder: impl FnOnce() -> Holder) {
        self.transfer.lock().get_or_insert_with(|| Transfer::new(holder())).wait(Instant::now());
    }

    /// Begins to wait for the client, if there is such a transfer.
    pub(super) fn begin_wait(&self) {
        if let Some(transfer) = &mut *self.transfer.lock() {
            transfer.wait(Instant::now());
        }
    }

    /// Has waited, and so many bytes were transferred. Returns true if the transfer is to end.
    pub(super) fn end_wait(&self, bytes: usize) -> bool {
        self.transfer.lock().as_mut().is_some_and(|transfer| {
            transfer.note(bytes, Instant::now());
            transfer.is_evicted()
        })
    }

    pub(super) fn is_transfer_evicted(&self) -> bool {
        self.transfer.lock().as_ref().is_some_and(Transfer::is_evicted)
    }

    pub(super) fn end_transfer(&self) {
        *self.transfer.lock() = None;
    }

    pub(super) fn set_timer(&self, kind: TimerKind, deadline: u64) {
        self.timer.store(deadline << 3 | kind as u64, Relaxed);
    }

    /// What it waits for, and its deadline.
    pub(super) fn timer(&self) -> (TimerKind, u64) {
        let timer = self.timer.load(Relaxed);
        let kind = match timer & 7 {
            0 => TimerKind::NextRequest,
            1 => TimerKind::Head,
            2 => TimerKind::Body,
            3 => TimerKind::Write,
            5 => TimerKind::FirstRequest,
            6 => TimerKind::Deferred,
            _ => TimerKind::Linger,
        };
        (kind, timer >> 3)
    }

    /// Makes the socket blocking, with these timeouts for a read and a write, or non-blocking.
    pub(super) fn set_blocking(&self, timeouts: Option<(Duration, Duration)>) -> io::Result<()> {
        if let Some((read, write)) = timeouts {
            self.socket.set_read_timeout(Some(read))?;
            self.socket.set_write_timeout(Some(write))?;
        }
        self.socket.set_nonblocking(timeouts.is_none())
    }
}
