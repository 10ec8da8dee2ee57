//! A connection between two requests, or between two pieces of one: what is remembered while no thread is at it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use parking_lot::Mutex;

use crate::http::{Completion, Response};

use super::Handler;
use super::incoming::{Gathering, Share};
use super::outgoing::{Terms, Unsent};

/// What a connection waits for; says what its deadline means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// The next request; the connection has served one.
    Request = 0,
    Head = 1,
    Body = 2,
    Write = 3,
    Linger = 4,
    /// The first request.
    First = 5,
    /// What a reply is held for.
    Decision = 6,
}

impl Waits {
    /// Whether nothing is under way.
    pub(super) fn is_idle(self) -> bool {
        matches!(self, Waits::Request | Waits::First)
    }
}

pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) handler: Handler,
    pub(super) slot: usize,
    pub(super) token: usize,
    /// Events since it was last nobody's. Whoever moves it from zero owns the connection until they move it back.
    pending: AtomicU32,
    /// The client has ended its side: reading must go on until it says so, as no further event will.
    hung_up: AtomicBool,
    /// To be closed if it is still idle.
    unwanted: AtomicBool,
    /// The reply that is held may leave, or another in its place.
    decided: AtomicBool,
    /// The deadline in milliseconds of the clock, times eight, plus what it is for.
    timer: AtomicU64,
    /// Locked by the owner alone.
    pub(super) state: Mutex<State>,
}

/// What the owner finds and leaves.
#[derive(Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Bytes received and not used yet: the start of a head, or requests that wait for their turn.
    pub(super) input: Vec<u8>,
    /// The input has been looked at: it is the start of a head, and only more of it makes another look worth while.
    pub(super) looked_at: bool,
    pub(super) unsent: Unsent,
    /// What comes when all is sent.
    pub(super) then: Then,
    pub(super) watches_writes: bool,
}

/// What is being received.
#[derive(Default)]
pub(super) enum Phase {
    /// A head, or nothing yet.
    #[default]
    Head,
    /// A body that is gathered.
    Body(Box<Gathering>),
    /// Nothing until a reply has left.
    Held(Box<Waiting>),
    /// Nothing more: the reply is out, and what still comes in is thrown away until the client closes too.
    Linger { passed_over: u64 },
}

/// A reply that is held, and what its request said of how to send it.
pub(super) struct Waiting {
    pub(super) held: Completion,
    pub(super) response: Response,
    pub(super) terms: Terms,
    pub(super) all_read: bool,
    /// Of the memory of all that are held.
    pub(super) _share: Share,
}

/// What comes after a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Then {
    /// The next request.
    #[default]
    GoOn,
    /// The end.
    Close,
    /// The end, but not before the client has read the reply, which closing with unread input would destroy.
    Linger,
}

impl State {
    /// Takes the body that is being gathered, if one is.
    pub(super) fn take_gathering(&mut self) -> Option<Gathering> {
        match std::mem::take(&mut self.phase) {
            Phase::Body(gathering) => Some(*gathering),
            _ => None,
        }
    }

    /// Takes the reply that is held, if one is.
    pub(super) fn take_held(&mut self) -> Option<Waiting> {
        if !matches!(self.phase, Phase::Held(_)) {
            return None;
        }
        match std::mem::take(&mut self.phase) {
            Phase::Held(waiting) => Some(*waiting),
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
    pub(super) fn new(
        socket: TcpStream,
        peer: SocketAddr,
        handler: Handler,
        place: (usize, usize),
        until: u64,
    ) -> Self {
        let connection = Connection {
            socket,
            peer,
            handler,
            slot: place.0,
            token: place.1,
            pending: AtomicU32::new(0),
            hung_up: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
            decided: AtomicBool::new(false),
            timer: AtomicU64::new(0),
            state: Mutex::default(),
        };
        connection.set_timer(Waits::First, until);
        connection
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Something happened: true if the caller owns the connection now, and must see to it that it is run.
    pub(super) fn announce(&self) -> bool {
        self.pending.fetch_add(1, AcqRel) == 0
    }

    /// What happened so far, for [`Connection::disown`].
    pub(super) fn events_seen(&self) -> u32 {
        self.pending.load(Acquire)
    }

    /// Gives the connection up unless more has happened since `seen`; then the caller still owns it.
    pub(super) fn disown(&self, seen: u32) -> bool {
        self.pending.compare_exchange(seen, 0, AcqRel, Acquire).is_ok()
    }

    pub(super) fn is_nobodys(&self) -> bool {
        self.pending.load(Relaxed) == 0
    }

    pub(super) fn note_hangup(&self) {
        self.hung_up.store(true, Release);
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.hung_up.load(Acquire)
    }

    pub(super) fn mark_unwanted(&self) {
        self.unwanted.store(true, Relaxed);
    }

    pub(super) fn is_unwanted(&self) -> bool {
        self.unwanted.load(Relaxed)
    }

    /// Says whether the reply that is held may leave.
    pub(super) fn set_decided(&self, decided: bool) {
        self.decided.store(decided, Release);
    }

    pub(super) fn is_decided(&self) -> bool {
        self.decided.load(Acquire)
    }

    pub(super) fn set_timer(&self, waits: Waits, until: u64) {
        self.timer.store(until << 3 | waits as u64, Relaxed);
    }

    /// What it waits for, and until when.
    pub(super) fn timer(&self) -> (Waits, u64) {
        let timer = self.timer.load(Relaxed);
        let waits = match timer & 7 {
            0 => Waits::Request,
            1 => Waits::Head,
            2 => Waits::Body,
            3 => Waits::Write,
            5 => Waits::First,
            6 => Waits::Decision,
            _ => Waits::Linger,
        };
        (waits, timer >> 3)
    }

    /// Makes calls on the socket wait, at most so long each, or never wait.
    pub(super) fn set_blocking(&self, timeouts: Option<(std::time::Duration, std::time::Duration)>) -> io::Result<()> {
        if let Some((read, write)) = timeouts {
            self.socket.set_read_timeout(Some(read))?;
            self.socket.set_write_timeout(Some(write))?;
        }
        self.socket.set_nonblocking(timeouts.is_none())
    }
}
