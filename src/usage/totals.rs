//! The totals of each day that pages show: computed in the background, soon after charges. Only a charge that comes days
//! late ever waits for them, for about a second.

use std::time::{Duration, Instant};

use time::{Date, OffsetDateTime};

use super::meter::Shared;
use crate::db;
use crate::store::charges::{self, Event};
use crate::store::usage_days;

/// How often they are looked after without a reason: another process may have died before it got to it.
const QUIET_EVERY: Duration = Duration::from_secs(60);

/// How long to wait after a failure.
const FAULT_PAUSE: Duration = Duration::from_secs(30);

/// When to compute totals.
#[derive(Default)]
pub(super) struct Totals {
    /// Charges that this process had brought to the database when it last computed.
    brought: u64,
    /// Whether these were all in the totals then.
    is_complete: bool,
    /// When to compute without further charges; `None` for at once.
    next: Option<Instant>,
}

impl Totals {
    /// Computes what is due, if anything is. Takes about a second at most, unless a single day takes longer. Where it
    /// fails, pages show older totals, and the log says so.
    pub(super) fn see_to(&mut self, shared: &Shared) {
        let brought = shared.counters.brought();
        let has_news = self.is_complete && brought != self.brought;
        if !has_news && self.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        self.brought = brought;
        let pause = match shared.db.patient().and_then(|mut session| usage_days::compute(&mut session)) {
            Ok(again) => {
                self.is_complete = again.is_none();
                again.unwrap_or(QUIET_EVERY)
            }
            Err(e) => {
                log::warn!("the totals of days were not computed, the next attempt is in half a minute: {e}");
                self.is_complete = false;
                FAULT_PAUSE
            }
        };
        self.next = Some(Instant::now() + pause);
    }
}

/// Charges events of one day as [`charges::charge`] does, and sees to it that the day's total does not miss them.
///
/// # Errors
/// As [`charges::charge`].
pub(super) fn charge(session: &mut db::Session, day: Date, events: &[&Event]) -> Result<Vec<String>, db::Error> {
    match is_late(day) {
        true => usage_days::charge_late(session, day, events),
        false => charges::charge(session, day, events),
    }
}

/// [`charge`] for events of which it is known that none was charged before, by [`charges::charge_new`] where it can be.
///
/// # Errors
/// As there.
pub(super) fn charge_new(session: &mut db::Session, day: Date, events: &[&Event]) -> Result<(), db::Error> {
    match is_late(day) {
        true => usage_days::charge_late(session, day, events).map(drop),
        false => charges::charge_new(session, day, events),
    }
}

/// Totals of today and yesterday are not final, so that nearly every charge is one statement.
fn is_late(day: Date) -> bool {
    OffsetDateTime::now_utc().date().previous_day().is_some_and(|yesterday| day < yesterday)
}
