//! The queue of charges for the writer, and the tickets on which their requests wait for the outcome.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Claim, Receipt};
use crate::http::Notifier;
use crate::limits::Settled;
use crate::store::usage::charges::Event;

/// How long a request waits for its charge: enough for a running statement that times out, for that of the charge, and for
/// a journal on a slow disk.
const CHARGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Neither the database nor the journal accepted the charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// The outcome of a charge.
pub(super) type Outcome = Result<Receipt, Refused>;

/// The charges that wait for the writer.
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

/// What is to be charged.
pub(super) struct Order {
    pub(super) event: Event,
    /// What it took of budgets. If the charge is never made, this is free again.
    pub(super) settled: Option<Settled>,
    /// The claim to the key of the event's reply, until the charge is decided.
    pub(super) claim: Option<Arc<Claim>>,
}

/// A charge in the queue. If it is dropped without an outcome, it counts as refused, so that no request waits forever.
pub(super) struct Pending {
    pub(super) event: Event,
    ticket: Arc<Ticket>,
    settled: Cell<Option<Settled>>,
    /// The database or the journal was asked to take it.
    is_tried: Cell<bool>,
    _claim: Option<Arc<Claim>>,
}

/// Where a request waits for its outcome, or is notified of it.
#[derive(Default)]
pub(super) struct Ticket {
    state: Mutex<State>,
    arrival: Condvar,
}

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    signal: Option<Notifier>,
}

impl Queue {
    /// Queues a charge and waits for its outcome.
    pub(super) fn charge(&self, order: Order) -> Outcome {
        let ticket = Arc::new(Ticket::default());
        self.push(order, ticket.clone());
        ticket.wait()
    }

    /// Queues a charge. `signal` is called once the ticket has its outcome.
    pub(super) fn charge_later(&self, order: Order, ticket: Arc<Ticket>, signal: Notifier) {
        ticket.state.lock().signal = Some(signal);
        self.push(order, ticket);
    }

    fn push(&self, order: Order, ticket: Arc<Ticket>) {
        let Order { event, settled, claim } = order;
        let pending = Pending { event, ticket, settled: Cell::new(settled), is_tried: Cell::new(false), _claim: claim };
        let mut waiting = self.waiting.lock();
        if waiting.stopped {
            // Dropped outside the lock, which refuses the charge.
            drop(waiting);
            return drop(pending);
        }
        waiting.charges.push(pending);
        let is_first = waiting.charges.len() == 1;
        drop(waiting);
        if is_first {
            self.arrival.notify_one();
        }
    }

    /// Blocks until charges are queued, and takes at most `most`; `None` once the queue is stopped and empty.
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

    /// The number of queued charges.
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().charges.len()
    }

    /// Accepts no more charges; those in the queue can still be taken.
    pub(super) fn stop(&self) {
        self.waiting.lock().stopped = true;
        self.arrival.notify_all();
    }
}

/// Runs `work`. If it panics, the charges that it holds are dropped and thus refused, and the thread continues.
pub(super) fn isolate_panics(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        log::error!("writing charges panicked: some were refused");
    }
}

impl Pending {
    /// Whether its request has timed out: such a charge must not be made.
    pub(super) fn is_given_up(&self) -> bool {
        self.ticket.state.lock().outcome.is_some()
    }

    /// The database or the journal is about to be asked to take it. From then on it may be made, whatever happens.
    pub(super) fn begin(&self) {
        self.is_tried.set(true);
    }

    /// What it took of budgets, to be kept or given back by the caller.
    pub(super) fn take_settled(&self) -> Option<Settled> {
        self.settled.take()
    }

    /// Lets the request continue.
    pub(super) fn finish(&self, outcome: Outcome) {
        if let Ok(receipt) = outcome
            && let Some(settled) = self.settled.take()
            && !receipt.duplicate
        {
            settled.keep();
        }
        self.ticket.set(outcome);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.ticket.set(Err(Refused));
        if let Some(settled) = self.settled.take().filter(|_| self.is_tried.get()) {
            settled.keep();
        }
    }
}

impl Ticket {
    /// Sets the outcome, unless there is one already.
    fn set(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        if state.outcome.is_some() {
            return;
        }
        state.outcome = Some(outcome);
        let signal = state.signal.take();
        drop(state);
        match signal {
            Some(signal) => signal(),
            None => {
                self.arrival.notify_one();
            }
        }
    }

    /// The outcome; if there is none yet, the charge is refused.
    pub(super) fn outcome(&self) -> Outcome {
        *self.state.lock().outcome.get_or_insert(Err(Refused))
    }

    fn wait(&self) -> Outcome {
        let mut state = self.state.lock();
        let end = Instant::now() + CHARGE_TIMEOUT;
        while state.outcome.is_none() {
            if self.arrival.wait_until(&mut state, end).timed_out() {
                break;
            }
        }
        *state.outcome.get_or_insert(Err(Refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::tests::event;

    fn order(id: &str) -> Order {
        Order { event: event(id), settled: None, claim: None }
    }

    #[test]
    fn every_request_gets_an_outcome() {
        let queue = Arc::new(Queue::default());
        let threads: Vec<_> = (0..10)
            .map(|n| {
                let queue = queue.clone();
                std::thread::spawn(move || queue.charge(order(&n.to_string())))
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
        assert!(queue.take(1).is_none() && queue.charge(order("late")) == Err(Refused));
    }
}
