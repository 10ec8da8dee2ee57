//! A process: its leases, the requests that run or wait, and the charges whose outcome it does not know yet.

use std::collections::BTreeMap;

use super::super::{Lease, Micros, Picos, Reservation, reserve};

/// The account's balance, among the budgets.
pub(super) const BALANCE: usize = 3;

/// A charge: a row of the ledger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    pub(super) id: u64,
    pub(super) key: usize,
    pub(super) cost: Picos,
    pub(super) created: Micros,
    /// When its request was admitted.
    pub(super) admitted: Micros,
}

impl Charge {
    /// The budgets that it counts against: the account's, the key's and the balance.
    pub(super) fn budgets(&self) -> [usize; 3] {
        [0, self.key, BALANCE]
    }
}

/// A request that waits to be admitted.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) key: usize,
    pub(super) worst: Picos,
    pub(super) since: Micros,
    /// Must be admitted in full: nothing else is going on.
    pub(super) is_probe: bool,
}

impl Waiting {
    /// Whether it counts against this budget.
    pub(super) fn needs(&self, budget: usize) -> bool {
        [0, self.key, BALANCE].contains(&budget)
    }
}

/// A request that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) key: usize,
    pub(super) admitted: Micros,
    pub(super) reservation: Reservation,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) holder: u64,
    pub(super) is_registered: bool,
    pub(super) leases: Vec<Lease>,
    /// Until when an answer about each budget is waited for.
    pub(super) asked_until: Vec<Micros>,
    pub(super) waiting: Vec<Waiting>,
    /// When those that wait are looked at again.
    pub(super) retries_at: Micros,
    pub(super) running: BTreeMap<u64, Running>,
    /// Sent to the database, and when.
    pub(super) sent: BTreeMap<u64, (Charge, Micros)>,
    /// What this machine's clock is ahead.
    pub(super) clock_ahead: Micros,
}

impl Process {
    pub(super) fn new(holder: u64, budgets: usize, clock_ahead: Micros) -> Process {
        Process {
            holder,
            is_registered: false,
            leases: vec![Lease::default(); budgets],
            asked_until: vec![Micros::MIN; budgets],
            waiting: Vec::new(),
            retries_at: 0,
            running: BTreeMap::new(),
            sent: BTreeMap::new(),
            clock_ahead,
        }
    }

    /// Sets `worst` aside in the leases of the account, the key and the balance.
    pub(super) fn reserve(&mut self, key: usize, worst: Picos, now: Micros) -> Option<Reservation> {
        let [account, keys @ .., balance] = self.leases.as_mut_slice() else { return None };
        reserve(&mut [account, &mut keys[key - 1], balance], worst, now)
    }

    /// What all of these leases have free.
    pub(super) fn free(&self, key: usize) -> Picos {
        self.leases[0].free().min(self.leases[key].free()).min(self.leases[BALANCE].free())
    }

    /// What the first request that waits for a budget needs, and what the others do.
    pub(super) fn wanted(&self, budget: usize) -> (Picos, Picos) {
        let mut worst = self.waiting.iter().filter(|waiting| waiting.needs(budget)).map(|waiting| waiting.worst);
        (worst.next().unwrap_or(0), worst.sum())
    }
}
