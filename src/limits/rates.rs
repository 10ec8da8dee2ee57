//! Rate limits in a running server: requests are admitted from memory, and one thread asks the database for permits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::asking::{FAILURE_PAUSE, FailureLog, IDLE_INTERVAL, Sweeps, ask_registered};
use super::held_rates::{Answer, Attempt, HeldRates, Question, Taken};
use super::kinds::{Amounts, KINDS, Kind, RateIds, RateStatus};
use super::permits::PermitGrant;
use super::refusals::{By, Refusals};
use super::{Micros, RESPONSE_TIMEOUT};
use crate::blocking::{self, Wait};
use crate::db::{self, Database};
use crate::store::rates;

/// How often all permits are looked at, and handed back if they are idle.
const SWEEP_INTERVAL: Micros = 100_000;

/// Most questions in which a process that stops hands back what it does not use.
const LAST_QUESTIONS: u32 = 100;

/// The rate limits of a process's requests.
pub struct RateLimits {
    db: Database,
    /// Where the times begin that are given to [`HeldRates`]. They do not jump when the clock is set.
    origin: Instant,
    state: Mutex<State>,
    /// Wakes the thread.
    work: Condvar,
    /// Wakes requests that wait.
    arrival: Condvar,
    /// How many requests were refused.
    pub(super) refusals: Refusals,
}

#[derive(Default)]
struct State {
    held: HeldRates,
    /// This process as the holder of permits, once it may have any.
    holder: Option<Arc<str>>,
    is_registered: bool,
    is_stopped: bool,
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateRefusal {
    /// There are too many. After this time one is admitted, if nobody else asks.
    TooMany(Kind, Duration),
    /// It wants more than the limit, which is this.
    TooLarge(Kind, i64),
    /// What this process holds does not suffice, and the database cannot be asked for more.
    Unreachable,
}

/// A request that was admitted. The place that it takes among those at once is free again when this is dropped, and so
/// are tokens that were not used.
pub struct Permit {
    limits: Arc<RateLimits>,
    ids: RateIds,
    state: Mutex<PermitState>,
}

#[derive(Default)]
struct PermitState {
    holder: Option<Arc<str>>,
    taken: Vec<Taken>,
    used_tokens: i64,
    is_cancelled: bool,
}

impl RateLimits {
    /// Those of a process that asks this database. Nothing is admitted until [`RateLimits::set_holder`].
    pub(super) fn new(db: Database) -> Arc<RateLimits> {
        let (work, arrival) = (Condvar::new(), Condvar::new());
        let (state, refusals) = (Mutex::default(), Refusals::default());
        Arc::new(RateLimits { db, origin: Instant::now(), state, work, arrival, refusals })
    }

    /// Whether this process may hold permits.
    pub(super) fn has_asked(&self) -> bool {
        self.state.lock().is_registered
    }

    /// From now on, permits are held by this id, which must be new.
    pub(super) fn set_holder(&self, id: Option<Arc<str>>) {
        let mut state = self.state.lock();
        if state.holder != id {
            state.held.forget();
            state.is_registered = false;
            state.holder = id;
            drop(state);
            self.work.notify_one();
        }
    }

    /// A notification arrived: another process, `asking`, lacks permits of a limit; or the limit has changed.
    pub(super) fn notified(&self, rate: &str, asking: Option<&str>) {
        let now = self.now();
        let mut state = self.state.lock();
        let State { held, holder, .. } = &mut *state;
        if let Some(own) = holder.as_deref()
            && asking != Some(own)
        {
            held.recall(rate, asking, own, now);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Notifications may have been missed.
    pub(super) fn notifications_missed(&self) {
        let now = self.now();
        self.state.lock().held.recall_all(now);
        self.work.notify_one();
    }

    /// Microseconds since a fixed time.
    fn now(&self) -> Micros {
        const START: Micros = 600_000_000;
        START + i64::try_from(self.origin.elapsed().as_micros()).unwrap_or(i64::MAX / 2)
    }

    /// Admits a request of a caller with these limits. It may wait for half a second.
    ///
    /// # Errors
    /// See [`RateRefusal`]; nothing was used then.
    pub fn admit(self: &Arc<RateLimits>, ids: &RateIds) -> Result<Permit, RateRefusal> {
        let mut wanted = [0; KINDS];
        (wanted[Kind::Requests as usize], wanted[Kind::Concurrent as usize]) = (1, 1);
        let permit = Permit { limits: Arc::clone(self), ids: ids.clone(), state: Mutex::default() };
        permit.take(wanted)?;
        Ok(permit)
    }

    /// What is left of the limits of requests and of tokens in a minute.
    pub fn status(&self, ids: &RateIds) -> [Option<RateStatus>; 2] {
        let now = self.now();
        self.state.lock().held.status(ids, now)
    }

    fn take(&self, ids: &RateIds, wanted: Amounts) -> Result<(Option<Arc<str>>, Vec<Taken>), RateRefusal> {
        let since = self.now();
        let mut state = self.state.lock();
        let first = state.held.attempt(ids, wanted, since, since);
        if let Attempt::Wait(_) = first {
            if state.held.is_crowded(ids) {
                return Err(RateRefusal::TooMany(Kind::Requests, Duration::from_secs(1)));
            }
            let number = state.held.wait(ids, wanted);
            drop(state);
            self.work.notify_one();
            let waited = blocking::block_in_place(Wait::Database, || self.wait(ids, wanted, since));
            self.state.lock().held.end_wait(ids, number);
            return waited.unwrap_or(Err(RateRefusal::Unreachable));
        }
        let (holder, has_due) = (state.holder.clone(), state.held.has_due());
        drop(state);
        if has_due {
            self.work.notify_one();
        }
        outcome(first).map(|taken| (holder, taken))
    }

    fn wait(
        &self,
        ids: &RateIds,
        wanted: Amounts,
        since: Micros,
    ) -> Result<(Option<Arc<str>>, Vec<Taken>), RateRefusal> {
        let mut state = self.state.lock();
        loop {
            match state.held.attempt(ids, wanted, since, self.now()) {
                Attempt::Wait(wait) => {
                    self.arrival.wait_for(&mut state, Duration::from_micros(wait.unsigned_abs()));
                }
                decided => return outcome(decided).map(|taken| (state.holder.clone(), taken)),
            }
        }
    }

    /// Asks the database for permits until [`RateLimits::stop`]. `has_ended` is called when those of a holder have
    /// ended.
    pub(super) fn run(&self, has_ended: impl Fn(&Arc<str>)) {
        let mut failures = FailureLog::new("rate limits", "no permits are granted");
        while let Some((holder, asked)) = self.next_questions() {
            let answered = self.ask(&holder, &asked);
            failures.note(&answered);
            let now = self.now();
            let mut state = self.state.lock();
            state.held.is_unreachable = answered.is_err();
            match answered {
                Ok(Some(answers)) => {
                    for ((id, _), answer) in asked.iter().zip(&answers) {
                        state.held.receive(id, answer.as_ref(), now);
                    }
                }
                Ok(None) => {
                    drop(state);
                    has_ended(&holder);
                }
                Err(_) => {
                    drop(state);
                    std::thread::sleep(FAILURE_PAUSE);
                }
            }
            self.arrival.notify_all();
        }
        self.hand_back();
    }

    /// This process stops: what it did not use in the last minute is free at once, and not only a minute after its end.
    fn hand_back(&self) {
        let now = self.now();
        let mut state = self.state.lock();
        let Some(holder) = state.holder.clone().filter(|_| state.is_registered) else { return };
        state.held.return_all(now);
        for _ in 0..LAST_QUESTIONS {
            let asked = state.held.questions(false, now);
            if asked.is_empty() {
                return;
            }
            drop(state);
            let answers = match self.ask(&holder, &asked) {
                Ok(Some(answers)) => answers,
                Ok(None) => return,
                Err(e) => return log::warn!("rate limits: this process's leases will be released in a minute: {e}"),
            };
            state = self.state.lock();
            for ((id, _), answer) in asked.iter().zip(&answers) {
                state.held.receive(id, answer.as_ref(), now);
            }
        }
    }

    /// Waits until there is something to ask; `None` once stopped.
    fn next_questions(&self) -> Option<(Arc<str>, Vec<Question>)> {
        let mut sweeps = Sweeps::new(SWEEP_INTERVAL, self.now());
        let mut state = self.state.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            let now = self.now();
            let mut pause = IDLE_INTERVAL;
            if let Some(holder) = state.holder.clone() {
                let is_sweep = sweeps.is_due(now);
                let asked = state.held.questions(is_sweep, now);
                if !asked.is_empty() {
                    return Some((holder, asked));
                }
                pause = sweeps.pause(state.held.has_due(), !state.held.is_empty(), now);
            }
            self.work.wait_for(&mut state, pause);
        }
    }

    /// The database's answers; `None` if the permits of this holder have ended.
    fn ask(&self, holder: &Arc<str>, asked: &[Question]) -> Result<Option<Vec<Option<Answer>>>, db::Error> {
        let mut session = self.db.session()?;
        session.set_timeout(RESPONSE_TIMEOUT);
        let is_registered = self.state.lock().is_registered;
        let registered = || self.state.lock().is_registered = true;
        ask_registered(&mut session, holder, is_registered, registered, |session| ask_all(session, holder, asked))
    }

    /// Ends [`RateLimits::run`].
    pub(super) fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.work.notify_all();
    }
}

fn ask_all(session: &mut db::Session, holder: &str, asked: &[Question]) -> Result<Vec<Option<Answer>>, db::Error> {
    let requests: Vec<rates::Request<'_>> = asked
        .iter()
        .map(|(id, asks)| rates::Request {
            rate_id: id,
            at_least: asks.map(|ask| ask.at_least),
            at_most: asks.map(|ask| ask.at_most),
            returned: asks.map(|ask| ask.returned),
            idle: asks.map(|ask| ask.idle),
            ready_in: asks.map(|ask| ask.ready_in),
        })
        .collect();
    let answers = rates::ask(session, holder, &requests)?;
    let grant = |granted: rates::Granted| {
        let rates::Granted { most, granted, returned, is_short, elsewhere, elsewhere_in } = granted;
        PermitGrant { most, granted, returned, is_short, elsewhere, elsewhere_in }
    };
    Ok(answers.into_iter().map(|answer| answer.map(|kinds| kinds.map(|kind| kind.map(grant)))).collect())
}

fn outcome(attempt: Attempt) -> Result<Vec<Taken>, RateRefusal> {
    let wait = |micros: Micros| Duration::from_micros(micros.unsigned_abs());
    match attempt {
        Attempt::Taken(taken) => Ok(taken),
        Attempt::Refused(kind, micros) => Err(RateRefusal::TooMany(kind, wait(micros))),
        Attempt::TooLarge(kind, most) => Err(RateRefusal::TooLarge(kind, most)),
        Attempt::Wait(_) | Attempt::Unreachable => Err(RateRefusal::Unreachable),
    }
}

impl RateRefusal {
    fn by(&self) -> By {
        match self {
            RateRefusal::TooMany(kind, _) | RateRefusal::TooLarge(kind, _) => By::Rate(*kind),
            RateRefusal::Unreachable => By::Unreachable,
        }
    }
}

impl Permit {
    /// The most tokens that a request may use, if tokens in a minute are limited.
    pub fn most_tokens(&self) -> Option<i64> {
        self.limits.state.lock().held.most_tokens(&self.ids)
    }

    /// Takes as many tokens as a call of a model may use, in addition to what was taken before.
    ///
    /// # Errors
    /// See [`RateRefusal`]; nothing was taken then.
    pub fn take_tokens(&self, amount: i64) -> Result<(), RateRefusal> {
        let mut wanted = [0; KINDS];
        wanted[Kind::Tokens as usize] = amount;
        self.take(wanted)
    }

    fn take(&self, wanted: Amounts) -> Result<(), RateRefusal> {
        let taken = self.limits.take(&self.ids, wanted);
        let (holder, taken) = taken.inspect_err(|refusal| self.limits.refusals.add(refusal.by()))?;
        let mut state = self.state.lock();
        // If this process is another holder now, what it used before is not its own any more.
        if state.holder != holder {
            state.taken.clear();
            state.holder = holder;
        }
        state.taken.extend(taken);
        Ok(())
    }

    /// The request has used so many tokens.
    pub fn use_tokens(&self, amount: i64) {
        self.state.lock().used_tokens += amount.max(0);
    }

    /// The request is refused after all, so it uses nothing, unless it has used something already.
    pub fn cancel(&self) {
        let mut state = self.state.lock();
        state.is_cancelled = state.used_tokens == 0;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let PermitState { holder, taken, used_tokens, is_cancelled } = std::mem::take(self.state.get_mut());
        let now = self.limits.now();
        let mut state = self.limits.state.lock();
        if taken.is_empty() || state.holder != holder {
            return;
        }
        for (owner, id) in self.ids.owned() {
            let mut used = used_tokens;
            let mut unused = |taken: &Taken| match taken.kind {
                _ if is_cancelled => taken.amount,
                Kind::Requests => 0,
                Kind::Concurrent => taken.amount,
                Kind::Tokens => {
                    let part = used.min(taken.amount);
                    used -= part;
                    taken.amount - part
                }
            };
            let own = taken.iter().filter(|taken| taken.owner == owner);
            state.held.give_back(id, own.map(|taken| (taken, unused(taken))).filter(|(_, unused)| *unused > 0), now);
        }
        let has_due = state.held.has_due();
        drop(state);
        if has_due {
            self.limits.work.notify_one();
        }
        self.limits.arrival.notify_all();
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("ids", &self.ids).finish_non_exhaustive()
    }
}
