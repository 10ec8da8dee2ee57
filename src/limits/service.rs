//! Budgets in a running server: requests are admitted from memory, and one thread asks the database for leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::asking::{FAILURE_PAUSE, FailureLog, IDLE_INTERVAL, Sweeps, ask_registered};
use super::budgets::Budgets;
use super::held::{Answer, Held, Question, Refusal, Reserved};
use super::{Ask, Grant, Micros, Picos, RESPONSE_TIMEOUT, RateLimits, Reservation};
use crate::blocking::{self, Wait};
use crate::db::{self, Database};
use crate::store::leases::{self, Request};

/// The channel on which leases and permits are asked back, and changes of limits are announced. The payload is the id
/// of the budget or of the rate limits, and that of the process that lacks something, if there is one.
pub const CHANNEL: &str = "textgen_limits";

/// How often all leases are looked at, and handed back if they are idle.
const SWEEP_INTERVAL: Micros = 250_000;

/// How long charges wait to be settled, unless somebody lacks what is left of a budget.
const SETTLE_INTERVAL: Micros = 500_000;

/// How long they wait in any case.
const SETTLE_PAUSE: Micros = 20_000;

/// After so many rows of settled charges, their space is made free.
const TIDY_AFTER: i64 = 2000;

/// What the ids of rate limits begin with; others are budgets.
pub const RATE_PREFIX: &str = "rate_";

/// The budgets and the rate limits of a process's requests.
pub struct Limits {
    db: Database,
    rates: Arc<RateLimits>,
    /// Where the times begin that are given to [`Held`]. They do not jump when the clock is set.
    origin: Instant,
    state: Mutex<State>,
    work: Condvar,
    /// How often a budget was found of which nothing is left.
    exhaustions: AtomicU64,
    /// Whether charges were made since the last time that they were settled.
    has_unsettled: AtomicBool,
}

struct State {
    held: Held,
    /// This process as the holder of leases, once it may have any.
    holder: Option<Arc<str>>,
    is_registered: bool,
    is_stopped: bool,
    /// When charges were last settled.
    settled_at: Micros,
    /// Whether they are to be settled soon, as others want to know what is left.
    settles_soon: bool,
}

/// What there is to do at the database.
struct Work {
    holder: Arc<str>,
    /// Whether charges are to be settled first.
    settles: bool,
    /// Leases that the database shall forget.
    leaving: Vec<(Arc<str>, Picos)>,
    round: u64,
    asked: Vec<Question>,
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
        let state = State {
            held: Held::default(),
            holder: None,
            is_registered: false,
            is_stopped: false,
            settled_at: 0,
            settles_soon: false,
        };
        let rates = RateLimits::new(db.clone());
        Arc::new(Limits {
            db,
            rates,
            origin: Instant::now(),
            state: Mutex::new(state),
            work: Condvar::new(),
            exhaustions: AtomicU64::new(0),
            has_unsettled: AtomicBool::new(false),
        })
    }

    /// How often a budget was found of which nothing is left.
    pub(super) fn exhaustions(&self) -> u64 {
        self.exhaustions.load(Ordering::Acquire)
    }

    /// Whether nothing is left of one of these budgets, of which something is set aside.
    pub(super) fn is_emptied(&self, budgets: &Budgets) -> bool {
        self.state.lock().held.is_emptied(budgets)
    }

    /// The rate limits.
    pub fn rates(&self) -> &Arc<RateLimits> {
        &self.rates
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
    fn holder_ended(&self, id: &Arc<str>) {
        let mut state = self.state.lock();
        if state.holder.as_ref() != Some(id) {
            return;
        }
        log::error!("limits: the database has ended what this process holds, or lost it: it begins anew");
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
        state.settles_soon = true;
        drop(state);
        self.work.notify_one();
    }

    /// Notifications may have been missed.
    pub fn notifications_missed(&self) {
        let now = self.now();
        let mut state = self.state.lock();
        state.held.recall_all(now);
        state.settles_soon = true;
        drop(state);
        self.work.notify_one();
        self.rates.notifications_missed();
    }

    /// Microseconds since a fixed time.
    fn now(&self) -> Micros {
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

    /// So much of it was charged. Returns the earliest time that the charge may bear, in microseconds since 1970.
    pub(super) fn settle(&self, set_aside: &mut SetAside, cost: Picos) -> Micros {
        let now = self.now();
        let part = set_aside.reservation.split(cost);
        let mut state = self.state.lock();
        if !state.is_holder(set_aside) {
            return 0;
        }
        let earliest = state.held.settle(&set_aside.budgets, &part, cost);
        if state.held.has_waiting() {
            state.held.admit(now);
        }
        earliest
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
        self.has_unsettled.store(true, Ordering::Release);
    }

    /// Settles charges, and asks the database for leases, until [`Limits::stop`].
    pub fn run(&self) {
        let mut failures = FailureLog::new("budgets", "leases");
        let mut untidy = 0;
        while let Some(work) = self.next_work() {
            let Work { holder, settles, round, asked, .. } = &work;
            let asked_at = self.now();
            let answered = self.tell(&work, &mut untidy).and_then(|()| self.ask(holder, asked));
            failures.note(&answered);
            let now = self.now();
            let mut state = self.state.lock();
            state.held.is_unreachable = answered.is_err();
            // Answers come in the order of the questions, so none knows less than another before.
            let is_lost = |answers: &Vec<Option<Answer>>| {
                let mut known = asked.iter().zip(answers);
                known.any(|((id, _), answer)| answer.as_ref().is_some_and(|answer| state.held.knows_more(id, answer)))
            };
            match answered.map(|answers| answers.filter(|answers| !is_lost(answers))) {
                Ok(Some(answers)) => {
                    for ((id, _), answer) in asked.iter().zip(&answers) {
                        state.held.receive((*round, asked_at), id, answer.as_ref(), now);
                    }
                    state.held.admit(now);
                    if answers.iter().flatten().any(|(_, unspent)| *unspent <= 0) {
                        self.exhaustions.fetch_add(1, Ordering::Release);
                    }
                }
                Ok(None) => {
                    drop(state);
                    self.holder_ended(holder);
                }
                Err(_) => {
                    drop(state);
                    self.has_unsettled.fetch_or(*settles, Ordering::AcqRel);
                    std::thread::sleep(FAILURE_PAUSE);
                }
            }
        }
    }

    /// Asks the database for permits until [`Limits::stop`].
    pub fn run_rates(&self) {
        self.rates.run(|holder| self.holder_ended(holder));
    }

    /// Waits until there is something to do; `None` once stopped.
    fn next_work(&self) -> Option<Work> {
        let mut sweeps = Sweeps::new(SWEEP_INTERVAL, self.now());
        let mut state = self.state.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            let now = self.now();
            let mut pause = IDLE_INTERVAL;
            if let Some(holder) = state.holder.clone() {
                let is_urgent = state.settles_soon || state.held.has_waiting();
                let interval = if is_urgent { SETTLE_PAUSE } else { SETTLE_INTERVAL };
                let settles = now - state.settled_at >= interval && self.has_unsettled.swap(false, Ordering::AcqRel);
                if now - state.settled_at >= SETTLE_PAUSE {
                    state.settles_soon = false;
                }
                if settles {
                    state.settled_at = now;
                }
                let is_sweep = sweeps.is_due(now);
                let (round, asked) = state.held.questions(is_sweep, now);
                let leaving = state.held.leaving();
                if settles || !leaving.is_empty() || !asked.is_empty() {
                    return Some(Work { holder, settles, leaving, round, asked });
                }
                pause = sweeps.pause(state.held.has_waiting() || state.settles_soon, !state.held.is_empty(), now);
            }
            self.work.wait_for(&mut state, pause);
        }
    }

    /// Settles charges and forgets leases.
    fn tell(&self, work: &Work, untidy: &mut i64) -> Result<(), db::Error> {
        let Work { holder, settles, leaving, .. } = work;
        if !settles && leaving.is_empty() {
            return Ok(());
        }
        let mut session = self.db.session()?;
        session.set_timeout(RESPONSE_TIMEOUT);
        if *settles {
            *untidy += leases::settle_deferred(&mut session, holder)?;
        }
        if *untidy >= TIDY_AFTER {
            *untidy = 0;
            leases::tidy_settled(&mut session)?;
        }
        if !leaving.is_empty() {
            let known: Vec<(&str, Picos)> = leaving.iter().map(|(id, granted)| (&**id, *granted)).collect();
            let forgotten = leases::forget(&mut session, holder, &known)?;
            self.state.lock().held.left(leaving, &forgotten, self.now());
        }
        Ok(())
    }

    /// The database's answers; `None` if the leases of this holder have ended.
    fn ask(&self, holder: &Arc<str>, asked: &[Question]) -> Result<Option<Vec<Option<Answer>>>, db::Error> {
        if asked.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let mut session = self.db.session()?;
        session.set_timeout(RESPONSE_TIMEOUT);
        let requests: Vec<Request<'_>> = asked
            .iter()
            .map(|(id, ask)| {
                let Ask { at_least, at_most, returned, partial } = *ask;
                Request { budget_id: id, at_least, at_most, returned, partial }
            })
            .collect();
        let is_registered = self.state.lock().is_registered;
        let registered = || self.state.lock().is_registered = true;
        let ask = |session: &mut db::Session| leases::ask(session, holder, &requests);
        let answers = ask_registered(&mut session, holder, is_registered, registered, ask)?;
        let grant = |answer: leases::Granted| {
            let leases::Granted { granted, returned, window_starts, is_short, unspent, collects, valid_micros } =
                answer;
            let window_starts = Micros::try_from(window_starts.unix_timestamp_nanos() / 1000).unwrap_or(0);
            let valid_for = valid_micros;
            (Grant { granted, returned, window_starts, is_short, collects, valid_for }, unspent)
        };
        Ok(answers.map(|answers| answers.into_iter().map(|answer| answer.map(grant)).collect()))
    }

    /// Ends [`Limits::run`] and [`Limits::run_rates`].
    pub fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.work.notify_all();
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
