//! Brings charges to the database, many at once: group commit. There is no delay; what arrives while one batch is
//! written is the next. A second thread tells the requests, while the writer works on.
//!
//! Where the disk is quick, a commit waits for it. Where it is slow, the rows of a batch must not stay locked for so
//! long, as other processes charge the same people: the writer commits without waiting, and the second thread makes all
//! that was committed durable at once.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Receipt;
use super::meter::Shared;
use super::queue::{Pending, Refused};
use super::totals;
use crate::db;
use crate::store::charges::{self, Event, Made};

/// Most charges of one transaction.
pub(super) const MOST: usize = 1000;

/// Charges that the journal takes all or none of. So many fit into the room that is left for work under way.
const JOURNALED_AT_ONCE: usize = 200;

/// A failure that came later than this is not tried again before the journal is used: requests wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// A disk that syncs in less than this is quick.
const QUICK_DISK: Duration = Duration::from_millis(2);

/// One batch of so many is committed as for a slow disk, to see whether it still is quick.
const PROBE_EVERY: u32 = 100;

/// Batches that are committed and whose requests do not know it yet.
#[derive(Default)]
pub(super) struct Committed {
    state: Mutex<State>,
    arrival: Condvar,
    /// The last sync of the disk took less than [`QUICK_DISK`].
    is_disk_quick: AtomicBool,
}

#[derive(Default)]
struct State {
    batches: Vec<Batch>,
    /// The writer has ended.
    is_last: bool,
}

struct Batch {
    charges: Vec<Pending>,
    receipts: Vec<Receipt>,
    began: Instant,
    is_durable: bool,
}

impl Committed {
    fn add(&self, batch: Batch) {
        self.state.lock().batches.push(batch);
        self.arrival.notify_one();
    }

    fn end(&self) {
        self.state.lock().is_last = true;
        self.arrival.notify_one();
    }

    /// All there are, once there are any; `None` after the end.
    fn take(&self) -> Option<Vec<Batch>> {
        let mut state = self.state.lock();
        while state.batches.is_empty() && !state.is_last {
            self.arrival.wait(&mut state);
        }
        Some(std::mem::take(&mut state.batches)).filter(|batches| !batches.is_empty())
    }
}

/// Writes until the queue ends.
pub(super) fn run(shared: &Shared) {
    let mut batches = 0_u32;
    while let Some(mut charges) = shared.queue.take(MOST) {
        charges.retain(|pending| !pending.is_given_up());
        if charges.is_empty() {
            continue;
        }
        let is_probe = batches.is_multiple_of(PROBE_EVERY);
        batches = batches.wrapping_add(1);
        guarded(|| write(shared, charges, is_probe));
    }
    shared.committed.end();
}

/// The connection that makes what was written durable. It is kept: that it still works shows that the server has not
/// crashed since it was taken, so that nothing committed since then is lost.
struct Witness {
    session: db::Session,
    since: Instant,
}

/// Makes what was written durable and tells the requests, until the writer has ended.
pub(super) fn tell(shared: &Shared) {
    let mut witness = None;
    while let Some(batches) = shared.committed.take() {
        guarded(|| {
            let (durable, others): (Vec<_>, Vec<_>) = batches.into_iter().partition(|batch| batch.is_durable);
            for batch in durable {
                finish(shared, &batch.charges, batch.receipts);
            }
            if !others.is_empty() {
                witness = sync_all(shared, witness.take(), others);
            }
        });
    }
}

/// A charge that is dropped is refused, so a panic costs only those at hand.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        log::error!("the writer of charges panicked: some were refused");
    }
}

fn write(shared: &Shared, charges: Vec<Pending>, is_probe: bool) {
    let began = Instant::now();
    if !shared.is_available() {
        return write_to_journal(shared, &charges);
    }
    let waits = !is_probe && shared.committed.is_disk_quick.load(Relaxed);
    let session = if waits { shared.db.durable() } else { shared.db.quick() };
    match session.and_then(|mut session| commit_new(&mut session, &events(&charges))) {
        Ok((receipts, found)) => {
            // What others made may not be durable yet, and a transaction that changes nothing waits for no disk.
            let is_durable = waits && !found;
            shared.committed.add(Batch { charges, receipts, began, is_durable });
        }
        Err(e) => rescue(shared, &charges, began, e),
    }
}

fn sync_all(shared: &Shared, witness: Option<Witness>, batches: Vec<Batch>) -> Option<Witness> {
    let take = || shared.db.durable().map(|session| Witness { session, since: Instant::now() });
    let synced = witness.map_or_else(take, Ok).and_then(|mut witness| {
        let began = Instant::now();
        charges::sync(&mut witness.session)?;
        shared.committed.is_disk_quick.store(began.elapsed() < QUICK_DISK, Relaxed);
        Ok(witness)
    });
    let (since, failure) = match &synced {
        Ok(witness) => (Some(witness.since), "committed before a crash, for all that is known".to_owned()),
        Err(e) => (None, e.to_string()),
    };
    for batch in batches {
        if since.is_some_and(|since| since <= batch.began) {
            finish(shared, &batch.charges, batch.receipts);
        } else {
            rescue(shared, &batch.charges, batch.began, db::Error::Unavailable(failure.clone()));
        }
    }
    synced.ok()
}

fn events(charges: &[Pending]) -> Vec<&Event> {
    charges.iter().map(|pending| &pending.event).collect()
}

fn finish(shared: &Shared, charges: &[Pending], receipts: Vec<Receipt>) {
    shared.counters.committed(&receipts);
    charges.iter().zip(receipts).for_each(|(pending, receipt)| pending.finish(Ok(receipt)));
}

/// What to do with charges that may be made, or not: once more, durably, if that may help; else the journal. Whether
/// the first attempt got through does not matter: the ids tell.
fn rescue(shared: &Shared, charges: &[Pending], began: Instant, e: db::Error) {
    let mut failure = e;
    if failure.is_outage() && shared.is_available() && began.elapsed() < PATIENCE {
        match shared.db.durable().and_then(|mut session| commit_durably(&mut session, &events(charges))) {
            Ok(receipts) => return finish(shared, charges, receipts),
            Err(e) => failure = e,
        }
    }
    if shared.is_available() {
        log::warn!("{} charges go to the journal: {failure}", charges.len());
    }
    if failure.is_outage() {
        shared.set_available(false);
    }
    write_to_journal(shared, charges);
}

fn write_to_journal(shared: &Shared, charges: &[Pending]) {
    charges.chunks(JOURNALED_AT_ONCE).for_each(|some| write_some_to_journal(shared, some));
}

fn write_some_to_journal(shared: &Shared, charges: &[Pending]) {
    let outcome = shared.journal.append(charges.iter().map(|pending| &pending.event));
    match &outcome {
        Ok(()) => shared.counters.journaled(charges.len()),
        Err(e) => log::error!("{} charges were refused, the journal cannot take them: {e}", charges.len()),
    }
    for pending in charges {
        pending.finish(outcome.as_ref().map(|()| first(&pending.event)).map_err(|_| Refused));
    }
}

/// [`commit`], and what it finds made already is durable, too, when it returns: a transaction that changes nothing
/// waits for no disk by itself.
///
/// # Errors
/// As [`commit`].
pub(super) fn commit_durably(session: &mut db::Session, events: &[&Event]) -> Result<Vec<Receipt>, db::Error> {
    let (receipts, _) = commit(session, events)?;
    charges::sync(session)?;
    Ok(receipts)
}

/// [`commit`], where none of these was tried before.
///
/// # Errors
/// As [`commit`].
fn commit_new(session: &mut db::Session, events: &[&Event]) -> Result<(Vec<Receipt>, bool), db::Error> {
    if events.iter().any(|event| event.may_repeat) {
        return commit(session, events);
    }
    let mut by_day = events.to_vec();
    by_day.sort_by(|a, b| in_order(a, b));
    for day in by_day.chunk_by(|a, b| is_same_day(a, b)) {
        totals::charge_new(session, day[0].created.date(), day)?;
    }
    Ok((events.iter().map(|event| first(event)).collect(), false))
}

/// By day, and on a day by id: the order in which every writer locks ids.
fn in_order(a: &Event, b: &Event) -> Ordering {
    (a.created.date(), &a.id).cmp(&(b.created.date(), &b.id))
}

fn is_same_day(a: &Event, b: &Event) -> bool {
    a.created.date() == b.created.date()
}

/// What the charge costs, if it is new.
fn first(event: &Event) -> Receipt {
    Receipt { cost_micros: event.cost_micros, duplicate: false }
}

/// Charges these events, one transaction for each day (UTC) among them: so nearly always one. Returns the receipts in
/// the order of the events, and whether some were found to be made already.
///
/// # Errors
/// See [`db::Error`]. Some may have been charged; the same call finds out and charges the rest.
fn commit(session: &mut db::Session, events: &[&Event]) -> Result<(Vec<Receipt>, bool), db::Error> {
    let mut receipts: Vec<Receipt> = events.iter().map(|event| first(event)).collect();
    let mut order: Vec<usize> = (0..events.len()).collect();
    order.sort_by(|a, b| in_order(events[*a], events[*b]));
    // Where an id comes twice on one day, its first place in the order.
    let mut again: Vec<(usize, usize)> = Vec::new();
    let mut duplicates: Vec<usize> = Vec::new();
    for day in order.chunk_by(|a, b| is_same_day(events[*a], events[*b])) {
        let mut unique: Vec<usize> = Vec::with_capacity(day.len());
        for &n in day {
            match unique.last() {
                Some(&last) if events[last].id == events[n].id => again.push((n, last)),
                _ => unique.push(n),
            }
        }
        let batch: Vec<&Event> = unique.iter().map(|n| events[*n]).collect();
        let date = batch[0].created.date();
        for id in totals::charge(session, date, &batch)? {
            duplicates.extend(unique.iter().find(|n| events[**n].id == id));
        }
    }
    if !duplicates.is_empty() {
        look_up(session, events, &duplicates, &mut receipts)?;
    }
    for (n, first) in again {
        receipts[n] = Receipt { duplicate: true, ..receipts[first] };
    }
    Ok((receipts, !duplicates.is_empty()))
}

/// The receipts of charges whose ids are in the books: what the first one cost. One that was made at this very
/// microsecond is this one, by an attempt whose outcome got lost.
fn look_up(
    session: &mut db::Session,
    events: &[&Event],
    duplicates: &[usize],
    receipts: &mut [Receipt],
) -> Result<(), db::Error> {
    let repeated: Vec<&Event> = duplicates.iter().map(|n| events[*n]).collect();
    let made = charges::made(session, &repeated)?;
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
