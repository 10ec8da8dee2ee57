//! What was refused for lack of memory, until somebody has looked for some.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::blocking::Party;

/// Most shortages that are kept.
const MOST: usize = 64;

/// What has been found for a shortage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nobody has looked yet.
    None,
    /// Memory is being freed.
    Coming,
    /// There is none.
    Hopeless,
}

/// Memory that a party was refused.
#[derive(Clone, Debug)]
pub struct Shortage {
    /// Who was refused it.
    pub party: Party,
    /// The bytes that were refused.
    pub bytes: usize,
    /// What the party would hold with them.
    pub total: usize,
    /// What the [group](Party::group) of the party would hold with them; as much, if it is the only one in that.
    pub total_of_group: usize,
    /// Whether somebody waits for it.
    pub(super) waits: bool,
    answer: Arc<AtomicU8>,
}

impl Shortage {
    pub(super) fn new(party: Party, bytes: usize, total: usize, total_of_group: usize) -> Shortage {
        Shortage { party, bytes, total, total_of_group, waits: false, answer: Arc::default() }
    }

    /// Answers it, unless it is answered already. Returns whether it was not.
    pub(super) fn answer_first(&self, answer: Answer) -> bool {
        self.answer.compare_exchange(Answer::None as u8, answer as u8, Relaxed, Relaxed).is_ok()
    }

    /// Nobody waits for it any more. Returns whether memory was being freed.
    pub(super) fn give_up(&self) -> bool {
        self.answer.swap(Answer::Hopeless as u8, Relaxed) == Answer::Coming as u8
    }

    /// What has been found for it.
    pub fn answer(&self) -> Answer {
        match self.answer.load(Relaxed) {
            0 => Answer::None,
            1 => Answer::Coming,
            _ => Answer::Hopeless,
        }
    }

    /// Tells whoever waits for it that there is none.
    pub fn refuse(&self) {
        self.answer_first(Answer::Hopeless);
    }
}

/// The shortages that nobody has looked at.
#[derive(Default)]
pub(super) struct Shortages(Mutex<Vec<Shortage>>);

impl Shortages {
    /// Adds one. Of those of a party for which nobody waits, only the largest is kept. If there are too many, one is told
    /// that there is nothing: of the group that has the most of them, one for which nobody waits if there is one, and of
    /// these the one who would hold the most. So nobody displaces others by asking often, however little it is for.
    pub(super) fn add(&self, shortage: &Shortage) {
        let mut list = self.0.lock();
        let is_same = |known: &Shortage| !known.waits && known.party == shortage.party;
        match list.iter_mut().find(|known| !shortage.waits && is_same(known)) {
            Some(known) if known.bytes > shortage.bytes => {}
            Some(known) => *known = shortage.clone(),
            None => list.push(shortage.clone()),
        }
        if list.len() > MOST {
            let mut of_groups: HashMap<Party, usize> = HashMap::new();
            for each in &*list {
                *of_groups.entry(each.party.group()).or_default() += 1;
            }
            let rank = |each: &Shortage| (of_groups.get(&each.party.group()).copied(), !each.waits, each.total);
            let first = (0..list.len()).max_by_key(|index| rank(&list[*index])).unwrap_or(0);
            list.swap_remove(first).refuse();
        }
    }

    /// Takes all of them, those first who would hold the least.
    pub(super) fn take(&self) -> Vec<Shortage> {
        let mut list = std::mem::take(&mut *self.0.lock());
        list.sort_by_key(|shortage| shortage.total);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(party: Party, bytes: usize) -> Shortage {
        Shortage { waits: true, ..refused(party, bytes) }
    }

    fn refused(party: Party, bytes: usize) -> Shortage {
        Shortage::new(party, bytes, bytes, bytes)
    }

    fn totals(shortages: &Shortages) -> Vec<usize> {
        shortages.take().iter().map(|each| each.total).collect()
    }

    #[test]
    fn tiny_shortages_displace_no_large_ones() {
        let shortages = Shortages::default();
        let party = |n: usize| Party::Account(n as u64);
        // Of the same party, for which nobody waits.
        shortages.add(&refused(party(1), 5_000_000));
        for _ in 0..1000 {
            shortages.add(&refused(party(1), 100));
        }
        shortages.add(&refused(party(1), 6_000_000));
        assert_eq!(totals(&shortages), [6_000_000]);
        // Of many that are refused at once, beside one that waits.
        let large = waiting(party(0), 9_000_000);
        shortages.add(&large);
        (1..1000).for_each(|n| shortages.add(&refused(party(n), 100)));
        // Of one that waits often.
        (1..1000).for_each(|_| shortages.add(&waiting(party(7), 100)));
        assert_eq!(large.answer(), Answer::None);
        assert_eq!(totals(&shortages).last(), Some(&9_000_000));
    }

    #[test]
    fn a_group_of_networks_displaces_its_own() {
        let shortages = Shortages::default();
        let network = |text: String| Party::network(text.parse().unwrap());
        let other = waiting(network("10.1.0.1".to_owned()), 9_000_000);
        shortages.add(&other);
        (0..200).for_each(|n| shortages.add(&waiting(network(format!("10.0.0.{n}")), 100)));
        assert_eq!((other.answer(), totals(&shortages).len()), (Answer::None, MOST));
    }

    #[test]
    fn those_who_would_hold_the_least_are_kept_and_come_first() {
        let shortages = Shortages::default();
        let all: Vec<_> = (0..100).rev().map(|n| waiting(Party::Process, n)).collect();
        for shortage in &all {
            shortages.add(shortage);
        }
        assert_eq!(totals(&shortages), (0..MOST).collect::<Vec<_>>());
        assert!(shortages.take().is_empty());
        for shortage in &all {
            let expected = if shortage.total < MOST { Answer::None } else { Answer::Hopeless };
            assert_eq!(shortage.answer(), expected, "{}", shortage.total);
        }
    }
}
