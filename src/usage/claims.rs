//! Claims to `Idempotency-Key`s: of the requests with one key, one runs at a time, in whatever process.
//!
//! A request [begins](Claims::begin) to claim its key, and no thread waits for the answer: a thread claims the keys of
//! all requests that arrived meanwhile by one call of the database.
//!
//! A claim is a row in the database. It ends when the request's charge is decided, or at once if there is none. The row
//! of a request that was charged stays for [`RETAINED`], so that a call which looks for kept replies and then claims a
//! key finds one or the other. Claims of a process that died are taken over: they name an advisory lock that the
//! process held. Should a claim be lost, the request may run twice; it is still charged once, as only one reply can be
//! kept for a key.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use time::OffsetDateTime;

use crate::blocking::{self, Wait, block_in_place};
use crate::db::{self, Database};
use crate::error::Result;
use crate::http::Notifier;
use crate::store::replies::{self, ClaimRow, ClaimState, KeptReply};

/// How long the claim of a request stays after its reply was kept.
const RETAINED: Duration = Duration::from_secs(1);

/// A call that claims keys and takes longer than this may have looked for kept replies before one was kept, and claimed
/// the key after its claim was deleted. What it claimed is looked for once more.
const MAX_CALL: Duration = Duration::from_millis(500);

/// How long a statement may still run whose answer was not received.
const MAX_DELAY: Duration = db::STATEMENT_TIMEOUT;

/// How often the claims of finished requests are deleted.
const DELETE_INTERVAL: Duration = Duration::from_millis(100);

/// Most claims that one statement deletes.
const MAX_DELETED: usize = 1000;

/// Most keys that one call claims. Each may bring a reply of at most [`replies::MAX_CLAIMED_BODY`].
const MAX_CLAIMED: usize = 64;

/// How long a thread waits for the answer to a claim.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the thread that claims keys looks whether it is to end.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// The claims of a process.
pub struct Claims {
    db: Database,
    /// The advisory lock by which other processes see that this one lives.
    owner: i64,
    next: AtomicI64,
    /// Requests whose keys are to be claimed. There are no more than requests.
    queue: Mutex<Queue>,
    arrival: Condvar,
    /// Claims that have ended and are still in the database, and when they are to be deleted. There are no more than
    /// requests of [`RETAINED`], or since the database was reachable.
    ended: Mutex<Vec<(Instant, ClaimRow)>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Claiming>>,
    is_stopped: bool,
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

/// A key that is being claimed. If this is dropped before the answer was taken, the claim ends.
pub struct Claiming {
    claims: Arc<Claims>,
    began: OffsetDateTime,
    row: ClaimRow,
    progress: Mutex<Progress>,
    arrival: Condvar,
}

#[derive(Default)]
struct Progress {
    answer: Answer,
    notifier: Option<Notifier>,
}

/// The answer of the database.
#[derive(Default)]
enum Answer {
    /// None yet, or an error: whether the key is claimed is unknown.
    #[default]
    Unknown,
    Failed(db::Error),
    Given(ClaimState),
    Taken,
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
    /// Those of the process that holds the advisory lock `owner`.
    pub fn new(db: Database, owner: i64) -> Arc<Claims> {
        let (next, queue, arrival, ended) = (AtomicI64::new(0), Mutex::default(), Condvar::new(), Mutex::default());
        Arc::new(Claims { db, owner, next, queue, arrival, ended })
    }

    /// Begins to find the reply that is kept for a user's key, or else to claim the key.
    pub fn begin(self: &Arc<Claims>, user_id: &str, key: &str) -> Arc<Claiming> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let claiming = Arc::new(Claiming {
            claims: Arc::clone(self),
            began: OffsetDateTime::now_utc(),
            row: ClaimRow { user_id: user_id.to_owned(), key: key.to_owned(), number },
            progress: Mutex::default(),
            arrival: Condvar::new(),
        });
        let mut queue = self.queue.lock();
        if queue.is_stopped {
            drop(queue);
            claiming.answer(Answer::Failed(stopping()));
        } else {
            queue.waiting.push_back(Arc::clone(&claiming));
            drop(queue);
            self.arrival.notify_one();
        }
        claiming
    }

    /// Claims keys until the process is stopped.
    pub fn run_calls(&self, stopped: &AtomicBool) {
        while let Some(mut claiming) = self.take_waiting(stopped) {
            claiming.sort_unstable_by(|a, b| a.row.cmp(&b.row));
            let rows: Vec<&ClaimRow> = claiming.iter().map(|claiming| &claiming.row).collect();
            match self.call(&rows) {
                Ok(states) => {
                    for (claiming, state) in claiming.iter().zip(states) {
                        claiming.answer(Answer::Given(state));
                    }
                }
                Err(e) => claiming.iter().for_each(|claiming| claiming.answer(Answer::Failed(copy_of(&e)))),
            }
        }
        let waiting = {
            let mut queue = self.queue.lock();
            queue.is_stopped = true;
            std::mem::take(&mut queue.waiting)
        };
        for claiming in waiting {
            claiming.answer(Answer::Failed(stopping()));
        }
    }

    /// Waits for requests, and takes as many as one call serves; `None` when the process is stopped.
    fn take_waiting(&self, stopped: &AtomicBool) -> Option<Vec<Arc<Claiming>>> {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() {
            if stopped.load(Ordering::Acquire) {
                return None;
            }
            self.arrival.wait_for(&mut queue, STOP_INTERVAL);
        }
        let count = queue.waiting.len().min(MAX_CLAIMED);
        Some(queue.waiting.drain(..count).collect())
    }

    /// Claims the keys of these rows, which are in order.
    fn call(&self, rows: &[&ClaimRow]) -> std::result::Result<Vec<ClaimState>, db::Error> {
        let mut session = self.db.session()?;
        let began = Instant::now();
        let mut states = replies::claim(&mut session, self.owner, rows)?;
        if began.elapsed() >= MAX_CALL {
            let is_claimed = |place: &usize| matches!(states[*place], ClaimState::Claimed);
            let claimed: Vec<usize> = (0..rows.len()).filter(is_claimed).collect();
            let again: Vec<&ClaimRow> = claimed.iter().map(|place| rows[*place]).collect();
            for (place, state) in claimed.into_iter().zip(replies::claim(&mut session, self.owner, &again)?) {
                if let ClaimState::Kept(_) = state {
                    self.delete_after(Duration::ZERO, rows[place].clone());
                }
                states[place] = state;
            }
        }
        Ok(states)
    }

    /// The number of the advisory lock that the process must hold.
    pub fn owner(&self) -> i64 {
        self.owner
    }

    /// Deletes the claims of finished requests until the process is stopped, but not while a charge waits outside the
    /// database (`has_all_charges`): the claim is then all that it knows of the key.
    pub fn run_deletions(&self, stopped: &AtomicBool, has_all_charges: impl Fn() -> bool) {
        let mut journaled = None;
        while !stopped.load(Ordering::Acquire) {
            thread::sleep(DELETE_INTERVAL);
            // A charge that comes from the journal keeps its reply long after the claim has ended.
            if !has_all_charges() {
                journaled = Some(Instant::now());
            } else if journaled.is_none_or(|last| last.elapsed() >= RETAINED) {
                self.delete_ended();
            }
        }
        // What is left is taken over, as the process holds its lock no more.
    }

    fn delete_ended(&self) {
        let now = Instant::now();
        let mut rows: Vec<ClaimRow> =
            self.ended.lock().extract_if(.., |(due, _)| *due <= now).map(|(_, row)| row).collect();
        // In the order of keys, in which the index of the table is.
        rows.sort_unstable();
        for rows in rows.chunks(MAX_DELETED) {
            if let Err(e) = self.delete(rows) {
                log::debug!("claims to keys were not deleted: {e}");
                self.ended.lock().extend(rows.iter().map(|row| (now, row.clone())));
            }
        }
    }

    fn delete_after(&self, delay: Duration, row: ClaimRow) {
        self.ended.lock().push((Instant::now() + delay, row));
    }

    fn delete(&self, rows: &[ClaimRow]) -> std::result::Result<(), db::Error> {
        replies::release(&mut self.db.session()?, self.owner, rows)
    }

    /// Deletes a claim of a request that was not charged.
    fn release(&self, row: ClaimRow) {
        if self.delete(std::slice::from_ref(&row)).is_err() {
            self.delete_after(Duration::ZERO, row);
        }
    }
}

/// An error for each of the requests that it meets.
fn copy_of(e: &db::Error) -> db::Error {
    match e.is_outage() {
        true => db::Error::Unavailable(e.to_string()),
        false => db::Error::Other(e.to_string()),
    }
}

fn stopping() -> db::Error {
    db::Error::Unavailable("the process is stopping".to_owned())
}

impl Claiming {
    /// Has `notifier` called when there is an answer, maybe at once.
    pub fn notify(&self, notifier: Notifier) {
        let mut progress = self.progress.lock();
        if let Answer::Unknown = progress.answer {
            progress.notifier = Some(notifier);
        } else {
            drop(progress);
            notifier();
        }
    }

    /// Whether it is this user's key.
    pub fn is_for(&self, user_id: &str, key: &str) -> bool {
        self.row.user_id == user_id && self.row.key == key
    }

    /// Blocks until there is an answer.
    ///
    /// # Errors
    /// Too many requests wait.
    pub fn wait(&self) -> std::result::Result<(), blocking::Refused> {
        if self.is_answered() {
            return Ok(());
        }
        block_in_place(Wait::Database, || {
            let end = Instant::now() + WAIT_TIMEOUT;
            let mut progress = self.progress.lock();
            while let Answer::Unknown = progress.answer {
                if self.arrival.wait_until(&mut progress, end).timed_out() {
                    break;
                }
            }
        })
    }

    /// Takes the answer.
    ///
    /// # Errors
    /// 503 while the database is away, and if there is no answer yet.
    pub fn take(&self) -> Result<KeyState> {
        let mut progress = self.progress.lock();
        match std::mem::replace(&mut progress.answer, Answer::Taken) {
            Answer::Given(ClaimState::Claimed) => {
                let (claims, row) = (Arc::clone(&self.claims), Some(self.row.clone()));
                Ok(KeyState::Claimed(Claim { claims, began: self.began, row }))
            }
            Answer::Given(ClaimState::Kept(mut reply)) => {
                drop(progress);
                if reply.body.is_none() && reply.bytes > 0 {
                    reply.body = replies::body(&mut self.claims.db.session()?, &self.row.user_id, &self.row.key)?;
                }
                Ok(KeyState::Kept(reply))
            }
            Answer::Given(ClaimState::Running) => Ok(KeyState::Running),
            Answer::Failed(e) => {
                progress.answer = Answer::Unknown;
                Err(e.into())
            }
            Answer::Taken => Err(db::Error::Other("the answer to a claim was taken before".to_owned()).into()),
            Answer::Unknown => {
                progress.answer = Answer::Unknown;
                Err(db::Error::Unavailable("no answer to a claim".to_owned()).into())
            }
        }
    }

    fn is_answered(&self) -> bool {
        !matches!(self.progress.lock().answer, Answer::Unknown)
    }

    /// Frees the key, if it was claimed and the answer was not taken, before the client hears that nothing was charged.
    pub fn release(&self) {
        if !self.is_answered() {
            let mut queue = self.claims.queue.lock();
            let place = queue.waiting.iter().position(|waiting| std::ptr::eq(&raw const **waiting, self));
            let removed = place.and_then(|place| queue.waiting.remove(place));
            drop(queue);
            if removed.is_some() {
                self.progress.lock().answer = Answer::Taken;
                return;
            }
            // If too many wait, the key is freed a moment after its claim.
            let _ = self.wait();
        }
        if let Ok(KeyState::Claimed(claim)) = self.take() {
            claim.release();
        }
    }

    fn answer(&self, answer: Answer) {
        let mut progress = self.progress.lock();
        progress.answer = answer;
        let notifier = progress.notifier.take();
        drop(progress);
        self.arrival.notify_one();
        if let Some(notifier) = notifier {
            notifier();
        }
    }
}

impl Drop for Claiming {
    fn drop(&mut self) {
        match self.progress.get_mut().answer {
            Answer::Taken | Answer::Given(ClaimState::Kept(_) | ClaimState::Running) => {}
            Answer::Given(ClaimState::Claimed) => self.claims.delete_after(Duration::ZERO, self.row.clone()),
            // The statement may still be running.
            Answer::Unknown | Answer::Failed(_) => {
                self.claims.delete_after(Duration::ZERO, self.row.clone());
                self.claims.delete_after(MAX_DELAY, self.row.clone());
            }
        }
    }
}

impl Claim {
    /// A moment before it was made.
    pub fn began(&self) -> OffsetDateTime {
        self.began
    }

    /// Ends it at once, so that the key is free before the client hears that nothing was charged.
    pub fn release(mut self) {
        if let Some(row) = self.row.take() {
            self.claims.release(row);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(row) = self.row.take() {
            self.claims.delete_after(RETAINED, row);
        }
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
