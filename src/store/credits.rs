//! Tables `credit_entries` and `credit_balances`: what accounts were given, have bought and lost again. Their sum is the
//! limit of a budget, so that what is spent of it is leased and settled like any other. `docs/limits.md` explains it.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::row::{Columns, Record, record};
use crate::db::{Error, Executor};

/// Why credit was added or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An operator gave it.
    Grant,
    /// It was paid for.
    Purchase,
    /// An operator put something right; it may take credit away.
    Correction,
}

impl Kind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Grant => "grant",
            Kind::Purchase => "purchase",
            Kind::Correction => "correction",
        }
    }
}

/// An entry to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry<'a> {
    /// Unique among all accounts' entries.
    pub id: &'a str,
    /// Why.
    pub kind: Kind,
    /// How much, in micro-dollars; below zero to take it away.
    pub amount_micros: i64,
    /// When what is left of it expires.
    pub expires: Option<OffsetDateTime>,
    /// For the owner to read.
    pub reason: &'a str,
}

record! {
    /// A change of an account's credit, other than spending.
    #[derive(Clone, Debug, Serialize, JsonSchema)]
    pub struct Entry {
        /// Its id.
        pub id: String = "e.id",
        /// Not shown.
        #[serde(skip)]
        pub user_id: String = "e.user_id",
        /// `grant`, `purchase`, `correction` or `expiry`.
        pub kind: String = "e.kind",
        /// The amount in micro-dollars; below zero if it was taken away.
        pub amount_micros: i64 = "div(e.amount_picos, 1000000)::bigint",
        /// Not shown: what was asked for. A correction takes no more than there is.
        #[serde(skip)]
        pub asked_micros: i64 = "div(e.asked_picos, 1000000)::bigint",
        /// When what is left of it expires.
        #[serde(serialize_with = "super::timestamp::serialize_zulu_option")]
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        pub expires: Option<OffsetDateTime> = "e.expires",
        /// For an expiry: the id of the entry whose credit has expired.
        pub expired: Option<String> = "e.expired_id",
        /// Why.
        pub reason: String = "e.reason",
        /// When.
        #[serde(serialize_with = "super::timestamp::serialize_zulu")]
        #[schemars(with = "String", extend("format" = "date-time"))]
        pub created: OffsetDateTime = "e.created",
    }
}

/// Credit that expires at a certain time, or never.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Expiring {
    /// What is left of it, in micro-dollars.
    pub amount_micros: i64,
    /// When it expires; null for never.
    #[serde(serialize_with = "super::timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub expires: Option<OffsetDateTime>,
}

/// What an account has.
#[derive(Clone, Debug, Default)]
pub struct Balance {
    /// All that it can spend, in whole micro-dollars.
    pub balance_micros: i64,
    /// The same by when it expires, the first ones first; at most [`MOST_EXPIRING`].
    pub expiring: Vec<Expiring>,
}

/// The most times of expiry that are shown.
pub const MOST_EXPIRING: usize = 100;

/// Makes an empty balance, a budget with this id, for an account that has none and whose row is locked.
///
/// # Errors
/// See [`Error`].
pub fn open(db: &mut impl Executor, id: &str, user_id: &str) -> Result<(), Error> {
    const BUDGET: &str = "INSERT INTO budgets (id, user_id, limit_picos, period) VALUES ($1, $2, 0, 'total')";
    const BALANCE: &str = "INSERT INTO credit_balances (budget_id, user_id) VALUES ($1, $2)";
    const USER: &str = "UPDATE users SET balance_id = $1 WHERE id = $2";
    for sql in [BUDGET, BALANCE, USER] {
        db.execute(sql, &[&id, &user_id])?;
    }
    Ok(())
}

/// Adds an entry to an account's balance, unless there is one with this id. Returns that with this id, which may be
/// another account's, and whether it is new.
///
/// # Errors
/// See [`Error`].
pub fn add(
    db: &mut impl Executor,
    balance_id: &str,
    user_id: &str,
    new: &NewEntry<'_>,
) -> Result<(Entry, bool), Error> {
    const SQL: &str = concat!(
        "SELECT a.is_new, ",
        columns!(),
        " FROM (SELECT is_new, (entry).* FROM textgen_add_credit($1, $2, $3, $4, $5::bigint::numeric * 1000000, $6, $7)
            OFFSET 0) AS a CROSS JOIN LATERAL (SELECT a.*) AS e"
    );
    let NewEntry { id, kind, amount_micros, expires, reason } = new;
    let row = db.query_one(SQL, &[&balance_id, &user_id, id, &kind.name(), amount_micros, expires, reason])?;
    let mut columns = Columns::of(&row);
    let is_new = columns.next()?;
    Ok((Entry::from_columns(&mut columns)?, is_new))
}

/// The entry with this id, of whatever account.
///
/// # Errors
/// See [`Error`].
pub fn by_id(db: &mut impl Executor, id: &str) -> Result<Option<Entry>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM credit_entries e WHERE e.id = $1");
    db.query_opt(SQL, &[&id])?.as_ref().map(Entry::from_row).transpose()
}

/// Whether so much of a balance is neither spent nor leased, or nothing is leased.
///
/// # Errors
/// See [`Error`].
pub fn has_free(db: &mut impl Executor, balance_id: &str, micros: i64) -> Result<bool, Error> {
    const SQL: &str = "SELECT b.leased_picos = 0 OR b.limit_picos - b.leased_picos - coalesce(
            (SELECT sum(w.spent_picos) FROM budget_windows w WHERE w.budget_id = b.id), 0) >= $2::bigint::numeric * 1000000
        FROM budgets b WHERE b.id = $1";
    db.query_opt(SQL, &[&balance_id, &micros])?.map_or(Ok(true), |row| Ok(row.try_get(0)?))
}

/// Processes are asked to hand back what they do not use of a balance. To be called in a transaction of its own.
///
/// # Errors
/// See [`Error`].
pub fn recall(db: &mut impl Executor, balance_id: &str) -> Result<(), Error> {
    db.query("SELECT pg_notify('textgen_limits', $1)::text", &[&balance_id]).map(drop)
}

/// What is left of an account's credit. What has expired does not count, even if no entry says so yet.
///
/// # Errors
/// See [`Error`].
pub fn balance(db: &mut impl Executor, balance_id: &str) -> Result<Balance, Error> {
    const SQL: &str = "SELECT c.expires, div(sum(c.left_picos), 1000000)::bigint,
            div(sum(sum(c.left_picos)) OVER (), 1000000)::bigint
        FROM textgen_credits_left($1) AS c
        WHERE c.left_picos > 0 AND (c.expires IS NULL OR c.expires > now())
        GROUP BY c.expires ORDER BY c.expires NULLS LAST LIMIT 100";
    let rows = db.query(SQL, &[&balance_id])?;
    let balance_micros = rows.first().map_or(Ok(0), |row| row.try_get(2))?;
    let expiring = rows.iter().map(|row| Ok(Expiring { expires: row.try_get(0)?, amount_micros: row.try_get(1)? }));
    Ok(Balance { balance_micros, expiring: expiring.collect::<Result<_, Error>>()? })
}

/// A page of an account's entries, newest first, after the one of this time with this id.
///
/// # Errors
/// See [`Error`].
pub fn page(
    db: &mut impl Executor,
    user_id: &str,
    after: Option<(OffsetDateTime, &str)>,
    limit: i64,
) -> Result<Vec<Entry>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM credit_entries e WHERE e.user_id = $1 AND (e.created, e.id) < ($2, $3)
         ORDER BY e.created DESC, e.id DESC LIMIT $4"
    );
    let (time, id) = after.unwrap_or((OffsetDateTime::now_utc() + time::Duration::days(36_500), ""));
    db.query_list(SQL, &[&user_id, &time, &id, &limit])?.iter().map(Entry::from_row).collect()
}

/// Ends credits whose time has come, for which no process has done so yet. Returns how many balances it looked at.
///
/// # Errors
/// See [`Error`].
pub fn expire(db: &mut impl Executor) -> Result<i64, Error> {
    Ok(db.query_one("SELECT textgen_expire_credits()", &[])?.try_get(0)?)
}
