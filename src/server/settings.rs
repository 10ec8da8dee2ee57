//! What can be set about the connection layer, and what holds when nothing is.

use std::num::NonZero;
use std::thread;
use std::time::Duration;

/// Descriptors kept free, beside one for each thread that may wait (for an upstream, say), for everything that is not a
/// client's connection: the database, files, logs.
const DESCRIPTOR_RESERVE: usize = 128;

/// Limits and deadlines of a [`Server`](super::Server). All defaults are fit for the open internet.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that run at a time. Default: the number of cores.
    pub workers: usize,
    /// Threads that may wait at a time inside [`blocking::block_in_place`](crate::blocking::block_in_place), beside those that run;
    /// past it requests that would wait are refused with 503. Default: 512.
    pub max_blocked: usize,
    /// Open connections; past it the oldest idle ones are closed. `None` derives it from the descriptor limit, less a
    /// reserve. Default: `None`.
    pub max_connections: Option<usize>,
    /// Largest head of a request in bytes, past which it is refused with 431. Default: 16 KiB.
    pub max_head: usize,
    /// Largest body in bytes that is gathered in memory before the handler runs; a larger one is streamed to the
    /// handler, which then holds a thread. Default: 1 MiB.
    pub max_buffered_body: usize,
    /// Memory in bytes for bodies that are gathered and not whole yet, of all connections together; past it a request
    /// whose body does not come with its head is refused with 503. Default: 512 MiB.
    pub max_buffered_bodies: usize,
    /// Memory in bytes for replies that their clients have not read yet, of all connections together; past it those
    /// that have the least time left are cut. As much again for replies that are held; past it a thread waits for each.
    /// Default: 512 MiB.
    pub max_unsent_total: usize,
    /// Largest body in bytes at all, past which it is refused with 413. Default: 104 MiB.
    pub max_body: u64,
    /// From the first byte of a head to its last. Default: 10 s.
    pub head_timeout: Duration,
    /// Longest pause within a body; beside it the whole must come at [`Settings::min_rate`]. Default: 30 s.
    pub body_timeout: Duration,
    /// How long a connection may be open without a request. Default: 60 s.
    pub idle_timeout: Duration,
    /// Longest pause of a client within a reply; beside it, it must take [`Settings::min_rate`]. Default: 30 s.
    pub write_timeout: Duration,
    /// Bytes a second that a body or a reply must move on average, once the time-out's length has passed, so that a
    /// byte now and then does not hold a connection for ever. Default: 1024.
    pub min_rate: u64,
    /// How long a reply may be held for what must come first; it is decided as things stand then, and the connection
    /// ended behind it. Default: 60 s.
    pub deferred_timeout: Duration,
    /// How long a stop waits for requests in flight before it cuts them. Default: 30 s.
    pub stop_timeout: Duration,
    /// How long, in a stop, an idle connection may still send a request that was under way; it is answered and told
    /// to close. Default: 1 s.
    pub stop_idle_grace: Duration,
    /// How long a handler may run on without having said that it waits, before another thread takes its place.
    /// Default: 10 ms.
    pub time_slice: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            workers: thread::available_parallelism().map_or(1, NonZero::get),
            max_blocked: 512,
            max_connections: None,
            max_head: 16 * 1024,
            max_buffered_body: 1024 * 1024,
            max_unsent_total: 512 * 1024 * 1024,
            max_buffered_bodies: 512 * 1024 * 1024,
            max_body: 104 * 1024 * 1024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            min_rate: 1024,
            deferred_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(30),
            stop_idle_grace: Duration::from_secs(1),
            time_slice: Duration::from_millis(10),
        }
    }
}

impl Settings {
    /// Raises the soft descriptor limit to the hard one and says how many connections fit under it.
    pub(super) fn connection_limit(&self) -> usize {
        let descriptors = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let reserve = self.max_blocked.saturating_add(DESCRIPTOR_RESERVE);
        let fit = descriptors.saturating_sub(reserve.min(descriptors / 2)).max(1);
        self.max_connections.map_or(fit, |n| n.clamp(1, fit))
    }
}
