//! What happened in a schedule.

use super::super::{Micros, Picos};

/// When a budget was lifted, and until when the last process may have believed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lift {
    pub(super) budget: usize,
    pub(super) from: Micros,
    pub(super) until: Micros,
}

/// A credit that was given, and when it expires by the database's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) amount: Picos,
    pub(super) expires: Option<Micros>,
}

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) charged: u64,
    pub(super) released: u64,
    pub(super) shortened: u64,
    pub(super) refused: u64,
    pub(super) journaled: u64,
    pub(super) replayed: u64,
    pub(super) crashes: u64,
    pub(super) ended: u64,
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) recalls: u64,
    pub(super) windows: u64,
    pub(super) lifts: u64,
    /// Charges by which a lifted budget was passed.
    pub(super) beyond: u64,
    pub(super) expiries: u64,
    /// How often leases held credit that had expired.
    pub(super) waits: u64,
}

impl Counters {
    fn all(&self) -> [u64; 16] {
        [
            self.charged,
            self.released,
            self.shortened,
            self.refused,
            self.journaled,
            self.replayed,
            self.crashes,
            self.ended,
            self.lost,
            self.repeated,
            self.recalls,
            self.windows,
            self.lifts,
            self.beyond,
            self.expiries,
            self.waits,
        ]
    }

    pub(super) fn all_happened(&self) -> bool {
        self.all().iter().all(|count| *count > 0)
    }

    pub(super) fn add(&mut self, more: &Counters) {
        self.charged += more.charged;
        self.released += more.released;
        self.shortened += more.shortened;
        self.refused += more.refused;
        self.journaled += more.journaled;
        self.replayed += more.replayed;
        self.crashes += more.crashes;
        self.ended += more.ended;
        self.lost += more.lost;
        self.repeated += more.repeated;
        self.recalls += more.recalls;
        self.windows += more.windows;
        self.lifts += more.lifts;
        self.beyond += more.beyond;
        self.expiries += more.expiries;
        self.waits += more.waits;
    }
}
