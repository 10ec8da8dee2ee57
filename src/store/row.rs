//! Structs that are read from rows: a field and its column are declared together.

use postgres::Row;
use postgres::types::FromSql;

use crate::db::Error;

/// Reads the columns of a row, from the first to the last.
pub(super) struct Columns<'r> {
    row: &'r Row,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(super) fn of(row: &'r Row) -> Columns<'r> {
        Columns { row, next: 0 }
    }

    /// The next column.
    pub(super) fn next<T: FromSql<'r>>(&mut self) -> Result<T, Error> {
        let value = self.row.try_get(self.next)?;
        self.next += 1;
        Ok(value)
    }
}

/// A struct that is read from consecutive columns.
pub(super) trait Record: Sized {
    /// Reads it as part of a row.
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, Error>;

    /// Reads it from the start of a row.
    fn from_row(row: &Row) -> Result<Self, Error> {
        Self::from_columns(&mut Columns::of(row))
    }
}

/// Declares a struct with the SQL of each field, and implements [`Record`] for it. In the module that uses it, it also
/// defines the macro `columns!()`: the list for `SELECT` or `RETURNING`, to be used in `concat!`.
macro_rules! record {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident {
            $($(#[$field_attribute:meta])* pub $field:ident: $type:ty = $sql:literal,)+
        }
    ) => {
        $(#[$attribute])*
        pub struct $name {
            $($(#[$field_attribute])* pub $field: $type,)+
        }

        macro_rules! columns {
            () => {
                $crate::store::row::join!($($sql),+)
            };
        }

        impl $crate::store::row::Record for $name {
            fn from_columns(columns: &mut $crate::store::row::Columns<'_>) -> Result<$name, $crate::db::Error> {
                Ok($name { $($field: columns.next()?,)+ })
            }
        }
    };
}
pub(super) use record;

/// In an `UPDATE`, counts an attempt of a row that was taken, and says when the next one is due if this one fails, or if its
/// process dies: after a minute, and at most an hour, twice as long each time.
macro_rules! next_attempt {
    () => {
        "attempts = attempts + 1,
            next_at = now() + least(interval '1 minute' * power(2, least(attempts, 10)), interval '1 hour')"
    };
}
pub(super) use next_attempt;

/// Joins literals with commas.
macro_rules! join {
    ($first:literal $(, $rest:literal)*) => {
        concat!($first $(, ", ", $rest)*)
    };
}
pub(super) use join;
