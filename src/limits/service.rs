//! Budgets in a running server: requests are admitted from memory. Its threads are in `leasing` and in `settling`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::budgets::Budgets;
use super::held::{Held, Payment, Refusal, Reserved};
use super::settle_schedule::SettleSchedule;
use super::{Micros, Picos, RateLimits, Refusals, Reservation};
use crate::blocking::{self, Wait};
use crate::db::Database;
use crate::store::usage::charges::LeaseBudget;

/// The channel on which leases and permits are asked back, and changes of limits are announced. The payload is the id
/// of the budget or of the rate limits, and that of the process that lacks something, if there is one.
pub const CHANNEL: &str = "textgen_limits";

/// What the ids of rate limits begin with; others are budgets.
pub const RATE_PREFIX: &str = "rate_";

/// The budgets and the rate limits of a process's requests.
pub struct Limits {
    pub(super) db: Database,
    rates: Arc<RateLimits>,
    pub(super) settling: SettleSchedule,
    /// Where the times begin that are given to [`Held`]. They do not jump when the clock is set.
    origin: Instant,
    pub(super) state: Mutex<State>,
    /// Wakes the thread that asks for leases.
    pub(super) work: Condvar,
    /// How often a budget was found to be lowered below what is set aside of it.
    pub(super) lowerings: AtomicU64,
    /// How many requests budgets have refused.
    pub(super) refusals: Refusals,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) held: Held,
    /// This process as the holder of leases, once it may have any.
    pub(super) holder: Option<Arc<str>>,
    pub(super) is_registered: bool,
    pub(super) is_stopped: bool,
}

/// What is set aside in the leases of a holder.
pub(super) struct SetAside {
    pub(super) holder: Option<Arc<str>>,
    pub(super) reservation: Reservation,
    /// The budgets in whose leases it is.
    pub(super) budgets: Budgets,
}

impl Limits {
    /// Those of a process that asks this database. Nothing is leased until [`Limits::set_holder`].
    pub fn new(db: Database) -> Arc<Limits> {
        Arc::new(Limits {
            rates: RateLimits::new(db.clone()),
            db,
            settling: SettleSchedule::default(),
            origin: Instant::now(),
            state: Mutex::default(),
            work: Condvar::new(),
            lowerings: AtomicU64::new(0),
            refusals: Refusals::default(),
        })
    }

    /// How often a budget was found to be lowered below what is set aside of it.
    pub(super) fn lowerings(&self) -> u64 {
        self.lowerings.load(Ordering::Acquire)
    }

    /// How much a running request of these budgets may cost, if one of them was lowered below what is set aside of it.
    pub(super) fn lowered_to(&self, budgets: &Budgets) -> Option<Picos> {
        self.state.lock().held.lowered_to(budgets)
    }

    /// The rate limits.
    pub fn rates(&self) -> &Arc<RateLimits> {
        &self.rates
    }

    /// How many requests were refused by budgets, and by rate limits.
    pub fn refusals(&self) -> [&Refusals; 2] {
        [&self.refusals, &self.rates.refusals]
    }

    /// How many leases this process holds.
    pub fn leases(&self) -> usize {
        self.state.lock().held.leases.len()
    }

    /// The id by which this process holds leases; `None` if it needs one.
    pub fn holder(&self) -> Option<Arc<str>> {
        self.state.lock().holder.clone()
    }

    /// Whether this holder has asked for leases, so that it may have some.
    pub fn has_asked(&self) -> bool {
        self.state.lock().is_registered || self.rates.has_asked()
    }

    /// From now on, leases are held by this id. It must be new, and others must notice when this process dies.
    pub fn set_holder(&self, id: &str) {
        let mut state = self.state.lock();
        if state.holder.as_deref() == Some(id) {
            return;
        }
        state.holder = Some(id.into());
        state.is_registered = false;
        drop(state);
        self.rates.set_holder(Some(id.into()));
        self.work.notify_one();
    }

    /// What this holder holds has ended although this process lives. It needs a new id.
    pub(super) fn holder_ended(&self, id: &Arc<str>) {
        let mut state = self.state.lock();
        if state.holder.as_ref() != Some(id) {
            return;
        }
        log::error!("limits: the database has lost this process's leases; starting over");
        state.held.forget_leases();
        state.holder = None;
        drop(state);
        self.rates.set_holder(None);
    }

    /// A notification arrived on [`CHANNEL`].
    pub fn notified(&self, payload: &str) {
        let (budget, asking) = payload.split_once(' ').unwrap_or((payload, ""));
        if budget.starts_with(RATE_PREFIX) {
            return self.rates.notified(budget, Some(asking).filter(|asking| !asking.is_empty()));
        }
        let now = self.now();
        let mut state = self.state.lock();
        if state.holder.as_deref().is_some_and(|own| own == asking) {
            return;
        }
        state.held.recall(budget, asking.is_empty(), now);
        drop(state);
        self.settling.hurry();
        self.work.notify_one();
    }

    /// Notifications may have been missed.
    pub fn notifications_missed(&self) {
        let now = self.now();
        self.state.lock().held.recall_all(now);
        self.settling.hurry();
        self.work.notify_one();
        self.rates.notifications_missed();
    }

    /// Microseconds since a fixed time.
    pub(super) fn now(&self) -> Micros {
        const START: Micros = 60_000_000;
        START + i64::try_from(self.origin.elapsed().as_micros()).unwrap_or(i64::MAX - START)
    }

    /// Sets `worst` aside in the leases of these budgets, or after a short wait all there is, if that is `least` or
    /// more.
    pub(super) fn reserve(&self, budgets: &Budgets, worst: Picos, least: Picos) -> Result<SetAside, Refusal> {
        let now = self.now();
        let mut state = self.state.lock();
        if let Some(reserved) = state.held.reserve(budgets, worst, now) {
            let set_aside = state.set_aside(reserved);
            let has_due = state.held.has_due();
            drop(state);
            if has_due {
                self.work.notify_one();
            }
            return Ok(set_aside);
        }
        if state.held.is_known_exhausted(budgets, least, now) {
            return Err(Refusal::Exhausted);
        }
        if state.held.is_crowded(budgets) {
            return Err(Refusal::Unreachable);
        }
        let (id, arrival) = state.held.wait(budgets, worst, least, now);
        drop(state);
        self.settling.hurry();
        self.work.notify_one();
        let waited = blocking::block_in_place(Wait::Database, || self.wait(id, &arrival));
        // If too many requests wait already, there is an outcome at once.
        waited.unwrap_or_else(|_| self.give_up(&mut self.state.lock(), id))
    }

    fn wait(&self, id: u64, arrival: &Condvar) -> Result<SetAside, Refusal> {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = state.held.take_outcome(id) {
                return outcome.map(|reserved| state.set_aside(reserved));
            }
            let patience = state.held.patience(id, self.now());
            if patience == 0 {
                return self.give_up(&mut state, id);
            }
            arrival.wait_for(&mut state, Duration::from_micros(patience.unsigned_abs()));
        }
    }

    fn give_up(&self, state: &mut State, id: u64) -> Result<SetAside, Refusal> {
        let outcome = match state.held.take_outcome(id) {
            Some(outcome) => outcome,
            None => state.held.give_up(id, self.now()),
        };
        outcome.map(|reserved| state.set_aside(reserved))
    }

    /// Sets more aside, as much of `amount` as is free at once.
    pub(super) fn reserve_more(&self, set_aside: &mut SetAside, amount: Picos) {
        let now = self.now();
        let mut state = self.state.lock();
        if state.is_holder(set_aside)
            && let Some(more) = state.held.reserve_more(&set_aside.budgets, amount, now)
        {
            set_aside.reservation.add(more);
        }
    }

    /// So much of it was charged. If what is set aside still goes back to the database, credit that has expired would seem
    /// to be unused while it does not know of the charge.
    pub(super) fn settle(&self, set_aside: &mut SetAside, cost: Picos) -> Payment {
        let now = self.now();
        let part = set_aside.reservation.split(cost);
        let mut state = self.state.lock();
        if !state.is_holder(set_aside) {
            let unknown = |id: &Arc<str>| LeaseBudget { id: Arc::clone(id), number: None };
            return Payment { budgets: set_aside.budgets.iter().map(unknown).collect(), ..Payment::default() };
        }
        let payment = state.held.settle(&set_aside.budgets, &part, cost);
        if state.held.has_waiting() {
            state.held.admit(now);
        }
        payment
    }

    /// Nothing more of it will be charged.
    pub(super) fn release(&self, set_aside: &SetAside) {
        let now = self.now();
        let mut state = self.state.lock();
        if state.is_holder(set_aside) {
            state.held.release(&set_aside.budgets, &set_aside.reservation);
            if state.held.has_waiting() {
                state.held.admit(now);
            }
        }
    }

    /// A charge that this holder settled in the leases of these budgets was not made.
    pub fn take_back<'b>(&self, holder: &str, budgets: impl Iterator<Item = &'b str>, cost: Picos) {
        let now = self.now();
        let mut state = self.state.lock();
        if state.holder.as_deref() == Some(holder) {
            state.held.take_back(budgets, cost);
            if state.held.has_waiting() {
                state.held.admit(now);
            }
        }
    }

    /// A charge was made, or may have been, and is to be settled.
    pub(super) fn note_charge(&self) {
        self.settling.note_charge();
    }

    /// Asks the database for permits until [`Limits::stop`].
    pub fn run_rates(&self) {
        self.rates.run(|holder| self.holder_ended(holder));
    }

    /// Ends [`Limits::run_leases`], [`Limits::run_settlements`] and [`Limits::run_rates`].
    pub fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.work.notify_all();
        self.settling.stop();
        self.rates.stop();
    }
}

impl State {
    fn set_aside(&self, (reservation, budgets): Reserved) -> SetAside {
        SetAside { holder: self.holder.clone(), reservation, budgets }
    }

    /// Whether the leases in which this was set aside are still those of this process.
    fn is_holder(&self, set_aside: &SetAside) -> bool {
        self.holder == set_aside.holder
    }
}
