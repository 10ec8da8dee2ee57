//! Sockets and threads: a server that gives every connection its turn. Knows `http` and one closure per listener.
//!
//! A *slot* is the right to run; there are as many as cores. Each has a readiness set with its share of the
//! connections, and one thread that waits on it, reads what is there, calls the handler and writes the reply. A
//! handler that is going to wait says so ([`blocking::block_in_place`](crate::blocking::block_in_place)); its thread then leaves the
//! slot to another. One that does not say so loses the slot a little later. A short wait, one call to the database, is
//! not worth that: it is only announced ([`blocking::note_short_wait`](crate::blocking::note_short_wait)), and while many
//! requests wait like this, *helpers* (slots without connections of their own) take what is ready from the others. So
//! a connection costs no thread, a slow request stops no quick one, and there are never many more threads running than
//! cores.
//!
//! The files, from the outside in: `listener` takes connections in; `keeper` looks after deadlines, stuck handlers and
//! the stop; `crew` has the threads and `slot` what they hold; `worker` is a thread's loop; `exchange` one turn of a
//! connection; `serve` one request. `connection` is what is remembered between turns; `incoming`, `chunked`,
//! `outgoing` and `stream` move the bytes.

mod chunked;
mod clock;
mod connection;
mod crew;
mod exchange;
mod incoming;
mod keeper;
mod listener;
mod outgoing;
mod serve;
mod settings;
mod slot;
mod stream;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{
    AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};

use crate::http::{Request, Response};

use clock::Clock;
use connection::Connection;
use crew::Crew;
use keeper::Keeper;
use listener::{Acceptor, Listener};
use slot::Slot;

pub use chunked::{Chunked, Malformed};
pub use listener::{bind, inherited};
pub use settings::Settings;

/// What makes a reply of a request. It may panic (the client gets a 500) and it may wait, in a
/// [`blocking::block_in_place`](crate::blocking::block_in_place) if the wait is long; where that says
/// [`Busy`](crate::blocking::Busy), the reply is to be a 503 with `Retry-After`.
pub type Handler = Arc<dyn Fn(&mut Request) -> Response + Send + Sync>;

/// Listeners, and the threads that serve them all.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
}

/// A way to watch and stop a server from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// What a server is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that are open now.
    pub open_connections: usize,
    /// Threads, of whatever use.
    pub threads: usize,
    /// Threads that wait in a handler now, or have waited and finish their request.
    pub blocked: usize,
    /// Handlers called so far.
    pub requests: u64,
    /// Waits refused so far because too many threads waited.
    pub refused: u64,
    /// Connections closed so far to make room, or to free memory.
    pub evicted: u64,
}

/// Helpers at most, for each worker. Measured on 2 cores: where requests read together, 4 do more than 2 and 6 still a
/// little more; where each waits for a statement of its own, 2 to 4 do as much, and more a little less.
const HELPERS: usize = 4;

/// How far a server is on its way to the end.
#[derive(Clone, Copy)]
enum Stage {
    Running,
    /// No new connections; every reply ends its connection.
    Stopping,
    /// Idle connections are closed as well.
    ClosingIdle,
    Finished,
}

/// What all threads of a server share.
struct Shared {
    settings: Settings,
    max_connections: usize,
    clock: Clock,
    /// As many as workers, then [`HELPERS`] times as many helpers.
    slots: Vec<Slot>,
    /// How many helpers are wanted now.
    helpers: AtomicUsize,
    /// Slots whose holder waits for readiness.
    sleepers: AtomicUsize,
    crew: Crew,
    open: AtomicUsize,
    gathered: Arc<incoming::Total>,
    unsent: Arc<incoming::Total>,
    held: Arc<incoming::Total>,
    /// Bodies that threads wait for.
    streaming: AtomicUsize,
    shed: AtomicU64,
    stage: AtomicU8,
    /// Whom to tell of a stop.
    stop_listeners: OnceLock<(Thread, mio::Waker)>,
}

impl Server {
    /// A server without listeners. Raises the soft descriptor limit to the hard one.
    ///
    /// # Errors
    /// The system gives no readiness set.
    pub fn new(settings: Settings) -> io::Result<Server> {
        let settings = Settings { workers: settings.workers.max(1), ..settings };
        let shared = Shared {
            max_connections: settings.connection_limit(),
            clock: Clock::new(),
            slots: (0..settings.workers * (1 + HELPERS)).map(|_| Slot::new()).collect::<io::Result<_>>()?,
            helpers: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            crew: Crew::new(worker::main),
            open: AtomicUsize::new(0),
            gathered: Arc::default(),
            unsent: Arc::default(),
            held: Arc::default(),
            streaming: AtomicUsize::new(0),
            shed: AtomicU64::new(0),
            stage: AtomicU8::new(Stage::Running as u8),
            stop_listeners: OnceLock::new(),
            settings,
        };
        Ok(Server { shared: Arc::new(shared), listeners: Vec::new() })
    }

    /// Has `handler` serve what comes to `socket` (see [`bind`] and [`inherited`]), once the server runs; clients can
    /// connect at once. `name` is for the log. Returns the socket's address.
    ///
    /// # Errors
    /// The socket has no address: it is none to listen on.
    pub fn listen(&mut self, name: &'static str, socket: TcpListener, handler: Handler) -> io::Result<SocketAddr> {
        let address = socket.local_addr()?;
        self.listeners.push(Listener { socket, name, handler });
        Ok(address)
    }

    /// What stops and watches this server.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Serves until [`Handle::stop`] was called and all requests in flight are answered, or the time for that is over.
    ///
    /// # Errors
    /// A thread could not be started or a listener not be watched; nothing was served then.
    pub fn run(self) -> io::Result<()> {
        let shared = self.shared;
        let (acceptor, waker) = Acceptor::new(Arc::clone(&shared), self.listeners)?;
        let _ = shared.stop_listeners.set((thread::current(), waker));
        for slot in 0..shared.settings.workers {
            crew::staff(&shared, slot)?;
        }
        let acceptor = thread::Builder::new().name("acceptor".into()).spawn(|| acceptor.run())?;
        Keeper::new(shared, acceptor).run();
        Ok(())
    }
}

impl Handle {
    /// Stops the server: no new connections (those in the queue are still served), idle ones are closed, requests in
    /// flight are finished. Returns at once; [`Server::run`] returns when it is done.
    pub fn stop(&self) {
        self.0.set_stage(Stage::Stopping);
        if let Some((keeper, acceptor)) = self.0.stop_listeners.get() {
            keeper.unpark();
            if let Err(e) = acceptor.wake() {
                log::error!("cannot wake the acceptor: {e}");
            }
        }
    }

    /// What the server is doing now.
    pub fn stats(&self) -> Stats {
        let shared = &self.0;
        Stats {
            open_connections: shared.open.load(Relaxed),
            threads: shared.crew.threads.load(Relaxed),
            blocked: shared.crew.detached.load(Relaxed),
            requests: shared.slots.iter().map(Slot::requests).sum(),
            refused: shared.crew.refused.load(Relaxed),
            evicted: shared.shed.load(Relaxed),
        }
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stage.load(Acquire) >= Stage::Stopping as u8
    }

    fn is_closing_idle(&self) -> bool {
        self.stage.load(Relaxed) >= Stage::ClosingIdle as u8
    }

    fn is_finished(&self) -> bool {
        self.stage.load(Acquire) >= Stage::Finished as u8
    }

    /// Goes on to a later stage, never back.
    fn set_stage(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, AcqRel);
    }

    /// Ends a connection that the caller owns, and stays the owner of: nobody runs it again.
    fn close(&self, connection: &Connection) {
        self.slots[connection.slot].forget(connection);
        self.open.fetch_sub(1, Relaxed);
    }
}
