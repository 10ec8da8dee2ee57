//! A connection for the time of one piece of work, and transactions on it.

use std::sync::Arc;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::types::{ToSql, Type};
use postgres::{GenericClient, Row};

use super::connection::{ArmOnDrop, Known};
use super::error::is_io;
use super::watchdog::is_silence;
use super::{Connection, ConnectionManager, Error, Health, Param};
use crate::blocking;

/// Runs statements: a session, or a transaction on one. `store` functions take either.
///
/// Each statement is prepared once per connection, so a call is one round trip; behind a pooler that allows no prepared
/// statements it is sent whole, still in one round trip.
pub trait Executor {
    /// All rows.
    ///
    /// # Errors
    /// See [`Error`].
    fn query(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error>;

    /// Runs it; the number of rows it touched.
    ///
    /// # Errors
    /// See [`Error`].
    fn execute(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<u64, Error>;

    /// The first row, if there is one.
    ///
    /// # Errors
    /// See [`Error`].
    fn query_opt(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// The first row of a statement that always has one.
    ///
    /// # Errors
    /// See [`Error`]; no row is [`Error::Other`].
    fn query_one(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Row, Error> {
        self.query_opt(sql, params)?.ok_or_else(|| Error::Other("a row was expected".to_owned()))
    }
}

/// A connection, checked out until dropped.
pub struct Session {
    connection: r2d2::PooledConnection<ConnectionManager>,
    health: Arc<Health>,
}

impl Session {
    pub(super) fn new(mut connection: r2d2::PooledConnection<ConnectionManager>, health: Arc<Health>) -> Session {
        connection.mark_checked(health.losses());
        Session { connection, health }
    }

    /// From now on, a database that says nothing for so long counts as away; else that is [`SILENCE`](super::SILENCE).
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.connection.set_timeout(timeout);
    }

    /// Begins a transaction. Dropped without [`Transaction::commit`], it is rolled back.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        blocking::note_short_wait();
        let Connection { client, known, .. } = &mut *self.connection;
        known.arm();
        match client.transaction() {
            Ok(inner) => Ok(Transaction { _rollback: known.arm_on_drop(), inner, known, health: &self.health }),
            Err(e) => Err(classify(&self.health, known, "BEGIN", e)),
        }
    }
}

impl Executor for Session {
    fn query(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error> {
        let Connection { client, known, .. } = &mut *self.connection;
        query(client, known, sql, params).map_err(|e| classify(&self.health, known, sql, e))
    }

    fn execute(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<u64, Error> {
        let Connection { client, known, .. } = &mut *self.connection;
        execute(client, known, sql, params).map_err(|e| classify(&self.health, known, sql, e))
    }
}

/// A transaction on a session; rolled back unless committed.
pub struct Transaction<'s> {
    /// Stands first, so that it is dropped before what is rolled back.
    _rollback: ArmOnDrop,
    inner: postgres::Transaction<'s>,
    known: &'s mut Known,
    health: &'s Health,
}

impl Transaction<'_> {
    /// Makes everything done in it last.
    ///
    /// # Errors
    /// See [`Error`]. When the connection broke meanwhile, whether it was committed is not known.
    pub fn commit(self) -> Result<(), Error> {
        blocking::note_short_wait();
        let Transaction { inner, known, health, _rollback } = self;
        known.arm();
        inner.commit().map_err(|e| classify(health, known, "COMMIT", e))
    }
}

impl Executor for Transaction<'_> {
    fn query(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error> {
        let Transaction { inner, known, health, .. } = self;
        query(inner, known, sql, params).map_err(|e| classify(health, known, sql, e))
    }

    fn execute(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<u64, Error> {
        let Transaction { inner, known, health, .. } = self;
        execute(inner, known, sql, params).map_err(|e| classify(health, known, sql, e))
    }
}

fn query(
    client: &mut impl GenericClient,
    known: &mut Known,
    sql: &'static str,
    params: &[&dyn Param],
) -> Result<Vec<Row>, postgres::Error> {
    blocking::note_short_wait();
    known.arm();
    match known.statement(sql, || client.prepare_typed(sql, &types(params)))? {
        Some(prepared) => client.query(&prepared, &values(params)),
        None => client.query_typed(sql, &typed(params)),
    }
}

fn execute(
    client: &mut impl GenericClient,
    known: &mut Known,
    sql: &'static str,
    params: &[&dyn Param],
) -> Result<u64, postgres::Error> {
    blocking::note_short_wait();
    known.arm();
    match known.statement(sql, || client.prepare_typed(sql, &types(params)))? {
        Some(prepared) => client.execute(&prepared, &values(params)),
        None => client.execute_typed(sql, &typed(params)),
    }
}

fn types(params: &[&dyn Param]) -> Vec<Type> {
    params.iter().map(|p| p.postgres_type()).collect()
}

fn values<'p>(params: &[&'p dyn Param]) -> Vec<&'p (dyn ToSql + Sync)> {
    params.iter().map(|p| p.as_sql()).collect()
}

fn typed<'p>(params: &[&'p dyn Param]) -> Vec<(&'p (dyn ToSql + Sync), Type)> {
    params.iter().map(|p| (p.as_sql(), p.postgres_type())).collect()
}

/// Sorts a fault, and draws its lessons: where the connection was lost, the others may have gone with it.
fn classify(health: &Health, known: &mut Known, sql: &'static str, e: postgres::Error) -> Error {
    // 57P01 to 57P03: the server is shutting down, crashed or starting.
    let dying = e.code().is_some_and(|code| code.code().starts_with("57P"));
    let demoted = e.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
    if is_silence(&e) {
        health.silent();
    } else if e.is_closed() || is_io(&e) || dying || demoted {
        health.connection_lost();
    }
    known.invalidate(sql, &e);
    Error::from(e)
}
