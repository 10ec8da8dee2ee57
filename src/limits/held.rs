//! What a process holds of all budgets, and the requests that wait for more of them. It knows no clock and no database.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Condvar;

use super::budgets::Budgets;
use super::lease::{Ask, Grant, Lease, Reservation};
use super::{Micros, Picos};

/// How long a request waits for what others hold before it takes what there is, and until it is refused.
const PARTIAL_AFTER: Micros = 400_000;
const GIVE_UP_AFTER: Micros = 800_000;

/// How long it waits at the most: longer only while those before it get what they need.
const MAX_WAIT: Micros = 3_000_000;

/// How long it waits while the last question was not answered.
const OUTAGE_WAIT: Micros = 200_000;

/// The pause before the next question when there was too little: others are being asked to hand something back.
const SHORT_PAUSE: Micros = 20_000;

/// For how long the database's word that a budget is used up is taken without asking again.
const KNOWN_FOR: Micros = 250_000;

/// How often the database must have answered a process that collects, before it takes what it has got.
const COLLECTS: u32 = 8;

/// Most requests that wait for a budget that is short of money.
const MAX_WAITING: usize = 100;

/// Most budgets that are asked about at once.
pub(super) const MAX_ASKED: usize = 200;

/// Why nothing could be set aside for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A budget cannot pay for it.
    Exhausted,
    /// What this process holds does not suffice, and the database cannot be asked for more, or too many requests wait
    /// for it.
    Unreachable,
}

/// A reservation, and the budgets in whose leases it was made: those that still exist.
pub(super) type Reserved = (Reservation, Budgets);

/// What is asked about a budget.
pub(super) type Question = (Arc<str>, Ask);

/// What the database answers, and what is left of the limit, were everything handed back.
pub(super) type Answer = (Grant, Picos);

/// All leases of a process.
#[derive(Default)]
pub(super) struct Held {
    pub(super) leases: HashMap<Arc<str>, HeldLease>,
    /// In the order of their arrival.
    waiting: BTreeMap<u64, Waiting>,
    next_waiting: u64,
    /// The number of the last questions to the database.
    round: u64,
    /// Leases of which more is to be asked for, or handed back.
    pub(super) due: BTreeSet<Arc<str>>,
    /// Those that were used since they were last found to be quiet: the others need not be looked at.
    pub(super) busy: Vec<Arc<str>>,
    /// Those that became quiet, and when, to be forgotten later. Each is there at most once.
    pub(super) quiet: VecDeque<(Micros, Arc<str>)>,
    /// Those that the database is to forget.
    pub(super) to_forget: BTreeSet<Arc<str>>,
    /// Those whose limits have changed, and when, until all that was charged before is settled.
    pub(super) changed: BTreeMap<Arc<str>, Micros>,
    /// Whether the database did not answer the last questions.
    pub(super) is_unreachable: bool,
}

#[derive(Default)]
pub(super) struct HeldLease {
    pub(super) lease: Lease,
    /// The number of the last questions that were answered.
    pub(super) answered: u64,
    /// What was left of the limit then, were everything handed back.
    pub(super) unspent: Picos,
    /// Until when that counts without another question.
    pub(super) known_until: Micros,
    /// Whether there was less than was needed then.
    pub(super) is_short: bool,
    /// How often the database has answered since this process collects what others hand back.
    pub(super) collected: u32,
    /// No question before this time.
    pub(super) asks_at: Micros,
    /// The database does not know the budget any more.
    pub(super) is_gone: bool,
    pub(super) is_busy: bool,
    /// Since when it has been among those that are quiet.
    pub(super) queued: Option<Micros>,
}

/// A request that waits.
pub(super) struct Waiting {
    budgets: Budgets,
    worst: Picos,
    least: Picos,
    since: Micros,
    /// When it gives up.
    until: Micros,
    /// Questions with a higher number were asked after it came.
    round: u64,
    outcome: Option<Result<Reserved, Refusal>>,
    arrival: Arc<Condvar>,
}

impl Held {
    /// Sets `worst` aside, if these leases have it.
    pub(super) fn reserve(&mut self, budgets: &Budgets, worst: Picos, now: Micros) -> Option<Reserved> {
        let live = self.live(budgets);
        let reservation = self.reserve_in(&live, worst, now)?;
        for id in live.iter() {
            if self.leases.get(id).is_some_and(|held| held.lease.is_low(now)) {
                self.due.insert(Arc::clone(id));
            }
        }
        Some((reservation, live))
    }

    fn reserve_in(&mut self, live: &Budgets, amount: Picos, now: Micros) -> Option<Reservation> {
        let has = |id| self.leases.get(id).is_some_and(|held| held.lease.has(amount, now));
        if amount < 0 || !live.iter().all(has) {
            return None;
        }
        for id in live.iter() {
            if let Some(held) = self.leases.get_mut(id) {
                held.lease.set_aside(amount, now);
                held.touch(id, &mut self.busy);
            }
        }
        Some(Reservation::of(amount))
    }

    /// Those of these budgets that exist, each with a lease, if only an empty one.
    fn live(&mut self, budgets: &Budgets) -> Budgets {
        let mut live = |id: &Option<Arc<str>>| {
            let id = id.as_ref()?;
            let is_gone = if let Some(held) = self.leases.get(id) {
                held.is_gone
            } else {
                self.leases.entry(Arc::clone(id)).or_default().touch(id, &mut self.busy);
                false
            };
            (!is_gone).then(|| Arc::clone(id))
        };
        Budgets {
            account: live(&budgets.account),
            key: live(&budgets.key),
            balance: live(&budgets.balance),
            ..Budgets::default()
        }
    }

    /// Whether more is to be asked for, or handed back.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether one of these budgets was found a moment ago to have less than `least` left.
    pub(super) fn is_known_exhausted(&self, budgets: &Budgets, least: Picos, now: Micros) -> bool {
        let lacks = |held: &HeldLease| !held.is_gone && held.unspent < least && now < held.known_until;
        budgets.iter().any(|id| self.leases.get(id).is_some_and(lacks))
    }

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

    /// What these leases have free together; nothing limits it if there is none.
    fn free(&self, live: &Budgets) -> Picos {
        let free = live.iter().filter_map(|id| self.leases.get(id)).map(|held| held.lease.free());
        free.min().map_or(Picos::MAX, |free| free.max(0))
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

    /// The next questions to the database, in the byte order of their budgets, and their number. With `all`, every
    /// lease in use is looked at.
    pub(super) fn questions(&mut self, all: bool, now: Micros) -> (u64, Vec<Question>) {
        if all {
            self.sweep(now);
            self.inquire_changed(now);
        }
        let lacking = self.waiting.values().filter(|waiting| waiting.outcome.is_none());
        self.due.extend(lacking.flat_map(|waiting| waiting.budgets.iter().cloned()));
        let mut asked = Vec::new();
        for id in std::mem::take(&mut self.due) {
            if asked.len() >= MAX_ASKED || self.to_forget.contains(&id) {
                self.due.insert(id);
                continue;
            }
            let (needed, more, partial) = self.wanted(&id, now);
            let Some(held) = self.leases.get_mut(&id).filter(|held| !held.is_gone && held.asks_at <= now) else {
                continue;
            };
            if let Some(ask) = held.lease.ask(needed, more, partial, now) {
                asked.push((id, ask));
            }
        }
        self.round += 1;
        (self.round, asked)
    }

    /// What the first request that waits for a budget needs, what the others do, and whether the first has waited so
    /// long that it takes less.
    fn wanted(&self, id: &Arc<str>, now: Micros) -> (Picos, Picos, bool) {
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

    /// The database has answered the questions with this number, which were asked at this time.
    pub(super) fn receive(
        &mut self,
        (round, asked_at): (u64, Micros),
        id: &Arc<str>,
        answer: Option<&Answer>,
        now: Micros,
    ) {
        let Some(held) = self.leases.get_mut(id) else { return };
        held.touch(id, &mut self.busy);
        let Some((grant, unspent)) = answer else {
            held.is_gone = true;
            return;
        };
        held.lease.receive(grant, asked_at);
        (held.answered, held.unspent, held.is_short) = (round, *unspent, grant.is_short);
        held.collected = if grant.collects { held.collected.saturating_add(1) } else { 0 };
        held.known_until = now + KNOWN_FOR;
        held.asks_at = if grant.is_short { now + SHORT_PAUSE } else { now };
    }

    /// Hands back what is not set aside of a budget. If another process lacks it, what is being collected may be kept;
    /// not if the limit has changed (`is_change`), when what is set aside goes back too once its requests have ended.
    pub(super) fn recall(&mut self, id: &str, is_change: bool, now: Micros) {
        let Some(id) = self.leases.get_key_value(id).map(|(id, _)| Arc::clone(id)) else { return };
        let wanted = if is_change { 0 } else { self.wanted(&id, now).0 };
        if let Some(held) = self.leases.get_mut(&id) {
            match is_change {
                true => held.lease.outdate(),
                false => held.lease.recall(wanted),
            }
            (held.asks_at, held.known_until) = (now, now);
            held.touch(&id, &mut self.busy);
            if is_change {
                self.note_change(&id, now);
            }
            self.due.insert(id);
        }
    }

    /// The same for all budgets.
    pub(super) fn recall_all(&mut self, now: Micros) {
        let ids: Vec<Arc<str>> = self.leases.keys().cloned().collect();
        for id in ids {
            self.recall(&id, true, now);
        }
    }

    /// Sets up to `amount` more aside, as much as is free at once.
    pub(super) fn reserve_more(&mut self, live: &Budgets, amount: Picos, now: Micros) -> Option<Reservation> {
        let rest = self.free(live).min(amount);
        self.reserve_in(live, rest, now)
    }

    /// The requests of this reservation were charged so much. Returns the earliest time that the charge may bear, and
    /// whether more is set aside in one of the leases that is not for other requests.
    pub(super) fn settle(&mut self, live: &Budgets, reservation: &Reservation, cost: Picos) -> (Micros, bool) {
        let (mut earliest, mut has_outdated) = (0, false);
        for id in live.iter() {
            if let Some(held) = self.leases.get_mut(id) {
                held.lease.settle(reservation, cost);
                held.touch(id, &mut self.busy);
                earliest = earliest.max(held.lease.earliest_charge());
                has_outdated |= held.lease.has_outdated();
            }
        }
        (earliest, has_outdated)
    }

    /// The requests of this reservation were not charged.
    pub(super) fn release(&mut self, live: &Budgets, reservation: &Reservation) {
        for id in live.iter() {
            if let Some(held) = self.leases.get_mut(id) {
                held.lease.release(reservation);
                held.touch(id, &mut self.busy);
            }
        }
    }

    /// A charge was not made after all.
    pub(super) fn take_back<'b>(&mut self, budgets: impl Iterator<Item = &'b str>, cost: Picos) {
        for id in budgets {
            let Some(id) = self.leases.get_key_value(id).map(|(id, _)| Arc::clone(id)) else { continue };
            if let Some(held) = self.leases.get_mut(&id) {
                held.lease.take_back(cost);
                held.touch(&id, &mut self.busy);
            }
        }
    }
}
