//! The prices as they were last read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use super::price::Prices;
use crate::db::{Error, Executor};
use crate::store::prices;

/// The prices as they were last read. Several threads read them; what was read later counts, whichever comes first.
#[derive(Default)]
pub(super) struct PriceList {
    readings: AtomicU64,
    /// With the number of the reading.
    current: RwLock<Option<(u64, Arc<Prices>)>>,
}

impl PriceList {
    /// `None` before the first time.
    pub(super) fn current(&self) -> Option<Arc<Prices>> {
        self.current.read().as_ref().map(|(_, prices)| Arc::clone(prices))
    }

    /// Reads them.
    ///
    /// # Errors
    /// See [`Error`]; the last ones stay.
    pub(super) fn read(&self, db: &mut impl Executor) -> Result<(), Error> {
        let number = self.readings.fetch_add(1, Relaxed);
        let prices = Arc::new(Prices::new(prices::all(db)?));
        let mut current = self.current.write();
        if current.as_ref().is_none_or(|(last, _)| *last < number) {
            *current = Some((number, prices));
        }
        Ok(())
    }
}
