//! Charges that were refused, although they may have been made: neither the database nor the journal said so. What they took
//! of budgets is given back once it is certain that they were not.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Connections;
use super::queue::Pending;
use crate::db;
use crate::limits::Settled;
use crate::store::usage::charges::{self, Event};

/// After this time no statement of theirs is under way any more: more than [`db::STATEMENT_TIMEOUT`].
const CERTAIN_AFTER: Duration = Duration::from_secs(12);

/// Most of them that are remembered. What more of them take of budgets is free when the process ends.
const MAX_DOUBTS: usize = 10_000;

/// Such charges, the oldest first.
#[derive(Default)]
pub(super) struct Doubts(Mutex<Vec<Doubt>>);

struct Doubt {
    event: Event,
    settled: Settled,
    since: Instant,
}

impl Doubts {
    /// A charge was refused. It is of no interest unless it took something of a budget.
    pub(super) fn add(&self, pending: &Pending) {
        let Some(settled) = pending.take_settled() else { return };
        let mut doubts = self.0.lock();
        if doubts.len() >= MAX_DOUBTS {
            return settled.keep();
        }
        // The reply may be large, and is not needed.
        let event = Event { reply: None, parts: Vec::new(), ..pending.event.clone() };
        doubts.push(Doubt { event, settled, since: Instant::now() });
    }

    /// Gives back what the charges took that were not made.
    ///
    /// # Errors
    /// Those of the database; then the rest is looked up again.
    pub(super) fn settle(&self, db: &Connections) -> Result<(), db::Error> {
        let due = {
            let mut doubts = self.0.lock();
            let count = doubts.iter().take_while(|doubt| doubt.since.elapsed() >= CERTAIN_AFTER).count();
            doubts.drain(..count).collect::<Vec<Doubt>>()
        };
        if due.is_empty() {
            return Ok(());
        }
        let events: Vec<&Event> = due.iter().map(|doubt| &doubt.event).collect();
        let made = db.background().and_then(|mut session| charges::find_earlier(&mut session, &events));
        let made: HashSet<String> = match made {
            Ok(made) => made.into_iter().map(|charge| charge.id).collect(),
            Err(e) => {
                self.0.lock().splice(..0, due);
                return Err(e);
            }
        };
        for Doubt { event, settled, .. } in due {
            if made.contains(&event.id) {
                settled.keep();
            }
        }
        Ok(())
    }
}
