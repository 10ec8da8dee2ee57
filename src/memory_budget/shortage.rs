//! What was refused for lack of memory, until somebody has looked for some.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::blocking::Party;

/// Most shortages that are kept. Those who would hold the least are.
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
    /// Adds one. If there are too many, the one who would hold the most is told that there is nothing.
    pub(super) fn add(&self, shortage: &Shortage) {
        let mut list = self.0.lock();
        list.push(shortage.clone());
        if list.len() > MOST {
            let most = (0..list.len()).max_by_key(|index| list[*index].total).unwrap_or(0);
            list.swap_remove(most).refuse();
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

    #[test]
    fn those_who_would_hold_the_least_are_kept_and_come_first() {
        let shortages = Shortages::default();
        let all: Vec<_> = (0..100).rev().map(|n| Shortage::new(Party::Process, 1, n, n)).collect();
        for shortage in &all {
            shortages.add(shortage);
        }
        assert_eq!(shortages.take().iter().map(|each| each.total).collect::<Vec<_>>(), (0..MOST).collect::<Vec<_>>());
        assert!(shortages.take().is_empty());
        for shortage in &all {
            let expected = if shortage.total < MOST { Answer::None } else { Answer::Hopeless };
            assert_eq!(shortage.answer(), expected, "{}", shortage.total);
        }
    }
}
