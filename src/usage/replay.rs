//! Replays journals: charges what they hold, of this process's own journal and of those that dead processes left.

use std::io::{self, Write};

use super::commit::{BATCH, commit_durably};
use super::holder::Holder;
use super::recovery::{Orphan, orphans};
use super::state::Shared;
use crate::db;
use crate::store::leases;
use crate::store::usage::charges::Event;

/// Why a journal was not replayed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The database did not accept them.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The journal cannot be read.
    #[error("the journal: {0}")]
    Journal(#[from] io::Error),
}

impl Failure {
    /// Whether the database is down.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Failure::Database(e) if e.is_outage())
    }
}

/// Replays this process's own journal.
///
/// # Errors
/// What is not in the database yet is still in the journal.
pub(super) fn replay_own(shared: &Shared) -> Result<(), Failure> {
    let mut count = 0;
    while let Some(portion) = shared.journal.portion().inspect_err(|_| shared.journal.abandon())? {
        for events in portion.events.chunks(BATCH) {
            replay(shared, events)?;
        }
        count += portion.events.len();
        shared.journal.done(&portion)?;
    }
    if count > 0 {
        log::info!("replayed {} from the journal", charges(count));
    }
    Ok(())
}

/// Replays the journals of dead processes, and removes them.
///
/// # Errors
/// What is not in the database yet is still in the journals.
pub(super) fn replay_orphans(shared: &Shared, prefix: &str) -> Result<(), Failure> {
    for orphan in orphans(shared.journal.folder(), prefix)? {
        replay_orphan(shared, orphan)?;
    }
    Ok(())
}

fn replay_orphan(shared: &Shared, mut orphan: Orphan) -> Result<(), Failure> {
    let mut count = 0;
    loop {
        let events = orphan.read(BATCH)?;
        if events.is_empty() {
            break;
        }
        replay(shared, &events)?;
        count += events.len();
    }
    let path = orphan.path().display().to_string();
    orphan.finish()?;
    if count > 0 {
        log::warn!("replayed {} from {path}, which a dead process left", charges(count));
    }
    Ok(())
}

/// The number with its noun.
fn charges(count: usize) -> String {
    format!("{count} {}", if count == 1 { "charge" } else { "charges" })
}

/// Charges these events. One that the database can never hold is set aside, so that the others get through.
fn replay(shared: &Shared, events: &[Event]) -> Result<(), Failure> {
    let all: Vec<&Event> = events.iter().collect();
    let mut session = shared.db.background()?;
    match commit_durably(&mut session, &all) {
        Err(db::Error::Value(_)) => {}
        done => {
            let receipts = done?;
            shared.counters.add_replayed(&receipts);
            shared.take_back_duplicates(events.iter(), &receipts);
            shared.kept.add(events.iter());
            return Ok(());
        }
    }
    for event in all {
        match commit_durably(&mut session, &[event]) {
            Err(db::Error::Value(reason)) => {
                set_aside(shared, event, &reason)?;
                shared.take_back(event);
            }
            done => {
                let receipts = done?;
                shared.counters.add_replayed(&receipts);
                shared.take_back_duplicates(std::iter::once(event), &receipts);
            }
        }
    }
    Ok(())
}

/// Ends the leases of dead processes, whose journals are all replayed.
///
/// # Errors
/// Some leases may not have ended yet.
pub(super) fn end_dead_holders(shared: &Shared, prefix: &str) -> Result<(), Failure> {
    let folder = shared.journal.folder();
    for dead in Holder::dead(folder, prefix)? {
        if !dead.has_journals(folder)? {
            end_holder(shared, dead)?;
        }
    }
    Ok(())
}

/// Ends the leases of this process, which makes no charges any more, unless its journal is left for another one.
///
/// # Errors
/// Another process will end them.
pub(super) fn end_own_holder(shared: &Shared) -> Result<(), Failure> {
    let Some(own) = shared.holder.lock().take() else { return Ok(()) };
    if own.has_journals(shared.journal.folder())? {
        return Ok(());
    }
    if shared.limits.has_asked() { end_holder(shared, own) } else { Ok(own.remove()?) }
}

fn end_holder(shared: &Shared, holder: Holder) -> Result<(), Failure> {
    leases::end(&mut shared.db.background()?, holder.id())?;
    Ok(holder.remove()?)
}

/// Writes a charge to a file for the operator to look at.
fn set_aside(shared: &Shared, event: &Event, reason: &str) -> io::Result<()> {
    let path = shared.journal.folder().join("rejected.jsonl");
    log::error!("charge {} was set aside in {}: {reason}", event.id, path.display());
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_all()
}
