//! One connection with the statements it has prepared, and how the pool makes and judges it.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use postgres::{Client, NoTls, Statement};
use r2d2_postgres::PostgresConnectionManager;

use super::error::describe;
use super::{Health, STATEMENT_TIMEOUT};

/// A connection, and what was prepared on it.
pub struct Connection {
    pub(super) client: Client,
    pub(super) statements: Statements,
    losses_seen: u64,
    broken: bool,
}

/// Prepared statements by the address of their SQL, which is a constant of the program.
#[derive(Default)]
pub(super) struct Statements(HashMap<(usize, usize), Statement>);

impl Statements {
    fn key(sql: &'static str) -> (usize, usize) {
        (sql.as_ptr() as usize, sql.len())
    }

    /// The prepared form of `sql`, made by `prepare` the first time.
    pub(super) fn get(
        &mut self,
        sql: &'static str,
        prepare: impl FnOnce() -> Result<Statement, postgres::Error>,
    ) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.0.get(&Statements::key(sql)) {
            return Ok(statement.clone());
        }
        let statement = prepare()?;
        self.0.insert(Statements::key(sql), statement.clone());
        Ok(statement)
    }

    /// Forgets `sql`: the table it speaks of was changed under it.
    pub(super) fn forget(&mut self, sql: &'static str) {
        self.0.remove(&Statements::key(sql));
    }
}

impl Connection {
    /// Whether a loss came since this connection was made or last looked at.
    pub(super) fn made_before(&self, losses: u64) -> bool {
        self.losses_seen < losses
    }

    /// Asks the server, by an empty query; a connection that does not answer is never used again.
    pub(super) fn still_works(&mut self, timeout: Duration) -> bool {
        self.broken = self.client.is_valid(timeout).is_err();
        !self.broken
    }

    pub(super) fn looked_at(&mut self, losses: u64) {
        self.losses_seen = losses;
    }
}

/// Drops what has not answered on a thread of its own: it waits for the answer, which may never come.
pub(super) fn let_go(unanswered: impl Send + 'static) {
    // Where no thread can be had, it is dropped here and now.
    let _ = thread::Builder::new().name("closing".to_owned()).spawn(move || drop(unanswered));
}

/// Makes the pool's connections, through `r2d2_postgres`.
pub struct ConnectionManager {
    inner: PostgresConnectionManager<NoTls>,
    health: Arc<Health>,
}

impl ConnectionManager {
    pub(super) fn new(mut config: postgres::Config, health: Arc<Health>) -> ConnectionManager {
        let options = format!("-c statement_timeout={}", STATEMENT_TIMEOUT.as_millis());
        let options = config.get_options().map_or_else(|| options.clone(), |given| format!("{options} {given}"));
        config.options(&options);
        ConnectionManager { inner: PostgresConnectionManager::new(config, NoTls), health }
    }
}

impl r2d2::ManageConnection for ConnectionManager {
    type Connection = Connection;
    type Error = postgres::Error;

    fn connect(&self) -> Result<Connection, postgres::Error> {
        let losses_seen = self.health.losses();
        match self.inner.connect() {
            Ok(client) => {
                self.health.connected();
                Ok(Connection { client, statements: Statements::default(), losses_seen, broken: false })
            }
            Err(e) => {
                self.health.cannot_connect(&describe(&e));
                Err(e)
            }
        }
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), postgres::Error> {
        self.inner.is_valid(&mut connection.client)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        self.inner.has_broken(&mut connection.client) || connection.broken
    }
}
