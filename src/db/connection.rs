//! A connection with its prepared statements, and how the pool creates and checks connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use postgres::config::TargetSessionAttrs;
use postgres::error::SqlState;
use postgres::{Client, SimpleQueryMessage, Statement};

use super::connect::{ConnectConfig, connect};
use super::error::describe;
use super::watchdog::Watchdog;
use super::{Health, RESPONSE_TIMEOUT, STATEMENT_TIMEOUT, scarcity};
use crate::blocking::Bulkhead;

/// How long closing a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Says that the statements of this session count what they save, so that triggers need not (`store::document_totals`).
const COUNTED: &str = "-c textgen.counted=yes";

/// How long a connection is kept at least where the server has few.
const KEPT: Duration = Duration::from_secs(2);

/// The driver keeps a buffer as large as the largest row that a connection has read, and one for the largest parameters. A
/// connection that is returned is closed if it carried more than the first of these and the messages of all such connections
/// have more bytes than the second.
const SMALL_BUFFERS: usize = 1024 * 1024;
const MOST_BUFFERS: usize = 16 * 1024 * 1024;

/// A connection of the pool.
pub struct Connection {
    pub(super) client: Client,
    pub(super) state: ConnectionState,
    losses_seen: u64,
    wants_read_write: bool,
    made: Instant,
    health: Arc<Health>,
}

/// What is remembered about a connection.
pub(super) struct ConnectionState {
    /// Prepared statements, by the address of their SQL, which is never freed. `None` behind a pooler in transaction mode,
    /// where statements cannot be prepared.
    statements: Option<HashMap<(usize, usize), Statement>>,
    /// It must not be used again.
    broken: bool,
    watchdog: Arc<Watchdog>,
    /// How long the server may take to send the next bytes of a response.
    timeout: Duration,
    /// The bytes of the largest message, of which the driver keeps buffers, and how many are counted as kept.
    largest: usize,
    kept: usize,
}

impl ConnectionState {
    fn key(sql: &'static str) -> (usize, usize) {
        (sql.as_ptr() as usize, sql.len())
    }

    /// A message of so many bytes is sent or was received.
    pub(super) fn carries(&mut self, bytes: usize) {
        self.largest = self.largest.max(bytes);
    }

    /// Starts the watchdog before a request to the server.
    pub(super) fn arm(&self) {
        self.watchdog.arm(self.timeout);
    }

    /// Does the same when the result is dropped.
    pub(super) fn arm_on_drop(&self) -> ArmOnDrop {
        ArmOnDrop(self.watchdog.clone(), self.timeout)
    }

    /// The prepared form of `sql`, made by `prepare` the first time; `None` where nothing can be prepared.
    pub(super) fn statement(
        &mut self,
        sql: &'static str,
        prepare: impl FnOnce() -> Result<Statement, postgres::Error>,
    ) -> Result<Option<Statement>, postgres::Error> {
        let Some(statements) = &mut self.statements else { return Ok(None) };
        if let Some(statement) = statements.get(&ConnectionState::key(sql)) {
            return Ok(Some(statement.clone()));
        }
        let statement = prepare()?;
        statements.insert(ConnectionState::key(sql), statement.clone());
        Ok(Some(statement))
    }

    /// Discards what an error shows to be outdated: the prepared statement if its table was altered, and the whole
    /// connection if the server has become read-only, as another host may be the primary now. Returns whether it was the
    /// statement: outside a transaction it can be run once more, as nothing of it was done.
    pub(super) fn invalidate(&mut self, sql: &'static str, e: &postgres::Error) -> bool {
        // "cached plan must not change result type"; the server does not know the prepared statement.
        const STALE: [SqlState; 2] = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_SQL_STATEMENT_NAME];
        let Some(code) = e.code() else { return false };
        self.broken |= *code == SqlState::READ_ONLY_SQL_TRANSACTION;
        let statements = self.statements.as_mut().filter(|_| STALE.contains(code));
        statements.is_some_and(|statements| statements.remove(&ConnectionState::key(sql)).is_some())
    }
}

/// Starts the watchdog when it is dropped.
pub(super) struct ArmOnDrop(Arc<Watchdog>, Duration);

impl Drop for ArmOnDrop {
    fn drop(&mut self) {
        self.0.arm(self.1);
    }
}

impl Connection {
    /// Whether connections were lost since this one was made or last checked.
    pub(super) fn made_before(&self, losses: u64) -> bool {
        self.losses_seen < losses
    }

    /// Checks that the server responds, and that it accepts writes if that is required. If not, the connection is not used
    /// again.
    pub(super) fn still_works(&mut self, timeout: Duration) -> bool {
        self.state.watchdog.arm(timeout);
        let answered = self.client.simple_query("");
        self.state.broken = answered.is_err() || (self.wants_read_write && self.is_read_only());
        let works = !self.state.broken;
        if !works {
            self.forget();
        }
        works
    }

    /// Discards the connection: it is not used again, and closed without notice to the server.
    pub(super) fn forget(&mut self) {
        self.state.broken = true;
        self.state.watchdog.abort();
    }

    /// Sets how long the server may take to send the next bytes of a response.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.state.timeout = timeout;
    }

    /// Whether its buffers are so large that they must not be kept, beside those of other connections. Counts them
    /// otherwise.
    fn is_too_large(&mut self) -> bool {
        let ConnectionState { largest, kept, .. } = &mut self.state;
        if *largest <= (*kept).max(SMALL_BUFFERS) {
            return false;
        }
        let more = *largest - *kept;
        if self.health.kept_buffers.fetch_add(more, Ordering::AcqRel) + more > MOST_BUFFERS {
            self.health.kept_buffers.fetch_sub(more, Ordering::AcqRel);
            return true;
        }
        *kept = *largest;
        false
    }

    fn is_read_only(&mut self) -> bool {
        let shown = self.client.simple_query("SHOW transaction_read_only");
        let is_off =
            |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("off"));
        !shown.is_ok_and(|messages| messages.iter().any(is_off))
    }

    pub(super) fn mark_checked(&mut self, losses: u64) {
        self.losses_seen = losses;
        self.state.timeout = RESPONSE_TIMEOUT;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The driver sends a message to close the connection and waits until it is sent.
        self.state.watchdog.arm(CLOSE_TIMEOUT);
        self.health.made.fetch_sub(1, Ordering::AcqRel);
        self.health.kept_buffers.fetch_sub(self.state.kept, Ordering::AcqRel);
    }
}

/// Makes the pool's connections.
pub struct ConnectionManager {
    config: ConnectConfig,
    health: Arc<Health>,
    prepares: bool,
    wants_read_write: bool,
    /// Who waits for a connection.
    waiting: Bulkhead,
    /// Whether no connection is made that nobody waits for, where the server has few.
    yields: bool,
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The driver could not.
    #[error("{0}")]
    Driver(#[from] postgres::Error),
    /// The server has few, and nobody waits for one.
    #[error("no further connection is needed")]
    NotNeeded,
}

impl ConnectionManager {
    /// `prepares` is false behind a pooler in transaction mode. Such a pooler accepts no options either, so the statement
    /// timeout is that of the database role.
    pub(super) fn new(
        mut config: ConnectConfig,
        prepares: bool,
        health: Arc<Health>,
        waiting: Bulkhead,
        yields: bool,
    ) -> ConnectionManager {
        if prepares {
            let options = format!("{COUNTED} -c statement_timeout={}", STATEMENT_TIMEOUT.as_millis());
            let options =
                config.driver().get_options().map_or_else(|| options.clone(), |given| format!("{options} {given}"));
            config.set_options(&options);
        }
        let wants_read_write = config.driver().get_target_session_attrs() == TargetSessionAttrs::ReadWrite;
        ConnectionManager { config, health, prepares, wants_read_write, waiting, yields }
    }

    /// Whether there are so many connections at least and nobody waits for one.
    fn has_enough(&self, least: usize) -> bool {
        self.health.made.load(Ordering::Acquire) >= least && self.waiting.used() == 0
    }

    fn failed(&self, e: &postgres::Error) {
        let reason = describe(e);
        match e.code() {
            Some(&SqlState::TOO_MANY_CONNECTIONS) => self.health.refused(&reason),
            _ => self.health.cannot_connect(&reason),
        }
    }
}

impl r2d2::ManageConnection for ConnectionManager {
    type Connection = Connection;
    type Error = ConnectError;

    fn connect(&self) -> Result<Connection, ConnectError> {
        // The pool repeats what failed until it succeeds, also when it is not needed any more.
        let is_down = || self.health.down.lock().is_some();
        if self.yields && scarcity::is_recent() && self.has_enough(1) && !is_down() {
            return Err(ConnectError::NotNeeded);
        }
        let losses_seen = self.health.losses();
        match connect(&self.config, self.health.timeouts()) {
            Ok((client, watchdog)) => {
                self.health.connected();
                let statements = self.prepares.then(HashMap::new);
                let state = ConnectionState {
                    statements,
                    broken: false,
                    watchdog,
                    timeout: RESPONSE_TIMEOUT,
                    largest: 0,
                    kept: 0,
                };
                self.health.made.fetch_add(1, Ordering::AcqRel);
                let (health, wants_read_write) = (self.health.clone(), self.wants_read_write);
                Ok(Connection { client, state, losses_seen, wants_read_write, made: Instant::now(), health })
            }
            Err(e) => {
                self.failed(&e);
                Err(e.into())
            }
        }
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), ConnectError> {
        connection.state.watchdog.arm(RESPONSE_TIMEOUT);
        Ok(connection.client.simple_query("").map(drop)?)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        let is_spare = || scarcity::is_recent() && connection.made.elapsed() >= KEPT && self.has_enough(2);
        connection.client.is_closed() || connection.state.broken || is_spare() || connection.is_too_large()
    }
}
