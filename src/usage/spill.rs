//! Handles charges after an attempt to commit them: answers the requests that wait for them, retries them, or writes them
//! to the journal.

use std::time::{Duration, Instant};

use super::commit::{commit_durably, first, portions};
use super::queue::{Pending, Refused};
use super::state::Shared;
use super::{Receipt, aside};
use crate::db;
use crate::store::usage::charges::Event;

/// Charges that are written to the journal together. This many fit into the headroom for running requests.
const JOURNAL_BATCH: usize = 200;

/// After a failure that took longer than this, charges go to the journal without a retry: requests are waiting.
const RETRY_WITHIN: Duration = Duration::from_secs(1);

/// The events of these charges.
pub(super) fn events(charges: &[Pending]) -> Vec<&Event> {
    charges.iter().map(|pending| &pending.event).collect()
}

/// Answers the requests that wait for these charges, whose commit began at this time.
pub(super) fn finish(shared: &Shared, charges: &[Pending], receipts: Vec<Receipt>, began: Instant) {
    shared.counters.add_committed(charges.iter().map(|pending| &pending.event), &receipts, began);
    shared.kept.add(charges.iter().map(|pending| &pending.event));
    charges.iter().zip(receipts).for_each(|(pending, receipt)| pending.finish(Ok(receipt)));
}

/// Retries charges whose outcome is unknown or that failed, if a retry may help; otherwise writes them to the journal. It
/// does not matter whether the first attempt succeeded: their ids prevent charging twice.
pub(super) fn retry_or_spill(shared: &Shared, charges: &[Pending], began: Instant, e: db::Error) {
    let mut failure = e;
    if failure.is_outage() && shared.is_available() && began.elapsed() < RETRY_WITHIN {
        match shared.db.durable().and_then(|mut session| commit_durably(&mut session, &events(charges))) {
            Ok(receipts) => return finish(shared, charges, receipts, began),
            Err(e) => failure = e,
        }
    }
    if failure.is_refusal() {
        return charge_apart(shared, charges);
    }
    spill(shared, charges, &failure);
}

/// Writes charges to the journal after a failure.
fn spill(shared: &Shared, charges: &[Pending], failure: &db::Error) {
    if shared.is_available() {
        log::warn!("writing {} charges to the journal: {failure}", charges.len());
    }
    if failure.is_outage() {
        shared.set_available(false);
    }
    write_to_journal(shared, charges);
}

/// The database refuses one of these, or more: charges the others, in halves, and sets those aside.
fn charge_apart(shared: &Shared, charges: &[Pending]) {
    let mut parts = vec![charges];
    while let Some(part) = parts.pop() {
        if !shared.is_available() {
            write_to_journal(shared, part);
            continue;
        }
        let began = Instant::now();
        match shared.db.durable().and_then(|mut session| commit_durably(&mut session, &events(part))) {
            Ok(receipts) => finish(shared, part, receipts, began),
            Err(e) if !e.is_refusal() => spill(shared, part, &e),
            Err(e) if part.len() <= 1 => part.iter().for_each(|refused| set_aside(shared, refused, &e)),
            Err(_) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
        }
    }
}

/// Sets a charge aside. Its request has had its answer from a model and goes on, as if the charge were in the journal.
fn set_aside(shared: &Shared, pending: &Pending, reason: &db::Error) {
    let event = &pending.event;
    match aside::write(shared.journal.folder(), event, &reason.to_string()) {
        Ok(()) => {
            pending.finish(Ok(first(event)));
            shared.take_back(event);
        }
        Err(e) => {
            log::error!("a charge was refused, and cannot be set aside: {e}");
            shared.doubts.add(pending);
            pending.finish(Err(Refused));
        }
    }
}

/// Writes charges to the journal, and answers the requests that wait for them.
pub(super) fn write_to_journal(shared: &Shared, charges: &[Pending]) {
    for batch in charges.chunks(JOURNAL_BATCH) {
        portions(batch, |pending| pending.event.reply_bytes()).for_each(|batch| write_batch_to_journal(shared, batch));
    }
}

fn write_batch_to_journal(shared: &Shared, charges: &[Pending]) {
    let outcome = shared.journal.append(charges.iter().map(|pending| &pending.event));
    match &outcome {
        Ok(()) => shared.counters.add_journaled(charges.iter().map(|pending| &pending.event)),
        Err(e) => log::error!("{} charges refused, cannot write to the journal: {e}", charges.len()),
    }
    for pending in charges {
        if outcome.is_err() {
            shared.doubts.add(pending);
        }
        pending.finish(outcome.as_ref().map(|()| first(&pending.event)).map_err(|_| Refused));
    }
}
