//! Tables `rate_limits`, `rate_shares` and `rate_cooling`: how many requests and tokens a minute, and requests at once,
//! an account or a key may have, and the permits of these that processes hold. `users.rate_id` and `api_keys.rate_id`
//! say whose limits they are; keys that a rotation made of each other share them. `limits::permit_book` says what each
//! function does.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::row::{Columns, Record, record};
use crate::db::{Error, Executor};

/// How many kinds of limits there are: requests, tokens, requests at once.
pub const KINDS: usize = 3;

record! {
    /// Rate limits as their owner sees them.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
    pub struct RateLimit {
        /// Not shown.
        #[serde(skip)]
        pub id: String = "r.id",
        /// The most requests in any minute; null for no limit.
        pub requests_per_minute: Option<i64> = "r.requests_per_minute",
        /// The most tokens, of prompts and replies, of the requests in any minute; null for no limit.
        pub tokens_per_minute: Option<i64> = "r.tokens_per_minute",
        /// The most requests at once; null for no limit.
        pub concurrent: Option<i64> = "r.concurrent",
    }
}

impl RateLimit {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        self.requests_per_minute.is_none() && self.tokens_per_minute.is_none() && self.concurrent.is_none()
    }
}

/// What a process asks for, of each kind. Amounts are sums over its life, so that asking twice gives nothing twice.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The limits.
    pub rate_id: &'a str,
    /// All grants that it needs.
    pub at_least: [i64; KINDS],
    /// All grants that it would like to have.
    pub at_most: [i64; KINDS],
    /// All that it has handed back.
    pub returned: [i64; KINDS],
    /// What it holds and does not use.
    pub idle: [i64; KINDS],
    /// In how many microseconds the next of those in use is ready.
    pub ready_in: [i64; KINDS],
}

/// The answer to a [`Request`], of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// The limit.
    pub most: i64,
    /// The sum of all grants.
    pub granted: i64,
    /// The sum of all that was handed back.
    pub returned: i64,
    /// Whether there was less than was needed. Then all processes are told with `NOTIFY textgen_limits`.
    pub is_short: bool,
    /// What nobody holds, or others did not use when they asked.
    pub elsewhere: i64,
    /// In how many microseconds the next permit of another process may be ready, if others hold any.
    pub elsewhere_in: Option<i64>,
}

/// Makes limits, which are nobody's yet.
///
/// # Errors
/// [`Error::ForeignKey`] if the account does not exist.
pub fn insert(db: &mut impl Executor, user_id: &str, limit: &RateLimit) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO rate_limits (id, user_id, requests_per_minute, tokens_per_minute, concurrent)
        VALUES ($1, $2, $3, $4, $5)";
    let RateLimit { id, requests_per_minute, tokens_per_minute, concurrent } = limit;
    db.execute(SQL, &[id, &user_id, requests_per_minute, tokens_per_minute, concurrent]).map(drop)
}

/// The limits with this id, locked until the end of the transaction.
///
/// # Errors
/// See [`Error`].
pub fn lock(db: &mut impl Executor, id: &str) -> Result<Option<RateLimit>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM rate_limits r WHERE r.id = $1 FOR NO KEY UPDATE");
    db.query_opt(SQL, &[&id])?.as_ref().map(RateLimit::from_row).transpose()
}

/// Changes limits. What processes hold of one that is removed is forgotten.
///
/// # Errors
/// See [`Error`].
pub fn update(db: &mut impl Executor, limit: &RateLimit) -> Result<(), Error> {
    const SQL: &str = "UPDATE rate_limits SET requests_per_minute = $2, tokens_per_minute = $3, concurrent = $4
        WHERE id = $1";
    const FORGET: &str = "DELETE FROM rate_shares s USING rate_limits r WHERE r.id = $1 AND s.rate_id = r.id
        AND (ARRAY[r.requests_per_minute, r.tokens_per_minute, r.concurrent])[s.kind] IS NULL";
    let RateLimit { id, requests_per_minute, tokens_per_minute, concurrent } = limit;
    db.execute(SQL, &[id, requests_per_minute, tokens_per_minute, concurrent])?;
    db.execute(FORGET, &[id]).map(drop)
}

/// Deletes limits, which must be nobody's any more.
///
/// # Errors
/// See [`Error`].
pub fn delete(db: &mut impl Executor, id: &str) -> Result<(), Error> {
    db.execute("DELETE FROM rate_limits WHERE id = $1", &[&id]).map(drop)
}

/// Deletes those of the next 1,000 limits, in the order of their ids, that nobody has any more: their keys were deleted, and
/// no process holds a permit. Begins behind the id `after`, and returns the last id that it looked at, if any.
///
/// # Errors
/// See [`Error`].
pub fn delete_unused(db: &mut impl Executor, after: &str) -> Result<Option<String>, Error> {
    const SQL: &str = "WITH looked_at AS (
            SELECT r.id, r.user_id FROM rate_limits r WHERE r.id > $1 ORDER BY r.id LIMIT 1000),
        unused AS (
            SELECT l.id AS unused_id FROM looked_at l
            WHERE NOT EXISTS (SELECT FROM api_keys k WHERE k.rate_id = l.id)
                AND NOT EXISTS (SELECT FROM users u WHERE u.id = l.user_id AND u.rate_id = l.id)
                AND NOT EXISTS (SELECT FROM rate_shares s WHERE s.rate_id = l.id AND s.granted > s.returned)
                AND NOT EXISTS (SELECT FROM rate_cooling c WHERE c.rate_id = l.id AND c.ready > now())),
        locked AS (
            SELECT r.id AS locked_id FROM rate_limits r JOIN unused ON r.id = unused_id
            ORDER BY r.id FOR UPDATE OF r SKIP LOCKED),
        deleted AS (DELETE FROM rate_limits r USING locked WHERE r.id = locked_id)
        SELECT max(id) FROM looked_at";
    Ok(db.query_one(SQL, &[&after])?.try_get(0)?)
}

/// Gives an account these limits, or none.
///
/// # Errors
/// See [`Error`].
pub fn assign_to_user(db: &mut impl Executor, user_id: &str, id: Option<&str>) -> Result<(), Error> {
    db.execute("UPDATE users SET rate_id = $2 WHERE id = $1", &[&user_id, &id.map(str::to_owned)]).map(drop)
}

/// Gives a key of an account these limits, or none.
///
/// # Errors
/// See [`Error`].
pub fn assign_to_key(db: &mut impl Executor, user_id: &str, key_id: &str, id: Option<&str>) -> Result<(), Error> {
    const SQL: &str = "UPDATE api_keys SET rate_id = $3 WHERE user_id = $1 AND id = $2";
    db.execute(SQL, &[&user_id, &key_id, &id.map(str::to_owned)]).map(drop)
}

/// Whether a working key of the account has these limits.
///
/// # Errors
/// See [`Error`].
pub fn is_used(db: &mut impl Executor, user_id: &str, id: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM api_keys WHERE user_id = $1 AND rate_id = $2
        AND revoked IS NULL AND (expires IS NULL OR expires > now()))";
    Ok(db.query_one(SQL, &[&user_id, &id])?.try_get(0)?)
}

/// The limits of these accounts, by the accounts' ids.
///
/// # Errors
/// See [`Error`].
pub fn of_accounts(db: &mut impl Executor, user_ids: &[&str]) -> Result<HashMap<String, RateLimit>, Error> {
    const SQL: &str = concat!(
        "SELECT u.id, ",
        columns!(),
        " FROM users u JOIN rate_limits r ON r.id = u.rate_id WHERE u.id = ANY($1::text[]::varchar[])"
    );
    let rows = db.query(SQL, &[&user_ids.to_vec()])?;
    let read = |row: &postgres::Row| {
        let mut columns = Columns::of(row);
        Ok((columns.next()?, RateLimit::from_columns(&mut columns)?))
    };
    rows.iter().map(read).collect()
}

/// All limits of an account, its keys' included.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str) -> Result<Vec<RateLimit>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM rate_limits r WHERE r.user_id = $1");
    db.query(SQL, &[&user_id])?.iter().map(RateLimit::from_row).collect()
}

/// Grants permits to a process, or takes some back, in one round trip. The requests must be in the byte order of their
/// limits. Returns the answer to each, which is nothing for a kind that is not limited; `None` if there are no such
/// limits, or the process is unknown or has ended.
///
/// # Errors
/// See [`Error`].
pub fn ask(
    db: &mut impl Executor,
    holder_id: &str,
    requests: &[Request<'_>],
) -> Result<Vec<Option<[Option<Granted>; KINDS]>>, Error> {
    // PostgreSQL has no arrays of arrays: the amounts of all requests are in one list, three of each.
    const SQL: &str =
        "SELECT r.place, p.kind::int, p.most, p.granted, p.returned, p.is_short, p.elsewhere, p.elsewhere_in
        FROM unnest($2::text[]::varchar[]) WITH ORDINALITY AS r (rate_id, place)
        CROSS JOIN LATERAL textgen_ask_permits(r.rate_id, $1,
            $3[r.place::int * 3 - 2:r.place::int * 3], $4[r.place::int * 3 - 2:r.place::int * 3],
            $5[r.place::int * 3 - 2:r.place::int * 3], $6[r.place::int * 3 - 2:r.place::int * 3],
            $7[r.place::int * 3 - 2:r.place::int * 3]) AS p";
    let ids: Vec<&str> = requests.iter().map(|request| request.rate_id).collect();
    let amounts = |of: fn(&Request<'_>) -> [i64; KINDS]| requests.iter().flat_map(of).collect::<Vec<i64>>();
    let (at_least, at_most, returned) = (amounts(|r| r.at_least), amounts(|r| r.at_most), amounts(|r| r.returned));
    let (idle, ready_in) = (amounts(|r| r.idle), amounts(|r| r.ready_in));
    let mut answers = vec![None; requests.len()];
    for row in db.query(SQL, &[&holder_id, &ids, &at_least, &at_most, &returned, &idle, &ready_in])? {
        let (place, kind): (i64, i32) = (row.try_get(0)?, row.try_get(1)?);
        let answer = usize::try_from(place - 1).ok().and_then(|place| answers.get_mut(place));
        let Some(answer) = answer else { continue };
        let kinds = answer.get_or_insert([None; KINDS]);
        // The first row of each, of kind 0, only says that there are such limits.
        if let Some(slot) = usize::try_from(kind - 1).ok().and_then(|kind| kinds.get_mut(kind)) {
            *slot = Some(Granted {
                most: row.try_get(2)?,
                granted: row.try_get(3)?,
                returned: row.try_get(4)?,
                is_short: row.try_get(5)?,
                elsewhere: row.try_get(6)?,
                elsewhere_in: row.try_get(7)?,
            });
        }
    }
    Ok(answers)
}
