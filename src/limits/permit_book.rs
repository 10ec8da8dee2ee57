//! What the database keeps of one rate limit, and what each message does to it. The simulation runs it.

use std::collections::BTreeMap;

use super::Micros;
use super::permits::{PermitAsk, PermitGrant};

/// Of what is free, at most this share is granted beyond what is needed.
const SHARE: i64 = 4;

/// For how long the permits of a process that died cannot be used: a minute, and what the database's clock may be
/// stepped.
pub const AFTER_DEATH: Micros = 61_500_000;

/// A rate limit. What processes hold and what those that died may have used in the last minute are together at most the
/// limit, unless that was lowered; then nothing is granted until they are.
#[derive(Clone, Debug, Default)]
pub struct PermitBook {
    /// The limit.
    pub most: i64,
    shares: BTreeMap<u64, Share>,
    /// What processes held that died, by when it is free.
    cooling: Vec<(Micros, i64)>,
}

/// What one process holds.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    granted: i64,
    returned: i64,
    /// What it did not use when it last asked.
    idle: i64,
    /// When the next of its permits is ready.
    ready: Micros,
}

impl Share {
    fn held(self) -> i64 {
        self.granted - self.returned
    }
}

impl PermitBook {
    /// A limit of which nothing is held.
    pub fn new(most: i64) -> PermitBook {
        PermitBook { most, ..PermitBook::default() }
    }

    /// What nobody holds.
    pub fn free(&self) -> i64 {
        let held: i64 = self.shares.values().map(|share| share.held()).sum();
        self.most - held - self.cooling.iter().map(|(_, amount)| amount).sum::<i64>()
    }

    /// A process that is known asks for a grant or hands something back, at `now` by the database's clock.
    pub fn ask(&mut self, holder: u64, ask: &PermitAsk, now: Micros) -> PermitGrant {
        self.cooling.retain(|(ready, _)| *ready > now);
        let share = self.shares.entry(holder).or_default();
        share.returned = share.returned.max(ask.returned.min(share.granted));
        share.idle = ask.idle;
        share.ready = now + ask.ready_in;
        let before = *share;
        let free = self.free().max(0);
        let needed = (ask.at_least - before.granted).max(0);
        let comfort = (ask.at_most - before.granted).max(0) - needed;
        let is_short = needed > free;
        let newly_granted = if is_short { 0 } else { needed + comfort.min((free - needed) / SHARE) };
        let share = self.shares.entry(holder).or_default();
        share.granted += newly_granted;
        if newly_granted > 0 {
            // Others may ask for what of it is not used.
            share.idle += newly_granted;
            share.ready = now;
        }
        let (granted, returned) = (share.granted, share.returned);
        let others = || self.shares.iter().filter(|(id, share)| **id != holder && share.held() > 0);
        let idle: i64 = others().map(|(_, share)| share.idle.clamp(0, share.held())).sum();
        let ready = others().map(|(_, share)| share.ready).chain(self.cooling.iter().map(|(ready, _)| *ready)).min();
        PermitGrant {
            most: self.most,
            granted,
            returned,
            is_short,
            elsewhere: self.free().max(0) + idle,
            elsewhere_in: ready.map(|ready| (ready - now).max(0)),
        }
    }

    /// A process is gone, at `now` by the database's clock. It may have used all it held a moment ago. What requests
    /// that run use is free at once if `is_concurrency`.
    pub fn end(&mut self, holder: u64, now: Micros, is_concurrency: bool) {
        if let Some(share) = self.shares.remove(&holder)
            && share.held() > 0
            && !is_concurrency
        {
            self.cooling.push((now + AFTER_DEATH, share.held()));
        }
    }
}
