//! What a process holds of all rate limits. It knows no clock and no database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Micros;
use super::kinds::{Amounts, IdMap, KINDS, Kind, Owner, RateIds, RateStatus};
use super::permits::{COOL_DOWN, PermitAsk, PermitGrant, Permits};

/// The longest that a request waits for a permit that will be ready soon, or that others may hand back.
const PATIENCE: Micros = 300_000;

/// How long other processes have to hand back what may become free at any time.
const RECALL_WAIT: Micros = 150_000;

/// The longest that a request waits in any case.
const MAX_WAIT: Micros = 600_000;

/// How long it waits while the last question was not answered.
const OUTAGE_WAIT: Micros = 200_000;

/// For how long the database's answer counts without another question.
const KNOWN_FOR: Micros = 50_000;

/// How often a request that waits is looked at again.
const POLL: Micros = 20_000;

/// The pause before the next question when there was too little: others are being asked to hand something back.
const SHORT_PAUSE: Micros = 20_000;

/// What a client is told to wait where nobody knows when there will be room.
const UNKNOWN: Micros = 1_000_000;

/// A limit of which nothing was used for so long is forgotten.
const FORGOTTEN: Micros = 300_000_000;

/// Most requests that wait for one limit.
const MAX_WAITING: usize = 100;

/// Most limits that are asked about at once.
const MAX_ASKED: usize = 200;

/// Permits that a request uses.
#[derive(Debug)]
pub(super) struct Taken {
    /// Whose limit it is.
    pub(super) owner: Owner,
    pub(super) kind: Kind,
    pub(super) amount: i64,
    ready: Micros,
}

/// What becomes of a request that wants permits.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It has them.
    Taken(Vec<Taken>),
    /// It is to be tried again after at most this time.
    Wait(Micros),
    /// There are none. After this time, there will be if nobody else asks.
    Refused(Kind, Micros),
    /// It wants more than the limit, which is this.
    TooLarge(Kind, i64),
    /// What is held does not suffice, and the database cannot be asked for more.
    Unreachable,
}

/// What is asked about one rate.
pub(super) type Question = (Arc<str>, [PermitAsk; KINDS]);

/// What the database answers: nothing for a kind that is not limited.
pub(super) type Answer = [Option<PermitGrant>; KINDS];

/// All permits of a process.
#[derive(Default)]
pub(super) struct HeldRates {
    rates: IdMap<Rate>,
    /// Those that are to be asked about.
    due: BTreeSet<Arc<str>>,
    next_waiting: u64,
    /// Whether the database did not answer the last questions.
    pub(super) is_unreachable: bool,
}

#[derive(Default)]
struct Rate {
    limits: [Limit; KINDS],
    /// When the database answered last, and was asked last.
    answered: Option<Micros>,
    asked: Micros,
    /// When it was changed, if the database was not asked since.
    changed: Option<Micros>,
    /// No question before this time.
    asks_at: Micros,
    last_used: Micros,
    /// What requests wait for, in the order of their arrival.
    waiting: BTreeMap<u64, Amounts>,
    /// The database does not know it any more.
    is_gone: bool,
}

#[derive(Default)]
struct Limit {
    /// `None` if this is not limited.
    most: Option<i64>,
    permits: Permits,
    /// What the database or other processes had, when it answered last.
    elsewhere: i64,
    /// When others may have some.
    elsewhere_at: Option<Micros>,
    /// Until when less comes back than is in use, as the limit was lowered.
    lowered_until: Option<Micros>,
    /// When a request was last refused.
    refused: Option<Micros>,
}

impl Limit {
    /// When there is so much, after the database has `answered`; `Err` if the request is to wait for what others hand
    /// back.
    fn ready_at(&mut self, kind: Kind, amount: i64, since: Micros, now: Micros) -> Result<Option<Micros>, ()> {
        let is_lowered = self.lowered_until.is_some_and(|until| now < until);
        let elsewhere = if self.permits.held() >= self.most.unwrap_or(0) { 0 } else { self.elsewhere };
        let mut own = self.permits.ready_at(amount - elsewhere, is_lowered, now);
        if is_lowered {
            own = own.max(self.lowered_until);
        }
        if self.permits.held() >= self.most.unwrap_or(0) {
            return Ok(own);
        }
        let may_come_back = kind != Kind::Requests && self.elsewhere_at.is_some();
        let was_refused = self.refused.is_some_and(|refused| now - refused < KNOWN_FOR);
        if may_come_back && now - since < RECALL_WAIT && !was_refused {
            return Err(());
        }
        Ok(match (own, self.elsewhere_at.filter(|_| kind != Kind::Concurrent)) {
            (Some(own), Some(elsewhere)) => Some(own.min(elsewhere)),
            (own, elsewhere) => own.or(elsewhere),
        })
    }
}

impl HeldRates {
    /// Uses permits of all these limits, or of none if one of them has too few. `since` is when the request came.
    pub(super) fn attempt(&mut self, ids: &RateIds, wanted: Amounts, since: Micros, now: Micros) -> Attempt {
        let mut refused: Option<(Kind, Micros)> = None;
        let mut waits: Option<Micros> = None;
        let mut asks = false;
        for id in ids.iter() {
            let Some(rate) = self.rates.get_mut(id) else {
                self.rates.insert(Arc::clone(id), Rate { last_used: now, ..Rate::default() });
                self.due.insert(Arc::clone(id));
                asks = true;
                continue;
            };
            rate.last_used = now;
            if rate.is_gone {
                continue;
            }
            let is_known = rate.changed.is_none();
            if rate.answered.is_none() {
                self.due.insert(Arc::clone(id));
                asks = true;
                continue;
            }
            for kind in Kind::ALL {
                let (limit, amount) = (&mut rate.limits[kind as usize], wanted[kind as usize]);
                let Some(most) = limit.most.filter(|_| amount > 0) else { continue };
                if amount > most && is_known {
                    return Attempt::TooLarge(kind, most);
                }
                limit.permits.pass_time(now);
                if limit.permits.idle() >= amount {
                    continue;
                }
                let is_all_here = is_known && limit.permits.held() >= most;
                // What was free elsewhere a moment ago must be asked for.
                let is_hopeless = limit.permits.idle() + limit.elsewhere < amount;
                let is_answered =
                    is_known && rate.answered.is_some_and(|at| at >= since || (is_hopeless && now - at < KNOWN_FOR));
                if !is_all_here {
                    self.due.insert(Arc::clone(id));
                }
                match limit.ready_at(kind, amount, since, now) {
                    _ if !is_answered && !is_all_here => asks = true,
                    Err(()) => waits = Some(POLL),
                    Ok(Some(at)) if at - now <= PATIENCE && now - since < MAX_WAIT => {
                        waits = Some(waits.unwrap_or(0).max((at - now).clamp(1000, POLL)));
                    }
                    Ok(at) => {
                        limit.refused = Some(now);
                        let wait = at.map_or(UNKNOWN, |at| (at - now).max(POLL));
                        refused = Some((kind, refused.map_or(wait, |(_, other)| other.max(wait))));
                    }
                }
            }
        }
        let patience = if self.is_unreachable { OUTAGE_WAIT } else { MAX_WAIT };
        match (refused, waits) {
            _ if asks && now - since >= patience => Attempt::Unreachable,
            _ if asks => Attempt::Wait(POLL),
            (Some((kind, wait)), _) => Attempt::Refused(kind, wait),
            (None, Some(wait)) => Attempt::Wait(wait),
            (None, None) => Attempt::Taken(self.take(ids, wanted, now)),
        }
    }

    fn take(&mut self, ids: &RateIds, wanted: Amounts, now: Micros) -> Vec<Taken> {
        let mut taken = Vec::with_capacity(2 * KINDS);
        for (owner, id) in ids.owned() {
            let Some(rate) = self.rates.get_mut(id).filter(|rate| !rate.is_gone) else { continue };
            for kind in Kind::ALL {
                let (limit, amount) = (&mut rate.limits[kind as usize], wanted[kind as usize]);
                let Some(most) = limit.most.filter(|_| amount > 0) else { continue };
                let ready = limit.permits.take(amount, now, kind == Kind::Concurrent);
                taken.push(Taken { owner, kind, amount, ready });
                if limit.permits.is_low(most, now) {
                    self.due.insert(Arc::clone(id));
                }
            }
        }
        taken
    }

    /// So many of the permits of a request were not used, or are used no longer: all of this limit.
    pub(super) fn give_back<'t>(&mut self, id: &Arc<str>, unused: impl Iterator<Item = (&'t Taken, i64)>, now: Micros) {
        let Some(rate) = self.rates.get_mut(id) else { return };
        let mut is_due = false;
        for (taken, amount) in unused {
            let permits = &mut rate.limits[taken.kind as usize].permits;
            permits.give_back(amount, taken.ready);
            permits.return_unused(now);
            is_due |= permits.has_news() || !rate.waiting.is_empty();
        }
        if is_due {
            self.due.insert(Arc::clone(id));
        }
    }

    /// Whether something is to be asked.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether too many requests wait for one of these limits already.
    pub(super) fn is_crowded(&self, ids: &RateIds) -> bool {
        ids.iter().any(|id| self.rates.get(id).is_some_and(|rate| rate.waiting.len() >= MAX_WAITING))
    }

    /// A request begins to wait. Returns its number.
    pub(super) fn wait(&mut self, ids: &RateIds, wanted: Amounts) -> u64 {
        let number = self.next_waiting;
        self.next_waiting += 1;
        for id in ids.iter() {
            self.rates.entry(Arc::clone(id)).or_default().waiting.insert(number, wanted);
            self.due.insert(Arc::clone(id));
        }
        number
    }

    /// A request waits no longer.
    pub(super) fn end_wait(&mut self, ids: &RateIds, number: u64) {
        for id in ids.iter() {
            if let Some(rate) = self.rates.get_mut(id) {
                rate.waiting.remove(&number);
            }
        }
    }

    /// The next questions to the database, in the byte order of their limits. With `all`, every limit is looked at.
    pub(super) fn questions(&mut self, all: bool, now: Micros) -> Vec<Question> {
        if all {
            self.sweep(now);
        }
        let mut asked = Vec::new();
        for id in std::mem::take(&mut self.due) {
            let Some(rate) = self.rates.get_mut(&id).filter(|rate| !rate.is_gone) else { continue };
            if asked.len() >= MAX_ASKED || rate.asks_at > now {
                self.due.insert(id);
                continue;
            }
            let waiting = |kind: Kind| rate.waiting.values().map(move |wanted| wanted[kind as usize]);
            let wanted = Kind::ALL.map(|kind| (waiting(kind).next().unwrap_or(0), waiting(kind).skip(1).sum::<i64>()));
            let (is_new, waits) = (rate.answered.is_none(), !rate.waiting.is_empty());
            let mut is_due = is_new;
            let asks = Kind::ALL.map(|kind| {
                let limit = &mut rate.limits[kind as usize];
                let (needed, more) = wanted[kind as usize];
                let (ask, due) = limit.permits.ask(needed, more, limit.most.unwrap_or(0), now);
                is_due |= due && (limit.most.is_some() || is_new);
                ask
            });
            if is_due {
                rate.asked = now;
                asked.push((Arc::clone(&id), asks));
            }
            if waits {
                self.due.insert(id);
            }
        }
        asked
    }

    fn sweep(&mut self, now: Micros) {
        let due = &mut self.due;
        self.rates.retain(|id, rate| {
            let mut holds = false;
            for limit in &mut rate.limits {
                limit.permits.return_unused(now);
                holds |= limit.permits.held() > 0 || limit.permits.has_news();
                if limit.permits.has_news() {
                    due.insert(Arc::clone(id));
                }
            }
            let is_forgotten = !holds && now - rate.last_used >= FORGOTTEN;
            !rate.waiting.is_empty() || !(rate.is_gone || is_forgotten)
        });
    }

    /// The database has answered; `None` if there is no such limit any more.
    pub(super) fn receive(&mut self, id: &Arc<str>, answer: Option<&Answer>, now: Micros) {
        let Some(rate) = self.rates.get_mut(id) else { return };
        let Some(answer) = answer else {
            rate.is_gone = true;
            return;
        };
        rate.answered = Some(now);
        rate.changed = rate.changed.filter(|changed| *changed > rate.asked);
        rate.asks_at = now;
        for (limit, grant) in rate.limits.iter_mut().zip(answer) {
            let Some(grant) = grant else {
                *limit = Limit::default();
                continue;
            };
            limit.permits.receive(grant);
            if limit.most.replace(grant.most).is_some_and(|before| before > grant.most) {
                limit.lowered_until = Some(now + COOL_DOWN);
            }
            limit.elsewhere = grant.elsewhere;
            limit.elsewhere_at = grant.elsewhere_in.map(|wait| now + wait);
            if grant.is_short {
                rate.asks_at = now + SHORT_PAUSE;
            }
        }
    }

    /// Another process lacks permits of a limit, or the limit has changed (`None`). Of two processes that lack them, the
    /// one with the lower id (this one if `own` is lower) keeps what it has got, so that not each gets a part.
    pub(super) fn recall(&mut self, id: &str, asking: Option<&str>, own: &str, now: Micros) {
        let Some(id) = self.rates.get_key_value(id).map(|(id, _)| Arc::clone(id)) else { return };
        let Some(rate) = self.rates.get_mut(&id) else { return };
        for kind in Kind::ALL {
            let permits = &mut rate.limits[kind as usize].permits;
            match asking {
                None => permits.recall_all(now),
                Some(asking) => {
                    let first = rate.waiting.values().map(|wanted| wanted[kind as usize]).next().unwrap_or(0);
                    permits.recall(if own < asking { first } else { 0 }, now);
                }
            }
        }
        if asking.is_none() {
            rate.changed = Some(now);
        }
        rate.asks_at = now;
        self.due.insert(id);
    }

    /// The same for all limits, any of which may have changed.
    pub(super) fn recall_all(&mut self, now: Micros) {
        let ids: Vec<Arc<str>> = self.rates.keys().cloned().collect();
        for id in ids {
            self.recall(&id, None, "", now);
        }
    }

    /// Hands back all that is not in use, as this process stops.
    pub(super) fn return_all(&mut self, now: Micros) {
        self.due.clear();
        for (id, rate) in &mut self.rates {
            rate.limits.iter_mut().for_each(|limit| limit.permits.return_all(now));
            if rate.limits.iter().any(|limit| limit.permits.has_news()) {
                rate.asks_at = now;
                self.due.insert(Arc::clone(id));
            }
        }
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }

    /// Nothing is held any more, as this process is another holder now.
    pub(super) fn forget(&mut self) {
        self.rates.values_mut().for_each(|rate| {
            let waiting = std::mem::take(&mut rate.waiting);
            *rate = Rate { waiting, ..Rate::default() };
        });
    }

    /// The limits of requests and of tokens as the caller sees them, the tightest of each.
    pub(super) fn status(&mut self, ids: &RateIds, now: Micros) -> [Option<RateStatus>; 2] {
        let mut tightest = [None; 2];
        for id in ids.iter() {
            let Some(rate) = self.rates.get_mut(id) else { continue };
            for (tightest, limit) in tightest.iter_mut().zip(&mut rate.limits) {
                let Some(most) = limit.most else { continue };
                limit.permits.pass_time(now);
                let remaining = (limit.permits.idle() + limit.elsewhere).clamp(0, most);
                let resets_in = limit.permits.all_ready_at().map_or(0, |at| (at - now).max(0));
                let status = RateStatus { most, remaining, resets_in };
                if tightest.is_none_or(|other: RateStatus| other.remaining > remaining) {
                    *tightest = Some(status);
                }
            }
        }
        tightest
    }

    /// Whether tokens in a minute are limited, and by how much at most.
    pub(super) fn most_tokens(&self, ids: &RateIds) -> Option<i64> {
        ids.iter().filter_map(|id| self.rates.get(id)?.limits[Kind::Tokens as usize].most).min()
    }
}
