//! Requests that wait until what they may cost can be set aside.

use std::sync::Arc;

use parking_lot::Condvar;

use super::budgets::Budgets;
use super::held::{Held, HeldLease, Refusal, Reserved, SHORT_PAUSE, Waiting};
use super::{Micros, Picos};

/// How long a request waits for what others hold before it takes what there is, and until it is refused.
const PARTIAL_AFTER: Micros = 400_000;
const GIVE_UP_AFTER: Micros = 800_000;

/// How long it waits at the most: longer only while those before it get what they need.
const MAX_WAIT: Micros = 3_000_000;

/// How long it waits while the last question was not answered.
const OUTAGE_WAIT: Micros = 200_000;

/// How often the database must have answered a process that collects, before it takes what it has got.
const COLLECTS: u32 = 8;

/// Most requests that wait for a budget that is short of money.
const MAX_WAITING: usize = 100;

impl Held {
    /// A request begins to wait: for `worst`, or at least for `least`. Returns its number, and what is notified when
    /// there is an outcome.
    pub(super) fn wait(&mut self, budgets: &Budgets, worst: Picos, least: Picos, now: Micros) -> (u64, Arc<Condvar>) {
        let id = self.next_waiting;
        self.next_waiting += 1;
        let (budgets, round, arrival) = (budgets.clone(), self.round, Arc::new(Condvar::new()));
        let until = now + if self.is_unreachable { OUTAGE_WAIT } else { GIVE_UP_AFTER };
        let waiting =
            Waiting { budgets, worst, least, since: now, until, round, outcome: None, arrival: Arc::clone(&arrival) };
        self.waiting.insert(id, waiting);
        (id, arrival)
    }

    /// How much longer a request waits; nothing if it is to give up. Where the database is slow, what it collects takes
    /// longer.
    pub(super) fn patience(&self, id: u64, now: Micros) -> Micros {
        let Some(waiting) = self.waiting.get(&id) else { return 0 };
        let is_new = |held: &HeldLease| held.lease.collects() && held.collected < COLLECTS;
        let collects = waiting.budgets.iter().filter_map(|id| self.leases.get(id)).any(is_new);
        match waiting.until - now {
            rest if rest > 0 => rest,
            _ if collects && now - waiting.since < MAX_WAIT => SHORT_PAUSE,
            _ => 0,
        }
    }

    /// Whether more requests wait for one of these budgets, which is short of money, than are useful.
    pub(super) fn is_crowded(&self, budgets: &Budgets) -> bool {
        let is_short = |id: &&Arc<str>| self.leases.get(*id).is_some_and(|held| held.is_short);
        budgets.iter().filter(is_short).any(|id| self.waiting_for(id).count() >= MAX_WAITING)
    }

    /// Whether a request waits.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.values().any(|waiting| waiting.outcome.is_none())
    }

    /// The outcome for a request, if there is one; then it waits no more.
    pub(super) fn take_outcome(&mut self, id: u64) -> Option<Result<Reserved, Refusal>> {
        self.waiting.get(&id)?.outcome.as_ref()?;
        self.waiting.remove(&id)?.outcome
    }

    /// A request has waited long enough: it gets what there is, if that suffices.
    pub(super) fn give_up(&mut self, id: u64, now: Micros) -> Result<Reserved, Refusal> {
        let Some(Waiting { budgets, worst, least, round, .. }) = self.waiting.remove(&id) else {
            return Err(Refusal::Unreachable);
        };
        let live = self.live(&budgets);
        self.stop_collecting(&budgets);
        if self.obtainable(&live, worst, round, now).is_none() {
            return Err(Refusal::Unreachable);
        }
        let rest = self.free(&live).min(worst);
        // What another process collects is left to it.
        let lacks = |held: &HeldLease| held.lease.free() < worst && !held.lease.collects();
        let may_take = !live.iter().filter_map(|id| self.leases.get(id)).any(lacks);
        let reserved = if rest >= least && may_take { self.reserve_in(&live, rest, now) } else { None };
        reserved.map(|reservation| (reservation, live)).ok_or(Refusal::Exhausted)
    }

    /// How much of `worst` could be set aside in the best case, were everything handed back; `None` if the database was
    /// not asked and heard since the questions with the number `round`.
    fn obtainable(&self, live: &Budgets, worst: Picos, round: u64, now: Micros) -> Option<Picos> {
        let mut most = worst;
        for held in live.iter().filter_map(|id| self.leases.get(id)) {
            if held.lease.has(worst, now) {
                continue;
            }
            if held.answered <= round {
                return None;
            }
            most = most.min(held.unspent.max(held.lease.free()));
        }
        Some(most)
    }

    /// Admits those that wait and can be paid for, and refuses those for which too little is left in any case.
    pub(super) fn admit(&mut self, now: Micros) {
        let ids: Vec<u64> =
            self.waiting.iter().filter(|(_, waiting)| waiting.outcome.is_none()).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(Waiting { budgets, worst, least, round, .. }) = self.waiting.get(&id) else { continue };
            let (budgets, worst, least, round) = (budgets.clone(), *worst, *least, *round);
            let live = self.live(&budgets);
            let most = self.obtainable(&live, worst, round, now);
            let outcome = if most.is_some_and(|most| most < least) {
                Err(Refusal::Exhausted)
            } else {
                match self.reserve_in(&live, most.unwrap_or(worst), now) {
                    Some(reservation) => Ok((reservation, live)),
                    None => continue,
                }
            };
            let is_admitted = outcome.is_ok();
            self.stop_collecting(&budgets);
            if let Some(waiting) = self.waiting.get_mut(&id) {
                waiting.outcome = Some(outcome);
                waiting.arrival.notify_one();
            }
            if is_admitted {
                self.encourage(&budgets, now);
            }
        }
    }

    /// A request waits no more: unless another one does, the database is told that nothing is collected any more.
    fn stop_collecting(&mut self, budgets: &Budgets) {
        for id in budgets.iter() {
            if self.leases.get(id).is_some_and(|held| held.lease.collects()) {
                self.due.insert(Arc::clone(id));
            }
        }
    }

    /// The next request that waits for these budgets has time to collect what is left now, although it has waited
    /// already.
    fn encourage(&mut self, budgets: &Budgets, now: Micros) {
        let waits = |waiting: &&mut Waiting| {
            waiting.outcome.is_none() && waiting.budgets.iter().any(|id| budgets.iter().any(|other| other == id))
        };
        if let Some(next) = self.waiting.values_mut().find(waits) {
            let longest = next.since + MAX_WAIT;
            next.until = next.until.max((now + GIVE_UP_AFTER - PARTIAL_AFTER).min(longest));
        }
    }

    /// What the first request that waits for a budget needs, what the others do, and whether the first has waited so
    /// long that it takes less.
    pub(super) fn wanted(&self, id: &Arc<str>, now: Micros) -> (Picos, Picos, bool) {
        let mut waiting = self.waiting_for(id);
        let first = waiting.next();
        let partial = first.is_some_and(|first| now - first.since >= PARTIAL_AFTER);
        let needed = first.map_or(0, |first| self.target(first, now));
        (needed, waiting.map(|waiting| self.target(waiting, now)).sum(), partial)
    }

    pub(super) fn waiting_for(&self, id: &Arc<str>) -> impl Iterator<Item = &Waiting> {
        let lacks =
            move |waiting: &&Waiting| waiting.outcome.is_none() && waiting.budgets.iter().any(|budget| budget == id);
        self.waiting.values().filter(lacks)
    }

    /// What a request waits for.
    fn target(&self, waiting: &Waiting, now: Micros) -> Picos {
        self.obtainable(&waiting.budgets, waiting.worst, waiting.round, now).unwrap_or(waiting.worst)
    }
}
