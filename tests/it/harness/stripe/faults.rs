//! Faults by a seed: a run with the same seed draws the same ones.

use super::super::random::Random;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends before anything is done.
    CutBefore,
    /// It ends after the work was done, before the answer.
    CutAfter,
    /// The same, after a long silence.
    Silence,
    /// 500, and nothing was done.
    ErrorBefore,
    /// 500, although the work was done.
    ErrorAfter,
    /// 409, and nothing was done.
    Conflict,
    /// 429 with `Retry-After`, and nothing was done.
    RateLimit,
}

impl Fault {
    const ALL: [Fault; 7] = [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Silence,
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::Conflict,
        Fault::RateLimit,
    ];
}

/// Which of the requests to come fail: first those given, then at random.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    next: Vec<Option<Fault>>,
    random: Random,
    percent: u64,
}

impl Faults {
    /// This many of a hundred requests, at random.
    pub fn random(seed: u64, percent: u64) -> Faults {
        Faults { next: Vec::new(), random: Random(seed), percent }
    }

    /// The next requests, in this order; those after them succeed.
    pub fn next(faults: &[Option<Fault>]) -> Faults {
        Faults { next: faults.iter().rev().copied().collect(), ..Faults::default() }
    }

    /// That of the next request.
    pub(super) fn draw(&mut self) -> Option<Fault> {
        if let Some(fault) = self.next.pop() {
            return fault;
        }
        if self.percent == 0 || self.random.below(100) >= self.percent {
            return None;
        }
        Some(Fault::ALL[self.random.place(Fault::ALL.len())])
    }
}
