//! When credentials were last used: gathered in memory, written in batches, never in the way of a request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;

use super::{Caller, Via};
use crate::db::{Database, Error};
use crate::http::cookie::SESSION_DAYS;
use crate::store::{api_keys, sessions};

/// How often the batch is written.
pub const WRITE_EVERY: Duration = Duration::from_secs(10);

/// A session's cookie is sent anew after this long, so that a browser in use stays signed in.
pub const RENEW_AFTER: time::Duration = time::Duration::DAY;

/// Rows written by one statement.
const BATCH: usize = 1000;

/// What waits to be written.
#[derive(Default)]
pub struct LastUsed {
    keys: Mutex<HashMap<String, OffsetDateTime>>,
    sessions: Mutex<HashMap<String, (OffsetDateTime, bool)>>,
}

/// Whether a session's cookie is old enough to be sent anew.
pub fn is_renewal_due(renewed: OffsetDateTime, now: OffsetDateTime) -> bool {
    now - renewed >= RENEW_AFTER
}

impl LastUsed {
    /// Nothing yet.
    pub fn new() -> Arc<LastUsed> {
        Arc::default()
    }

    /// Notes that a caller's credential was used just now.
    pub fn record(&self, caller: &Caller) {
        let now = OffsetDateTime::now_utc();
        match &caller.via {
            Via::Key { id, .. } => {
                self.keys.lock().insert(id.clone(), now);
            }
            Via::Session { id, renewed, .. } => {
                self.sessions.lock().insert(id.clone(), (now, is_renewal_due(*renewed, now)));
            }
        }
    }

    /// Writes what was noted. What cannot be written is forgotten: the next use notes it again.
    ///
    /// # Errors
    /// The database is away.
    pub fn write(&self, db: &Database) -> Result<(), Error> {
        let keys = sorted(std::mem::take(&mut *self.keys.lock()));
        let used = sorted(std::mem::take(&mut *self.sessions.lock()));
        if keys.is_empty() && used.is_empty() {
            return Ok(());
        }
        let mut session = db.session()?;
        for batch in keys.chunks(BATCH) {
            let (ids, times) = batch.iter().cloned().unzip();
            api_keys::touch(&mut session, &ids, &times)?;
        }
        for batch in used.chunks(BATCH) {
            let (ids, times) = batch.iter().map(|(id, (time, _))| (id.clone(), *time)).unzip();
            let renewed = batch.iter().filter(|(_, (_, renewed))| *renewed).map(|(id, _)| id.clone()).collect();
            sessions::touch(&mut session, &ids, &times, &renewed, SESSION_DAYS * 86_400)?;
        }
        Ok(())
    }
}

/// In the order of ids, in which every writer locks.
fn sorted<T>(noted: HashMap<String, T>) -> Vec<(String, T)> {
    let mut rows: Vec<_> = noted.into_iter().collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}
