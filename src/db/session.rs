//! A connection for the time of one piece of work, and transactions on it.

use std::sync::Arc;

use postgres::types::Type;
use postgres::{Row, Statement};

use super::connection::Statements;
use super::{Connection, ConnectionManager, Error, Health, Param};

/// Runs statements: a session, or a transaction on one. `store` functions take either.
///
/// Each statement is prepared once per connection, so a call is one round trip.
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
        connection.looked_at(health.losses());
        Session { connection, health }
    }

    /// Begins a transaction. Dropped without [`Transaction::commit`], it is rolled back.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let Connection { client, statements, .. } = &mut *self.connection;
        match client.transaction() {
            Ok(inner) => Ok(Transaction { inner, statements, health: &self.health }),
            Err(e) => Err(judge(&self.health, e)),
        }
    }
}

impl Executor for Session {
    fn query(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error> {
        let Connection { client, statements, .. } = &mut *self.connection;
        statements
            .get(sql, || client.prepare_typed(sql, &types(params)))
            .and_then(|statement| client.query(&statement, &values(params)))
            .map_err(|e| forget(statements, sql, judge(&self.health, e)))
    }

    fn execute(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<u64, Error> {
        let Connection { client, statements, .. } = &mut *self.connection;
        statements
            .get(sql, || client.prepare_typed(sql, &types(params)))
            .and_then(|statement| client.execute(&statement, &values(params)))
            .map_err(|e| forget(statements, sql, judge(&self.health, e)))
    }
}

/// A transaction on a session; rolled back unless committed.
pub struct Transaction<'s> {
    inner: postgres::Transaction<'s>,
    statements: &'s mut Statements,
    health: &'s Health,
}

impl Transaction<'_> {
    /// Makes everything done in it last.
    ///
    /// # Errors
    /// See [`Error`]. When the connection broke meanwhile, whether it was committed is not known.
    pub fn commit(self) -> Result<(), Error> {
        self.inner.commit().map_err(|e| judge(self.health, e))
    }

    fn prepared(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Statement, postgres::Error> {
        let Transaction { inner, statements, .. } = self;
        statements.get(sql, || inner.prepare_typed(sql, &types(params)))
    }
}

impl Executor for Transaction<'_> {
    fn query(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error> {
        self.prepared(sql, params)
            .and_then(|statement| self.inner.query(&statement, &values(params)))
            .map_err(|e| forget(self.statements, sql, judge(self.health, e)))
    }

    fn execute(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<u64, Error> {
        self.prepared(sql, params)
            .and_then(|statement| self.inner.execute(&statement, &values(params)))
            .map_err(|e| forget(self.statements, sql, judge(self.health, e)))
    }
}

fn types(params: &[&dyn Param]) -> Vec<Type> {
    params.iter().map(|p| p.postgres_type()).collect()
}

fn values<'p>(params: &[&'p dyn Param]) -> Vec<&'p (dyn postgres::types::ToSql + Sync)> {
    params.iter().map(|p| p.as_sql()).collect()
}

/// Sorts a fault, and remembers a lost connection: the others may have gone with it.
fn judge(health: &Health, e: postgres::Error) -> Error {
    // 57P01 to 57P03: the server is shutting down, crashed or starting.
    let dying = e.code().is_some_and(|code| code.code().starts_with("57P"));
    if e.is_closed() || dying {
        health.connection_lost();
    }
    Error::from(e)
}

/// A statement whose table was altered fails until it is prepared anew.
fn forget(statements: &mut Statements, sql: &'static str, e: Error) -> Error {
    if matches!(&e, Error::Other(_)) {
        statements.forget(sql);
    }
    e
}
