//! What the database keeps of the credits that make up a balance, and how they are counted and expire.

use super::{Micros, Picos};

/// The credits of a balance, those that expire first before others.
#[derive(Clone, Debug, Default)]
pub(super) struct Credits {
    credits: Vec<Credit>,
    /// So much of what was spent has been taken from credits.
    counted: Picos,
    /// When the next credit expires; in the past while leases hold some that has.
    changes_at: Option<Micros>,
}

#[derive(Clone, Copy, Debug)]
struct Credit {
    /// What is left of it, as far as it was counted.
    left: Picos,
    expires: Option<Micros>,
}

/// What is set aside or spent of a balance while its credits are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// In all windows, with what was charged and is not settled.
    pub(super) spent: Picos,
    /// What leases hold beside.
    pub(super) held: Picos,
    /// What is taken away.
    pub(super) taken: Picos,
}

impl Credits {
    pub(super) fn changes_at(&self) -> Option<Micros> {
        self.changes_at
    }

    pub(super) fn add(&mut self, left: Picos, expires: Option<Micros>) {
        let key = |expires: Option<Micros>| expires.unwrap_or(Micros::MAX);
        let place = self.credits.partition_point(|credit| key(credit.expires) <= key(expires));
        self.credits.insert(place, Credit { left, expires });
    }

    /// Counts what was spent of each credit, and ends those whose time has come, but for what leases hold. Returns the new
    /// limit, and when the next credit expires.
    pub(super) fn count(&mut self, mut limit: Picos, used: Used, now: Micros) -> (Picos, Option<Micros>) {
        let mut uncounted = used.spent + used.taken - self.counted;
        let (mut next, mut waits) = (None, false);
        for credit in &mut self.credits {
            let counts = credit.left.min(uncounted);
            uncounted -= counts;
            credit.left -= counts;
            if credit.left <= 0 {
                continue;
            }
            if credit.expires.is_some_and(|at| at <= now) {
                let gone = credit.left.min(limit - used.spent - used.held).max(0);
                limit -= gone;
                credit.left -= gone;
                waits |= credit.left > 0;
            } else {
                next = [next, credit.expires].into_iter().flatten().min();
            }
        }
        self.counted = used.spent - uncounted;
        self.changes_at = if waits { Some(Micros::MIN) } else { next };
        (limit, next)
    }
}
