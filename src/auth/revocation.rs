//! Applies changes made by other processes to the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Cache;
use crate::db::{Database, listen};

/// The channel of the triggers in `0005_notify.sql`. The payload is the id of the user that changed, or
/// [`ALL_USERS`].
pub const CHANNEL: &str = "textgen_auth";

/// The payload when a whole table was truncated.
const ALL_USERS: &str = "*";

/// Receives the notifications.
pub struct Revocations {
    /// The cache to which they apply.
    pub cache: Arc<Cache>,
    /// The pool that checks its connections when the listening one is lost.
    pub db: Database,
    /// Set when the process ends.
    pub stopped: Arc<AtomicBool>,
    /// Whether the present loss of the connection has been logged.
    pub is_loss_logged: AtomicBool,
}

impl listen::Listener for Revocations {
    fn connected(&self) {
        log::info!("listening for revocations");
        self.is_loss_logged.store(false, Ordering::Relaxed);
        self.cache.subscribed();
    }

    fn notified(&self, _: &str, user_id: &str) {
        match user_id {
            ALL_USERS => self.cache.revoke_all(),
            _ => self.cache.revoke(user_id),
        }
    }

    fn lost(&self, reason: &str, silently: bool) {
        if !self.is_loss_logged.swap(true, Ordering::Relaxed) {
            log::warn!("not receiving revocations, so every credential is looked up in the database: {reason}");
        }
        if self.cache.is_subscribed() {
            self.cache.unsubscribed();
            self.db.connection_lost(silently);
        }
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
