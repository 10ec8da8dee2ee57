//! A slot: the right to run, of which there are as many as cores, with a readiness set (epoll or kqueue) in which its
//! share of the connections is registered and a queue of those that are ready. One thread holds a slot at a time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use parking_lot::Mutex;
use slab::Slab;

use super::connection::Connection;
use super::sync::{Generation, LoadCounters, Parker, ReadyQueue};

const WAKER: Token = Token(usize::MAX);
/// Maximum number of events that one poll returns.
const MAX_EVENTS: usize = 256;

pub(super) struct Slot {
    /// Locked by the holder while it polls, and by other threads that poll for it while it is in a handler.
    readiness: Mutex<(Poll, Events)>,
    registry: Registry,
    waker: Waker,
    connections: Mutex<Slab<Arc<Connection>>>,
    /// Connections to run. Each is owned by whoever takes it from here.
    ready: ReadyQueue<Arc<Connection>>,
    pub(super) parker: Parker,
    pub(super) generation: Generation,
    pub(super) load: LoadCounters,
}

impl Slot {
    pub(super) fn new() -> io::Result<Slot> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, WAKER)?;
        Ok(Slot {
            readiness: Mutex::new((poll, Events::with_capacity(MAX_EVENTS))),
            registry,
            waker,
            connections: Mutex::default(),
            ready: ReadyQueue::new(),
            parker: Parker::new(),
            generation: Generation::new(),
            load: LoadCounters::new(),
        })
    }

    /// Registers the connection that `make` returns for its token.
    pub(super) fn register(&self, make: impl FnOnce(usize) -> Connection) -> io::Result<()> {
        let connection = {
            let mut connections = self.connections.lock();
            let entry = connections.vacant_entry();
            let connection = Arc::new(make(entry.key()));
            entry.insert(Arc::clone(&connection)).clone()
        };
        let registered =
            self.registry.register(&mut SourceFd(&connection.fd()), Token(connection.token), Interest::READABLE);
        if registered.is_err() {
            self.deregister(&connection);
        }
        registered
    }

    /// Also reports writability from now on, and at once if the socket is already writable.
    pub(super) fn watch_writability(&self, connection: &Connection) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.reregister(&mut SourceFd(&connection.fd()), Token(connection.token), interest)
    }

    /// Removes a connection. It is closed when the last reference to it is dropped.
    pub(super) fn deregister(&self, connection: &Connection) {
        let _ = self.registry.deregister(&mut SourceFd(&connection.fd()));
        let _ = self.connections.lock().try_remove(connection.token);
    }

    /// Calls `f` with every connection. The lock is released now and then, so that the holder hardly waits for it.
    pub(super) fn for_each_connection(&self, mut f: impl FnMut(&Arc<Connection>)) {
        const PER_LOCK: usize = 128;
        let mut next = 0;
        loop {
            let connections = self.connections.lock();
            let end = (next + PER_LOCK).min(connections.capacity());
            (next..end).filter_map(|key| connections.get(key)).for_each(&mut f);
            if end == connections.capacity() {
                return;
            }
            next = end;
        }
    }

    /// Waits for events (`None`: until interrupted) and queues the connections that have become ready, unless a thread
    /// runs them already. Returns how many were queued. Only the holder calls this.
    pub(super) fn poll(&self, timeout: Option<Duration>) -> usize {
        self.load.count_poll();
        self.enqueue_ready(&mut self.readiness.lock(), timeout)
    }

    /// As [`Slot::poll`], for a thread that does not hold the slot. Never waits; returns 0 while the holder polls.
    pub(super) fn poll_for_holder(&self) -> usize {
        let Some(mut readiness) = self.readiness.try_lock() else { return 0 };
        let queued = self.enqueue_ready(&mut readiness, Some(Duration::ZERO));
        // An interrupt is meant for the holder, which may be about to wait: pass it on.
        if readiness.1.iter().any(|event| event.token() == WAKER) {
            self.interrupt();
        }
        queued
    }

    fn enqueue_ready(&self, (poll, events): &mut (Poll, Events), timeout: Option<Duration>) -> usize {
        // The only possible error is an interruption by a signal, which is treated like no event.
        if poll.poll(events, timeout).is_err() || events.is_empty() {
            return 0;
        }
        let connections = self.connections.lock();
        self.ready.append(|ready| {
            for event in &*events {
                // The event may belong to a closed connection whose token was reused: the turn of the new one then has
                // nothing to do.
                if let Some(connection) = connections.get(event.token().0) {
                    if event.is_read_closed() {
                        connection.set_hung_up();
                    }
                    if connection.ownership.try_acquire() {
                        ready.push_back(Arc::clone(connection));
                    }
                }
            }
        })
    }

    /// Queues a connection that the caller owns.
    pub(super) fn push(&self, connection: Arc<Connection>) {
        self.ready.push(connection);
    }

    /// Takes the connection that has been ready longest; the caller owns it then.
    pub(super) fn pop(&self) -> Option<Arc<Connection>> {
        self.ready.pop()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Interrupts the holder's current or next [`Slot::poll`].
    pub(super) fn interrupt(&self) {
        if let Err(e) = self.waker.wake() {
            log::error!("cannot wake a worker: {e}");
        }
    }
}
