//! What changes a budget for a time: an operator lifts it, a credit expires. And what must hold all the same.

use super::super::model::Budget;
use super::super::{Micros, Picos};
use super::check::{Given, Lift};
use super::messages::Fault;
use super::process::{BALANCE, Charge};
use super::world::{MILLISECOND, SECOND, World};

/// By how much the database's clock may be wrong.
const CLOCK_ERROR: Micros = SECOND;

impl World {
    fn database_now(&self) -> Micros {
        self.now + self.database_clock_ahead
    }

    /// What is free of each budget now.
    pub(super) fn free(&self) -> Vec<Picos> {
        let free = |(budget, book): (usize, &Budget)| book.free(World::window(budget, self.database_now()));
        self.budgets.iter().enumerate().map(free).collect()
    }

    /// In the row of a budget, what is spent and leased are never more than the limit: only a lower limit makes them so,
    /// or what was granted while it was lifted.
    pub(super) fn check_escrow(&self, before: &[Picos]) -> Result<(), String> {
        let now = self.database_now();
        for (budget, (before, after)) in before.iter().zip(self.free()).enumerate() {
            if after < 0.min(*before) && !self.budgets[budget].is_lifted(now) {
                return Err(format!("more is spent and leased than there is: {:?}", self.budgets[budget]));
            }
        }
        Ok(())
    }

    /// The operator lifts a budget, or ends that.
    pub(super) fn lift(&mut self, budget: usize) {
        let now = self.database_now();
        let is_begin = self.chance(75);
        let until = now + (200 + self.below(2500).cast_signed()) * MILLISECOND;
        self.budgets[budget].lifted_until = is_begin.then_some(until);
        if is_begin {
            self.counters.lifts += 1;
            self.lifts.push(Lift { budget, from: self.now, until: until + CLOCK_ERROR });
        }
        self.recall(budget, None);
    }

    /// The account gets credit, or loses some.
    pub(super) fn change_credit(&mut self) {
        let now = self.database_now();
        let amount = Picos::from(1 + self.below(120));
        let time = (200 + self.below(4000).cast_signed()) * MILLISECOND;
        match self.below(10) {
            0 => drop(self.budgets[BALANCE].add_credit(-amount, None, now)),
            1 | 2 => self.give(amount, None),
            _ => self.give(amount, Some(now + time)),
        }
        self.recall(BALANCE, None);
    }

    pub(super) fn give(&mut self, amount: Picos, expires: Option<Micros>) {
        let now = self.database_now();
        self.budgets[BALANCE].add_credit(amount, expires, now);
        self.given.push(Given { amount, expires });
        self.highest[BALANCE] += amount;
    }

    /// Ends credits whose time has come.
    pub(super) fn expire_credits(&mut self) {
        let now = self.database_now();
        if self.fault == Fault::ExpireLeased {
            self.budgets[BALANCE].expire_leased(now);
        }
        self.budgets[BALANCE].expire_credits(now);
    }

    /// All processes are told of a change of the balance, whoever has made it.
    pub(super) fn tell_of_expiry(&mut self, (limit, changes_at): (Picos, Option<Micros>)) {
        let balance = &self.budgets[BALANCE];
        if (balance.limit, balance.changes_at()) == (limit, changes_at) {
            return;
        }
        self.counters.expiries += u64::from(balance.limit < limit);
        self.counters.waits += u64::from(balance.changes_at() == Some(Micros::MIN));
        self.recall(BALANCE, None);
    }

    /// Whether a request that was admitted then may have been so because the budget was lifted.
    fn is_lifted(&self, budget: usize, admitted: Micros) -> bool {
        self.lifts.iter().any(|lift| lift.budget == budget && (lift.from..=lift.until).contains(&admitted))
    }

    /// A budget after one of its charges.
    pub(super) fn check_charges(&mut self, budget: usize, charge: &Charge) -> Result<(), String> {
        let highest = self.highest[budget];
        let window = World::window(budget, charge.created);
        let is_in_window =
            |other: &&Charge| other.budgets().contains(&budget) && World::window(budget, other.created) == window;
        let charges = || self.ledger.values().filter(is_in_window);
        let limited = || charges().filter(|charge| !self.is_lifted(budget, charge.admitted));
        let sum: Picos = limited().map(|charge| charge.cost).sum();
        if sum > highest {
            return Err(format!("budget {budget} was passed: {sum} of {highest}, at {}", self.now));
        }
        // What was spent while it was lifted counts: nothing more is admitted after it until there is room again.
        let last = limited().map(|charge| charge.admitted).max().unwrap_or(0);
        let sum: Picos = charges().filter(|charge| charge.admitted <= last).map(|charge| charge.cost).sum();
        if self.is_orderly && sum > highest {
            return Err(format!("budget {budget} was passed after a lift: {sum} of {highest}, at {}", self.now));
        }
        let lifted: Picos = charges().map(|charge| charge.cost).sum();
        self.counters.beyond += u64::from(lifted > highest);
        if budget == BALANCE { self.check_credit() } else { Ok(()) }
    }

    /// Requests that were admitted when a credit had expired are paid for by those that had not.
    fn check_credit(&self) -> Result<(), String> {
        for at in self.given.iter().filter_map(|credit| credit.expires) {
            let is_late = |charge: &&Charge| charge.admitted > at + CLOCK_ERROR;
            let late: Picos = self.ledger.values().filter(is_late).map(|charge| charge.cost).sum();
            let is_valid = |credit: &&Given| credit.expires.is_none_or(|expires| expires > at);
            let valid: Picos = self.given.iter().filter(is_valid).map(|credit| credit.amount).sum();
            if late > valid {
                return Err(format!("{late} of {valid} was spent after a credit expired, at {}", self.now));
            }
        }
        Ok(())
    }
}
