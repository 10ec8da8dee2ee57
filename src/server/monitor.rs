//! The monitor: a thread that supervises the others, 20 times a second, or 200 times while they are busy. It refreshes
//! the clock, takes slots away from handlers that block without announcing it, decides how many helpers are used, finds
//! connections past their deadlines, and completes a shutdown.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::clock::millis;
use super::connection::Connection;
use super::shared::{Shared, Stage};
use super::slot::Slot;
use super::sync::is_in_handler;

const BUSY_TICK: Duration = Duration::from_millis(5);
const IDLE_TICK: Duration = Duration::from_millis(50);
/// Milliseconds between two scans for expired deadlines, unless a timeout is so short that it needs more.
const MAX_SCAN_INTERVAL: u64 = 1000;
/// Milliseconds between two scans for transfers that hold memory others need.
const BETWEEN_FREEINGS: u64 = 100;
/// How often idle threads are told to exit during a shutdown, once per [`BUSY_TICK`].
const DISMISS_ROUNDS: u32 = 200;

pub(super) struct Monitor {
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
    /// The generation of each slot, and when the monitor first saw it, in milliseconds.
    generations: Vec<(u64, u64)>,
    /// Requests and short waits when the monitor last compared them.
    counted: (u64, u64),
    /// How many helper slots have been given a thread.
    started_helpers: usize,
    next_scan: u64,
    scan_interval: u64,
    /// How often there was no memory when slow readers were last asked for theirs.
    refused: u64,
    /// When memory may be freed again.
    next_freeing: u64,
    stop_began: Option<u64>,
}

impl Monitor {
    pub(super) fn new(shared: Arc<Shared>, acceptor: JoinHandle<()>) -> Monitor {
        let s = &shared.settings;
        let timeouts = [s.head_timeout, s.body_timeout, s.idle_timeout, s.write_timeout, s.deferred_timeout];
        let shortest = timeouts.into_iter().min().unwrap_or_default();
        Monitor {
            scan_interval: (millis(shortest) / 8).clamp(10, MAX_SCAN_INTERVAL),
            generations: vec![(0, 0); shared.slots.len()],
            counted: (0, 0),
            started_helpers: 0,
            next_scan: 0,
            refused: 0,
            next_freeing: 0,
            stop_began: None,
            acceptor,
            shared,
        }
    }

    /// Returns when the server has stopped.
    pub(super) fn run(mut self) {
        let mut tick = BUSY_TICK;
        while !self.has_stopped() {
            let now = self.shared.clock.refresh();
            tick = if self.retake_slots(now) { BUSY_TICK } else { (tick * 2).min(IDLE_TICK) };
            self.adjust_helpers();
            for slot in self.shared.pool.take_vacant() {
                self.shared.assign_or_leave_vacant(slot);
            }
            self.free_memory(now);
            if now >= self.next_scan {
                self.next_scan = now + self.scan_interval;
                self.schedule_if(|connection| connection.timer().1 <= now);
            }
            if self.stop_began.is_some() {
                tick = BUSY_TICK;
            }
            thread::park_timeout(tick.min(Duration::from_millis(self.scan_interval)));
        }
    }

    /// Has slow transfers ended if requests were refused for lack of memory: those of whoever holds more, and those of
    /// clients that are slow to read if that is what most of it is used for, or if more is used than there is. Both look at
    /// all connections, so that is done ten times a second at most.
    fn free_memory(&mut self, now: u64) {
        if now < self.next_freeing {
            return;
        }
        let ended = self.shared.free_memory();
        let memory = &self.shared.memory;
        let refused = std::mem::replace(&mut self.refused, memory.refused());
        let unsent = self.shared.unsent.sum();
        // Replies that are there already are not refused.
        let is_exceeded = memory.is_exceeded() && unsent > 0;
        let is_for_readers = is_exceeded || self.refused != refused && unsent > memory.most() / 2;
        if is_for_readers && (is_exceeded || ended.is_none_or(|ended| ended == 0)) {
            self.shared.evict_slow_readers();
        }
        if is_for_readers || ended.is_some() {
            self.next_freeing = now + BETWEEN_FREEINGS;
        }
    }

    /// Takes slots away from handlers that have run for longer than a time slice. Returns whether any slot is busy.
    fn retake_slots(&mut self, now: u64) -> bool {
        let time_slice = millis(self.shared.settings.time_slice);
        let mut is_busy = false;
        for (i, slot) in self.shared.slots.iter().enumerate() {
            let generation = slot.generation.current();
            let (seen, since) = self.generations[i];
            if generation != seen {
                self.generations[i] = (generation, now);
                is_busy = true;
            } else if is_in_handler(generation) {
                is_busy = true;
                if now.saturating_sub(since) >= time_slice {
                    self.retake_slot(i, generation);
                }
            }
        }
        is_busy
    }

    /// Gives a slot to another thread. Handlers that block without announcing it count like those that do, but twice
    /// as many are allowed: nothing can be refused here, and connections that get no thread are stuck.
    fn retake_slot(&self, slot: usize, generation: u64) {
        let (settings, pool) = (&self.shared.settings, &self.shared.pool);
        let limit = 2 * settings.places.total() + settings.workers;
        // Counted first, as the handler's thread may return and count itself out at once.
        if pool.detached.fetch_add(1, Relaxed) < limit && self.shared.slots[slot].generation.try_end_run(generation) {
            self.shared.assign_or_leave_vacant(slot);
        } else {
            pool.detached.fetch_sub(1, Relaxed);
        }
    }

    /// Adapts the number of helpers to the share of requests that announce short waits.
    fn adjust_helpers(&mut self) {
        let slots = &self.shared.slots;
        let sum = |count: fn(&Slot) -> u64| slots.iter().map(count).sum::<u64>();
        let (requests, waits) = (sum(|slot| slot.load.requests()), sum(|slot| slot.load.short_waits()));
        let new_requests = requests.saturating_sub(self.counted.0);
        let new_waits = waits.saturating_sub(self.counted.1);
        if new_requests == 0 {
            return;
        }
        self.counted = (requests, waits);
        let workers = self.shared.settings.workers;
        let max = slots.len() - workers;
        let wanted = usize::try_from(new_waits * max as u64 / new_requests).unwrap_or(max).min(max);
        for helper in self.started_helpers..wanted {
            self.shared.assign_or_leave_vacant(workers + helper);
        }
        self.started_helpers = self.started_helpers.max(wanted);
        self.shared.helpers.store(wanted, Relaxed);
    }

    /// Schedules the unowned connections for which `condition` holds.
    fn schedule_if(&self, condition: impl Fn(&Connection) -> bool) {
        let mut found: Vec<Arc<Connection>> = Vec::new();
        for slot in &self.shared.slots {
            slot.for_each_connection(|connection| {
                if connection.ownership.is_unowned() && condition(connection) {
                    found.push(Arc::clone(connection));
                }
            });
        }
        for connection in &found {
            self.shared.schedule(connection);
        }
    }

    /// Continues a shutdown. Returns true once the server has stopped.
    fn has_stopped(&mut self) -> bool {
        if !self.shared.is_stopping() {
            return false;
        }
        let (now, settings) = (self.shared.clock.refresh(), &self.shared.settings);
        let began = *self.stop_began.get_or_insert(now);
        if now >= began + millis(settings.stop_idle_grace) && self.acceptor.is_finished() {
            self.shared.set_stage(Stage::ClosingIdle);
            self.schedule_if(|connection| connection.timer().0.is_idle());
        }
        let is_done = self.acceptor.is_finished() && self.shared.open.load(Relaxed) == 0;
        if !is_done && now < began + millis(settings.stop_timeout) {
            return false;
        }
        self.finish();
        true
    }

    /// Ends all threads, except those that are still in a handler a second later.
    fn finish(&self) {
        let open = self.shared.open.load(Relaxed);
        if open > 0 {
            log::warn!("stopping with {open} connections still open");
        }
        self.shared.set_stage(Stage::Finished);
        for slot in &self.shared.slots {
            // An existing `Handle` keeps the connections alive, but their clients should be disconnected now.
            slot.for_each_connection(|connection| drop(connection.socket.shutdown(Shutdown::Both)));
        }
        self.shared.slots.iter().for_each(Slot::interrupt);
        for _ in 0..DISMISS_ROUNDS {
            self.shared.pool.dismiss_idle();
            if self.shared.pool.threads.load(Relaxed) == 0 {
                return;
            }
            thread::sleep(BUSY_TICK);
        }
    }
}
