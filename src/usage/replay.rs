//! Brings what is in journals to the database: this process's own, and those that dead processes left.

use std::io::{self, Write};

use super::meter::Shared;
use super::recovery::{Orphan, orphans};
use super::writer::{MOST, commit_durably};
use crate::db;
use crate::store::charges::Event;

/// Why charges stay in a journal.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The database did not take them.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The journal cannot be read.
    #[error("the journal: {0}")]
    Journal(#[from] io::Error),
}

impl Failure {
    /// Whether the database is away.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Failure::Database(e) if e.is_outage())
    }
}

/// Empties this process's journal into the database.
///
/// # Errors
/// What is not in the database yet is still in the journal.
pub(super) fn own(shared: &Shared) -> Result<(), Failure> {
    let mut count = 0;
    while let Some(portion) = shared.journal.portion().inspect_err(|_| shared.journal.abandon())? {
        for events in portion.events.chunks(MOST) {
            bring(shared, events)?;
        }
        count += portion.events.len();
        shared.journal.done(&portion)?;
    }
    if count > 0 {
        log::info!("{count} charges were brought from the journal to the database");
    }
    Ok(())
}

/// Brings the journals of processes that are gone, and removes them.
///
/// # Errors
/// What is not in the database yet is still in the journals.
pub(super) fn of_the_dead(shared: &Shared, prefix: &str) -> Result<(), Failure> {
    for orphan in orphans(shared.journal.folder(), prefix)? {
        bring_orphan(shared, orphan)?;
    }
    Ok(())
}

fn bring_orphan(shared: &Shared, mut orphan: Orphan) -> Result<(), Failure> {
    let mut count = 0;
    loop {
        let events = orphan.read(MOST)?;
        if events.is_empty() {
            break;
        }
        bring(shared, &events)?;
        count += events.len();
    }
    let path = orphan.path().display().to_string();
    orphan.finish()?;
    if count > 0 {
        log::warn!("{count} charges that a process left in {path} were brought to the database");
    }
    Ok(())
}

/// Charges these events. One that the database can never hold is put aside, so that the others get through.
fn bring(shared: &Shared, events: &[Event]) -> Result<(), Failure> {
    let all: Vec<&Event> = events.iter().collect();
    let mut session = shared.db.patient()?;
    match commit_durably(&mut session, &all) {
        Err(db::Error::Value(_)) => {}
        done => {
            shared.counters.replayed(&done?);
            return Ok(());
        }
    }
    for event in all {
        match commit_durably(&mut session, &[event]) {
            Err(db::Error::Value(reason)) => put_aside(shared, event, &reason)?,
            done => shared.counters.replayed(&done?),
        }
    }
    Ok(())
}

/// Writes a charge to a file that people look at.
fn put_aside(shared: &Shared, event: &Event, reason: &str) -> io::Result<()> {
    let path = shared.journal.folder().join("rejected.jsonl");
    log::error!("the charge {} was put aside in {}: {reason}", event.id, path.display());
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_all()
}
