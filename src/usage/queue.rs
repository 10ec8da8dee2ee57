//! Where charges wait for the writer, and their requests for the outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Receipt;
use crate::store::usage::Event;

/// The longest a request waits: for a writer that is at it with a statement at its limit, then for its own, and for
/// a journal on a slow disk. Longer than that takes only a database that hangs without a word.
const PATIENCE: Duration = Duration::from_secs(30);

/// Neither the database nor the journal took the charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// What became of a charge.
pub(super) type Outcome = Result<Receipt, Refused>;

/// The charges that wait.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrival: Condvar,
}

#[derive(Default)]
struct Waiting {
    charges: Vec<Pending>,
    stopped: bool,
}

/// A charge that waits. Dropped without an outcome, it was refused, so that no request waits for ever.
pub(super) struct Pending {
    pub(super) event: Event,
    ticket: Arc<Ticket>,
}

/// What a request waits on.
#[derive(Default)]
struct Ticket {
    outcome: Mutex<Option<Outcome>>,
    arrival: Condvar,
}

impl Queue {
    /// Queues a charge and waits for its outcome.
    pub(super) fn charge(&self, event: Event) -> Outcome {
        let ticket = Arc::new(Ticket::default());
        let pending = Pending { event, ticket: ticket.clone() };
        let mut waiting = self.waiting.lock();
        if waiting.stopped {
            return Err(Refused);
        }
        waiting.charges.push(pending);
        let is_first = waiting.charges.len() == 1;
        drop(waiting);
        if is_first {
            self.arrival.notify_one();
        }
        ticket.wait()
    }

    /// All that wait, at most `most`, once there are any; `None` after the end.
    pub(super) fn take(&self, most: usize) -> Option<Vec<Pending>> {
        let mut waiting = self.waiting.lock();
        while waiting.charges.is_empty() {
            if waiting.stopped {
                return None;
            }
            self.arrival.wait(&mut waiting);
        }
        if waiting.charges.len() <= most {
            return Some(std::mem::take(&mut waiting.charges));
        }
        let rest = waiting.charges.split_off(most);
        self.arrival.notify_one();
        Some(std::mem::replace(&mut waiting.charges, rest))
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().charges.len()
    }

    /// No charge is taken in any more; those that wait still come out.
    pub(super) fn stop(&self) {
        self.waiting.lock().stopped = true;
        self.arrival.notify_all();
    }
}

impl Pending {
    /// Lets the request go on.
    pub(super) fn finish(&self, outcome: Outcome) {
        self.ticket.set(outcome);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.ticket.set(Err(Refused));
    }
}

impl Ticket {
    /// The first outcome stays.
    fn set(&self, outcome: Outcome) {
        let mut slot = self.outcome.lock();
        if slot.is_none() {
            *slot = Some(outcome);
            drop(slot);
            self.arrival.notify_one();
        }
    }

    fn wait(&self) -> Outcome {
        let mut slot = self.outcome.lock();
        let end = Instant::now() + PATIENCE;
        while slot.is_none() {
            if self.arrival.wait_until(&mut slot, end).timed_out() {
                break;
            }
        }
        slot.unwrap_or(Err(Refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::tests::event;

    #[test]
    fn everyone_gets_an_outcome() {
        let queue = Arc::new(Queue::default());
        let threads: Vec<_> = (0..10)
            .map(|n| {
                let queue = queue.clone();
                std::thread::spawn(move || queue.charge(event(&n.to_string())))
            })
            .collect();
        while queue.len() < 10 {
            std::thread::yield_now();
        }
        let taken = queue.take(4).unwrap();
        let receipt = Receipt { cost_micros: 1, duplicate: false };
        for pending in &taken {
            pending.finish(Ok(receipt));
        }
        drop(taken);
        drop(queue.take(100).unwrap());
        let outcomes: Vec<Outcome> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(outcomes.iter().filter(|o| **o == Ok(receipt)).count(), 4);
        queue.stop();
        assert!(queue.take(1).is_none() && queue.charge(event("late")) == Err(Refused));
    }
}
