//! Table `installation`, which has one row: the identity of this database.

use crate::db::{Error, Executor};

/// A text that no other database has: the id of the installation and the database's name.
///
/// # Errors
/// See [`Error`].
pub fn identity(db: &mut impl Executor) -> Result<String, Error> {
    Ok(db.query_one("SELECT id::text || current_database() FROM installation", &[])?.try_get(0)?)
}

/// The key of the codes of journals' records, and of the cookies of known devices: the same for all processes on this
/// database.
///
/// # Errors
/// See [`Error`].
pub fn journal_key(db: &mut impl Executor) -> Result<Vec<u8>, Error> {
    Ok(db.query_one("SELECT journal_key FROM installation", &[])?.try_get(0)?)
}

/// Whether journals of older releases, whose records have no codes, are still replayed.
///
/// # Errors
/// See [`Error`].
pub fn takes_unsigned_journals(db: &mut impl Executor) -> Result<bool, Error> {
    Ok(db.query_one("SELECT now() < unsigned_journals_until FROM installation", &[])?.try_get(0)?)
}

/// The key of validation tokens: the same for all processes on this database.
///
/// # Errors
/// See [`Error`].
pub fn validation_key(db: &mut impl Executor) -> Result<Vec<u8>, Error> {
    Ok(db.query_one("SELECT validation_key FROM installation", &[])?.try_get(0)?)
}

/// The key by which secrets of second factors are sealed where no other is set: the same for all processes on this
/// database.
///
/// # Errors
/// See [`Error`].
pub fn second_factor_key(db: &mut impl Executor) -> Result<Vec<u8>, Error> {
    Ok(db.query_one("SELECT second_factor_key FROM installation", &[])?.try_get(0)?)
}
