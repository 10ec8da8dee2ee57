//! Claims to `Idempotency-Key`s: of the requests with one key, one runs at a time, in whatever process.
//!
//! A claim is a row in the database. It ends when the request's charge is decided, or at once if there is none. Claims of
//! a process that died are taken over: they name an advisory lock that the process held. Should a claim be lost, the
//! request may run twice; it is still charged once, as only one reply can be kept for a key.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;

use crate::db::{self, Batcher, Database};
use crate::error::Result;
use crate::store::replies::{self, ClaimRow, ClaimState, KeptReply};

/// How often the claims of finished requests are deleted.
const DELETE_INTERVAL: Duration = Duration::from_millis(100);

/// Most claims that one statement deletes.
const MAX_DELETED: usize = 1000;

/// Most keys that one call claims. Each may bring a reply of at most [`replies::MAX_KEPT_BODY`].
const MAX_CLAIMED: usize = 32;

/// The claims of a process.
pub struct Claims {
    db: Database,
    /// The advisory lock by which other processes see that this one lives.
    owner: i64,
    next: AtomicI64,
    /// Claims that have ended and are still in the database. There are no more than requests at work since it was
    /// reachable.
    ended: Mutex<Vec<ClaimRow>>,
    /// Keys that are claimed at the same time are claimed by one call of the database.
    batcher: Batcher<ClaimRow, ClaimState>,
}

/// What is known of a key.
pub enum KeyState {
    /// No request has used it, or none that was charged: it is claimed now.
    Claimed(Claim),
    /// A reply is kept for it.
    Kept(KeptReply),
    /// A request with it is running.
    Running,
}

/// A key that is claimed until this is dropped.
pub struct Claim {
    claims: Arc<Claims>,
    began: OffsetDateTime,
    row: Option<ClaimRow>,
}

/// Not the key: it is the client's.
impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}

impl Claims {
    /// Those of the process that holds the advisory lock `owner`. It claims keys by at most `most_calls` calls of the
    /// database at a time, but at least one: the fewer, the more keys each of them claims.
    pub fn new(db: Database, owner: i64, most_calls: usize) -> Arc<Claims> {
        let (next, ended, batcher) = (AtomicI64::new(0), Mutex::default(), Batcher::new(most_calls, MAX_CLAIMED));
        Arc::new(Claims { db, owner, next, ended, batcher })
    }

    /// Finds the reply that is kept for a user's key, or else claims the key.
    ///
    /// # Errors
    /// 503 while the database is away.
    pub fn claim(self: &Arc<Claims>, user_id: &str, key: &str) -> Result<KeyState> {
        let began = OffsetDateTime::now_utc();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let row = ClaimRow { user_id: user_id.to_owned(), key: key.to_owned(), number };
        let state = {
            let call = |rows: &[&ClaimRow]| replies::claim(&mut self.db.session()?, self.owner, rows);
            self.batcher.get(&row, call)
        };
        // If the outcome stays unknown, this deletes the row.
        let claim = Claim { claims: Arc::clone(self), began, row: Some(row) };
        let state = state?.ok_or_else(|| db::Error::Other("no answer to a claim".into()))?;
        Ok(match state {
            ClaimState::Claimed => KeyState::Claimed(claim),
            ClaimState::Kept(reply) => {
                claim.forget();
                KeyState::Kept(reply)
            }
            ClaimState::Running => {
                claim.forget();
                KeyState::Running
            }
        })
    }

    /// The number of the advisory lock that the process must hold.
    pub fn owner(&self) -> i64 {
        self.owner
    }

    /// Deletes the claims of finished requests until the process is stopped, but not while a charge waits outside the
    /// database (`has_all_charges`): the claim is then all that it knows of the key.
    pub fn run(&self, stopped: &AtomicBool, has_all_charges: impl Fn() -> bool) {
        while !stopped.load(Ordering::Acquire) {
            thread::sleep(DELETE_INTERVAL);
            if has_all_charges() {
                self.delete_ended();
            }
        }
        // What is left is taken over, as the process holds its lock no more.
    }

    fn delete_ended(&self) {
        let mut rows = std::mem::take(&mut *self.ended.lock());
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(MAX_DELETED));
            if let Err(e) = self.delete(&rows) {
                log::debug!("claims to keys were not deleted: {e}");
                self.ended.lock().extend(rows.into_iter().chain(rest));
                return;
            }
            rows = rest;
        }
    }

    fn delete(&self, rows: &[ClaimRow]) -> std::result::Result<(), db::Error> {
        replies::release(&mut self.db.session()?, self.owner, rows)
    }
}

impl Claim {
    /// A moment before it was made.
    pub fn began(&self) -> OffsetDateTime {
        self.began
    }

    /// Ends it at once, so that the key is free before the client hears that nothing was charged.
    pub fn release(mut self) {
        if let Some(row) = self.row.take()
            && self.claims.delete(std::slice::from_ref(&row)).is_err()
        {
            self.claims.ended.lock().push(row);
        }
    }

    fn forget(mut self) {
        self.row = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(row) = self.row.take() {
            self.claims.ended.lock().push(row);
        }
    }
}
