//! A seeded simulation of the lease protocol: processes, a network that delays, loses and repeats messages, a database
//! that goes away, kills, journals, clocks that are stepped, windows that end, limits that are changed. A schedule is its
//! seed; a failure prints it.

mod changes;
mod check;
mod database;
mod messages;
mod process;
mod requests;
mod world;

use messages::Fault;
use world::World;

/// How many schedules `make test` runs.
const SHORT: u64 = 1000;

/// How many `make chaos` runs, unless the environment's `SCHEDULES` says; it begins at `SEED`.
const LONG: u64 = 1_000_000;

/// How many schedules may pass until a planted fault is found.
const FOUND_WITHIN: u64 = 3000;

fn run_schedules(first: u64, count: u64) {
    for seed in first..first + count {
        if let Err(violation) = World::new(seed, Fault::None).run() {
            panic!("schedule {seed}: {violation}");
        }
    }
}

#[test]
fn budgets_hold() {
    run_schedules(0, SHORT);
}

#[test]
#[ignore = "long: make chaos"]
fn budgets_hold_in_a_million_schedules() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    run_schedules(number("SEED").unwrap_or(1_000_000), number("SCHEDULES").unwrap_or(LONG));
}

#[test]
fn what_happens_is_worth_watching() {
    let mut totals = check::Counters::default();
    for seed in 0..200 {
        let mut world = World::new(seed, Fault::None);
        world.run().unwrap();
        totals.add(&world.counters);
    }
    assert!(totals.all_happened(), "{totals:?}");
}

/// Each of these mistakes breaks an invariant in some schedule: so the simulation would find it in the protocol.
#[test]
fn planted_faults_are_found() {
    for fault in Fault::PLANTED {
        let found = (0..FOUND_WITHIN).any(|seed| World::new(seed, fault).run().is_err());
        assert!(found, "{fault:?} was not found");
    }
}
