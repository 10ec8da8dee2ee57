//! The daily totals, which pages show. They are recomputed in the background soon after charges. Only charges that
//! arrive days late have to wait for that, for about a second.

use std::time::{Duration, Instant};

use super::state::Shared;
use crate::store::usage::days;

/// How often the totals are recomputed without new charges of this process: another process may have died before it
/// did.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);

/// The pause after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// When to recompute the totals.
#[derive(Default)]
pub(super) struct DayTotals {
    /// Charges that this process had sent to the database before the last computation.
    sent: u64,
    /// Whether the totals included all of them.
    is_complete: bool,
    /// When to recompute without new charges; `None` for at once.
    next: Option<Instant>,
}

impl DayTotals {
    /// Recomputes the totals if they are due. This takes about a second at most, unless a single day takes longer. A
    /// failure is logged, and pages continue to show the older totals.
    pub(super) fn recompute_if_due(&mut self, shared: &Shared) {
        let sent = shared.counters.sent();
        let has_news = self.is_complete && sent != self.sent;
        if !has_news && self.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        self.sent = sent;
        let pause = match shared.db.background().and_then(|mut session| days::compute(&mut session)) {
            Ok(again) => {
                self.is_complete = again.is_none();
                again.unwrap_or(IDLE_INTERVAL)
            }
            Err(e) => {
                log::warn!("cannot compute the daily totals, trying again in 30 s: {e}");
                self.is_complete = false;
                RETRY_AFTER
            }
        };
        self.next = Some(Instant::now() + pause);
    }
}
