//! Brings charges to the database, many at once: group commit. There is no delay; what arrives while one batch is
//! being committed is the next.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::Receipt;
use super::meter::Shared;
use super::queue::{Pending, Refused};
use crate::db::{self, Database};
use crate::store::usage::{self, Event, Made};

/// Most charges of one transaction.
pub(super) const MOST: usize = 1000;

/// A failure that came later than this is not tried again before the journal is used: requests wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Works until the queue ends.
pub(super) fn run(shared: &Shared) {
    while let Some(batch) = shared.queue.take(MOST) {
        if catch_unwind(AssertUnwindSafe(|| write(shared, &batch))).is_err() {
            log::error!("the writer of charges panicked: {} charges were refused", batch.len());
        }
    }
}

fn write(shared: &Shared, batch: &[Pending]) {
    let events: Vec<&Event> = batch.iter().map(|pending| &pending.event).collect();
    let receipts = match shared.is_available() {
        true => commit_soon(&shared.db, &events),
        false => Err(db::Error::Unavailable("it was away a moment ago".to_owned())),
    };
    match receipts {
        Ok(receipts) => {
            shared.counters.committed(&receipts);
            batch.iter().zip(receipts).for_each(|(pending, receipt)| pending.finish(Ok(receipt)));
        }
        Err(e) => {
            if shared.is_available() {
                log::warn!("{} charges go to the journal: {e}", batch.len());
            }
            if e.is_outage() {
                shared.set_available(false);
            }
            write_to_journal(shared, batch, &events);
        }
    }
}

/// Commits, and once more if the connection was the trouble. Whether the first attempt got through does not matter:
/// the ids tell.
fn commit_soon(db: &Database, events: &[&Event]) -> Result<Vec<Receipt>, db::Error> {
    let began = Instant::now();
    match db.session().and_then(|mut session| commit(&mut session, events)) {
        Err(e) if e.is_outage() && began.elapsed() < PATIENCE => commit(&mut db.session()?, events),
        done => done,
    }
}

fn write_to_journal(shared: &Shared, batch: &[Pending], events: &[&Event]) {
    let outcome = shared.journal.append(events.iter().copied());
    match &outcome {
        Ok(()) => shared.counters.journaled(batch.len()),
        Err(e) => log::error!("{} charges were refused, the journal cannot take them: {e}", batch.len()),
    }
    for pending in batch {
        let receipt = Receipt { cost_micros: pending.event.cost_micros, duplicate: false };
        pending.finish(outcome.as_ref().map(|()| receipt).map_err(|_| Refused));
    }
}

/// Charges these events, one transaction for each day (UTC) among them: so nearly always one. The receipts are in the
/// order of the events.
///
/// # Errors
/// See [`db::Error`]. Some may have been charged; the same call finds out and charges the rest.
pub(super) fn commit(session: &mut db::Session, events: &[&Event]) -> Result<Vec<Receipt>, db::Error> {
    let first = |event: &Event| Receipt { cost_micros: event.cost_micros, duplicate: false };
    let mut receipts: Vec<Receipt> = events.iter().map(|event| first(event)).collect();
    let mut order: Vec<usize> = (0..events.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (events[*a], events[*b]);
        (a.created.date(), &a.id).cmp(&(b.created.date(), &b.id))
    });
    // Where an id comes twice on one day, its first place in the order.
    let mut again: Vec<(usize, usize)> = Vec::new();
    let mut duplicates: Vec<usize> = Vec::new();
    for day in order.chunk_by(|a, b| events[*a].created.date() == events[*b].created.date()) {
        let mut unique: Vec<usize> = Vec::with_capacity(day.len());
        for &n in day {
            match unique.last() {
                Some(&last) if events[last].id == events[n].id => again.push((n, last)),
                _ => unique.push(n),
            }
        }
        let batch: Vec<&Event> = unique.iter().map(|n| events[*n]).collect();
        let date = batch[0].created.date();
        for id in usage::charge(session, date, &batch)? {
            duplicates.extend(unique.iter().find(|n| events[**n].id == id));
        }
    }
    if !duplicates.is_empty() {
        look_up(session, events, &duplicates, &mut receipts)?;
    }
    for (n, first) in again {
        receipts[n] = Receipt { duplicate: true, ..receipts[first] };
    }
    Ok(receipts)
}

/// The receipts of charges whose ids are in the books: what the first one cost. One that was made at this very
/// microsecond is this one, by an attempt whose outcome got lost.
fn look_up(
    session: &mut db::Session,
    events: &[&Event],
    duplicates: &[usize],
    receipts: &mut [Receipt],
) -> Result<(), db::Error> {
    let ids = duplicates.iter().map(|n| events[*n].id.as_str()).collect();
    let users = duplicates.iter().map(|n| events[*n].user_id.as_str()).collect();
    let made = usage::made(session, ids, users)?;
    let made: HashMap<&str, &Made> = made.iter().map(|made| (made.id.as_str(), made)).collect();
    for &n in duplicates {
        let first = made.get(events[n].id.as_str());
        receipts[n] = Receipt {
            cost_micros: first.map_or(events[n].cost_micros, |first| first.cost_micros),
            duplicate: first.is_none_or(|first| first.created != events[n].created),
        };
    }
    Ok(())
}
