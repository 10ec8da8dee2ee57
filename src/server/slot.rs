//! A slot is the right to run: there are as many as cores. It has its own readiness set, in which its share of the
//! connections is registered, and a queue of those that are ready. One thread holds it at a time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use parking_lot::Mutex;
use slab::Slab;

use super::connection::Connection;

const WAKER: Token = Token(usize::MAX);
const EVENTS_AT_ONCE: usize = 256;

pub(super) struct Slot {
    /// Locked by the thread that holds the slot, and by helpers while that is in a handler.
    readiness: Mutex<(Poll, Events)>,
    registry: Registry,
    waker: Waker,
    connections: Mutex<Slab<Arc<Connection>>>,
    ready: Mutex<VecDeque<Arc<Connection>>>,
    ready_count: AtomicUsize,
    /// The thread that holds the slot waits for readiness, and nobody has woken it yet.
    asleep: AtomicBool,
    /// Odd while the holder is in a handler. Goes up by one as a handler starts and ends, and as the slot is taken
    /// from a holder; so a thread that remembers the word of its own start can tell whether the slot is still its own.
    word: AtomicU64,
    /// Requests started by holders of this slot; written by the holder only.
    requests: AtomicU64,
    /// Short waits of holders of this slot; written by the holder only.
    short_waits: AtomicU64,
    /// How often the holder has looked for readiness; written by the holder only.
    looks: AtomicU64,
    /// `looks` as others last saw it.
    looks_seen: AtomicU64,
}

impl Slot {
    pub(super) fn new() -> io::Result<Slot> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, WAKER)?;
        Ok(Slot {
            readiness: Mutex::new((poll, Events::with_capacity(EVENTS_AT_ONCE))),
            registry,
            waker,
            connections: Mutex::default(),
            ready: Mutex::default(),
            ready_count: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            word: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            short_waits: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            looks_seen: AtomicU64::new(0),
        })
    }

    /// Takes a new connection in; from now on its readiness is seen here.
    pub(super) fn adopt(&self, make: impl FnOnce(usize) -> Connection) -> io::Result<()> {
        let connection = {
            let mut connections = self.connections.lock();
            let entry = connections.vacant_entry();
            let connection = Arc::new(make(entry.key()));
            entry.insert(Arc::clone(&connection)).clone()
        };
        let registered =
            self.registry.register(&mut SourceFd(&connection.fd()), Token(connection.token), Interest::READABLE);
        if registered.is_err() {
            self.forget(&connection);
        }
        registered
    }

    /// Asks to hear of writability too, and to hear at once if it is there already.
    pub(super) fn watch_writes(&self, connection: &Connection) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.reregister(&mut SourceFd(&connection.fd()), Token(connection.token), interest)
    }

    /// Lets go of a connection, which closes when its last user is done with it.
    pub(super) fn forget(&self, connection: &Connection) {
        let _ = self.registry.deregister(&mut SourceFd(&connection.fd()));
        let _ = self.connections.lock().try_remove(connection.token);
    }

    /// Calls `look` with every connection, a few under the lock at a time so that the holder hardly waits.
    pub(super) fn each_connection(&self, mut look: impl FnMut(&Arc<Connection>)) {
        const AT_ONCE: usize = 128;
        let mut next = 0;
        loop {
            let connections = self.connections.lock();
            let end = (next + AT_ONCE).min(connections.capacity());
            (next..end).filter_map(|key| connections.get(key)).for_each(&mut look);
            if end == connections.capacity() {
                return;
            }
            next = end;
        }
    }

    /// Waits for readiness (`None`: until woken) and queues the connections that have become ready and are nobody's.
    /// Returns how many. Only the holder calls this.
    pub(super) fn poll(&self, timeout: Option<Duration>) -> usize {
        self.looks.store(self.looks.load(Relaxed) + 1, Relaxed);
        self.gather(&mut self.readiness.lock(), timeout)
    }

    /// Whether the holder has not looked for readiness since another thread last asked this: it is in a handler, or
    /// the system runs something else on its core.
    pub(super) fn is_behind(&self) -> bool {
        let looks = self.looks.load(Relaxed);
        self.looks_seen.load(Relaxed) == looks || {
            self.looks_seen.store(looks, Relaxed);
            false
        }
    }

    /// Queues what has become ready, for a thread that does not hold the slot. Returns how many; 0 if its holder looks
    /// for itself.
    pub(super) fn poll_for_holder(&self) -> usize {
        let Some(mut readiness) = self.readiness.try_lock() else { return 0 };
        let found = self.gather(&mut readiness, Some(Duration::ZERO));
        // A wake-up is the holder's, who may be about to wait.
        if readiness.1.iter().any(|event| event.token() == WAKER) {
            self.wake_always();
        }
        found
    }

    fn gather(&self, (poll, events): &mut (Poll, Events), timeout: Option<Duration>) -> usize {
        // The only error is an interruption by a signal: as if nothing had happened.
        if poll.poll(events, timeout).is_err() || events.is_empty() {
            return 0;
        }
        let connections = self.connections.lock();
        let mut ready = self.ready.lock();
        let before = ready.len();
        for event in &*events {
            // An event may be about a connection that is gone, or its successor: then it says too much, which is harmless.
            if let Some(connection) = connections.get(event.token().0) {
                if event.is_read_closed() {
                    connection.note_hangup();
                }
                if connection.announce() {
                    ready.push_back(Arc::clone(connection));
                }
            }
        }
        self.ready_count.store(ready.len(), SeqCst);
        ready.len() - before
    }

    /// Puts a connection that the caller owns at the end of the queue.
    pub(super) fn push(&self, connection: Arc<Connection>) {
        let mut ready = self.ready.lock();
        ready.push_back(connection);
        self.ready_count.store(ready.len(), SeqCst);
    }

    /// Takes the ready connection that has waited longest; the caller owns it.
    pub(super) fn pop(&self) -> Option<Arc<Connection>> {
        if self.ready_count.load(Relaxed) == 0 {
            return None;
        }
        let mut ready = self.ready.lock();
        let connection = ready.pop_front();
        self.ready_count.store(ready.len(), SeqCst);
        connection
    }

    pub(super) fn has_ready(&self) -> bool {
        self.ready_count.load(SeqCst) > 0
    }

    /// Says that the holder is about to wait. It must look for work once more after this.
    pub(super) fn lie_down(&self) {
        self.asleep.store(true, SeqCst);
    }

    /// Says that the holder is up.
    pub(super) fn get_up(&self) {
        self.asleep.store(false, Relaxed);
    }

    /// Wakes the holder if it waits.
    pub(super) fn wake(&self) -> bool {
        let asleep = self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst);
        if asleep {
            self.wake_always();
        }
        asleep
    }

    /// Ends the present or next wait of the holder.
    pub(super) fn wake_always(&self) {
        if let Err(e) = self.waker.wake() {
            log::error!("cannot wake a worker: {e}");
        }
    }

    /// The word a new holder starts from.
    pub(super) fn word(&self) -> u64 {
        self.word.load(Acquire)
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub(super) fn short_waits(&self) -> u64 {
        self.short_waits.load(Relaxed)
    }

    /// The holder is about to wait, but not for long.
    pub(super) fn note_short_wait(&self) {
        self.short_waits.store(self.short_waits.load(Relaxed) + 1, Relaxed);
    }

    /// The holder starts a request.
    pub(super) fn count_request(&self) {
        self.requests.store(self.requests.load(Relaxed) + 1, Relaxed);
    }

    /// The holder starts a handler; returns the word that stands for this run.
    pub(super) fn start(&self, word: u64) -> u64 {
        self.word.store(word + 1, Release);
        word + 1
    }

    /// Ends the run that `word` stands for: by the holder as its handler ends, or by whoever takes the slot from it.
    /// Only one of them succeeds, and has the slot.
    pub(super) fn claim(&self, word: u64) -> bool {
        self.word.compare_exchange(word, word + 1, AcqRel, Acquire).is_ok()
    }

    /// Undoes a claim that nobody has heard of yet.
    pub(super) fn unclaim(&self, word: u64) {
        self.word.store(word, Release);
    }
}
