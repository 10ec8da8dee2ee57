//! Writes charges to the ledger: chooses the statement, orders the rows, and recognises duplicates.

use std::cmp::Ordering;
use std::collections::HashMap;

use time::{Date, OffsetDateTime};

use super::Receipt;
use crate::db;
use crate::store::leases;
use crate::store::replies::KeptReply;
use crate::store::usage::charges::{self, EarlierCharge, Event};
use crate::store::usage::days;

/// Maximum number of charges per transaction.
pub(super) const BATCH: usize = 1000;

/// Bytes of kept replies after which a statement or a write to the journal takes no further charge.
pub(super) const PORTION: usize = 4 << 20;

/// Like [`commit`], but earlier charges that turn out to be duplicates are durable on return as well: a transaction
/// that changes nothing does not wait for the disk by itself.
///
/// # Errors
/// As [`commit`].
pub(super) fn commit_durably(session: &mut db::Session, events: &[&Event]) -> Result<Vec<Receipt>, db::Error> {
    let (receipts, _) = commit(session, events, false)?;
    charges::sync(session)?;
    Ok(receipts)
}

/// Like [`commit`], for events that were never tried before.
///
/// # Errors
/// As [`commit`].
pub(super) fn commit_new(session: &mut db::Session, events: &[&Event]) -> Result<(Vec<Receipt>, bool), db::Error> {
    if !events.iter().all(|event| is_new(event)) {
        return commit(session, events, true);
    }
    let mut by_day = events.to_vec();
    by_day.sort_by(|a, b| compare(a, b));
    for day in by_day.chunk_by(|a, b| is_same_day(a, b)) {
        for portion in portions(day, |event| event.reply_bytes()) {
            match charge_new(session, day[0].created.date(), portion) {
                // The claim of a key was lost, and another request with it was charged.
                Err(db::Error::Unique(_)) if portion.iter().any(|event| event.reply.is_some()) => {
                    return commit(session, events, true);
                }
                charged => charged?,
            }
        }
    }
    Ok((events.iter().map(|event| first(event)).collect(), false))
}

/// Whether nothing can make it a duplicate but a lost claim, which the unique index of its day notices. So its key must
/// have been claimed on that day, even by a clock that differs: then what was charged on the day before was found, or
/// comes from a journal, and its reply is kept on this day too. It must also be committed on that day, before a charge
/// of the next one could miss it.
fn is_new(event: &Event) -> bool {
    const CLOCKS_DIFFER: time::Duration = time::Duration::hours(1);
    const COMMIT_TAKES: time::Duration = time::Duration::minutes(5);
    let is_within = |day, reply: &KeptReply| {
        reply.claimed.is_some_and(|claimed| (claimed - CLOCKS_DIFFER).date() == day)
            && (event.created + COMMIT_TAKES).date() == day
    };
    !event.client_supplied && event.reply.as_ref().is_none_or(|reply| is_within(event.created.date(), reply))
}

/// Cuts `all` into portions of about [`PORTION`] bytes.
pub(super) fn portions<T>(mut all: &[T], bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |item: &&T| {
            let is_open = sum < PORTION;
            sum += bytes(item);
            is_open
        };
        let length = all.iter().take_while(fits).count();
        let (portion, rest) = all.split_at(length);
        all = rest;
        (!portion.is_empty()).then_some(portion)
    })
}

/// By day, then by id: the order in which every writer locks ids.
fn compare(a: &Event, b: &Event) -> Ordering {
    (a.created.date(), &a.id).cmp(&(b.created.date(), &b.id))
}

fn is_same_day(a: &Event, b: &Event) -> bool {
    a.created.date() == b.created.date()
}

/// The receipt of a charge that was not made before.
pub(super) fn first(event: &Event) -> Receipt {
    Receipt { cost_micros: event.cost().micros(), duplicate: false }
}

/// Charges these events in one transaction per day (UTC) and per [`PORTION`], so nearly always in one. Returns the
/// receipts in the order of the events, and whether some were duplicates. At the first try it fails if the leases that
/// are to pay for them have ended.
///
/// # Errors
/// See [`db::Error`]. Some may have been charged; repeating the call charges only the others.
fn commit(session: &mut db::Session, events: &[&Event], is_first_try: bool) -> Result<(Vec<Receipt>, bool), db::Error> {
    let mut receipts: Vec<Receipt> = events.iter().map(|event| first(event)).collect();
    let mut order: Vec<usize> = (0..events.len()).collect();
    order.sort_by(|a, b| compare(events[*a], events[*b]));
    // For ids that occur twice on one day: the index of the repetition, and that of the first.
    let mut repetitions: Vec<(usize, usize)> = Vec::new();
    let mut duplicates: Vec<usize> = Vec::new();
    for day in order.chunk_by(|a, b| is_same_day(events[*a], events[*b])) {
        let mut unique: Vec<usize> = Vec::with_capacity(day.len());
        for &n in day {
            match unique.last() {
                Some(&last) if events[last].id == events[n].id => repetitions.push((n, last)),
                _ => unique.push(n),
            }
        }
        let batch: Vec<&Event> = unique.iter().map(|n| events[*n]).collect();
        let date = batch[0].created.date();
        for portion in portions(&batch, |event| event.reply_bytes()) {
            for id in charge(session, date, portion, is_first_try)? {
                duplicates.extend(unique.iter().find(|n| events[**n].id == id));
            }
        }
    }
    if !duplicates.is_empty() {
        look_up(session, events, &duplicates, &mut receipts)?;
    }
    for (n, first) in repetitions {
        receipts[n] = Receipt { duplicate: true, ..receipts[first] };
    }
    Ok((receipts, !duplicates.is_empty()))
}

/// Sets the receipts of charges whose ids are already in the ledger to the cost of the first charge. If even the time
/// in microseconds is the same, it is the same charge, made by an attempt whose outcome was lost.
fn look_up(
    session: &mut db::Session,
    events: &[&Event],
    duplicates: &[usize],
    receipts: &mut [Receipt],
) -> Result<(), db::Error> {
    let repeated: Vec<&Event> = duplicates.iter().map(|n| events[*n]).collect();
    let earlier = charges::find_earlier(session, &repeated)?;
    let earlier: HashMap<&str, &EarlierCharge> = earlier.iter().map(|charge| (charge.id.as_str(), charge)).collect();
    for &n in duplicates {
        let first = earlier.get(events[n].id.as_str());
        receipts[n] = Receipt {
            cost_micros: first.map_or(events[n].cost_micros, |first| first.cost_micros),
            duplicate: first.is_none_or(|first| first.created != events[n].created),
        };
    }
    Ok(())
}

/// Like [`charges::charge`]; leases are settled, and if the day's total may be final already, it is recomputed.
fn charge(
    session: &mut db::Session,
    day: Date,
    events: &[&Event],
    is_first_try: bool,
) -> Result<Vec<String>, db::Error> {
    if !is_late(day) && events.iter().all(|event| event.leases.is_none()) {
        return charges::charge(session, day, events);
    }
    let mut transaction = session.transaction()?;
    let earlier = match is_late(day) {
        true => days::charge_late(&mut transaction, day, events)?,
        false => charges::charge(&mut transaction, day, events)?,
    };
    // What was charged before was settled with it.
    let is_new = |event: &&&Event| !earlier.contains(&event.id);
    let settlements: Vec<_> = events.iter().filter(is_new).flat_map(|event| event.settlements()).collect();
    if !settlements.is_empty() {
        leases::settle(&mut transaction, &settlements, is_first_try)?;
    }
    transaction.commit()?;
    Ok(earlier)
}

/// Like [`charge`], for events that were never tried before.
fn charge_new(session: &mut db::Session, day: Date, events: &[&Event]) -> Result<(), db::Error> {
    match is_late(day) {
        true => charge(session, day, events, true).map(drop),
        false => charges::charge_new(session, day, events),
    }
}

/// Whether the day's total may be final. The totals of today and yesterday never are, so nearly every charge takes one
/// statement.
fn is_late(day: Date) -> bool {
    OffsetDateTime::now_utc().date().previous_day().is_some_and(|yesterday| day < yesterday)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::tests::event;

    #[test]
    fn a_charge_with_a_key_is_new_only_well_within_a_day() {
        let at = |hour, minute| {
            let day = Date::from_calendar_date(2026, time::Month::November, 27).unwrap();
            day.with_hms(hour, minute, 0).unwrap().assume_utc()
        };
        let is_new_at = |claimed, created| {
            let reply = KeptReply {
                key: "k".to_owned(),
                fingerprint: Vec::new(),
                status: 200,
                headers: String::new(),
                body: None,
                bytes: 0,
                claimed,
            };
            is_new(&Event { created, reply: Some(Box::new(reply)), ..event("a") })
        };
        assert!(is_new(&Event { created: at(0, 0), ..event("a") }), "without a key");
        assert!(is_new_at(Some(at(1, 0)), at(23, 54)));
        assert!(!is_new_at(Some(at(0, 59)), at(12, 0)), "claimed when charges of yesterday were being made");
        assert!(!is_new_at(Some(at(23, 0)), at(23, 55)), "a charge of tomorrow may begin before it is committed");
        assert!(!is_new_at(None, at(12, 0)), "from a journal");
    }
}
