//! Pieces of SQL derived from the declaration of units. Statements made of them are built once and kept, as sessions
//! know a prepared statement by the address of its text.

use postgres::Row;

use crate::db::Error;
use crate::units::{ByUnit, Unit, Units};

/// A list in SQL.
pub(super) fn comma_separated(items: impl IntoIterator<Item = impl Into<String>>) -> String {
    items.into_iter().map(Into::into).collect::<Vec<String>>().join(", ")
}

/// The columns of all units.
pub(super) fn units() -> impl Iterator<Item = &'static str> {
    Unit::ALL.into_iter().map(Unit::column)
}

/// The values of the columns [`units`], which begin at `first` in the row.
pub(super) fn read_units(row: &Row, first: usize) -> Result<Units, Error> {
    ByUnit::try_from_fn(|unit| Ok(row.try_get(first + unit as usize)?))
}

/// `unnest($first), unnest($first + 1), …`: a row set of one array parameter for each column. In the list of a SELECT
/// PostgreSQL goes through the arrays in step; in FROM it would copy each to a temporary table first.
pub(super) fn unnest(first: usize, columns: &[&str]) -> Vec<String> {
    (first..).take(columns.len()).map(|parameter| format!("unnest(${parameter})")).collect()
}
