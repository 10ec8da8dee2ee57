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

/// A set of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnitSet(usize);

impl UnitSet {
    /// How many sets there are.
    pub(super) const COUNT: usize = 1 << Unit::COUNT;

    /// Those of which any of `amounts` has some.
    pub(super) fn used<'u>(amounts: impl IntoIterator<Item = &'u Units>) -> UnitSet {
        let used = |set, (unit, amount): (Unit, &i64)| if *amount == 0 { set } else { set | 1 << unit as usize };
        UnitSet(amounts.into_iter().fold(0, |set, units| units.iter().fold(set, used)))
    }

    /// Its number, below [`UnitSet::COUNT`].
    pub(super) fn index(self) -> usize {
        self.0
    }

    /// Whether it has this unit.
    pub(super) fn contains(self, unit: Unit) -> bool {
        self.0 & 1 << unit as usize != 0
    }

    /// The columns of its units.
    pub(super) fn columns(self) -> impl Iterator<Item = &'static str> {
        Unit::ALL.into_iter().filter(move |unit| self.contains(*unit)).map(Unit::column)
    }
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
