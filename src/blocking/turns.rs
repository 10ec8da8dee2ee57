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
        let of_group = |parties: &mut Ring<_, _>| parties.turn(VecDeque::pop_front, VecDeque::is_empty);
        let item = self.groups.turn(of_group, |parties| parties.order.is_empty())?;
        self.length -= 1;
        Some(item)
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

    /// Takes something from the member whose turn it is, which then becomes the last, or leaves if it is empty.
    fn turn<T>(&mut self, take: impl FnOnce(&mut M) -> Option<T>, is_empty: impl FnOnce(&M) -> bool) -> Option<T> {
        let key = self.order.pop_front()?;
        let member = self.members.get_mut(&key)?;
        let taken = take(member);
        if is_empty(member) {
            self.members.remove(&key);
        } else {
            self.order.push_back(key);
        }
        taken
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
