//! A queue that serves those who wait in turn (round robin), not in the order in which they came.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use super::party::Party;

/// A queue of items that parties wait for. The groups of parties are served in turn, and within a group its parties, so
/// however many one party or group has queued, another waits for one of them at most. The items of one party keep their
/// order.
pub struct Turns<T> {
    groups: Ring<Party, Ring<Party, VecDeque<T>>>,
    length: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns { groups: Ring::default(), length: 0 }
    }
}

impl<T> Turns<T> {
    /// How many items wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether any party of this one's group waits.
    pub fn has_group_of(&self, party: Party) -> bool {
        self.groups.members.contains_key(&party.group())
    }

    /// Adds an item of this party.
    pub fn push(&mut self, party: Party, item: T) {
        self.groups.member(party.group()).member(party).push_back(item);
        self.length += 1;
    }

    /// Takes out the item whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_where(|_| true)
    }

    /// Takes out the next item of a party that may have its turn. Those that may not keep theirs.
    pub fn pop_where(&mut self, mut may: impl FnMut(Party) -> bool) -> Option<T> {
        let mut of_group = |_: Party, parties: &mut Ring<_, VecDeque<_>>| {
            parties.turn(|party, items| if may(party) { items.pop_front() } else { None }, VecDeque::is_empty)
        };
        let item = self.groups.turn(&mut of_group, |parties| parties.order.is_empty())?;
        self.length -= 1;
        Some(item)
    }

    /// Removes the first item of this party that `is` says so of, and returns whether there was one.
    pub fn remove(&mut self, party: Party, is: impl Fn(&T) -> bool) -> bool {
        let group = party.group();
        let Some(parties) = self.groups.members.get_mut(&group) else { return false };
        let Some(items) = parties.members.get_mut(&party) else { return false };
        let Some(place) = items.iter().position(is) else { return false };
        items.remove(place);
        self.length -= 1;
        if items.is_empty() {
            parties.leave(&party);
            if parties.order.is_empty() {
                self.groups.leave(&group);
            }
        }
        true
    }
}

/// Members that have turns. None is empty.
struct Ring<K, M> {
    /// Whose turn is next.
    order: VecDeque<K>,
    members: HashMap<K, M>,
}

impl<K, M> Default for Ring<K, M> {
    fn default() -> Ring<K, M> {
        Ring { order: VecDeque::new(), members: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash, M: Default> Ring<K, M> {
    /// The member with this key; a new one is the last in the order.
    fn member(&mut self, key: K) -> &mut M {
        self.members.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            M::default()
        })
    }

    /// Takes something from the first member, in turn, that gives something. That becomes the last, or leaves if it is
    /// empty.
    fn turn<T>(
        &mut self,
        mut take: impl FnMut(K, &mut M) -> Option<T>,
        is_empty: impl FnOnce(&M) -> bool,
    ) -> Option<T> {
        let Ring { order, members } = self;
        let taken = |(place, key): (usize, &K)| Some((place, *key, take(*key, members.get_mut(key)?)?));
        let (place, key, item) = order.iter().enumerate().find_map(taken)?;
        order.remove(place);
        if self.members.get(&key).is_none_or(is_empty) {
            self.members.remove(&key);
        } else {
            self.order.push_back(key);
        }
        Some(item)
    }

    /// Forgets a member.
    fn leave(&mut self, key: &K) {
        self.members.remove(key);
        self.order.retain(|other| other != key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Party {
        Party::network(text.parse().unwrap())
    }

    #[test]
    fn whoever_comes_late_waits_for_one_item_of_each_group_at_most() {
        let mut turns = Turns::default();
        for n in 0..100 {
            turns.push(network("10.0.0.1"), n);
            turns.push(network(&format!("2001:db8:0:{n}::1")), 1000 + n);
        }
        assert_eq!((turns.pop(), turns.pop(), turns.pop()), (Some(0), Some(1000), Some(1)));
        assert!(turns.has_group_of(network("10.0.0.9")) && !turns.has_group_of(Party::Account(7)));
        turns.push(Party::Account(7), 7);
        turns.push(network("10.0.0.2"), 8);
        // The account is a group of its own; the address shares the turns of its neighbour.
        let next: Vec<_> = (0..5).filter_map(|_| turns.pop()).collect();
        assert_eq!(next, [1001, 2, 7, 1002, 8]);
    }

    #[test]
    fn who_may_not_have_its_turn_keeps_it() {
        let mut turns = Turns::default();
        for account in [1, 2, 1, 3] {
            turns.push(Party::Account(account), account);
        }
        let but_first = |party| party != Party::Account(1);
        assert_eq!((turns.pop_where(but_first), turns.pop()), (Some(2), Some(1)));
        assert!(turns.remove(Party::Account(1), |item| *item == 1) && !turns.remove(Party::Account(1), |_| true));
        assert_eq!((turns.len(), turns.pop_where(|_| false), turns.pop(), turns.pop()), (1, None, Some(3), None));
        assert!(turns.groups.members.is_empty() && turns.groups.order.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_each_party_keeps_its_order(steps in prop::collection::vec(prop::option::of(0_u8..9), 1..300)) {
            let (mut turns, mut pushed, mut popped) = (Turns::default(), Vec::new(), Vec::new());
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Some(party) => {
                        let address = std::net::IpAddr::from([10, 0, party % 3, party]);
                        turns.push(Party::network(address), (party, n));
                        pushed.push((party, n));
                    }
                    None => popped.extend(turns.pop()),
                }
                prop_assert_eq!(turns.len(), pushed.len() - popped.len());
            }
            popped.extend(std::iter::from_fn(|| turns.pop()));
            prop_assert!(turns.is_empty() && turns.groups.members.is_empty());
            for party in 0..9 {
                let of = |items: &[(u8, usize)]| items.iter().copied().filter(|(p, _)| *p == party).collect::<Vec<_>>();
                prop_assert_eq!(of(&pushed), of(&popped));
            }
        }
    }
}
