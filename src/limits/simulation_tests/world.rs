//! The world of a schedule: the database, the network, the journals' folder, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::super::model::Budget;
use super::super::{Micros, Picos};
use super::check::{Counters, Given, Lift};
use super::messages::{Answer, Fault, ToDatabase};
use super::process::{BALANCE, Charge, Process};

pub(super) const SECOND: Micros = 1_000_000;
pub(super) const MILLISECOND: Micros = 1000;

/// When nothing new goes wrong any more, and requests stop.
const QUIET_AT: Micros = 15 * SECOND;

/// After this time, everything that is left must be free for one request.
const PROBE_AT: Micros = QUIET_AT + 15 * SECOND;

const END: Micros = PROBE_AT + 3 * SECOND;

/// How long an answer of the database is waited for.
pub(super) const ANSWER: Micros = 300 * MILLISECOND;

/// How long a request waits for what others hold; then it takes what there is, and later it is refused.
pub(super) const RECALL: Micros = 400 * MILLISECOND;
pub(super) const GIVE_UP: Micros = 800 * MILLISECOND;

/// How often what is not used is asked back: each process that is asked may itself lack something and ask.
pub(super) const RECALL_PAUSE: Micros = 50 * MILLISECOND;

pub(super) const PROCESSES: usize = 3;

/// The account's budget, those of two keys, and the account's balance; each has windows of another length.
pub(super) const WINDOWS: [Micros; 4] = [7 * SECOND, 5 * SECOND, 100 * SECOND, 1_000_000 * SECOND];

#[derive(Clone, Debug)]
pub(super) enum Event {
    Arrive,
    Tick(usize),
    Finish(usize, u64, u64),
    Retry(usize, u64),
    AtDatabase(usize, u64, ToDatabase),
    AtProcess(usize, u64, Answer),
    GoWrong,
    /// A budget is lifted, or credit is given.
    Change,
    DatabaseBack,
    Probe,
}

pub(super) struct World {
    pub(super) random: u64,
    pub(super) fault: Fault,
    pub(super) now: Micros,
    pub(super) sequence: u64,
    pub(super) events: BTreeMap<(Micros, u64), Event>,
    pub(super) next_id: u64,
    pub(super) processes: Vec<Option<Process>>,
    /// The journals by process, those of dead ones included: on the disk.
    pub(super) folder: BTreeMap<u64, Vec<Charge>>,
    pub(super) is_database_up: bool,
    pub(super) database_clock_ahead: Micros,
    pub(super) budgets: Vec<Budget>,
    pub(super) holders: BTreeSet<u64>,
    pub(super) ended: BTreeSet<u64>,
    pub(super) recalled: [Micros; 4],
    pub(super) ledger: BTreeMap<u64, Charge>,
    /// The highest limit that each budget has had since the start.
    pub(super) highest: Vec<Picos>,
    pub(super) lifts: Vec<Lift>,
    pub(super) given: Vec<Given>,
    /// Charges whose clients have their reply.
    pub(super) acknowledged: Vec<u64>,
    pub(super) probe_passed: Option<bool>,
    pub(super) is_lossy: bool,
    /// Whether no message is lost, so that processes hear of each change at once.
    pub(super) is_orderly: bool,
    pub(super) counters: Counters,
}

impl World {
    pub(super) fn new(seed: u64, fault: Fault) -> World {
        let mut world = World {
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D123,
            fault,
            now: 0,
            sequence: 0,
            events: BTreeMap::new(),
            next_id: 0,
            processes: (0..PROCESSES).map(|_| None).collect(),
            folder: BTreeMap::new(),
            is_database_up: true,
            database_clock_ahead: 0,
            budgets: Vec::new(),
            holders: BTreeSet::new(),
            ended: BTreeSet::new(),
            recalled: [0; 4],
            ledger: BTreeMap::new(),
            highest: Vec::new(),
            lifts: Vec::new(),
            given: Vec::new(),
            acknowledged: Vec::new(),
            probe_passed: None,
            is_lossy: true,
            is_orderly: false,
            counters: Counters::default(),
        };
        world.is_lossy = world.chance(70);
        world.is_orderly = !world.is_lossy;
        world.now = 100 * SECOND; // a clock that is behind must not be before 0
        let start = world.now;
        let tight = if world.chance(50) { 4 } else { 1 };
        for limit in [200, 150, 150] {
            let limit = Picos::from(world.below(limit / tight)) + 10;
            world.budgets.push(Budget::new(limit));
            world.highest.push(limit);
        }
        world.budgets.push(Budget::balance());
        world.highest.push(0);
        // In some schedules, credit does not matter.
        let credit = if world.chance(40) { 1_000_000 } else { 1 + world.below(150) };
        world.give(Picos::from(credit), None);
        for slot in 0..PROCESSES {
            world.start(slot);
        }
        for _ in 0..40 + world.below(80) {
            let at = world.below(QUIET_AT.unsigned_abs());
            world.at(start + at.cast_signed(), Event::Arrive);
        }
        for event in [Event::GoWrong, Event::Change] {
            for _ in 0..world.below(10) {
                let at = world.below(QUIET_AT.unsigned_abs());
                world.at(start + at.cast_signed(), event.clone());
            }
        }
        world.at(start + PROBE_AT, Event::Probe);
        world
    }

    /// Runs the schedule; what was violated, if anything.
    pub(super) fn run(&mut self) -> Result<(), String> {
        let end = self.now + END;
        let quiet = self.now + QUIET_AT;
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end {
                break;
            }
            self.now = at;
            if at >= quiet && self.is_lossy {
                self.is_lossy = false;
            }
            self.step(event)?;
        }
        self.check_end()
    }

    pub(super) fn check_end(&self) -> Result<(), String> {
        if self.probe_passed == Some(false) {
            return Err(format!("what is left cannot be spent: {:?}", self.budgets));
        }
        for id in &self.acknowledged {
            if !self.ledger.contains_key(id) {
                return Err(format!("charge {id} was lost"));
            }
        }
        Ok(())
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    pub(super) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn at(&mut self, time: Micros, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Mostly a millisecond; sometimes so long that it is overtaken by much.
    pub(super) fn delay(&mut self) -> Micros {
        let most = if self.is_lossy && self.chance(8) { 3 * SECOND } else { 3 * MILLISECOND };
        self.below(most.unsigned_abs()).cast_signed()
    }

    pub(super) fn window(budget: usize, time: Micros) -> Micros {
        time - time.rem_euclid(WINDOWS[budget])
    }

    pub(super) fn start(&mut self, slot: usize) {
        let holder = self.id();
        let ahead = self.below(2 * SECOND.unsigned_abs()).cast_signed() - SECOND;
        self.folder.insert(holder, Vec::new());
        self.processes[slot] = Some(Process::new(holder, WINDOWS.len(), ahead));
        self.at(self.now, Event::Tick(slot));
    }

    pub(super) fn send(&mut self, slot: usize, message: ToDatabase) {
        let Some(holder) = self.processes[slot].as_ref().map(|process| process.holder) else { return };
        let copies = match (self.is_lossy, self.below(100)) {
            (true, 0..5) => 0,
            (true, 5..10) => 2,
            _ => 1,
        };
        self.counters.lost += u64::from(copies == 0);
        self.counters.repeated += u64::from(copies == 2);
        for _ in 0..copies {
            let delay = self.delay();
            self.at(self.now + delay, Event::AtDatabase(slot, holder, message.clone()));
        }
    }

    pub(super) fn answer(&mut self, slot: usize, holder: u64, answer: Answer) {
        if self.is_lossy && self.chance(5) {
            self.counters.lost += 1;
            return;
        }
        let delay = self.delay();
        self.at(self.now + delay, Event::AtProcess(slot, holder, answer));
    }

    pub(super) fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Arrive => {
                let slot = self.index(PROCESSES);
                let (key, worst) = (1 + self.index(2), Picos::from(1 + self.below(30)));
                self.arrive(slot, key, worst, false);
            }
            Event::Tick(slot) => self.tick(slot),
            Event::Finish(slot, holder, id) => self.finish(slot, holder, id),
            Event::Retry(slot, holder) => {
                if self.is_alive(slot, holder) {
                    self.admit(slot);
                }
            }
            Event::AtDatabase(slot, holder, message) => return self.at_database(slot, holder, message),
            Event::AtProcess(slot, holder, answer) => {
                if self.is_alive(slot, holder) {
                    self.at_process(slot, answer);
                }
            }
            Event::GoWrong => self.go_wrong(),
            Event::Change if !self.is_database_up => {}
            Event::Change if self.chance(50) => self.change_credit(),
            Event::Change => {
                let budget = self.index(BALANCE);
                self.lift(budget);
            }
            Event::DatabaseBack => self.is_database_up = true,
            Event::Probe => self.probe(),
        }
        Ok(())
    }

    pub(super) fn is_alive(&self, slot: usize, holder: u64) -> bool {
        self.processes[slot].as_ref().is_some_and(|process| process.holder == holder)
    }

    pub(super) fn go_wrong(&mut self) {
        let slot = self.index(PROCESSES);
        match self.below(6) {
            0 | 1 => {
                self.counters.crashes += 1;
                self.processes[slot] = None;
                // Somebody must be left who brings the journals to the database.
                if self.chance(60) || self.processes.iter().all(Option::is_none) {
                    self.start(slot);
                }
            }
            2 => {
                (self.is_database_up, self.is_orderly) = (false, false);
                let back = 1 + self.below(4 * SECOND.unsigned_abs()).cast_signed();
                self.at(self.now + back, Event::DatabaseBack);
            }
            3 => {
                let step = self.below(2 * SECOND.unsigned_abs()).cast_signed() - SECOND;
                match self.processes[slot].as_mut() {
                    Some(process) => process.clock_ahead = step,
                    None => self.database_clock_ahead = step,
                }
            }
            4 => self.database_clock_ahead = self.below(2 * SECOND.unsigned_abs()).cast_signed() - SECOND,
            _ => {
                let budget = self.index(BALANCE);
                let limit = Picos::from(self.below(250));
                self.budgets[budget].limit = limit;
                self.highest[budget] = self.highest[budget].max(limit);
                self.recall(budget, None);
            }
        }
    }

    /// One request for all that is left.
    pub(super) fn probe(&mut self) {
        let slot = self.processes.iter().position(Option::is_some);
        let Some(slot) = slot else { return }; // nobody is left who could give anything back
        let left = |budget: usize| {
            let window = World::window(budget, self.now + self.database_clock_ahead);
            self.budgets[budget].free(window) + self.budgets[budget].leased()
        };
        let (key, worst) = (1, left(0).min(left(1)).min(left(BALANCE)));
        if worst > 0 {
            self.arrive(slot, key, worst, true);
        }
    }
}
