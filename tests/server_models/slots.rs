//! Who holds a slot, and what is counted there.

use std::sync::Arc;

use super::sync::{Generation, LoadCounters, is_in_handler};
use super::{Exclusive, check, spawn};

struct Slot {
    generation: Generation,
    load: LoadCounters,
    /// What only the holder changes.
    data: Exclusive,
}

impl Slot {
    fn new() -> Arc<Slot> {
        Arc::new(Slot { generation: Generation::new(), load: LoadCounters::new(), data: Exclusive::new() })
    }

    /// The holder starts a request; returns the generation of its run.
    fn start_request(&self, generation: u64) -> u64 {
        self.data.add(1);
        self.load.count_request();
        self.generation.enter_handler(generation)
    }

    /// Takes the slot away if its holder is in a handler, and serves one request as the new holder.
    fn retake(&self) -> bool {
        let generation = self.generation.current();
        let is_taken = is_in_handler(generation) && self.generation.try_end_run(generation);
        if is_taken {
            let run = self.start_request(generation + 1);
            self.load.count_short_wait();
            assert!(self.generation.try_end_run(run), "the slot has another holder");
            self.load.count_poll();
        }
        is_taken
    }
}

/// A handler announces a short wait and returns, while the monitor takes the slot away from it.
#[test]
fn a_slot_has_one_holder_and_its_counts_are_exact() {
    check(3, || {
        let slot = Slot::new();
        let monitor = spawn(&slot, |slot| {
            let before = slot.load.short_waits();
            let is_taken = slot.retake();
            assert!(slot.load.short_waits() >= before + u64::from(is_taken), "the counter decreased");
            is_taken
        });
        let run = slot.start_request(slot.generation.current());
        slot.load.count_short_wait();
        let is_kept = slot.generation.try_end_run(run);
        if is_kept {
            slot.data.add(1);
        }
        let is_taken = monitor.join().unwrap();
        assert!(is_kept != is_taken, "the slot has two holders or none");
        assert_eq!(slot.data.get(), 2, "a holder did not see what the one before it did");
        let served = 1 + u64::from(is_taken);
        assert_eq!((slot.load.requests(), slot.load.short_waits()), (served, served));
        // Only the new holder has polled.
        assert!(slot.load.is_stalled() != is_taken && slot.load.is_stalled());
    });
}

/// A handler is about to block, but no thread can be started to take over the slot.
#[test]
fn a_run_that_is_resumed_can_still_be_ended_once() {
    check(3, || {
        let slot = Slot::new();
        let monitor = spawn(&slot, Slot::retake);
        let run = slot.start_request(slot.generation.current());
        let mut is_kept = slot.generation.try_end_run(run);
        if is_kept {
            slot.data.add(1);
            slot.generation.resume_run(run);
            is_kept = slot.generation.try_end_run(run);
        }
        let is_taken = monitor.join().unwrap();
        assert!(is_kept != is_taken, "the slot has two holders or none");
        let requests = 1 + usize::from(is_taken);
        assert!(slot.data.get() >= requests, "a holder did not see what the one before it did");
    });
}
