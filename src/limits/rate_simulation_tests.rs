//! A seeded simulation of how permits are handed out: processes, a network that delays, loses and repeats messages, a
//! database that goes away, kills, clocks that are stepped, limits that are changed. A schedule is its seed; a failure
//! prints it. Half of the schedules limit the requests in a minute, the others those at once.

mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Micros;
use super::permit_book::PermitBook;
use super::permits::{PermitAsk, PermitGrant, Permits};

const MILLISECOND: Micros = 1000;
const SECOND: Micros = 1_000_000;
const MINUTE: Micros = 60 * SECOND;
const PROCESSES: usize = 4;

/// When nothing goes wrong any more, when all that is left must be usable, and how long that is watched.
const QUIET_AT: Micros = 100 * SECOND;
const PROBE_AT: Micros = QUIET_AT + 80 * SECOND;
const PROBED_FOR: Micros = 4 * MINUTE;

/// How long a request waits, and how often it is looked at.
const GIVE_UP: Micros = 500 * MILLISECOND;
const RETRY: Micros = 20 * MILLISECOND;

/// How often processes look at what they hold, and how long they wait for an answer.
const TICK: Micros = 100 * MILLISECOND;
const ANSWER: Micros = 2 * SECOND;

const SHORT: u64 = 300;
const LONG: u64 = 200_000;
const FOUND_WITHIN: u64 = 500;

/// A mistake made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Permits can be used again too early.
    CoolTooShort,
    /// A message of a dead process is obeyed.
    NoFence,
    /// What a dead process held is free at once.
    FreeAtDeath,
    /// Processes do not hand back what others lack.
    NoRecall,
    /// What is handed back counts again.
    ReturnTwice,
}

const PLANTED: [Fault; 5] =
    [Fault::CoolTooShort, Fault::NoFence, Fault::FreeAtDeath, Fault::NoRecall, Fault::ReturnTwice];

#[derive(Clone, Debug)]
enum Event {
    Arrive(usize),
    Retry(usize, u64),
    Tick(usize, u64),
    Finish(usize, u64, Micros),
    Cooled(usize, u64, Micros),
    AtDatabase(usize, u64, PermitAsk),
    Granted(usize, u64, PermitGrant),
    Recalled(usize, u64, Option<u64>),
    Ended(u64),
    GoWrong,
    DatabaseBack,
}

struct Process {
    holder: u64,
    permits: Permits,
    /// Until when an answer is waited for.
    asked_until: Micros,
    asks_at: Micros,
    waiting: VecDeque<Micros>,
}

struct World {
    random: u64,
    fault: Fault,
    is_concurrency: bool,
    now: Micros,
    start: Micros,
    sequence: u64,
    events: BTreeMap<(Micros, u64), Event>,
    processes: Vec<Option<Process>>,
    next_holder: u64,
    book: PermitBook,
    ended: BTreeSet<u64>,
    is_database_up: bool,
    database_clock_ahead: Micros,
    recalled: Micros,
    highest: i64,
    /// When requests were admitted, in the last minute.
    admitted: VecDeque<Micros>,
    running: BTreeMap<u64, i64>,
    /// In the time that is watched.
    probes: i64,
    probes_admitted: i64,
    crashes: u64,
}

impl World {
    fn new(seed: u64, fault: Fault) -> World {
        let mut world = World {
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678,
            fault,
            is_concurrency: seed % 2 == 1,
            now: 1000 * SECOND,
            start: 1000 * SECOND,
            sequence: 0,
            events: BTreeMap::new(),
            processes: (0..PROCESSES).map(|_| None).collect(),
            next_holder: 0,
            book: PermitBook::default(),
            ended: BTreeSet::new(),
            is_database_up: true,
            database_clock_ahead: 0,
            recalled: 0,
            highest: 0,
            admitted: VecDeque::new(),
            running: BTreeMap::new(),
            probes: 0,
            probes_admitted: 0,
            crashes: 0,
        };
        let most = if world.chance(50) { 5 } else { 60 };
        let limit = 1 + world.below(most);
        world.book = PermitBook::new(limit);
        world.highest = limit;
        (0..PROCESSES).for_each(|slot| world.start(slot));
        for _ in 0..20 + world.below(3 * limit + 20) {
            let at = world.start + world.below(QUIET_AT);
            let slot = world.index();
            world.at(at, Event::Arrive(slot));
        }
        for _ in 0..world.below(8) {
            let at = world.start + world.below(QUIET_AT - 20 * SECOND);
            world.at(at, Event::GoWrong);
        }
        world
    }

    fn below(&mut self, limit: i64) -> i64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        i64::try_from((z ^ (z >> 31)) % limit.max(1).unsigned_abs()).unwrap()
    }

    fn index(&mut self) -> usize {
        usize::try_from(self.below(i64::try_from(PROCESSES).unwrap())).unwrap()
    }

    fn chance(&mut self, percent: i64) -> bool {
        self.below(100) < percent
    }

    fn is_lossy(&self) -> bool {
        self.now < self.start + QUIET_AT
    }

    fn at(&mut self, time: Micros, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    /// Sends a message: mostly at once, sometimes late, twice or never.
    fn send(&mut self, event: &Event) {
        let copies = match self.below(100) {
            0..5 if self.is_lossy() => 0,
            5..10 if self.is_lossy() => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let most = if self.is_lossy() && self.chance(8) { 3 * SECOND } else { 3 * MILLISECOND };
            let at = self.now + self.below(most);
            self.at(at, event.clone());
        }
    }

    fn start(&mut self, slot: usize) {
        self.next_holder += 1;
        let holder = self.next_holder;
        let (permits, waiting) = (Permits::default(), VecDeque::new());
        self.processes[slot] = Some(Process { holder, permits, asked_until: 0, asks_at: 0, waiting });
        self.at(self.now, Event::Tick(slot, holder));
    }

    fn process(&mut self, slot: usize, holder: u64) -> Option<&mut Process> {
        self.processes[slot].as_mut().filter(|process| process.holder == holder)
    }

    fn run(&mut self) -> Result<(), String> {
        let (probe, end) = (self.start + PROBE_AT, self.start + PROBE_AT + PROBED_FOR);
        // Evenly, through all processes that live, from a while before they are counted.
        let mut next = probe - MINUTE - 10 * SECOND;
        let mut place = 0;
        while let Some((&(at, _), _)) = self.events.first_key_value() {
            if at > end {
                break;
            }
            if at >= next && !self.is_concurrency {
                self.now = self.now.max(next);
                place += 1;
                let live: Vec<usize> = (0..PROCESSES).filter(|slot| self.processes[*slot].is_some()).collect();
                self.probes += i64::from(next >= probe);
                self.arrive(live[place % live.len()])?;
                next += MINUTE / self.book.most;
                continue;
            }
            let ((at, _), event) = self.events.pop_first().unwrap();
            self.now = self.now.max(at);
            self.step(event)?;
        }
        // What was admitted late, before this was watched, is ready late: of a small limit, that may cost one request.
        let refused = self.probes - self.probes_admitted;
        if !self.is_concurrency && refused > 1 && self.probes_admitted * 100 < self.probes * 95 {
            return Err(format!("{} of {} were admitted: {:?}", self.probes_admitted, self.probes, self.book));
        }
        self.probe_concurrency()
    }

    /// Requests take all places at once, through one process.
    fn probe_concurrency(&mut self) -> Result<(), String> {
        if !self.is_concurrency {
            return Ok(());
        }
        let before: i64 = self.running.values().sum();
        let slot = self.processes.iter().position(Option::is_some).unwrap();
        for _ in 0..self.book.most - before {
            self.arrive(slot)?;
        }
        let end = self.now + SECOND;
        while let Some((&(at, _), _)) = self.events.first_key_value() {
            if at > end {
                break;
            }
            let ((at, _), event) = self.events.pop_first().unwrap();
            self.now = self.now.max(at);
            match event {
                Event::Finish(..) => {}
                event => self.step(event)?,
            }
        }
        let running: i64 = self.running.values().sum();
        if running == self.book.most.max(before) { Ok(()) } else { Err(format!("{running} run: {:?}", self.book)) }
    }
}

fn run_schedules(first: u64, count: u64) {
    let mut crashes = 0;
    for seed in first..first + count {
        let mut world = World::new(seed, Fault::None);
        if let Err(violation) = world.run() {
            panic!("schedule {seed}: {violation}");
        }
        crashes += world.crashes;
    }
    assert!(crashes > 0);
}

#[test]
fn rate_limits_hold() {
    run_schedules(0, SHORT);
}

#[test]
#[ignore = "long: make chaos"]
fn rate_limits_hold_in_many_schedules() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    run_schedules(number("SEED").unwrap_or(1_000_000), number("SCHEDULES").unwrap_or(LONG));
}

#[test]
fn planted_faults_of_rate_limits_are_found() {
    for fault in PLANTED {
        let found = (0..FOUND_WITHIN).any(|seed| World::new(seed, fault).run().is_err());
        assert!(found, "{fault:?} was not found");
    }
}
