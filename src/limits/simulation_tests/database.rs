//! The database of a schedule: budgets and the ledger.

use super::super::model::Budget;
use super::super::{Ask, Micros};
use super::messages::{Answer, Fault, ToDatabase};
use super::process::{BALANCE, Charge};
use super::world::{PROCESSES, RECALL_PAUSE, World};

impl World {
    /// Tells all processes but the one that asks that they shall hand back what they do not use.
    pub(super) fn recall(&mut self, budget: usize, asking: Option<u64>) {
        if asking.is_some() && self.now - self.recalled[budget] < RECALL_PAUSE {
            return;
        }
        self.recalled[budget] = self.now;
        self.counters.recalls += 1;
        for slot in 0..PROCESSES {
            if let Some(holder) = self.processes[slot].as_ref().map(|process| process.holder)
                && asking != Some(holder)
            {
                self.answer(slot, holder, Answer::Recall(budget, asking.is_none()));
            }
        }
    }

    pub(super) fn at_database(&mut self, slot: usize, holder: u64, message: ToDatabase) -> Result<(), String> {
        if !self.is_database_up {
            return Ok(());
        }
        let (free, balance) = (self.free(), &self.budgets[BALANCE]);
        let balance = (balance.limit, balance.changes_at());
        match message {
            ToDatabase::Register => {
                // A message of a dead process may come after its leases have ended, which is remembered.
                if !self.ended.contains(&holder) {
                    self.holders.insert(holder);
                    self.answer(slot, holder, Answer::Registered);
                }
            }
            ToDatabase::Ask(budget, ask, asked_at) => self.grant((slot, holder), budget, ask, asked_at)?,
            ToDatabase::Charge(charge) => {
                let is_made = self.charge(holder, charge, true)?;
                if is_made {
                    self.answer(slot, holder, Answer::Charged(charge.id));
                }
            }
            ToDatabase::Settle => self.budgets.iter_mut().for_each(|budget| budget.settle_deferred(holder)),
            ToDatabase::ExpireCredits => self.expire_credits(),
            ToDatabase::Replay(of, charges) => {
                for charge in &charges {
                    self.charge(of, *charge, false)?;
                }
                let ids = charges.iter().map(|charge| charge.id).collect();
                self.answer(slot, holder, Answer::Replayed(of, ids));
            }
            ToDatabase::End(of) => {
                self.holders.remove(&of);
                self.ended.insert(of);
                if self.fault == Fault::ForgetDeferred {
                    self.budgets.iter_mut().for_each(|budget| budget.forget_deferred(of));
                }
                self.budgets.iter_mut().for_each(|budget| budget.end(of));
                self.answer(slot, holder, Answer::Ended(of));
            }
        }
        self.tell_of_expiry(balance);
        self.check_escrow(&free)?;
        match self.budgets.iter().all(Budget::is_consistent) {
            true => Ok(()),
            false => Err(format!("the sums are wrong: {:?}", self.budgets)),
        }
    }

    pub(super) fn grant(
        &mut self,
        (slot, holder): (usize, u64),
        budget: usize,
        mut ask: Ask,
        asked_at: Micros,
    ) -> Result<(), String> {
        if !self.holders.contains(&holder) {
            return Ok(());
        }
        let now = self.now + self.database_clock_ahead;
        let window = World::window(budget, now);
        let book = &mut self.budgets[budget];
        if self.fault == Fault::ReturnTwice || self.fault == Fault::GrantTwice {
            book.tamper(holder, &mut ask, self.fault == Fault::ReturnTwice);
        }
        let leased = book.leased();
        let grant = book.ask(holder, window, &ask, now);
        if book.leased() > leased && book.unspent(window, now) < book.leased() {
            return Err(format!("more is leased than there is: {book:?}"));
        }
        if grant.is_short && self.fault != Fault::NoRecall {
            self.recall(budget, Some(holder));
        }
        self.answer(slot, holder, Answer::Granted(budget, grant, asked_at));
        Ok(())
    }

    /// Whether the charge is in the ledger now.
    pub(super) fn charge(&mut self, holder: u64, charge: Charge, is_first_try: bool) -> Result<bool, String> {
        if self.ledger.contains_key(&charge.id) {
            return Ok(true);
        }
        if is_first_try && !self.holders.contains(&holder) && self.fault != Fault::NoFence {
            return Ok(false);
        }
        for budget in charge.budgets() {
            let window = World::window(budget, charge.created);
            match is_first_try {
                true => self.budgets[budget].defer(holder, window, charge.cost),
                // A charge that is made again is always settled.
                false => drop(self.budgets[budget].settle(holder, window, charge.cost, false)),
            }
        }
        self.ledger.insert(charge.id, charge);
        for budget in charge.budgets() {
            self.check_charges(budget, &charge)?;
        }
        Ok(true)
    }
}
