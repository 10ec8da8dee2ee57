//! The database: the pool, sessions, migrations and notifications. Knows no table.

mod batcher;
mod connection;
mod error;
pub mod listen;
pub mod migrate;
mod param;
mod session;
mod watchdog;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use batcher::Batcher;
pub use connection::{Connection, ConnectionManager};
pub use error::Error;
pub use param::Param;
pub use session::{Executor, Session, Transaction};

use crate::blocking;
use watchdog::Silences;

/// How long a request waits for a connection before it is refused.
pub const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one statement may run.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may say nothing over a statement: it ends those that take too long by itself, and would say so.
pub const SILENCE: Duration = Duration::from_secs(11);

/// How long an attempt to connect may take, up to the first byte.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests that may wait for a connection, per connection of the pool; further ones are refused at once.
const WAITERS_PER_CONNECTION: usize = 8;

/// How long a connection from before a loss may take to show that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The way to the database: hands out sessions, and knows whether it can.
#[derive(Clone)]
pub struct Database {
    pool: r2d2::Pool<ConnectionManager>,
    health: Arc<Health>,
    size: usize,
}

/// What is known of the database's state, shared with the pool's own threads.
pub(crate) struct Health {
    /// Counts the losses: a connection made before the newest one is looked at before it is used.
    losses: AtomicU64,
    /// Counts the times at which nothing was heard: a statement that waits already waits no longer for long.
    silences: Silences,
    /// Why the database is not to be had, while it is not.
    down: Mutex<Option<Down>>,
    waiting: AtomicUsize,
    /// Whether the schema is known to be there.
    open: AtomicBool,
}

struct Down {
    reason: String,
    logged: Instant,
}

/// How often a database that stays away is spoken of in the log.
const LOG_EVERY: Duration = Duration::from_secs(5);

impl Health {
    fn new() -> Health {
        Health {
            losses: AtomicU64::new(0),
            silences: Silences::default(),
            down: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            open: AtomicBool::new(false),
        }
    }

    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// A connection was lost: the others may be dead too.
    pub(crate) fn connection_lost(&self) {
        self.losses.fetch_add(1, Ordering::AcqRel);
    }

    fn silences(&self) -> &Silences {
        &self.silences
    }

    /// Nothing was heard: until a connection shows that it lives, nobody waits for new ones.
    pub(crate) fn silent(&self) {
        self.silences.fetch_add(1, Ordering::AcqRel);
        self.connection_lost();
        self.cannot_connect("it says nothing");
    }

    pub(crate) fn connected(&self) {
        if self.down.lock().take().is_some() {
            log::info!("connected to the database");
        }
    }

    pub(crate) fn cannot_connect(&self, reason: &str) {
        let mut down = self.down.lock();
        let now = Instant::now();
        let logged = match down.as_ref() {
            Some(before) if now - before.logged < LOG_EVERY => before.logged,
            _ => {
                log::warn!("the database cannot be reached, trying again: {reason}");
                now
            }
        };
        *down = Some(Down { reason: reason.to_owned(), logged });
    }
}

impl Database {
    /// A pool of `size` connections, made in the background; the database need not be there yet. `prepares` is false
    /// where a pooler stands in front that gives every transaction another connection.
    pub fn new(config: postgres::Config, prepares: bool, size: u32) -> Database {
        let health = Arc::new(Health::new());
        let manager = ConnectionManager::new(config, prepares, health.clone());
        let pool = r2d2::Pool::builder()
            .max_size(size)
            .test_on_check_out(false)
            .connection_timeout(CHECKOUT_TIMEOUT)
            .idle_timeout(None)
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build_unchecked(manager);
        Database { pool, health, size: size as usize }
    }

    /// The schema is there: sessions may be had from now on.
    pub fn open(&self) {
        self.health.open.store(true, Ordering::Release);
    }

    /// Whether the schema is known to be there.
    pub fn is_open(&self) -> bool {
        self.health.open.load(Ordering::Acquire)
    }

    /// Checks a connection out; it goes back when the session is dropped, and with it what was not committed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database is away, [`Error::Busy`] when all connections stay in use for
    /// [`CHECKOUT_TIMEOUT`] or too many requests wait for one already.
    pub fn session(&self) -> Result<Session, Error> {
        if !self.is_open() {
            return Err(Error::Unavailable("the schema is not up to date yet".to_owned()));
        }
        for _ in 0..=self.size {
            let mut pooled = self.checkout()?;
            if pooled.made_before(self.health.losses()) {
                let probed = Instant::now();
                if !pooled.still_works(PROBE_TIMEOUT) {
                    drop(pooled); // The pool forgets what is broken.
                    if probed.elapsed() >= PROBE_TIMEOUT {
                        self.forget_idle();
                    }
                    continue;
                }
                self.health.connected();
            }
            return Ok(Session::new(pooled, self.health.clone()));
        }
        Err(Error::Unavailable("every connection was lost".to_owned()))
    }

    /// Closes what nobody uses and was made before a loss: one of them was found to hear nothing, and to wait for each
    /// would take long.
    fn forget_idle(&self) {
        self.health.silent();
        for _ in 0..self.size {
            match self.pool.try_get() {
                Some(mut pooled) if pooled.made_before(self.health.losses()) => pooled.forget(),
                _ => return,
            }
        }
    }

    fn checkout(&self) -> Result<r2d2::PooledConnection<ConnectionManager>, Error> {
        if let Some(connection) = self.pool.try_get() {
            return Ok(connection);
        }
        if self.pool.state().connections == 0 {
            self.check_reachable()?;
        }
        let _waiting = Waiting::enter(&self.health.waiting, self.size * WAITERS_PER_CONNECTION)?;
        match blocking::block_in_place(|| self.pool.get_timeout(CHECKOUT_TIMEOUT)) {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(_)) => self.check_reachable().and(Err(Error::Busy)),
            Err(blocking::Busy) => Err(Error::Busy),
        }
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// As [`Database::session`], and those of the question.
    pub fn ping(&self) -> Result<(), Error> {
        self.session()?.query_one("SELECT 1", &[]).map(drop)
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
            waiting: self.health.waiting.load(Ordering::Relaxed),
        }
    }

    /// Tells that a connection was seen to break, so that the others are looked at before they are used; or, `silently`,
    /// that nothing was heard over it.
    pub fn connection_lost(&self, silently: bool) {
        if silently { self.health.silent() } else { self.health.connection_lost() }
    }
}

/// How busy a pool is.
#[derive(Clone, Copy, Debug)]
pub struct PoolState {
    /// Connections there are.
    pub made: u32,
    /// Those that nobody uses.
    pub idle: u32,
    /// The most there may be.
    pub most: u32,
    /// Requests that wait for one.
    pub waiting: usize,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("size", &self.size).finish_non_exhaustive()
    }
}

/// One request among those that wait for a connection.
struct Waiting<'h>(&'h AtomicUsize);

impl<'h> Waiting<'h> {
    fn enter(count: &'h AtomicUsize, most: usize) -> Result<Waiting<'h>, Error> {
        let waiting = Waiting(count);
        if count.fetch_add(1, Ordering::AcqRel) >= most { Err(Error::Busy) } else { Ok(waiting) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The settings of a connection, from a URL or key-value string as libpq reads them.
///
/// # Errors
/// The string is not understood; the text holds no part of it, as it may hold a password.
pub fn config(url: &str, application_name: &str) -> Result<postgres::Config, String> {
    let mut config: postgres::Config = url.parse().map_err(|e: postgres::Error| describe_parse(&e))?;
    config
        .application_name(application_name)
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(Duration::from_secs(30))
        .tcp_user_timeout(STATEMENT_TIMEOUT);
    Ok(config)
}

fn describe_parse(e: &postgres::Error) -> String {
    use std::error::Error as _;
    e.source().map_or_else(|| "malformed".to_owned(), ToString::to_string)
}
