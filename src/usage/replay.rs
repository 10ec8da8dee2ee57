//! Replays journals: charges what they hold, of this process's own journal and of those that dead processes left.

use std::io;

use super::aside;
use super::commit::{BATCH, commit_durably};
use super::holder::Holder;
use super::record::Origin;
use super::recovery::{Orphan, journals};
use super::state::Shared;
use crate::db;
use crate::store::usage::charges::Event;
use crate::store::{installation, leases};

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

/// Replays the journals of dead processes, and removes them. Returns what is wrong with those that cannot be replayed,
/// which keeps no other from it.
///
/// # Errors
/// What is not in the database yet is still in the journals.
pub(super) fn replay_orphans(shared: &Shared, prefix: &str, origin: &Origin) -> Result<Vec<String>, Failure> {
    let mut problems = Vec::new();
    for path in journals(shared.journal.folder(), prefix)? {
        let name = path.display().to_string();
        let replayed = Orphan::adopt(path, origin).map_err(Failure::from).and_then(|orphan| match orphan {
            Some(orphan) => replay_orphan(shared, orphan),
            None => Ok(()),
        });
        match replayed {
            Err(e) if e.is_outage() => return Err(e),
            Err(e) => problems.push(format!("{name}: {e}")),
            Ok(()) => {}
        }
    }
    Ok(problems)
}

fn replay_orphan(shared: &Shared, mut orphan: Orphan) -> Result<(), Failure> {
    if orphan.is_unsigned() && !installation::takes_unsigned_journals(&mut shared.db.background()?)? {
        return Ok(orphan.put_aside()?);
    }
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

/// Charges these events. One that the database refuses for good is set aside, so that the others get through.
fn replay(shared: &Shared, events: &[Event]) -> Result<(), Failure> {
    let mut session = shared.db.background()?;
    let mut parts = vec![events];
    while let Some(part) = parts.pop() {
        match commit_durably(&mut session, &part.iter().collect::<Vec<&Event>>()) {
            Err(reason) if reason.is_refusal() && part.len() <= 1 => {
                for refused in part {
                    aside::write(shared.journal.folder(), refused, &reason.to_string())?;
                    shared.take_back(refused);
                }
            }
            Err(reason) if reason.is_refusal() => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
            done => {
                let receipts = done?;
                shared.counters.add_replayed(&receipts);
                shared.take_back_duplicates(part.iter(), &receipts);
                shared.kept.add(part.iter());
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
