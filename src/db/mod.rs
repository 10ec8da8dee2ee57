//! The database: the pool, sessions, migrations and notifications. Knows no table but those that migrations start from.

mod batcher;
mod certificates;
mod connect;
mod connection;
mod error;
pub mod listen;
pub mod migrate;
mod param;
pub mod probe;
mod scarcity;
mod session;
mod tls;
mod watchdog;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use batcher::Batcher;
pub use connect::ConnectConfig;
pub use connection::{Connection, ConnectionManager};
pub use error::Error;
pub use param::Param;
pub use session::{Executor, Session, Transaction};

use crate::blocking::{self, Bulkhead, FairSemaphore, Party, Permit, Wait};
use watchdog::TimeoutCounter;

/// How long a request waits for a connection before it is refused.
pub const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one statement may run.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a statement of a request may wait for a lock of another transaction. It has a connection meanwhile.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(4);

/// How long the server may send nothing while a statement runs. It is longer than the statement timeout, after which the
/// server itself reports an error.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(11);

/// Requests that may wait for a connection, per connection of the pool; further ones are refused at once. One account
/// can have two thirds of them.
const WAITERS_PER_CONNECTION: usize = 32;

/// How long a connection may be idle before it is closed, and the spare one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
const SPARE_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// When another connection is begun to be made that nobody waits for: perhaps the first one was made, and lost again.
const REVIVE_AGAIN: Duration = Duration::from_secs(10);

/// How long the check of a connection may take after another was lost.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The connection pool, and whether the database is available.
#[derive(Clone)]
pub struct Database {
    pool: r2d2::Pool<ConnectionManager>,
    /// One connection for [`Database::ping`], made when all others are in use.
    spare: r2d2::Pool<ConnectionManager>,
    health: Arc<Health>,
    size: usize,
    /// The right to have a connection, so that no party has all of them.
    permits: FairSemaphore,
    /// Requests that wait for a connection.
    waiting: Bulkhead,
}

/// Whether the database is available, shared with the threads of the pool.
pub(crate) struct Health {
    /// The number of lost connections. A connection that was made before the latest loss is checked before it is used.
    losses: AtomicU64,
    /// The number of time-outs. Each shortens the time-outs of the statements that are running.
    timeouts: TimeoutCounter,
    /// Why the database is unavailable, while it is.
    down: Mutex<Option<Down>>,
    /// Since when a connection is being made although nobody waits for one, so that the end of an outage is noticed.
    reviving: Mutex<Option<Instant>>,
    /// Connections that there are.
    made: AtomicUsize,
    /// Bytes of the largest messages of the connections that carried large ones and are kept.
    kept_buffers: AtomicUsize,
    /// Whether the schema is known to be up to date.
    open: AtomicBool,
}

struct Down {
    reason: String,
    /// `None` for what is no outage of the database.
    logged: Option<Instant>,
}

/// How often it is logged that the database is still unavailable.
const LOG_EVERY: Duration = Duration::from_secs(5);

impl Health {
    fn new() -> Health {
        Health {
            losses: AtomicU64::new(0),
            timeouts: TimeoutCounter::default(),
            down: Mutex::new(None),
            reviving: Mutex::new(None),
            made: AtomicUsize::new(0),
            kept_buffers: AtomicUsize::new(0),
            open: AtomicBool::new(false),
        }
    }

    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// A connection was lost, so the others may be lost too.
    pub(crate) fn connection_lost(&self) {
        self.losses.fetch_add(1, Ordering::AcqRel);
    }

    fn timeouts(&self) -> &TimeoutCounter {
        &self.timeouts
    }

    /// The server did not respond. Until a connection works, requests do not wait for a new one.
    pub(crate) fn timed_out(&self) {
        self.timeouts.fetch_add(1, Ordering::AcqRel);
        self.connection_lost();
        self.cannot_connect("the database does not respond");
    }

    pub(crate) fn connected(&self) {
        *self.reviving.lock() = None;
        if self.down.lock().take().is_some_and(|down| down.logged.is_some()) {
            log::info!("connected to the database");
        }
    }

    pub(crate) fn cannot_connect(&self, reason: &str) {
        let mut down = self.down.lock();
        let now = Instant::now();
        let logged = match down.as_ref().and_then(|before| before.logged) {
            Some(before) if now - before < LOG_EVERY => before,
            _ => {
                log::warn!("the database cannot be reached, trying again: {reason}");
                now
            }
        };
        *down = Some(Down { reason: reason.to_owned(), logged: Some(logged) });
    }

    /// The server has no more connections. Until one is granted, requests wait for those that there are, if any.
    pub(crate) fn refused(&self, reason: &str) {
        scarcity::met(reason);
        if self.made.load(Ordering::Acquire) == 0 {
            self.down.lock().get_or_insert_with(|| Down { reason: reason.to_owned(), logged: None });
        }
    }
}

impl Database {
    /// A pool of at most `size` connections, which are made when they are needed, and closed when they are not; the database
    /// may be unavailable. `prepares` is false behind a pooler in transaction mode.
    pub fn new(config: ConnectConfig, prepares: bool, size: u32) -> Database {
        let health = Arc::new(Health::new());
        let waiting = Bulkhead::new(size as usize * WAITERS_PER_CONNECTION);
        let pool = |config, size, idle_timeout, yields| {
            r2d2::Pool::builder()
                .max_size(size)
                .min_idle(Some(0))
                .test_on_check_out(false)
                .connection_timeout(CHECKOUT_TIMEOUT)
                .idle_timeout(Some(idle_timeout))
                .error_handler(Box::new(r2d2::NopErrorHandler))
                .build_unchecked(ConnectionManager::new(config, prepares, health.clone(), waiting.clone(), yields))
        };
        let spare = pool(config.clone(), 1, SPARE_IDLE_TIMEOUT, false);
        let pool = pool(config, size, IDLE_TIMEOUT, true);
        let size = size as usize;
        Database { pool, spare, health, size, permits: FairSemaphore::new(size), waiting }
    }

    /// The schema is up to date: sessions may be checked out from now on.
    pub fn open(&self) {
        self.health.open.store(true, Ordering::Release);
    }

    /// Whether the schema is known to be up to date.
    pub fn is_open(&self) -> bool {
        self.health.open.load(Ordering::Acquire)
    }

    /// Checks a connection out, on behalf of the party that this thread works for; it goes back when the session is
    /// dropped, and with it what was not committed. One party can have two thirds of the connections, so whoever waits
    /// for a lock with them leaves some to others, and those that are given back are handed out in turns.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database is unavailable, [`Error::Busy`] when no connection is free for this party
    /// for [`CHECKOUT_TIMEOUT`] or too many requests wait for one already.
    pub fn session(&self) -> Result<Session, Error> {
        self.session_of(blocking::party())
    }

    /// The same for work that is done for several parties at once, so that none of them waits for another's share. Not
    /// for what any number of requests do at the same time.
    ///
    /// # Errors
    /// See [`Database::session`].
    pub fn shared_session(&self) -> Result<Session, Error> {
        self.session_of(Party::Process)
    }

    fn session_of(&self, party: Party) -> Result<Session, Error> {
        if !self.is_open() {
            return Err(Error::Unavailable("the schema is not up to date yet".to_owned()));
        }
        for _ in 0..=self.size {
            let (pooled, permit) = self.checkout(party)?;
            if let Some(session) = self.checked(pooled, Some(permit)) {
                return Ok(session);
            }
        }
        Err(Error::Unavailable("every connection was lost".to_owned()))
    }

    /// A session on a connection, unless that turns out to be lost.
    fn checked(
        &self,
        mut pooled: r2d2::PooledConnection<ConnectionManager>,
        permit: Option<Permit>,
    ) -> Option<Session> {
        if pooled.made_before(self.health.losses()) {
            let probed = Instant::now();
            if !pooled.still_works(PROBE_TIMEOUT) {
                drop(pooled); // The pool forgets what is broken.
                drop(self.replacement());
                if probed.elapsed() >= PROBE_TIMEOUT {
                    self.forget_idle();
                }
                return None;
            }
            self.health.connected();
        }
        Some(Session::new(pooled, self.replacement(), permit, self.health.clone()))
    }

    fn replacement(&self) -> Replacement {
        Replacement { pool: self.pool.clone(), waiting: self.waiting.clone() }
    }

    /// Closes the idle connections that were made before a loss: one of them did not respond, and checking each would
    /// take long.
    fn forget_idle(&self) {
        self.health.timed_out();
        for _ in 0..self.size {
            match self.pool.try_get() {
                Some(mut pooled) if pooled.made_before(self.health.losses()) => pooled.forget(),
                _ => return,
            }
        }
    }

    fn checkout(&self, party: Party) -> Result<(r2d2::PooledConnection<ConnectionManager>, Permit), Error> {
        let permit = self.permits.try_acquire(party, self.permitted());
        if let Some(permit) = permit {
            if let Some(connection) = self.pool.try_get() {
                return Ok((connection, permit));
            }
            return self.wait_for(party, Some(permit));
        }
        self.wait_for(party, None)
    }

    /// Waits for a permit, if there is none yet, and then for a connection.
    fn wait_for(
        &self,
        party: Party,
        permit: Option<Permit>,
    ) -> Result<(r2d2::PooledConnection<ConnectionManager>, Permit), Error> {
        if self.pool.state().connections == 0 {
            self.check_reachable().inspect_err(|_| self.revive())?;
        }
        let _waiting = self.waiting.enter(party).map_err(|_| Error::Busy)?;
        let deadline = Instant::now() + CHECKOUT_TIMEOUT;
        let wait = || {
            let permit = permit.or_else(|| self.permits.acquire(party, CHECKOUT_TIMEOUT))?;
            let left = deadline.saturating_duration_since(Instant::now());
            let connection = self.pool.try_get().or_else(|| {
                // The database may have been lost while others had the permits.
                let is_lost = self.pool.state().connections == 0 && self.check_reachable().is_err();
                if is_lost { None } else { self.pool.get_timeout(left).ok() }
            });
            Some((connection?, permit))
        };
        match blocking::block_in_place(Wait::Database, wait) {
            Ok(Some(held)) => Ok(held),
            Ok(None) => self.check_reachable().and(Err(Error::Busy)),
            Err(_) => Err(Error::Busy),
        }
    }

    /// How many connections may be in use at once: where the server has few, not many more than it grants, so that
    /// permits are waited for rather than connections, which are handed out to whoever asks next.
    fn permitted(&self) -> usize {
        match scarcity::is_recent() {
            true => self.size.min(self.health.made.load(Ordering::Acquire) + 1),
            false => self.size,
        }
    }

    /// Begins to make a connection that nobody waits for. The pool tries until it succeeds.
    fn revive(&self) {
        let now = Instant::now();
        {
            let mut since = self.health.reviving.lock();
            if since.is_some_and(|since| now - since < REVIVE_AGAIN) {
                return;
            }
            *since = Some(now);
        }
        drop(self.pool.get_timeout(Duration::ZERO));
        // Others may have made one meanwhile; then the pool makes none for this.
        if self.pool.state().connections > 0 {
            *self.health.reviving.lock() = None;
        }
    }

    /// Checks that the database responds, also while requests use all connections.
    ///
    /// # Errors
    /// As [`Database::session`]; those of the statement.
    pub fn ping(&self) -> Result<(), Error> {
        let all_in_use = self.permits.used() >= self.size;
        // Whoever asks may have used up its share.
        let mut session = match all_in_use && self.is_open() {
            true => self.spare_session().map_or_else(|| self.shared_session(), Ok)?,
            false => self.shared_session()?,
        };
        session.query_one("SELECT 1", &[]).map(drop)
    }

    fn spare_session(&self) -> Option<Session> {
        let spare = blocking::block_in_place(Wait::Database, || self.spare.get_timeout(CHECKOUT_TIMEOUT));
        self.checked(spare.ok()?.ok()?, None)
    }

    /// Fails, at once, while the last attempt to connect failed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason.
    pub fn check_reachable(&self) -> Result<(), Error> {
        match self.health.down.lock().as_ref() {
            Some(down) => Err(Error::Unavailable(down.reason.clone())),
            None => Ok(()),
        }
    }

    /// How busy the pool is.
    pub fn pool_state(&self) -> PoolState {
        let state = self.pool.state();
        PoolState {
            made: state.connections,
            idle: state.idle_connections,
            most: self.pool.max_size(),
            waiting: self.waiting.used(),
        }
    }

    /// Reports that a connection was lost, so that the others are checked before they are used; or, if `silently`, that
    /// the server did not respond on it.
    pub fn connection_lost(&self, silently: bool) {
        if silently { self.health.timed_out() } else { self.health.connection_lost() }
    }
}

/// Dropped after a connection, it begins to make another one, if that was lost and requests wait. The pool makes one for each
/// request that comes, but while it is full none for those that wait.
pub(super) struct Replacement {
    pool: r2d2::Pool<ConnectionManager>,
    waiting: Bulkhead,
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.waiting.used() > 0 {
            let state = self.pool.state();
            if state.idle_connections == 0 && state.connections < self.pool.max_size() {
                drop(self.pool.get_timeout(Duration::ZERO));
            }
        }
    }
}

/// How busy a pool is.
#[derive(Clone, Copy, Debug)]
pub struct PoolState {
    /// Connections.
    pub made: u32,
    /// Idle connections.
    pub idle: u32,
    /// Maximum number of connections.
    pub most: u32,
    /// Requests that wait for a connection.
    pub waiting: usize,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_end_of_an_outage_is_looked_for_anew_after_a_while() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("host=127.0.0.1 port={} user=u", listener.local_addr().unwrap().port());
        let db = Database::new(ConnectConfig::new(&url, "test").unwrap(), true, 2);
        db.open();
        db.health.cannot_connect("as it was tested");
        let tried = |since: Instant| {
            *db.health.reviving.lock() = Some(since);
            assert!(matches!(db.session(), Err(Error::Unavailable(_))));
        };
        listener.set_nonblocking(true).unwrap();
        let now = Instant::now();
        // One is being made already.
        tried(now);
        assert!(db.health.reviving.lock().is_some_and(|since| since == now));
        assert!(listener.accept().is_err());
        // It was made long ago, and lost.
        tried(now.checked_sub(REVIVE_AGAIN).unwrap());
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap();
    }
}
