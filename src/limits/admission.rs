//! What is set aside for one request.

use std::sync::Arc;

use parking_lot::Mutex;

use super::budgets::Budgets;
use super::held::{Payment, Refusal};
use super::refusals::By;
use super::service::{Limits, SetAside};
use super::{Micros, Picos};
use crate::store::usage::charges::LeaseUse;

/// A request whose charges count against budgets. What is set aside for it and not charged is free again once this is
/// dropped.
pub struct Admission {
    limits: Arc<Limits>,
    budgets: Budgets,
    /// `None` until something was set aside.
    set_aside: Mutex<Option<SetAside>>,
}

/// A charge that was settled in the leases of a process. What it took of them is free again once this is dropped,
/// unless the charge was made ([`Settled::keep`]).
pub struct Settled {
    /// The leases.
    pub leases: Arc<LeaseUse>,
    /// The earliest time that the charge may bear, in microseconds since 1970: so that it does not count in a window
    /// before the one in which it was granted.
    pub earliest: Micros,
    limits: Arc<Limits>,
    cost: Picos,
    is_kept: bool,
    /// What is set aside still, if it must not go back before the charge was made.
    _rest: Option<Arc<Admission>>,
}

impl Settled {
    /// The charge was made, or may have been.
    pub fn keep(mut self) {
        self.is_kept = true;
        self.limits.note_charge();
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        if !self.is_kept {
            let LeaseUse { holder, budgets } = &*self.leases;
            self.limits.take_back(holder, budgets.iter().map(|budget| &*budget.id), self.cost);
        }
    }
}

/// What was seen last of limits that were lowered; see [`Admission::has_passed`].
#[derive(Clone, Copy, Debug)]
pub struct LimitWatch {
    seen: u64,
    is_lowered: bool,
}

/// Not what it holds: it changes.
impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("budgets", &self.budgets).finish_non_exhaustive()
    }
}

impl Admission {
    /// For a request of a caller with these budgets. Nothing is set aside yet.
    pub fn new(limits: Arc<Limits>, budgets: Budgets) -> Arc<Admission> {
        Arc::new(Admission { limits, budgets, set_aside: Mutex::default() })
    }

    /// From now on, [`Admission::has_passed`] tells of limits that are lowered.
    pub fn watch(&self) -> LimitWatch {
        LimitWatch { seen: self.limits.lowerings(), is_lowered: false }
    }

    /// Whether the limit of one of the budgets was lowered so that nothing is left of it, or less than what the request
    /// has made, which costs `made`. It looks only at a counter, unless a limit was lowered since the watch began.
    pub fn has_passed(&self, watch: &mut LimitWatch, made: impl FnOnce() -> Picos) -> bool {
        let seen = self.limits.lowerings();
        if seen == watch.seen && !watch.is_lowered {
            return false;
        }
        let lowered_to = self.limits.lowered_to(&self.budgets);
        *watch = LimitWatch { seen, is_lowered: lowered_to.is_some() };
        lowered_to.is_some_and(|most| most <= 0 || most < made())
    }

    /// Sets aside what a call of a model may cost, in addition to what was set aside before: `worst`, or where less is
    /// left, at least `least`. Returns how much. It may wait for almost a second.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing more is set aside then.
    pub fn reserve(&self, worst: Picos, least: Picos) -> Result<Picos, Refusal> {
        let more = match self.budgets.lacks_balance && worst > 0 {
            true => Err(Refusal::Exhausted),
            false => self.limits.reserve(&self.budgets, worst, least),
        };
        let by = |refusal: &Refusal| match refusal {
            Refusal::Exhausted => By::Budget,
            Refusal::Unreachable => By::Unreachable,
        };
        let more = more.inspect_err(|refusal| self.limits.refusals.add(by(refusal)))?;
        let amount = more.reservation.worst();
        self.keep(more);
        Ok(amount)
    }

    /// How much of a charge of `cost` its budgets can pay: what was set aside, and what is free at once.
    pub fn cover(&self, cost: Picos) -> Picos {
        if self.budgets.lacks_balance {
            return 0;
        }
        let Some(mut set_aside) = self.take() else { return 0 };
        let lacking = cost - set_aside.reservation.worst();
        if lacking > 0 {
            self.limits.reserve_more(&mut set_aside, lacking);
        }
        let covered = set_aside.reservation.worst().min(cost);
        self.keep(set_aside);
        covered
    }

    /// The request is charged `cost`. `None` if none of its budgets exists any more.
    pub fn settle(self: &Arc<Self>, cost: Picos) -> Option<Settled> {
        let mut set_aside = self.take()?;
        let Payment { earliest, has_outdated, budgets } = self.limits.settle(&mut set_aside, cost);
        let holder = set_aside.holder.clone();
        self.keep(set_aside);
        let limits = Arc::clone(&self.limits);
        holder.filter(|_| !budgets.is_empty()).map(|holder| Settled {
            leases: Arc::new(LeaseUse { holder, budgets }),
            earliest,
            limits,
            cost,
            is_kept: false,
            _rest: has_outdated.then(|| Arc::clone(self)),
        })
    }

    /// What is set aside, which may be nothing.
    fn take(&self) -> Option<SetAside> {
        let kept = self.set_aside.lock().take();
        kept.or_else(|| self.limits.reserve(&self.budgets, 0, 0).ok())
    }

    /// Puts it to what other threads of the request have set aside. What does not belong together, as a budget has
    /// ended or this process is another holder now, is given back.
    fn keep(&self, more: SetAside) {
        let mut kept = self.set_aside.lock();
        let rest = match kept.as_mut() {
            None => {
                *kept = Some(more);
                None
            }
            Some(kept) if kept.holder == more.holder && kept.budgets == more.budgets => {
                kept.reservation.add(more.reservation);
                None
            }
            Some(kept) => Some(std::mem::replace(kept, more)),
        };
        drop(kept);
        if let Some(rest) = rest {
            self.limits.release(&rest);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(set_aside) = self.set_aside.get_mut().take() {
            self.limits.release(&set_aside);
        }
    }
}
