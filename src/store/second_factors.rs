//! Tables `second_factors` and `recovery_codes`: what a log-in asks for beside the password.

use std::collections::HashSet;

use time::OffsetDateTime;

use super::row::{Record, record};
use crate::db::{Error, Executor};

record! {
    /// An authenticator app that an account is used with.
    #[derive(Clone)]
    pub struct Authenticator {
        /// Its id.
        pub id: String = "id",
        /// What it shares with the server, sealed.
        pub secret: Vec<u8> = "secret",
        /// The last step whose code was used.
        pub last_step: i64 = "counter",
        /// When its first code was right; before that, log-ins do not ask for one.
        pub confirmed: Option<OffsetDateTime> = "confirmed",
    }
}

/// The second factor of an account, as its owner sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Since when log-ins ask for it; `None` if they do not.
    pub since: Option<OffsetDateTime>,
    /// Whether one was begun to be set up.
    pub is_pending: bool,
    /// How many recovery codes are left.
    pub codes: i64,
}

/// The account's authenticator app, confirmed or not.
///
/// # Errors
/// See [`Error`].
pub fn authenticator(db: &mut impl Executor, user_id: &str) -> Result<Option<Authenticator>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM second_factors WHERE user_id = $1 AND kind = 'totp'");
    db.query_opt(SQL, &[&user_id])?.as_ref().map(Authenticator::from_row).transpose()
}

/// The account's second factor, and how many recovery codes it has.
///
/// # Errors
/// See [`Error`].
pub fn state(db: &mut impl Executor, user_id: &str) -> Result<State, Error> {
    const SQL: &str = "SELECT (SELECT min(confirmed) FROM second_factors WHERE user_id = $1),
        EXISTS (SELECT FROM second_factors WHERE user_id = $1 AND confirmed IS NULL),
        (SELECT count(*) FROM recovery_codes WHERE user_id = $1 AND used IS NULL)";
    let row = db.query_one(SQL, &[&user_id])?;
    Ok(State { since: row.try_get(0)?, is_pending: row.try_get(1)?, codes: row.try_get(2)? })
}

/// Those of these accounts whose log-ins ask for a second factor.
///
/// # Errors
/// See [`Error`].
pub fn of_accounts(db: &mut impl Executor, ids: &[&str]) -> Result<HashSet<String>, Error> {
    const SQL: &str = "SELECT DISTINCT user_id FROM second_factors
        WHERE user_id = ANY($1::text[]::varchar[]) AND confirmed IS NOT NULL";
    db.query(SQL, &[&ids.to_vec()])?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Begins to set up an authenticator app, in place of one that was begun before. Returns whether it did: not if one is
/// confirmed.
///
/// # Errors
/// [`Error::ForeignKey`] if the account does not exist.
pub fn begin(db: &mut impl Executor, id: &str, user_id: &str, secret: &[u8]) -> Result<bool, Error> {
    const SQL: &str = "INSERT INTO second_factors (id, user_id, kind, secret) VALUES ($1, $2, 'totp', $3)
        ON CONFLICT (user_id) WHERE kind = 'totp'
        DO UPDATE SET id = excluded.id, secret = excluded.secret, counter = 0, created = now()
        WHERE second_factors.confirmed IS NULL";
    Ok(db.execute(SQL, &[&id, &user_id, &secret])? == 1)
}

/// From now on, log-ins ask for it. Returns whether that is new.
///
/// # Errors
/// See [`Error`].
pub fn confirm(db: &mut impl Executor, id: &str, step: i64) -> Result<bool, Error> {
    const SQL: &str = "UPDATE second_factors SET confirmed = now(), counter = $2 WHERE id = $1 AND confirmed IS NULL";
    Ok(db.execute(SQL, &[&id, &step])? == 1)
}

/// Uses up the code of a step, and those of all before it. Returns whether it was not used before: of several who do so at
/// once, one succeeds.
///
/// # Errors
/// See [`Error`].
pub fn use_step(db: &mut impl Executor, id: &str, step: i64) -> Result<bool, Error> {
    const SQL: &str = "UPDATE second_factors SET counter = $2 WHERE id = $1 AND confirmed IS NOT NULL AND counter < $2";
    Ok(db.execute(SQL, &[&id, &step])? == 1)
}

/// Removes all second factors of an account, with its recovery codes. Returns whether log-ins asked for one.
///
/// # Errors
/// See [`Error`].
pub fn remove(db: &mut impl Executor, user_id: &str) -> Result<bool, Error> {
    let gone =
        db.query("DELETE FROM second_factors WHERE user_id = $1 RETURNING confirmed IS NOT NULL", &[&user_id])?;
    db.execute("DELETE FROM recovery_codes WHERE user_id = $1", &[&user_id])?;
    gone.iter().try_fold(false, |any, row| Ok(any | row.try_get::<_, bool>(0)?))
}

/// Replaces the account's recovery codes with those of these digests.
///
/// # Errors
/// See [`Error`].
pub fn replace_codes(db: &mut impl Executor, user_id: &str, digests: &[&[u8]]) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO recovery_codes (user_id, digest) SELECT $1, unnest($2::bytea[])";
    db.execute("DELETE FROM recovery_codes WHERE user_id = $1", &[&user_id])?;
    db.execute(SQL, &[&user_id, &digests.to_vec()]).map(drop)
}

/// Uses up a recovery code. Returns whether there was one that was not used before.
///
/// # Errors
/// See [`Error`].
pub fn use_code(db: &mut impl Executor, user_id: &str, digest: &[u8]) -> Result<bool, Error> {
    const SQL: &str = "UPDATE recovery_codes SET used = now() WHERE user_id = $1 AND digest = $2 AND used IS NULL";
    Ok(db.execute(SQL, &[&user_id, &digest])? == 1)
}
