//! Permits that were used, until they can be used again.

use std::collections::VecDeque;

use super::Micros;

/// Amounts by the time at which they are ready, in the order of that. The newest amount, to which nearly everything is
/// added, and the time of the oldest are at hand: what lies between is seldom touched, so it is seldom in the processor's
/// caches.
#[derive(Clone, Debug, Default)]
pub(super) struct Cooling {
    /// The newest; 0 if there is none at all.
    newest: (Micros, i64),
    /// When the oldest is ready; no sooner, if some were given back.
    next: Micros,
    /// All before the newest.
    earlier: VecDeque<(Micros, i64)>,
}

impl Cooling {
    /// Adds so much that is ready at this time, or if others were added later, with these. Returns the time.
    pub(super) fn add(&mut self, ready: Micros, amount: i64) -> Micros {
        while self.newest.1 == 0
            && let Some(before) = self.earlier.pop_back()
        {
            self.newest = before;
        }
        let (newest, held) = self.newest;
        if held > 0 && newest >= ready {
            self.newest.1 += amount;
            return newest;
        }
        if held > 0 {
            self.earlier.push_back(self.newest);
        } else {
            self.next = ready;
        }
        self.newest = (ready, amount);
        ready
    }

    /// Removes what is ready, and returns how much that is.
    pub(super) fn remove_ready(&mut self, now: Micros) -> i64 {
        if now < self.next {
            return 0;
        }
        let mut freed = 0;
        while let Some((ready, amount)) = self.earlier.front().copied() {
            self.next = ready;
            if ready > now {
                return freed;
            }
            self.earlier.pop_front();
            freed += amount;
        }
        self.next = self.newest.0;
        if self.newest.0 <= now {
            freed += std::mem::take(&mut self.newest.1);
        }
        freed
    }

    /// Removes up to `amount` of what is ready at this time. Returns how much that was: nothing if it is ready already.
    pub(super) fn remove(&mut self, ready: Micros, amount: i64) -> i64 {
        let held = if self.newest.0 == ready {
            &mut self.newest.1
        } else {
            // Most requests are short, so theirs is one of the last.
            let last = self.earlier.iter().rposition(|(other, _)| *other <= ready);
            match last.and_then(|last| self.earlier.get_mut(last)) {
                Some((other, held)) if *other == ready => held,
                _ => return 0,
            }
        };
        let removed = amount.min(*held);
        *held -= removed;
        removed
    }

    /// All of them that are not 0, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Micros, i64)> {
        self.earlier.iter().copied().chain(Some(self.newest)).filter(|(_, amount)| *amount > 0)
    }

    /// When the first of them is ready.
    pub(super) fn first(&self) -> Option<Micros> {
        self.iter().next().map(|(ready, _)| ready)
    }

    /// When the last of them is ready.
    pub(super) fn last(&self) -> Option<Micros> {
        let earlier = || self.earlier.iter().rev().find(|(_, amount)| *amount > 0);
        if self.newest.1 > 0 { Some(self.newest.0) } else { earlier().map(|(ready, _)| *ready) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_list_holds(steps in prop::collection::vec((0..4u8, 0..6i64, 1..9i64), 0..60)) {
            let (mut cooling, mut list) = (Cooling::default(), Vec::<(Micros, i64)>::new());
            let (mut now, mut added) = (0, Vec::new());
            for (step, time, amount) in steps {
                match step {
                    0 | 1 => {
                        // A clock that another thread has read before this one may be ahead of it.
                        let ready = cooling.add(now + 10 + time - 2, amount);
                        prop_assert!(ready >= now + 10 + time - 2);
                        list.push((ready, amount));
                        added.push(ready);
                    }
                    2 => {
                        now += time;
                        let freed: i64 = list.iter().filter(|(ready, _)| *ready <= now).map(|(_, n)| n).sum();
                        list.retain(|(ready, _)| *ready > now);
                        prop_assert_eq!(cooling.remove_ready(now), freed);
                    }
                    _ => {
                        let Some(ready) = added.get(usize::try_from(time).unwrap()).copied() else { continue };
                        let mut rest = amount;
                        for (_, held) in list.iter_mut().filter(|(other, _)| *other == ready) {
                            let part = rest.min(*held);
                            *held -= part;
                            rest -= part;
                        }
                        prop_assert_eq!(cooling.remove(ready, amount), amount - rest);
                    }
                }
                list.retain(|(_, amount)| *amount > 0);
                prop_assert_eq!(cooling.iter().map(|(_, n)| n).sum::<i64>(), list.iter().map(|(_, n)| n).sum::<i64>());
                prop_assert_eq!(cooling.first(), list.iter().map(|(ready, _)| *ready).min());
                prop_assert_eq!(cooling.last(), list.iter().map(|(ready, _)| *ready).max());
            }
        }
    }
}
