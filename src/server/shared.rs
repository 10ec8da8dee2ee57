//! What all threads of a server share.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{
    AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use parking_lot::Mutex;

use crate::blocking::Bulkheads;
use crate::http::request_ids::RequestIds;
use crate::http::security_headers::{self, DATA_POLICY};
use crate::http::{Request, Response};
use crate::memory_budget::MemoryBudget;

use super::budget::ByteCount;
use super::clock::Clock;
use super::connection::Connection;
use super::settings::Settings;
use super::slot::Slot;
use super::sync::ParkedThreads;
use super::thread_pool::ThreadPool;

/// Helper slots for each worker slot. Measured on 2 cores: if the statements of several requests are batched,
/// throughput grows from 2 to 4 and slightly to 6; if each request sends its own, it is the same for 2 to 4 and falls
/// slightly beyond.
const HELPERS_PER_WORKER: usize = 4;

/// The phase of a server's life.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    Running,
    /// No new connections, and every response ends its connection.
    Stopping,
    /// Idle connections are closed as well.
    ClosingIdle,
    Finished,
}

/// What a new thread runs, with the first slot that it holds.
pub(super) type Work = fn(Arc<Shared>, usize);

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) max_connections: usize,
    pub(super) clock: Clock,
    /// One for each worker, then the helpers.
    pub(super) slots: Vec<Slot>,
    /// How many helper slots are in use now.
    pub(super) helpers: AtomicUsize,
    pub(super) parked: ParkedThreads,
    pub(super) pool: ThreadPool,
    work: Work,
    /// Connections that are open now.
    pub(super) open: AtomicUsize,
    /// Memory of all requests.
    pub(super) memory: Arc<MemoryBudget>,
    /// The part of it that is taken by responses which clients have not read yet.
    pub(super) unsent: Arc<ByteCount>,
    /// Places of requests that wait.
    pub(super) bulkheads: Bulkheads,
    /// Ids of requests that no handler has seen.
    ids: RequestIds,
    /// What those were answered, by status.
    own_replies: Mutex<BTreeMap<u16, u64>>,
    /// When slow readers may be looked for again, in milliseconds of the clock.
    pub(super) next_eviction: AtomicU64,
    /// Connections that were evicted so far.
    pub(super) evicted: AtomicU64,
    stage: AtomicU8,
    /// The monitor's thread and the acceptor's waker, to tell them of a stop.
    pub(super) stop_listeners: OnceLock<(Thread, mio::Waker)>,
}

impl Shared {
    /// Raises the soft descriptor limit to the hard one.
    ///
    /// # Errors
    /// The operating system provides no readiness set.
    pub(super) fn new(settings: Settings, work: Work) -> io::Result<Shared> {
        let settings = Settings { workers: settings.workers.max(1), ..settings };
        Ok(Shared {
            max_connections: settings.connection_limit(),
            clock: Clock::new(),
            slots: (0..settings.workers * (1 + HELPERS_PER_WORKER)).map(|_| Slot::new()).collect::<io::Result<_>>()?,
            helpers: AtomicUsize::new(0),
            parked: ParkedThreads::new(),
            pool: ThreadPool::new(),
            work,
            open: AtomicUsize::new(0),
            memory: Arc::new(MemoryBudget::new(settings.max_memory)),
            unsent: Arc::default(),
            bulkheads: Bulkheads::new(&settings.places),
            ids: RequestIds::new(),
            own_replies: Mutex::default(),
            next_eviction: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            stage: AtomicU8::new(Stage::Running as u8),
            stop_listeners: OnceLock::new(),
            settings,
        })
    }

    /// A response of the connection layer itself, with the headers that those of handlers have. `request` is what is known
    /// of the request.
    pub(super) fn own(&self, mut response: Response, request: &Request) -> Response {
        security_headers::add(&mut response, self.settings.is_https);
        let id = self.ids.of(request);
        *self.own_replies.lock().entry(response.status.as_u16()).or_default() += 1;
        log::debug!("request {id} was answered with {} by the connection layer", response.status.as_u16());
        response.header("Content-Security-Policy", DATA_POLICY).header("X-Request-Id", id)
    }

    /// How many requests were answered by the connection layer itself, by status.
    pub(super) fn own_replies(&self) -> BTreeMap<u16, u64> {
        self.own_replies.lock().clone()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stage.load(Acquire) >= Stage::Stopping as u8
    }

    pub(super) fn is_closing_idle(&self) -> bool {
        self.stage.load(Relaxed) >= Stage::ClosingIdle as u8
    }

    pub(super) fn is_finished(&self) -> bool {
        self.stage.load(Acquire) >= Stage::Finished as u8
    }

    /// Moves on to a later stage, never back.
    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, AcqRel);
    }

    /// Finds a thread for a slot that nobody holds.
    ///
    /// # Errors
    /// The operating system starts no thread.
    pub(super) fn assign(self: &Arc<Self>, slot: usize) -> io::Result<()> {
        let (shared, work) = (Arc::clone(self), self.work);
        self.pool.assign(slot, move || work(shared, slot))
    }

    /// As [`Shared::assign`], but leaves the slot vacant if no thread can be started now.
    pub(super) fn assign_or_leave_vacant(self: &Arc<Self>, slot: usize) {
        if let Err(e) = self.assign(slot) {
            log::error!("cannot start a thread: {e}");
            self.pool.add_vacant(slot);
        }
    }

    /// Closes a connection that the caller owns. The caller must not release it, so that no thread ever runs it again.
    pub(super) fn close(&self, connection: &Connection) {
        self.slots[connection.slot].deregister(connection);
        self.open.fetch_sub(1, Relaxed);
    }
}
