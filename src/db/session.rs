//! A connection that is checked out for one piece of work, and transactions on it.

use std::sync::Arc;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{ToSql, Type};
use postgres::{GenericClient, Row};

use super::connection::{ArmOnDrop, ConnectionState};
use super::error::is_io;
use super::watchdog::is_response_timeout;
use super::{Connection, ConnectionManager, Error, Health, Param, Replacement};
use crate::blocking::{self, Permit, Refused};
use crate::memory_budget::{self, Growth};
use crate::traces::{self, Span};

/// Bytes of a list's rows that are reserved at a time, but for the first.
const LIST_STEP: usize = 64 * 1024;
/// Times the size of a row that it takes: as it arrives, as a row, and as what is made of it.
const ROW_COPIES: usize = 3;

/// Runs statements: a session, or a transaction on one. `store` functions take either.
///
/// Each statement is prepared once per connection, so a call is one round trip; behind a pooler that allows no prepared
/// statements its SQL is sent each time, still in one round trip.
pub trait Executor {
    /// Runs a statement and returns all rows.
    ///
    /// # Errors
    /// See [`Error`].
    fn query(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error>;

    /// The same for a list, which may be long: the [memory](memory_budget) of its rows is reserved as they arrive, for the
    /// request that this thread works on.
    ///
    /// # Errors
    /// See [`Error`].
    fn query_list(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error>;

    /// Runs a statement and returns the number of rows that it changed.
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
    /// Dropped after the connection.
    _replacement: Replacement,
    /// Given back after that, so that whoever gets it finds the connection.
    _permit: Option<Permit>,
    health: Arc<Health>,
}

impl Session {
    pub(super) fn new(
        mut connection: r2d2::PooledConnection<ConnectionManager>,
        replacement: Replacement,
        permit: Option<Permit>,
        health: Arc<Health>,
    ) -> Session {
        connection.mark_checked(health.losses());
        Session { connection, _replacement: replacement, _permit: permit, health }
    }

    /// Sets how long the database may take to send the next bytes of a response before it counts as unavailable. The
    /// default is [`RESPONSE_TIMEOUT`](super::RESPONSE_TIMEOUT).
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.connection.set_timeout(timeout);
    }

    /// Begins a transaction. Dropped without [`Transaction::commit`], it is rolled back.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        blocking::note_short_wait();
        let Connection { client, state, .. } = &mut *self.connection;
        state.arm();
        match client.transaction() {
            Ok(inner) => Ok(Transaction { _rollback: state.arm_on_drop(), inner, state, health: &self.health }),
            Err(e) => Err(classify(&self.health, state, "BEGIN", e)),
        }
    }
}

impl Executor for Session {
    fn query(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error> {
        let Connection { client, state, .. } = &mut *self.connection;
        let outcome = match query(client, state, sql, params) {
            Err(e) if state.invalidate(sql, &e) => query(client, state, sql, params),
            outcome => outcome,
        };
        outcome.map_err(|e| classify(&self.health, state, sql, e))
    }

    fn query_list(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error> {
        let Connection { client, state, .. } = &mut *self.connection;
        let outcome = match query_list(client, state, sql, params) {
            Err(e) if state.invalidate(sql, &e) => query_list(client, state, sql, params),
            outcome => outcome,
        };
        outcome.map_err(|e| classify(&self.health, state, sql, e))?.map_err(Error::NoMemory)
    }

    fn execute(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<u64, Error> {
        let Connection { client, state, .. } = &mut *self.connection;
        let outcome = match execute(client, state, sql, params) {
            Err(e) if state.invalidate(sql, &e) => execute(client, state, sql, params),
            outcome => outcome,
        };
        outcome.map_err(|e| classify(&self.health, state, sql, e))
    }
}

/// A transaction on a session; rolled back unless committed.
pub struct Transaction<'s> {
    /// The first field, so that the watchdog runs when the transaction is rolled back by dropping the second.
    _rollback: ArmOnDrop,
    inner: postgres::Transaction<'s>,
    state: &'s mut ConnectionState,
    health: &'s Health,
}

impl Transaction<'_> {
    /// Commits it.
    ///
    /// # Errors
    /// See [`Error`]. If the connection broke, it is unknown whether the transaction was committed.
    pub fn commit(self) -> Result<(), Error> {
        let _span = span("COMMIT");
        blocking::note_short_wait();
        let Transaction { inner, state, health, _rollback } = self;
        state.arm();
        inner.commit().map_err(|e| classify(health, state, "COMMIT", e))
    }
}

impl Executor for Transaction<'_> {
    fn query(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error> {
        let Transaction { inner, state, health, .. } = self;
        query(inner, state, sql, params).map_err(|e| classify(health, state, sql, e))
    }

    fn query_list(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<Vec<Row>, Error> {
        let Transaction { inner, state, health, .. } = self;
        query_list(inner, state, sql, params).map_err(|e| classify(health, state, sql, e))?.map_err(Error::NoMemory)
    }

    fn execute(&mut self, sql: &'static str, params: &[&dyn Param]) -> Result<u64, Error> {
        let Transaction { inner, state, health, .. } = self;
        execute(inner, state, sql, params).map_err(|e| classify(health, state, sql, e))
    }
}

/// A statement in the trace of the request, with its text, which has no values.
fn span(sql: &'static str) -> Option<Span> {
    let span = traces::client_span("database")?;
    span.describe(|span| {
        span.attribute("db.system.name", "postgresql");
        span.attribute("db.query.text", sql);
    });
    Some(span)
}

fn query(
    client: &mut impl GenericClient,
    state: &mut ConnectionState,
    sql: &'static str,
    params: &[&dyn Param],
) -> Result<Vec<Row>, postgres::Error> {
    let _span = span(sql);
    blocking::note_short_wait();
    state.arm();
    state.carries(bytes(params));
    let rows = match state.statement(sql, || client.prepare_typed(sql, &types(params)))? {
        Some(prepared) => client.query(&prepared, &values(params)),
        None => client.query_typed(sql, &typed(params)),
    }?;
    state.carries(rows.iter().map(Row::raw_size_bytes).max().unwrap_or(0));
    Ok(rows)
}

/// Once there is no memory, the rows that still arrive are dropped one by one.
fn query_list(
    client: &mut impl GenericClient,
    state: &mut ConnectionState,
    sql: &'static str,
    params: &[&dyn Param],
) -> Result<Result<Vec<Row>, Refused>, postgres::Error> {
    let _span = span(sql);
    blocking::note_short_wait();
    state.arm();
    state.carries(bytes(params));
    let mut arriving = match state.statement(sql, || client.prepare_typed(sql, &types(params)))? {
        Some(prepared) => client.query_raw(&prepared, values(params)),
        None => client.query_typed_raw(sql, typed(params)),
    }?;
    let (mut rows, mut largest, mut memory) = (Ok(Vec::new()), 0, Growth::new(LIST_STEP, ROW_COPIES));
    while let Some(row) = arriving.next()? {
        let size = row.raw_size_bytes();
        largest = largest.max(size);
        if let Ok(list) = &mut rows {
            match memory.add(size.saturating_add(size_of::<Row>()), memory_budget::reserve) {
                Ok(()) => list.push(row),
                Err(refused) => rows = Err(refused),
            }
        }
    }
    drop(arriving);
    state.carries(largest);
    Ok(rows)
}

fn execute(
    client: &mut impl GenericClient,
    state: &mut ConnectionState,
    sql: &'static str,
    params: &[&dyn Param],
) -> Result<u64, postgres::Error> {
    let _span = span(sql);
    blocking::note_short_wait();
    state.arm();
    state.carries(bytes(params));
    match state.statement(sql, || client.prepare_typed(sql, &types(params)))? {
        Some(prepared) => client.execute(&prepared, &values(params)),
        None => client.execute_typed(sql, &typed(params)),
    }
}

fn bytes(params: &[&dyn Param]) -> usize {
    params.iter().map(|param| param.bytes()).sum()
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

/// Classifies an error. If the connection was lost, the other connections are checked before they are used again.
fn classify(health: &Health, state: &mut ConnectionState, sql: &'static str, e: postgres::Error) -> Error {
    // 57P01 to 57P03: the server is shutting down, crashed or starting.
    let is_shut_down = e.code().is_some_and(|code| code.code().starts_with("57P"));
    let demoted = e.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
    if is_response_timeout(&e) {
        health.timed_out();
    } else if e.is_closed() || is_io(&e) || is_shut_down || demoted {
        health.connection_lost();
    }
    state.invalidate(sql, &e);
    Error::from(e)
}
