//! What is known of the lists of models of the servers in the settings, and when they are asked for again.

use std::time::{Duration, Instant};

use crate::engine::{ListedModel, UNREACHABLE};
use crate::error::Error;

use super::servers::{Listing, Purpose};

/// How long a list is used before it is asked for again.
const INTERVAL: Duration = Duration::from_secs(30);
/// The same, for a server that did not answer.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// What is known of the lists, by purpose and server.
#[derive(Default)]
pub(super) struct Lists {
    listings: [Vec<Listing>; Purpose::ALL.len()],
    checks: [Vec<Check>; Purpose::ALL.len()],
}

#[derive(Clone, Default)]
struct Check {
    /// When it is asked next; `None` for at once.
    due: Option<Instant>,
    /// Why its last answer is of no use, in words for the operator.
    problem: Option<&'static str>,
}

/// What [`Lists::record`] has noted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    /// Whether there may be other models now.
    pub(super) has_changed: bool,
    /// Whether the server begins to fail, or ceases to.
    pub(super) is_turn: bool,
}

impl Lists {
    /// For this many servers of each purpose, none of which was asked yet.
    pub(super) fn new(counts: [usize; Purpose::ALL.len()]) -> Lists {
        Lists {
            listings: counts.map(|count| vec![Listing::Pending; count]),
            checks: counts.map(|count| vec![Check::default(); count]),
        }
    }

    /// What is known of the servers of a purpose.
    pub(super) fn of(&self, purpose: Purpose) -> &[Listing] {
        &self.listings[purpose as usize]
    }

    /// What is wrong with the last answer of a server, in words for the operator.
    pub(super) fn problem(&self, purpose: Purpose, index: usize) -> Option<&'static str> {
        self.checks[purpose as usize][index].problem
    }

    /// The servers to be asked now, by purpose and index.
    pub(super) fn due(&self, now: Instant) -> Vec<(Purpose, usize)> {
        let is_due = |check: &Check| check.due.is_none_or(|due| due <= now);
        let of = |purpose: Purpose| {
            let checks = self.checks[purpose as usize].iter().enumerate();
            checks.filter(move |(_, check)| is_due(check)).map(move |(index, _)| (purpose, index))
        };
        Purpose::ALL.into_iter().flat_map(of).collect()
    }

    /// Notes what a server answered. While one that has sent a list before sends none, its last list is kept: something
    /// else may answer in its place, and no name must become another model for that.
    pub(super) fn record(
        &mut self,
        purpose: Purpose,
        index: usize,
        answer: &Result<Option<Vec<ListedModel>>, Error>,
        now: Instant,
    ) -> Recorded {
        let listing = &mut self.listings[purpose as usize][index];
        let next = match (answer, &*listing) {
            (Ok(Some(models)), _) => Some(Listing::Known(models.clone())),
            (Ok(None), Listing::Known(_)) => None,
            (Ok(None), _) => Some(Listing::Missing),
            (Err(_), Listing::Pending) => Some(Listing::Failed),
            (Err(_), _) => None,
        };
        let problem = match answer {
            Err(Error::Upstream(_, words)) => Some(*words),
            Err(_) => Some(UNREACHABLE),
            Ok(None) if next.is_none() => Some("It does not list its models any more"),
            Ok(_) => None,
        };
        let interval = if problem.is_some() { RETRY_INTERVAL } else { INTERVAL };
        let check = &mut self.checks[purpose as usize][index];
        let is_turn = std::mem::replace(&mut check.problem, problem).is_some() != problem.is_some();
        check.due = Some(now + interval);
        let has_changed = next.as_ref().is_some_and(|next| next != listing);
        if let Some(next) = next {
            *listing = next;
        }
        Recorded { has_changed, is_turn }
    }
}

#[cfg(test)]
mod tests {
    use super::super::servers::described;
    use super::*;

    fn record(lists: &mut Lists, answer: Result<Option<&[&str]>, Error>, now: Instant) -> (bool, bool) {
        let models = |names: &[&str]| names.iter().map(|name| described(name)).collect();
        let answer = answer.map(|names| names.map(models));
        let Recorded { has_changed, is_turn } = lists.record(Purpose::Speech, 1, &answer, now);
        (has_changed, is_turn)
    }

    #[test]
    fn the_last_list_is_kept_while_there_is_no_other() {
        let (mut lists, now) = (Lists::new([0, 0, 1, 2, 0, 0, 0]), Instant::now());
        let listing = |lists: &Lists| lists.of(Purpose::Speech)[1].clone();
        let down = || Err(Error::Busy);
        assert_eq!(record(&mut lists, down(), now), (true, true));
        assert_eq!(listing(&lists), Listing::Failed);
        assert_eq!(record(&mut lists, down(), now), (false, false));
        assert_eq!(record(&mut lists, Ok(None), now), (true, true));
        assert_eq!(listing(&lists), Listing::Missing);
        assert_eq!(record(&mut lists, Ok(Some(&["a"])), now), (true, false));
        let known = listing(&lists);
        assert_eq!(record(&mut lists, Ok(Some(&["a"])), now), (false, false));
        for answer in [down(), Ok(None), down()] {
            record(&mut lists, answer, now);
            assert_eq!(listing(&lists), known);
        }
        assert_eq!(record(&mut lists, Ok(Some(&["b"])), now), (true, true));
        assert!(listing(&lists) != known);
    }

    #[test]
    fn a_server_is_asked_again_after_a_while_and_sooner_when_it_failed() {
        let (mut lists, now) = (Lists::new([0, 0, 1, 2, 0, 0, 0]), Instant::now());
        let others = vec![(Purpose::Transcription, 0), (Purpose::Speech, 0)];
        assert_eq!(lists.due(now).len(), 3);
        for (answer, pause) in [(Ok(Some(&["a"][..])), INTERVAL), (Err(Error::Busy), RETRY_INTERVAL)] {
            record(&mut lists, answer, now);
            assert_eq!(lists.due(now), others);
            assert_eq!(lists.due(now + pause).len(), 3);
        }
    }
}
