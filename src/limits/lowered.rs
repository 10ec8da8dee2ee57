//! Limits that were lowered below what is set aside of them: requests that run may not go on to use all of it.

use std::sync::Arc;

use super::budgets::Budgets;
use super::held::{Held, HeldLease};
use super::{Micros, Picos};

/// How long after a change all processes have settled what they had charged.
const ALL_SETTLED: Micros = 150_000;

impl HeldLease {
    /// Whether less is left of the limit than is set aside here, so that it was lowered; or nothing.
    fn is_lowered(&self) -> bool {
        let is_known = !self.is_gone && self.answered > 0;
        is_known && (self.unspent <= 0 || self.unspent < self.lease.reserved())
    }
}

impl Held {
    /// Whether this budget was found to be lowered below what is set aside of it.
    pub(super) fn is_lowered(&self, id: &str) -> bool {
        self.leases.get(id).is_some_and(HeldLease::is_lowered)
    }

    /// How much a request may cost that runs, if one of its budgets was lowered below what is set aside of it.
    pub(super) fn lowered_to(&self, budgets: &Budgets) -> Option<Picos> {
        let lowered = budgets.iter().filter_map(|id| self.leases.get(id)).filter(|held| held.is_lowered());
        lowered.map(|held| held.unspent).min()
    }

    /// The limit of this budget has changed. What was charged before and is not settled yet is not known when the database
    /// is asked at once, so it is asked again.
    pub(super) fn note_change(&mut self, id: &Arc<str>, now: Micros) {
        self.changed.insert(Arc::clone(id), now);
    }

    /// What this process has charged is settled.
    pub(super) fn note_settled(&mut self) {
        for id in self.changed.keys() {
            if let Some(held) = self.leases.get_mut(id) {
                held.lease.inquire();
                self.due.insert(Arc::clone(id));
            }
        }
    }

    /// Asks about budgets that changed a moment ago, as all processes have settled by now.
    pub(super) fn inquire_changed(&mut self, now: Micros) {
        self.changed.retain(|id, since| {
            let is_waiting = now - *since < ALL_SETTLED;
            if !is_waiting && let Some(held) = self.leases.get_mut(id) {
                held.lease.inquire();
                self.due.insert(Arc::clone(id));
            }
            is_waiting
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::held::Answer;
    use super::super::lease::Grant;
    use super::*;

    #[test]
    fn a_limit_below_what_is_set_aside_is_known_to_be_lowered() {
        let mut held = Held::default();
        let id: Arc<str> = "b".into();
        let budgets = Budgets { key: Some(Arc::clone(&id)), ..Budgets::default() };
        assert!(held.reserve(&budgets, 100, 0).is_none());
        let (number, _) = held.wait(&budgets, 100, 100, 0);
        let answer = |held: &mut Held, unspent: Picos, now: Micros| {
            let (round, asked) = held.questions(true, now);
            let grant = Grant {
                granted: 100,
                returned: 0,
                window_starts: 0,
                is_short: false,
                collects: false,
                valid_for: None,
            };
            held.receive((round, now), &id, Some(&Answer { grant, unspent, number: 1 }), now);
            held.admit(now);
            asked.len()
        };
        answer(&mut held, 100, 0);
        let reserved = held.take_outcome(number).unwrap().unwrap();
        assert_eq!(held.lowered_to(&budgets), None);
        held.recall("b", true, 1000);
        assert_eq!(answer(&mut held, 60, 1000), 1);
        assert_eq!((held.is_lowered("b"), held.lowered_to(&budgets)), (true, Some(60)));
        // What was charged before is settled meanwhile.
        held.note_settled();
        assert_eq!(answer(&mut held, 40, 2000), 1);
        assert_eq!(answer(&mut held, 30, 1000 + ALL_SETTLED), 1);
        assert_eq!(held.lowered_to(&budgets), Some(30));
        assert!(held.changed.is_empty());
        held.release(&budgets, &reserved.0);
        assert_eq!(held.lowered_to(&budgets), None);
    }
}
