//! What other processes change, brought to the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Cache;
use crate::db::{Database, listen};

/// The channel on which the triggers of `0005_notify.sql` speak; the payload is a user's id, or [`EVERYBODY`].
pub const CHANNEL: &str = "textgen_auth";

/// What is said when a table was emptied.
const EVERYBODY: &str = "*";

/// Brings notifications to the cache.
pub struct Revocations {
    /// Whose entries are dropped.
    pub cache: Arc<Cache>,
    /// Whose connections are looked at after a loss.
    pub db: Database,
    /// Set when the process ends.
    pub stopped: Arc<AtomicBool>,
    /// Whether the log knows that nothing is heard.
    pub told: AtomicBool,
}

impl listen::Listener for Revocations {
    fn connected(&self) {
        log::info!("listening for revocations");
        self.told.store(false, Ordering::Relaxed);
        self.cache.listening();
    }

    fn notified(&self, user_id: &str) {
        match user_id {
            EVERYBODY => self.cache.revoke_all(),
            _ => self.cache.revoke(user_id),
        }
    }

    fn lost(&self, reason: &str, silently: bool) {
        if !self.told.swap(true, Ordering::Relaxed) {
            log::warn!("revocations are not heard of, every caller is looked up: {reason}");
        }
        if self.cache.is_listening() {
            self.cache.deaf();
            self.db.connection_lost(silently);
        }
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
