//! The settings of the connection layer and their defaults.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::blocking::{Party, Places};
use crate::http::Request;

/// File descriptors reserved for everything except client connections (database, files, logs), in addition to one per
/// thread that may block, for example on an upstream.
const DESCRIPTOR_RESERVE: usize = 128;

/// Limits and deadlines of a [`Server`](super::Server). The defaults are safe on the open internet.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that run at a time. Default: the number of cores.
    pub workers: usize,
    /// Requests that may be inside [`block_in_place`](crate::blocking::block_in_place) at a time, by what they wait for.
    /// Each has a thread, besides those that run. Beyond it, requests that would block are refused with 503.
    pub places: Places,
    /// Maximum number of open connections. Beyond it, those idle longest are closed. `None` derives it from the
    /// descriptor limit. Default: `None`.
    pub max_connections: Option<usize>,
    /// Largest head of a request in bytes; a larger one is refused with 431. Default: 16 KiB.
    pub max_head: usize,
    /// Largest request body in bytes that is collected in memory before the handler is called. A larger one is streamed
    /// to the handler, which then occupies a thread. Default: 1 MiB.
    pub max_buffered_body: usize,
    /// Memory in bytes for request bodies, for what handlers [reserve](crate::memory_budget::reserve), and for responses
    /// that are deferred or not read yet, of all connections together. Beyond it, requests with a body are refused with
    /// 503, a thread waits for each deferred response, and the clients that are slow to read and have the least time left
    /// are cut off. Bodies and responses that are slow end early (408 for a body) if a party is refused memory that holds
    /// less than theirs. Default: 1 GiB.
    pub max_memory: usize,
    /// Whose request it is, before its handler has found out. Default: the peer's.
    pub client: ClientAddress,
    /// Largest request body in bytes; a larger one is refused with 413. Default: 104 MiB.
    pub max_body: u64,
    /// Maximum time from the first byte of a request's head to the last. Default: 10 s.
    pub head_timeout: Duration,
    /// Longest pause within a request's body, which must also arrive at [`Settings::min_rate`]: what arrives faster buys
    /// time, but never more than this. Default: 30 s.
    pub body_timeout: Duration,
    /// How long a connection may be open without a request. Default: 60 s.
    pub idle_timeout: Duration,
    /// Longest time during which a client reads nothing of a response, which it must also read at
    /// [`Settings::min_rate`], as for a body. Default: 30 s.
    pub write_timeout: Duration,
    /// Minimum rate of a body or response in bytes per second, enforced once the timeout has passed since its start, so
    /// that single bytes do not keep a connection open forever. Default: 1024.
    pub min_rate: u64,
    /// How long a response may be deferred. After that it is completed regardless, and its connection is closed.
    /// Default: 60 s.
    pub deferred_timeout: Duration,
    /// Whether clients reach it by https, which its own refusals then say. Default: false.
    pub is_https: bool,
    /// How long a shutdown waits for requests in flight before it aborts them. Default: 30 s.
    pub stop_timeout: Duration,
    /// How long after the start of a shutdown idle connections stay open, for requests that were already on their way.
    /// The response tells the client to close. Default: 1 s.
    pub stop_idle_grace: Duration,
    /// How long a handler may run without having announced that it blocks before another thread takes over its slot.
    /// Default: 10 ms.
    pub time_slice: Duration,
}

/// Finds the address of a client, which a proxy may tell in the head of a request.
#[derive(Clone)]
pub struct ClientAddress(Arc<dyn Fn(&Request) -> IpAddr + Send + Sync>);

impl ClientAddress {
    /// One that is found like this.
    pub fn new(find: impl Fn(&Request) -> IpAddr + Send + Sync + 'static) -> ClientAddress {
        ClientAddress(Arc::new(find))
    }

    /// The party of a client of whom nothing else is known.
    pub(super) fn party(&self, request: &Request) -> Party {
        Party::network((self.0)(request))
    }
}

impl Default for ClientAddress {
    fn default() -> ClientAddress {
        ClientAddress::new(|request| request.peer.ip())
    }
}

impl fmt::Debug for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientAddress")
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            workers: thread::available_parallelism().map_or(1, NonZero::get),
            places: Places::default(),
            max_connections: None,
            max_head: 16 * 1024,
            max_buffered_body: 1024 * 1024,
            max_memory: 1024 * 1024 * 1024,
            client: ClientAddress::default(),
            max_body: 104 * 1024 * 1024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            min_rate: 1024,
            deferred_timeout: Duration::from_secs(60),
            is_https: false,
            stop_timeout: Duration::from_secs(30),
            stop_idle_grace: Duration::from_secs(1),
            time_slice: Duration::from_millis(10),
        }
    }
}

impl Settings {
    /// Raises the soft descriptor limit to the hard one and returns how many connections fit below it.
    pub(super) fn connection_limit(&self) -> usize {
        let descriptors = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let reserve = self.places.total().saturating_add(DESCRIPTOR_RESERVE);
        let fit = descriptors.saturating_sub(reserve.min(descriptors / 2)).max(1);
        self.max_connections.map_or(fit, |n| n.clamp(1, fit))
    }
}
