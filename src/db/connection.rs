//! One connection with the statements it has prepared, and how the pool makes and judges it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postgres::config::TargetSessionAttrs;
use postgres::error::SqlState;
use postgres::{Client, SimpleQueryMessage, Statement};

use super::error::describe;
use super::watchdog::{self, Watchdog};
use super::{Health, SILENCE, STATEMENT_TIMEOUT};

/// How long a connection that is closed may take over it.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection, and what is known of it.
pub struct Connection {
    pub(super) client: Client,
    pub(super) known: Known,
    losses_seen: u64,
    wants_read_write: bool,
}

/// What is known of a connection.
pub(super) struct Known {
    /// Prepared statements by the address of their SQL, which is a constant of the program. `None` behind a pooler that
    /// gives every transaction another connection: there, nothing can be prepared.
    statements: Option<HashMap<(usize, usize), Statement>>,
    /// It must not be used again.
    broken: bool,
    watchdog: Arc<Watchdog>,
    /// How long the server may say nothing over a question.
    timeout: Duration,
}

impl Known {
    fn key(sql: &'static str) -> (usize, usize) {
        (sql.as_ptr() as usize, sql.len())
    }

    /// A question is about to be asked.
    pub(super) fn arm(&self) {
        self.watchdog.arm(self.timeout);
    }

    /// The same, for when this is dropped.
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
        if let Some(statement) = statements.get(&Known::key(sql)) {
            return Ok(Some(statement.clone()));
        }
        let statement = prepare()?;
        statements.insert(Known::key(sql), statement.clone());
        Ok(Some(statement))
    }

    /// Draws the lesson of a fault: forgets a statement whose table may have been altered under it, and the whole
    /// connection where its server has become read-only: another host may be the one to write to.
    pub(super) fn invalidate(&mut self, sql: &'static str, e: &postgres::Error) {
        // A cached plan must not change its result type; a statement is unknown to the server.
        const STALE: [SqlState; 2] = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_SQL_STATEMENT_NAME];
        let Some(code) = e.code() else { return };
        if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
            self.broken = true;
        } else if let Some(statements) = self.statements.as_mut().filter(|_| STALE.contains(code)) {
            statements.remove(&Known::key(sql));
        }
    }
}

/// Says that a question is about to be asked, when it is dropped.
pub(super) struct ArmOnDrop(Arc<Watchdog>, Duration);

impl Drop for ArmOnDrop {
    fn drop(&mut self) {
        self.0.arm(self.1);
    }
}

impl Connection {
    /// Whether a loss came since this connection was made or last looked at.
    pub(super) fn made_before(&self, losses: u64) -> bool {
        self.losses_seen < losses
    }

    /// Asks the server; a connection that does not answer, or cannot write where that is wanted, is never used again.
    pub(super) fn still_works(&mut self, timeout: Duration) -> bool {
        self.known.watchdog.arm(timeout);
        let answered = self.client.simple_query("");
        self.known.broken = answered.is_err() || (self.wants_read_write && self.is_read_only());
        let works = !self.known.broken;
        if !works {
            self.forget();
        }
        works
    }

    /// It is not used again, and closed without a word.
    pub(super) fn forget(&mut self) {
        self.known.broken = true;
        self.known.watchdog.abort();
    }

    /// From now on the server may say nothing for so long.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.known.timeout = timeout;
    }

    fn is_read_only(&mut self) -> bool {
        let shown = self.client.simple_query("SHOW transaction_read_only");
        let is_off =
            |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("off"));
        !shown.is_ok_and(|messages| messages.iter().any(is_off))
    }

    pub(super) fn mark_checked(&mut self, losses: u64) {
        self.losses_seen = losses;
        self.known.timeout = SILENCE;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The driver says farewell, and waits until that is heard.
        self.known.watchdog.arm(CLOSE_TIMEOUT);
    }
}

/// Makes the pool's connections.
pub struct ConnectionManager {
    config: postgres::Config,
    health: Arc<Health>,
    prepares: bool,
    wants_read_write: bool,
}

impl ConnectionManager {
    /// `prepares` is false behind a pooler in transaction mode. Such a one takes no options either: there, the timeout
    /// of statements is the role's.
    pub(super) fn new(mut config: postgres::Config, prepares: bool, health: Arc<Health>) -> ConnectionManager {
        if prepares {
            let options = format!("-c statement_timeout={}", STATEMENT_TIMEOUT.as_millis());
            let options = config.get_options().map_or_else(|| options.clone(), |given| format!("{options} {given}"));
            config.options(&options);
        }
        let wants_read_write = config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite;
        ConnectionManager { config, health, prepares, wants_read_write }
    }
}

impl r2d2::ManageConnection for ConnectionManager {
    type Connection = Connection;
    type Error = postgres::Error;

    fn connect(&self) -> Result<Connection, postgres::Error> {
        let losses_seen = self.health.losses();
        match watchdog::connect(&self.config, self.health.silences()) {
            Ok((client, watchdog)) => {
                self.health.connected();
                let statements = self.prepares.then(HashMap::new);
                let known = Known { statements, broken: false, watchdog, timeout: SILENCE };
                Ok(Connection { client, known, losses_seen, wants_read_write: self.wants_read_write })
            }
            Err(e) => {
                self.health.cannot_connect(&describe(&e));
                Err(e)
            }
        }
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), postgres::Error> {
        connection.known.watchdog.arm(SILENCE);
        connection.client.simple_query("").map(drop)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.client.is_closed() || connection.known.broken
    }
}
