//! What a process holds of all budgets, and the requests that wait for more of them. It knows no clock and no database.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Condvar;

use super::budgets::Budgets;
use super::kinds::IdMap;
use super::lease::{Ask, Grant, Lease, Reservation};
use super::{Micros, Picos};
use crate::store::usage::charges::LeaseBudget;

/// The pause before the next question when there was too little: others are being asked to hand something back.
pub(super) const SHORT_PAUSE: Micros = 20_000;

/// For how long the database's word that a budget is used up is taken without asking again.
const KNOWN_FOR: Micros = 250_000;

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

/// What the database answers.
pub(super) struct Answer {
    pub(super) grant: Grant,
    /// What is left of the limit, were everything handed back.
    pub(super) unspent: Picos,
    /// The number that stands for the budget in notes of what was charged.
    pub(super) number: i64,
}

/// What becomes of a charge in the leases that pay for it.
#[derive(Default)]
pub(super) struct Payment {
    /// The earliest time that the charge may bear.
    pub(super) earliest: Micros,
    /// Whether more is set aside in one of the leases that is not for other requests.
    pub(super) has_outdated: bool,
    /// The budgets.
    pub(super) budgets: Vec<LeaseBudget>,
}

/// All leases of a process.
#[derive(Default)]
pub(super) struct Held {
    pub(super) leases: IdMap<HeldLease>,
    /// In the order of their arrival.
    pub(super) waiting: BTreeMap<u64, Waiting>,
    pub(super) next_waiting: u64,
    /// The number of the last questions to the database.
    pub(super) round: u64,
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
    /// The number of the budget, once the database has answered.
    pub(super) number: Option<i64>,
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
    pub(super) budgets: Budgets,
    pub(super) worst: Picos,
    pub(super) least: Picos,
    pub(super) since: Micros,
    /// When it gives up.
    pub(super) until: Micros,
    /// Questions with a higher number were asked after it came.
    pub(super) round: u64,
    pub(super) outcome: Option<Result<Reserved, Refusal>>,
    pub(super) arrival: Arc<Condvar>,
}

impl Held {
    /// Sets `worst` aside, if these leases have it.
    pub(super) fn reserve(&mut self, budgets: &Budgets, worst: Picos, now: Micros) -> Option<Reserved> {
        let live = self.live(budgets);
        let reservation = self.reserve_in(&live, worst, now)?;
        Some((reservation, live))
    }

    pub(super) fn reserve_in(&mut self, live: &Budgets, amount: Picos, now: Micros) -> Option<Reservation> {
        let has = |id| self.leases.get(id).is_some_and(|held| held.lease.has(amount, now));
        if amount < 0 || !live.iter().all(has) {
            return None;
        }
        for id in live.iter() {
            if let Some(held) = self.leases.get_mut(id) {
                held.lease.set_aside(amount, now);
                held.touch(id, &mut self.busy);
                if held.lease.is_low(now) {
                    self.due.insert(Arc::clone(id));
                }
            }
        }
        Some(Reservation::of(amount))
    }

    /// Those of these budgets that exist, each with a lease, if only an empty one.
    pub(super) fn live(&mut self, budgets: &Budgets) -> Budgets {
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

    /// What these leases have free together; nothing limits it if there is none.
    pub(super) fn free(&self, live: &Budgets) -> Picos {
        let free = live.iter().filter_map(|id| self.leases.get(id)).map(|held| held.lease.free());
        free.min().map_or(Picos::MAX, |free| free.max(0))
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
        let Some(Answer { grant, unspent, number }) = answer else {
            held.is_gone = true;
            return;
        };
        held.number = Some(*number);
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

    /// The requests of this reservation were charged so much.
    pub(super) fn settle(&mut self, live: &Budgets, reservation: &Reservation, cost: Picos) -> Payment {
        let mut payment = Payment::default();
        for id in live.iter() {
            let mut number = None;
            if let Some(held) = self.leases.get_mut(id) {
                held.lease.settle(reservation, cost);
                held.touch(id, &mut self.busy);
                payment.earliest = payment.earliest.max(held.lease.earliest_charge());
                payment.has_outdated |= held.lease.has_outdated();
                number = held.number;
            }
            payment.budgets.push(LeaseBudget { id: Arc::clone(id), number });
        }
        payment
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
