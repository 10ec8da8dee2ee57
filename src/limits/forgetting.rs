//! Budgets that a process does not use any more: what it holds of them is handed back, and they are forgotten.

use std::sync::Arc;

use super::held::{Answer, Held, HeldLease, MAX_ASKED};
use super::{Micros, Picos};

/// A budget that was not used for so long is forgotten: the memory for budgets is bounded by those in use.
const FORGOTTEN: Micros = 300_000_000;

impl HeldLease {
    /// It is to be looked at.
    pub(super) fn touch(&mut self, id: &Arc<str>, busy: &mut Vec<Arc<str>>) {
        if !self.is_busy {
            self.is_busy = true;
            busy.push(Arc::clone(id));
        }
    }
}

impl Held {
    /// Looks at all leases that are in use: whether they are idle, and whether there is something to ask.
    pub(super) fn sweep(&mut self, now: Micros) {
        for id in std::mem::take(&mut self.busy) {
            let Some(held) = self.leases.get_mut(&id) else { continue };
            if held.is_gone {
                self.leases.remove(&id);
                continue;
            }
            held.lease.return_if_idle(now);
            if held.lease.is_quiet() {
                held.is_busy = false;
                if held.queued.is_none() {
                    held.queued = Some(now);
                    self.quiet.push_back((now, id));
                }
                continue;
            }
            self.due.insert(Arc::clone(&id));
            self.busy.push(id);
        }
        while let Some((since, _)) = self.quiet.front()
            && now - since >= FORGOTTEN
            && self.to_forget.len() < MAX_ASKED
        {
            let Some((_, id)) = self.quiet.pop_front() else { break };
            let Some(held) = self.leases.get_mut(&id) else { continue };
            held.queued = None;
            if held.is_busy {
                continue;
            }
            if now - held.lease.last_used() < FORGOTTEN {
                held.queued = Some(held.lease.last_used());
                self.quiet.push_back((held.lease.last_used(), id));
            } else if held.answered == 0 {
                self.leases.remove(&id);
            } else {
                self.to_forget.insert(id);
            }
        }
    }

    /// The leases that the database is to forget, with the sums of all grants: until it has answered, nothing is asked about
    /// them.
    pub(super) fn to_forget(&self) -> Vec<(Arc<str>, Picos)> {
        let granted = |id: &Arc<str>| self.leases.get(id).map(|held| (Arc::clone(id), held.lease.granted()));
        self.to_forget.iter().filter_map(granted).collect()
    }

    /// The database has forgotten those of `asked` that are in `forgotten`: they begin anew if they are used again.
    pub(super) fn forgotten(&mut self, asked: &[(Arc<str>, Picos)], forgotten: &[String], now: Micros) {
        for (id, _) in asked {
            self.to_forget.remove(id);
            let waits = self.waiting_for(id).next().is_some();
            let Some(held) = self.leases.get_mut(id) else { continue };
            if !forgotten.iter().any(|forgotten| **forgotten == **id) {
                // Something is outstanding that this process does not know of; perhaps it is told later.
                held.queued = Some(now);
                self.quiet.push_back((now, Arc::clone(id)));
            } else if held.is_busy || waits {
                *held = HeldLease { is_busy: held.is_busy, queued: held.queued, ..HeldLease::default() };
                held.touch(id, &mut self.busy);
            } else {
                self.leases.remove(id);
            }
        }
    }

    /// Whether an answer does not know of grants that this process got: they are lost, as when a standby took over.
    pub(super) fn knows_more(&self, id: &Arc<str>, answer: &Answer) -> bool {
        self.leases.get(id).is_some_and(|held| held.lease.granted() > answer.grant.granted)
    }

    /// Whether any lease is held.
    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Nothing is held any more, as this process is another holder now.
    pub(super) fn forget_leases(&mut self) {
        self.leases.clear();
        self.due.clear();
        self.busy.clear();
        self.quiet.clear();
        self.to_forget.clear();
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::budgets::Budgets;
    use super::super::lease::Grant;
    use super::*;

    const SECOND: Micros = 1_000_000;

    fn answer(granted: Picos, returned: Picos) -> Answer {
        let grant = Grant { granted, returned, window_starts: 0, is_short: false, collects: false, valid_for: None };
        Answer { grant, unspent: 1000, number: 1 }
    }

    /// Uses a budget once, in a time of which it returns the end.
    fn use_once(held: &mut Held, id: &Arc<str>, mut now: Micros) -> Micros {
        let budgets = Budgets { key: Some(Arc::clone(id)), ..Budgets::default() };
        assert!(held.reserve(&budgets, 10, now).is_none());
        let (number, _) = held.wait(&budgets, 10, 10, now);
        let (round, asked) = held.questions(false, now);
        assert_eq!((asked.len(), asked[0].1.at_least), (1, 10));
        held.receive((round, now), id, Some(&answer(10, 0)), now);
        held.admit(now);
        let (reservation, live) = held.take_outcome(number).unwrap().unwrap();
        held.settle(&live, &reservation, 4);
        now += 3 * SECOND;
        let (round, asked) = held.questions(true, now);
        assert_eq!((asked.len(), asked[0].1.returned), (1, 6), "what was not used goes back");
        held.receive((round, now), id, Some(&answer(10, 6)), now);
        assert!(held.questions(true, now).1.is_empty());
        now
    }

    #[test]
    fn budgets_that_are_not_used_are_forgotten() {
        let mut held = Held::default();
        let ids: Vec<Arc<str>> = (0..1000).map(|n| format!("b{n:04}").into()).collect();
        let mut now = 0;
        for id in &ids {
            now = use_once(&mut held, id, now);
            let asked = held.to_forget();
            let all: Vec<String> = asked.iter().map(|(id, _)| id.to_string()).collect();
            held.forgotten(&asked, &all, now);
            assert!(held.busy.is_empty(), "nothing of them is to be looked at");
            assert!(held.leases.len() < 120, "100 are used in five minutes");
        }
        let (_, asked) = held.questions(true, now + FORGOTTEN);
        assert!(asked.is_empty());
        let asked = held.to_forget();
        assert!(!asked.is_empty() && asked.iter().all(|(_, granted)| *granted == 10));
        // The database does not forget what is outstanding by its sums.
        let kept = asked[0].0.clone();
        let forgotten: Vec<String> = asked[1..].iter().map(|(id, _)| id.to_string()).collect();
        held.forgotten(&asked, &forgotten, now + FORGOTTEN);
        assert_eq!((held.leases.len(), held.leases.contains_key(&kept)), (1, true));
        // One that is used again begins anew.
        let again = asked[1].0.clone();
        use_once(&mut held, &again, now + FORGOTTEN);
    }

    #[test]
    fn nothing_is_asked_about_a_budget_until_it_is_known_whether_it_is_forgotten() {
        let mut held = Held::default();
        let id: Arc<str> = "b".into();
        let now = use_once(&mut held, &id, 0) + FORGOTTEN;
        held.questions(true, now);
        let asked = held.to_forget();
        assert_eq!(asked, [(Arc::clone(&id), 10)]);
        let budgets = Budgets { key: Some(Arc::clone(&id)), ..Budgets::default() };
        assert!(held.reserve(&budgets, 10, now).is_none());
        held.wait(&budgets, 10, 10, now);
        assert!(held.questions(false, now).1.is_empty());
        held.forgotten(&asked, &["b".to_owned()], now);
        let (_, asked) = held.questions(false, now);
        assert_eq!((asked[0].1.at_least, asked[0].1.returned), (10, 0));
    }
}
