//! How many bytes of replies were kept for each account lately, so that the oldest can be dropped now and then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::Connections;
use crate::db;
use crate::store::replies;
use crate::store::usage::charges::Event;

/// The part of an account's share that this process may add before the oldest bodies are dropped.
const SLACK: u64 = 8;

/// Most accounts that are counted; beyond it, counting begins anew.
const MAX_ACCOUNTS: usize = 100_000;

/// The bytes that were added for each account since its oldest bodies were dropped.
pub(super) struct KeptBytes {
    most: AtomicU64,
    added: Mutex<HashMap<String, u64>>,
}

impl Default for KeptBytes {
    fn default() -> KeptBytes {
        KeptBytes { most: AtomicU64::new(u64::MAX), added: Mutex::default() }
    }
}

impl KeptBytes {
    /// Keeps at most about this many bytes for each account.
    pub(super) fn set_most(&self, most: u64) {
        self.most.store(most, Relaxed);
    }

    /// Counts the replies of charges that were made.
    pub(super) fn add<'e>(&self, events: impl Iterator<Item = &'e Event>) {
        let mut replies = events.filter(|event| event.reply.is_some()).peekable();
        if replies.peek().is_none() {
            return;
        }
        let mut added = self.added.lock();
        if added.len() >= MAX_ACCOUNTS {
            added.clear();
        }
        for event in replies {
            let bytes = event.reply_bytes() as u64;
            match added.get_mut(&event.user_id) {
                Some(sum) => *sum += bytes,
                None => drop(added.insert(event.user_id.clone(), bytes)),
            }
        }
    }

    /// Drops the oldest bodies of the accounts that much was added for.
    ///
    /// # Errors
    /// Those of the database; the rest is tried again.
    pub(super) fn trim(&self, db: &Connections) -> Result<(), db::Error> {
        let most = self.most.load(Relaxed);
        let due: Vec<(String, u64)> = {
            let added = self.added.lock();
            let is_due = |(_, bytes): &(&String, &u64)| **bytes > 0 && **bytes >= most / SLACK;
            added.iter().filter(is_due).map(|(user, bytes)| (user.clone(), *bytes)).collect()
        };
        for (user, bytes) in due {
            let mut session = db.background()?;
            replies::trim(&mut session, &user, i64::try_from(most).unwrap_or(i64::MAX))?;
            let mut added = self.added.lock();
            if let Some(sum) = added.get_mut(&user) {
                *sum -= bytes.min(*sum);
                if *sum == 0 {
                    added.remove(&user);
                }
            }
        }
        Ok(())
    }
}
