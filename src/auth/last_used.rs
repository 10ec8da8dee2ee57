//! When credentials were last used: collected in memory and written in batches, so that no request waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;

use super::{Caller, Via};
use crate::db::{Database, Error};
use crate::http::cookie::SESSION_DAYS;
use crate::store::{api_keys, sessions};

/// How often the collected times are written.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// The age at which a session's cookie is sent again, so that a browser in use stays signed in.
pub const RENEW_AFTER: time::Duration = time::Duration::DAY;

/// Maximum number of rows per statement.
const BATCH: usize = 1000;

/// Times that have not been written yet.
#[derive(Default)]
pub struct LastUsed {
    keys: Mutex<HashMap<String, OffsetDateTime>>,
    /// With whether the cookie is sent again.
    sessions: Mutex<HashMap<String, (OffsetDateTime, bool)>>,
}

/// Whether a session's cookie is old enough to be sent again.
pub fn is_renewal_due(renewed: OffsetDateTime, now: OffsetDateTime) -> bool {
    now - renewed >= RENEW_AFTER
}

impl LastUsed {
    /// An empty collection.
    pub fn new() -> Arc<LastUsed> {
        Arc::default()
    }

    /// Records that a caller's credential is used now.
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

    /// Writes the collected times. If that fails they are discarded, since the next use will record a later time.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn flush(&self, db: &Database) -> Result<(), Error> {
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

/// Sorted by id: all processes lock the rows in this order, and cannot deadlock.
fn sorted<T>(times: HashMap<String, T>) -> Vec<(String, T)> {
    let mut rows: Vec<_> = times.into_iter().collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}
