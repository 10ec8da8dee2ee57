//! Errors of the database, classified by what a request can do about them.

use postgres::error::SqlState;

use crate::blocking::Refused;

/// An error of the database, or of the statement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is unreachable, shutting down, read-only, out of connections or disk, or too slow: retry later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// All connections are in use.
    #[error("no database connection is free")]
    Busy,
    /// Others hold a lock for longer than it may wait.
    #[error("what it needs stays locked: {0}")]
    Locked(String),
    /// It violates the unique constraint with this name.
    #[error("unique constraint {0} violated")]
    Unique(String),
    /// It violates the foreign key with this name.
    #[error("foreign key {0} violated")]
    ForeignKey(String),
    /// A value is out of the range of its column.
    #[error("a value does not fit: {0}")]
    Value(String),
    /// A constraint of another kind, or a trigger, does not allow the row.
    #[error("refused: {0}")]
    Refused(String),
    /// There is no memory for the rows.
    #[error("there is no memory for the rows")]
    NoMemory(Refused),
    /// It is not as a migration needs it. Nothing was changed.
    #[error("the database cannot be migrated, and nothing was changed: {0}")]
    NotMigratable(String),
    /// Anything else: a bug.
    #[error("database error: {0}")]
    Other(String),
}

impl Error {
    /// Whether the same request may succeed later.
    pub fn is_outage(&self) -> bool {
        matches!(self, Error::Unavailable(_) | Error::Busy | Error::Locked(_) | Error::NoMemory(_))
    }

    /// Whether it is a row that is not accepted: others may be, and this one never will.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Unique(_) | Error::ForeignKey(_) | Error::Value(_) | Error::Refused(_))
    }
}

impl From<postgres::Error> for Error {
    fn from(e: postgres::Error) -> Error {
        let Some(fault) = e.as_db_error() else {
            return match e.is_closed() || is_io(&e) {
                true => Error::Unavailable(describe(&e)),
                false => Error::Other(describe(&e)),
            };
        };
        let constraint = || fault.constraint().unwrap_or("").to_owned();
        match fault.code() {
            &SqlState::UNIQUE_VIOLATION => Error::Unique(constraint()),
            &SqlState::LOCK_NOT_AVAILABLE => Error::Locked(describe(&e)),
            &SqlState::FOREIGN_KEY_VIOLATION => Error::ForeignKey(constraint()),
            code if code.code().starts_with("22") => Error::Value(describe(&e)), // data exception
            // The plan of a prepared statement is older than its table. It is prepared anew the next time.
            &SqlState::FEATURE_NOT_SUPPORTED if fault.routine() == Some("RevalidateCachedQuery") => {
                Error::Unavailable(describe(&e))
            }
            code if is_refusal(code) => Error::Refused(describe(&e)),
            code if is_transient(code) => Error::Unavailable(describe(&e)),
            _ => Error::Other(describe(&e)),
        }
    }
}

/// Code and message only: detail and context may hold values of rows.
pub(super) fn describe(e: &postgres::Error) -> String {
    use std::error::Error as _;
    match (e.as_db_error(), e.source()) {
        (Some(fault), _) => format!("{} {}", fault.code().code(), fault.message()),
        (None, Some(source)) => format!("{e}: {source}"),
        (None, None) => e.to_string(),
    }
}

pub(super) fn is_io(e: &postgres::Error) -> bool {
    use std::error::Error as _;
    e.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
}

/// Integrity constraints, check options of views, and what a trigger raises.
fn is_refusal(code: &SqlState) -> bool {
    ["23", "44", "P0"].iter().any(|class| code.code().starts_with(class))
}

/// Transient errors (PostgreSQL, Appendix A), by class or by code.
fn is_transient(code: &SqlState) -> bool {
    const CLASSES: [&str; 6] = [
        "08", // connection exception
        "40", // serialization failure, deadlock
        "53", // out of disk, memory or connections
        "57", // shutting down, cancelled by statement_timeout
        "58", // I/O error of the server
        "XX", // internal error, corruption
    ];
    const CODES: [&str; 2] = [
        "25006", // read-only: a demoted primary
        "3D000", // the database does not exist (yet)
    ];
    let code = code.code();
    CLASSES.iter().any(|class| code.starts_with(class)) || CODES.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_errors_are_told_from_bugs() {
        for code in ["08006", "40001", "40P01", "53100", "53300", "57014", "57P01", "57P03", "58030", "25006"] {
            assert!(is_transient(&SqlState::from_code(code)), "{code}");
        }
        for code in ["42601", "42P01", "22021", "23502", "0A000", "28P01"] {
            assert!(!is_transient(&SqlState::from_code(code)), "{code}");
        }
    }
}
