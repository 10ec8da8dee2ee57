//! The keeper: one thread that looks after the others a few times a second, or a few hundred times when they are busy.
//! It keeps the clock, takes slots from handlers that wait without having said so, ends what is past its deadline,
//! closes idle connections when there are too many, and brings a stop to its end.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::clock::millis;
use super::connection::{Connection, Waits};
use super::slot::Slot;
use super::{Shared, Stage, crew};

const BUSY_TICK: Duration = Duration::from_millis(5);
const IDLE_TICK: Duration = Duration::from_millis(50);
/// How often deadlines are looked at, unless they are very short.
const SCAN: u64 = 1000;
/// A first request that is not whole after this long gives way where connections are scarce.
const SLOW_START: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
    /// For each slot its word when it was last seen to change, and when that was.
    seen: Vec<(u64, u64)>,
    /// Requests and short waits up to the last look at them.
    counted: (u64, u64),
    /// How many helpers have been given a thread.
    staffed: usize,
    next_scan: u64,
    scan_interval: u64,
    stop_began: Option<u64>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, acceptor: JoinHandle<()>) -> Keeper {
        let s = &shared.settings;
        let shortest =
            s.head_timeout.min(s.body_timeout).min(s.idle_timeout).min(s.write_timeout).min(s.deferred_timeout);
        let scan_interval = (millis(shortest) / 8).clamp(10, SCAN);
        let seen = vec![(0, 0); shared.slots.len()];
        let (counted, staffed) = ((0, 0), 0);
        Keeper { shared, acceptor, seen, counted, staffed, next_scan: 0, scan_interval, stop_began: None }
    }

    /// Keeps the server until it has stopped.
    pub(super) fn run(mut self) {
        let mut tick = BUSY_TICK;
        while !self.has_stopped() {
            let now = self.shared.clock.refresh();
            tick = if self.look_at_slots(now) { BUSY_TICK } else { (tick * 2).min(IDLE_TICK) };
            self.look_for_short_waits();
            crew::staff_vacant(&self.shared);
            if now >= self.next_scan {
                self.next_scan = now + self.scan_interval;
                self.look_at_deadlines(now);
            }
            if self.stop_began.is_some() {
                tick = BUSY_TICK;
            }
            thread::park_timeout(tick.min(Duration::from_millis(self.scan_interval)));
        }
    }

    /// Takes slots from handlers that have been running for too long. Returns whether anything is going on.
    fn look_at_slots(&mut self, now: u64) -> bool {
        let time_slice = millis(self.shared.settings.time_slice);
        let mut busy = false;
        for (i, slot) in self.shared.slots.iter().enumerate() {
            let word = slot.word();
            if word != self.seen[i].0 {
                self.seen[i] = (word, now);
                busy = true;
            } else if word % 2 == 1 {
                busy = true;
                if now - self.seen[i].1 >= time_slice {
                    self.take_slot(i, word);
                }
            }
        }
        busy
    }

    /// Wants as many helpers as the share of requests that wait shortly is worth.
    fn look_for_short_waits(&mut self) {
        let slots = &self.shared.slots;
        let now: (u64, u64) = (slots.iter().map(Slot::requests).sum(), slots.iter().map(Slot::short_waits).sum());
        let (requests, waits) = (now.0 - self.counted.0, now.1 - self.counted.1);
        if requests == 0 {
            return;
        }
        self.counted = now;
        let most = slots.len() - self.shared.settings.workers;
        let wanted = usize::try_from(waits * most as u64 / requests).unwrap_or(most).min(most);
        for helper in self.staffed..wanted {
            crew::staff_sometime(&self.shared, self.shared.settings.workers + helper);
        }
        self.staffed = self.staffed.max(wanted);
        self.shared.helpers.store(wanted, Relaxed);
    }

    /// Gives a slot to another thread. Handlers that do not say that they wait count like those that do, but have
    /// twice the room: nothing can be refused here, and what does not get a thread stands still.
    fn take_slot(&self, slot: usize, word: u64) {
        let (settings, crew) = (&self.shared.settings, &self.shared.crew);
        let room = 2 * settings.max_blocked + settings.workers;
        // Counted first, as the thread may be back and count itself out at once.
        if crew.detached.fetch_add(1, Relaxed) < room && self.shared.slots[slot].claim(word) {
            crew::staff_sometime(&self.shared, slot);
        } else {
            crew.detached.fetch_sub(1, Relaxed);
        }
    }

    /// Has all connections looked at that are past their deadline.
    fn look_at_deadlines(&self, now: u64) {
        self.nudge_if(|connection| connection.timer().1 <= now);
    }

    fn nudge_if(&self, wanted: impl Fn(&Connection) -> bool) {
        let mut found: Vec<Arc<Connection>> = Vec::new();
        for slot in &self.shared.slots {
            slot.each_connection(|connection| {
                if connection.is_nobodys() && wanted(connection) {
                    found.push(Arc::clone(connection));
                }
            });
        }
        for connection in &found {
            self.shared.nudge(connection);
        }
    }

    /// Moves a stop on; true when the server has come to its end.
    fn has_stopped(&mut self) -> bool {
        if !self.shared.is_stopping() {
            return false;
        }
        let (now, settings) = (self.shared.clock.refresh(), &self.shared.settings);
        let began = *self.stop_began.get_or_insert(now);
        if now >= began + millis(settings.stop_idle_grace) && self.acceptor.is_finished() {
            self.shared.set_stage(Stage::ClosingIdle);
            self.nudge_if(|connection| connection.timer().0.is_idle());
        }
        let done = self.acceptor.is_finished() && self.shared.open.load(Relaxed) == 0;
        if !done && now < began + millis(settings.stop_timeout) {
            return false;
        }
        self.finish();
        true
    }

    /// Ends all threads; those that are still in a handler after this are left to themselves.
    fn finish(&self) {
        let open = self.shared.open.load(Relaxed);
        if open > 0 {
            log::warn!("stopping with {open} connections still open");
        }
        self.shared.set_stage(Stage::Finished);
        for slot in &self.shared.slots {
            // Whoever keeps a handle keeps the connections as well; their clients shall know all the same.
            slot.each_connection(|connection| drop(connection.socket.shutdown(Shutdown::Both)));
        }
        self.shared.slots.iter().for_each(Slot::wake_always);
        for _ in 0..200 {
            crew::dismiss(&self.shared);
            if self.shared.crew.threads.load(Relaxed) == 0 {
                return;
            }
            thread::sleep(BUSY_TICK);
        }
    }
}

impl Shared {
    /// Has about `count` connections closed: those that have been idle longest since their last request; where there are
    /// none, those that have been silent longest since they were opened, or slow with a head. Returns how many it found.
    pub(super) fn shed(&self, count: usize) -> usize {
        let slow = |timeout| (self.clock.now() + millis(timeout)).saturating_sub(millis(SLOW_START));
        let ranks = [
            (Waits::Request, u64::MAX),
            (Waits::First, slow(self.settings.idle_timeout)),
            (Waits::Head, slow(self.settings.head_timeout)),
        ];
        let found =
            ranks.into_iter().map(|(waits, latest)| self.resting(waits, latest)).find(|found| !found.is_empty());
        self.let_go_of(found.unwrap_or_default(), count)
    }

    /// Cuts an eighth of the replies that wait for their clients, those with the least time left first.
    pub(super) fn shed_slow_readers(&self) {
        let found = self.resting(Waits::Write, u64::MAX);
        let eighth = found.len().div_ceil(8);
        let count = self.let_go_of(found, eighth);
        log::warn!("too much memory waits for slow clients: {count} connections are cut");
    }

    /// Has at most `count` of these closed, those with the least time left; how many.
    fn let_go_of(&self, mut found: Vec<(u64, Arc<Connection>)>, count: usize) -> usize {
        let count = count.min(found.len());
        if count == 0 {
            return 0;
        }
        found.select_nth_unstable_by_key(count - 1, |(until, _)| *until);
        for (_, connection) in &found[..count] {
            connection.mark_unwanted();
            self.nudge(connection);
        }
        self.shed.fetch_add(count as u64, Relaxed);
        count
    }

    /// The connections that wait for this, their deadlines (no later than `latest`) first.
    fn resting(&self, wanted: Waits, latest: u64) -> Vec<(u64, Arc<Connection>)> {
        let mut found = Vec::new();
        for slot in &self.slots {
            slot.each_connection(|connection| {
                let (waits, until) = connection.timer();
                if waits == wanted && until <= latest && connection.is_nobodys() {
                    found.push((until, Arc::clone(connection)));
                }
            });
        }
        found
    }
}
