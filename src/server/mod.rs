//! The connection layer: sockets, threads and HTTP/1.1. It only depends on [`http`](crate::http), and calls one
//! [`Handler`] per listener.
//!
//! # Terms
//!
//! - A *worker* is a thread that runs handlers. There are about as many running as there are cores.
//! - A *slot* is the right to run. It has a readiness set (epoll or kqueue) with its share of the connections, and a
//!   queue of those that are ready. One worker *holds* a slot at a time. There is one slot for each core, and some more
//!   for *helpers*.
//! - A *turn* is what a worker does with one connection before it goes on to the next: it reads the available bytes,
//!   calls the handler for complete requests, and writes the responses. A connection is *owned* by the thread that runs
//!   it, or that has taken it from a queue to run it; while nothing happens on it, it is *unowned*.
//! - A slot's *generation* is a number that changes whenever a handler starts or ends, and when the slot is taken away
//!   from its holder, so that a worker can tell whether it still holds its slot.
//! - An *idle thread* is a worker without a slot that waits to be given one. It exits after a while.
//! - A *detached* thread is in a handler without a slot, because the handler has blocked.
//! - The *monitor* is the thread that handles deadlines, blocked handlers and shutdown.
//! - A *deferred response* is complete but must not be sent before some event, such as a commit
//!   ([`Deferred`](crate::http::Deferred)). No thread waits for that event.
//!
//! # Blocking
//!
//! Handlers are ordinary blocking code. One that is going to block for long says so with
//! [`block_in_place`](crate::blocking::block_in_place): its slot goes to an idle or new thread, and its own thread
//! finishes the turn without a slot and then becomes idle. The monitor takes the slot from a handler that does not
//! announce it, a little later. Giving up the slot costs too much for a short wait such as one database statement,
//! which is only announced ([`note_short_wait`](crate::blocking::note_short_wait)); while many requests wait like that,
//! helper slots come into use, which have no connections of their own and run what is ready on others. So a connection
//! costs no thread, a slow request does not delay a quick one, and hardly more threads run than there are cores.
//!
//! # Life of a connection
//!
//! 1. The acceptor takes it from a listening socket and registers it with one of the slots (`listener`).
//! 2. Bytes arrive. The slot's holder polls, becomes the connection's owner and queues it (`slot`). It is run by the
//!    holder, or by another worker that has nothing to do (`scheduler`, `worker`).
//! 3. The turn parses the head and collects the body (`turn`, `incoming`). If either is incomplete, the received
//!    part is kept in the [`ConnectionState`](connection::ConnectionState), a deadline is set, and the connection is
//!    released.
//! 4. The handler is called for a complete request, and its response is written (`respond`, `outgoing`). A body too
//!    large for memory is read by the handler from the socket, and a response made piece by piece is written to it, while
//!    the thread blocks (`stream`). A deferred response is kept: its notifier schedules another turn, which
//!    completes it.
//! 5. Data that the socket does not accept at once is kept, and sent when the socket becomes writable. Later
//!    requests on the connection wait until it is sent.
//! 6. The connection ends when the client or a response says so, at a deadline (the monitor schedules a turn, which
//!    finds that it is late), when there are too many connections or others need its memory (`eviction`, `transfer`), or
//!    at shutdown.

mod budget;
mod chunked;
mod clock;
mod connection;
mod context;
mod eviction;
mod incoming;
mod listener;
mod monitor;
mod outgoing;
mod respond;
mod scheduler;
mod settings;
mod shared;
mod slot;
mod stream;
mod sync;
mod thread_pool;
mod transfer;
mod turn;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use crate::blocking::Wait;

use listener::{Acceptor, Listener};
use monitor::Monitor;
use shared::{Shared, Stage};

pub use chunked::{Chunked, Malformed};
pub use connection::Handler;
pub use listener::{bind, inherited};
pub use settings::{ClientAddress, Settings};

/// Listeners, and the threads that serve them all.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
}

/// Monitors and stops a server, from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// The state and counters of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that are open now.
    pub open_connections: usize,
    /// Worker threads that exist now.
    pub threads: usize,
    /// Threads that block in a handler now, or have blocked and are finishing their turn.
    pub blocked: usize,
    /// Handlers called so far.
    pub requests: u64,
    /// Calls of [`block_in_place`](crate::blocking::block_in_place) refused so far.
    pub refused: u64,
    /// Connections closed so far to make room for others, or to free memory.
    pub evicted: u64,
    /// Requests that wait now, by what they wait for, in the order of [`Wait::ALL`].
    pub waiting: [WaitStats; Wait::ALL.len()],
    /// The memory of all requests, in bytes.
    pub memory: usize,
    /// What of it is reserved now.
    pub memory_used: usize,
    /// How often nothing was left of it so far.
    pub memory_refused: u64,
}

/// Requests that wait for one kind of thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitStats {
    /// How many wait now.
    pub waiting: usize,
    /// How many may.
    pub places: usize,
    /// How many were refused so far.
    pub refused: u64,
}

impl Server {
    /// A server without listeners. Raises the soft descriptor limit of the process to the hard one.
    ///
    /// # Errors
    /// The operating system provides no readiness set.
    pub fn new(settings: Settings) -> io::Result<Server> {
        Ok(Server { shared: Arc::new(Shared::new(settings, worker::run)?), listeners: Vec::new() })
    }

    /// Has `handler` serve the connections of `socket` (see [`bind`] and [`inherited`]) once the server runs. Clients
    /// can connect at once. `name` is for the log. Returns the socket's address.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn listen(&mut self, name: &'static str, socket: TcpListener, handler: Handler) -> io::Result<SocketAddr> {
        let address = socket.local_addr()?;
        self.listeners.push(Listener { socket, name, handler });
        Ok(address)
    }

    /// A handle to monitor and stop this server.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Serves until [`Handle::stop`] is called and all requests in flight are answered or time out.
    ///
    /// # Errors
    /// A thread could not be started or a listener could not be watched; nothing was served then.
    pub fn run(self) -> io::Result<()> {
        let shared = self.shared;
        let (acceptor, waker) = Acceptor::new(Arc::clone(&shared), self.listeners)?;
        let _ = shared.stop_listeners.set((thread::current(), waker));
        for slot in 0..shared.settings.workers {
            shared.assign(slot)?;
        }
        let acceptor = thread::Builder::new().name("acceptor".into()).spawn(|| acceptor.run())?;
        Monitor::new(shared, acceptor).run();
        Ok(())
    }
}

impl Handle {
    /// Stops the server: it accepts no new connections (those in the listening queue are still served), closes idle
    /// ones, and finishes the requests in flight. Returns at once; [`Server::run`] returns when that is done.
    pub fn stop(&self) {
        self.0.set_stage(Stage::Stopping);
        if let Some((monitor, acceptor)) = self.0.stop_listeners.get() {
            monitor.unpark();
            if let Err(e) = acceptor.wake() {
                log::error!("cannot wake the acceptor: {e}");
            }
        }
    }

    /// How many requests were answered without a handler, by status: those that were malformed, incomplete, too slow or too
    /// large, or of which too many waited.
    pub fn own_replies(&self) -> BTreeMap<u16, u64> {
        self.0.own_replies()
    }

    /// The current state and counters.
    pub fn stats(&self) -> Stats {
        let shared = &self.0;
        Stats {
            open_connections: shared.open.load(Relaxed),
            threads: shared.pool.threads.load(Relaxed),
            blocked: shared.pool.detached.load(Relaxed),
            requests: shared.slots.iter().map(|slot| slot.load.requests()).sum(),
            refused: shared.pool.refused.load(Relaxed),
            evicted: shared.evicted.load(Relaxed),
            waiting: Wait::ALL.map(|wait| {
                let bulkhead = shared.bulkheads.of(wait);
                let places = shared.settings.places.of(wait);
                WaitStats { waiting: bulkhead.used(), places, refused: bulkhead.refused() }
            }),
            memory: shared.memory.most(),
            memory_used: shared.memory.used(),
            memory_refused: shared.memory.refused(),
        }
    }
}
