//! What the database keeps of one budget, and what each message does to it. The simulation runs it.

use std::collections::BTreeMap;

use super::credit_model::{Credits, Used};
use super::{Ask, Grant, Micros, Picos};

/// What is free is granted beyond what is needed only up to this share, so that leases get smaller as the limit comes
/// near.
const SHARE: Picos = 4;

/// How long the process that collects is the only one that is granted less than it needs, unless it asks again.
const COLLECTS_FOR: Micros = 500_000;

/// A budget. In its current window and all later ones, what was spent and what is leased are together at most the limit,
/// unless the limit was lowered, or the budget was lifted; then nothing more is leased until they are.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// The most that may be spent in a window.
    pub limit: Picos,
    /// What processes hold and have not charged.
    leased: Picos,
    /// What was charged, by the start of the window.
    spent: BTreeMap<Micros, Picos>,
    leases: BTreeMap<u64, Sums>,
    /// What processes have charged and not settled yet, by window: it is leased still.
    unsettled: BTreeMap<u64, Vec<(Micros, Picos)>>,
    /// The process that collects what there is, and until when.
    collector: Option<(u64, Micros)>,
    /// Until then, spending is counted but not limited.
    pub lifted_until: Option<Micros>,
    /// If it is a balance.
    credits: Option<Credits>,
}

/// What is left of a budget that is lifted: more than anything costs.
pub const LIFTED: Picos = 1_000_000_000_000_000_000_000_000_000;

/// The sums of one process's lease.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    granted: Picos,
    returned: Picos,
    settled: Picos,
    /// The newest window in which it asked. If the database's clock is set back, what was granted in a window must still
    /// not be charged to the one before.
    window: Micros,
}

impl Sums {
    fn outstanding(self) -> Picos {
        self.granted - self.returned - self.settled
    }
}

/// A process charges more than it holds: its leases have ended. The charge must be made again as one of a process that
/// is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

impl Budget {
    /// A budget of which nothing was used.
    pub fn new(limit: Picos) -> Budget {
        Budget { limit, ..Budget::default() }
    }

    /// A balance without credit.
    pub fn balance() -> Budget {
        Budget { credits: Some(Credits::default()), ..Budget::default() }
    }

    /// What was charged in the window that starts then.
    pub fn spent(&self, window: Micros) -> Picos {
        self.spent.get(&window).copied().unwrap_or(0)
    }

    /// What processes hold.
    pub fn leased(&self) -> Picos {
        self.leased
    }

    /// What no process holds and nobody has spent, in the window that starts then and all later ones: a machine whose
    /// clock is ahead may have charged to the next one already.
    pub fn free(&self, window: Micros) -> Picos {
        let most_spent = self.spent.range(window..).map(|(_, spent)| *spent).max().unwrap_or(0);
        self.limit - self.leased - most_spent
    }

    /// Whether it is lifted at this time by the database's clock.
    pub fn is_lifted(&self, now: Micros) -> bool {
        self.lifted_until.is_some_and(|until| until > now)
    }

    /// What would be left, were everything handed back.
    pub fn unspent(&self, window: Micros, now: Micros) -> Picos {
        if self.is_lifted(now) { LIFTED } else { self.free(window) + self.leased }
    }

    /// When the next credit of a balance expires; in the past while leases hold some that has.
    pub fn changes_at(&self) -> Option<Micros> {
        self.credits.as_ref().and_then(Credits::changes_at)
    }

    /// Gives credit, or takes some away: as much as is neither spent nor leased. Returns what was given; nothing if this is
    /// no balance.
    pub fn add_credit(&mut self, amount: Picos, expires: Option<Micros>, now: Micros) -> Picos {
        self.count_credits(self.leased, 0, now);
        let settled: Picos = self.spent.values().sum();
        let change = amount.max(-(self.limit - settled - self.leased).max(0));
        let Some(credits) = &mut self.credits else { return 0 };
        credits.add(change.max(0), expires);
        self.limit += change;
        self.count_credits(self.leased, (-change).max(0), now);
        change
    }

    /// Ends credits whose time has come. Returns whether there may have been some.
    pub fn expire_credits(&mut self, now: Micros) -> bool {
        let is_due = self.changes_at().is_some_and(|at| at <= now);
        if is_due {
            self.count_credits(self.leased, 0, now);
        }
        is_due
    }

    /// Counts credits, of which leases hold so much. Returns when the next one expires.
    fn count_credits(&mut self, leased: Picos, taken: Picos, now: Micros) -> Option<Micros> {
        let unsettled: Picos = self.unsettled.values().flatten().map(|(_, cost)| *cost).sum();
        let spent = self.spent.values().sum::<Picos>() + unsettled;
        let credits = self.credits.as_mut()?;
        let (limit, next) = credits.count(self.limit, Used { spent, held: leased - unsettled, taken }, now);
        self.limit = limit;
        next
    }

    /// A process that is known asks for a grant or hands something back, at `now` by the database's clock, while the
    /// window that starts at `window` runs.
    pub fn ask(&mut self, holder: u64, window: Micros, ask: &Ask, now: Micros) -> Grant {
        let before = self.leases.get(&holder).copied().unwrap_or_default();
        let newly_returned = (ask.returned - before.returned).max(0);
        self.leased -= newly_returned;
        let mut changes_at = self.changes_at();
        if changes_at.is_some_and(|at| at <= now) {
            changes_at = self.count_credits(self.leased, 0, now);
        }
        if self.is_lifted(now) {
            changes_at = [changes_at, self.lifted_until].into_iter().flatten().min();
        }
        let free = (self.unspent(window, now) - self.leased).max(0);
        let knows = ask.known >= before.granted;
        let (at_least, at_most) = if knows { (ask.at_least, ask.at_most) } else { (0, 0) };
        let needed = (at_least - before.granted).max(0);
        let comfort = (at_most - before.granted).max(0) - needed;
        let is_short = needed > free;
        let is_free = self.collector.is_none_or(|(collector, until)| collector == holder || until < now);
        let collects = is_short && ask.partial && is_free;
        if collects {
            self.collector = Some((holder, now + COLLECTS_FOR));
        } else if self.collector.is_some_and(|(collector, _)| collector == holder) {
            self.collector = None;
        }
        let granted = match (is_short, collects) {
            (false, _) => needed + comfort.min((free - needed) / SHARE),
            (true, true) => free,
            (true, false) => 0,
        };
        self.leased += granted;
        let sums = self.leases.entry(holder).or_default();
        sums.granted += granted;
        sums.returned += newly_returned;
        sums.window = sums.window.max(window);
        let changes_in = changes_at.map(|at| at.saturating_sub(now).max(0));
        Grant {
            granted: sums.granted,
            returned: sums.returned,
            window_starts: sums.window,
            is_short,
            collects,
            valid_for: if knows { changes_in } else { Some(0) },
        }
    }

    /// A new charge of a process that has not ended, noted in the transaction that makes its row in the ledger, to be
    /// settled later: so many charges are settled at once.
    pub fn defer(&mut self, holder: u64, window: Micros, cost: Picos) {
        self.unsettled.entry(holder).or_default().push((window, cost));
    }

    /// Settles what a process has noted.
    pub fn settle_deferred(&mut self, holder: u64) {
        for (window, cost) in self.unsettled.remove(&holder).unwrap_or_default() {
            // It is in the ledger, so it is settled in any case.
            let _ = self.settle(holder, window, cost, false);
        }
    }

    /// Settles a charge of a process at once, in the window that starts at `window` by the time that the charge bears. In
    /// the same transaction its row in the ledger is made, so a charge that comes again settles nothing.
    ///
    /// # Errors
    /// [`Ended`]: the process does not hold so much, and `is_first_try`. A charge that comes from a journal is always
    /// made.
    pub fn settle(&mut self, holder: u64, window: Micros, cost: Picos, is_first_try: bool) -> Result<(), Ended> {
        let outstanding = self.leases.get(&holder).map_or(0, |sums| sums.outstanding());
        if is_first_try && outstanding < cost {
            return Err(Ended);
        }
        let covered = cost.min(outstanding);
        if let Some(sums) = self.leases.get_mut(&holder) {
            sums.settled += covered;
        }
        self.leased -= covered;
        *self.spent.entry(window).or_default() += cost;
        Ok(())
    }

    /// A process is gone, and all that was in its journal has been charged.
    pub fn end(&mut self, holder: u64) {
        self.settle_deferred(holder);
        if let Some(sums) = self.leases.remove(&holder) {
            self.leased -= sums.outstanding();
        }
    }

    /// The process that collected has not asked for some time.
    pub fn forget_collector(&mut self) {
        self.collector = None;
    }

    /// Forgets what a process has noted, for the simulation.
    #[cfg(test)]
    pub(super) fn forget_deferred(&mut self, holder: u64) {
        self.unsettled.remove(&holder);
    }

    /// Ends credits that have expired as if no lease held any, for the simulation.
    #[cfg(test)]
    pub(super) fn expire_leased(&mut self, now: Micros) {
        self.count_credits(0, 0, now);
    }

    /// Makes a message count again that came before, for the simulation: what was handed back, or a grant.
    #[cfg(test)]
    pub(super) fn tamper(&self, holder: u64, ask: &mut Ask, is_return: bool) {
        let sums = self.leases.get(&holder).copied().unwrap_or_default();
        ask.known = sums.granted;
        if is_return {
            ask.returned += sums.returned;
            return;
        }
        let repeated = (sums.granted - ask.at_least).max(0);
        ask.at_least += repeated + 1;
        ask.at_most += repeated + 1;
    }

    /// Whether the sums are right.
    pub fn is_consistent(&self) -> bool {
        let outstanding = self.leases.values().map(|sums| sums.outstanding());
        self.leases.values().all(|sums| sums.outstanding() >= 0) && outstanding.sum::<Picos>() == self.leased
    }
}
