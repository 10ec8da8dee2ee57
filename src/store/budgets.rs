//! Table `budgets`: the most that an account or a key may spend in a window, and what was spent. `users.budget_id` and
//! `api_keys.budget_id` say whose budget it is; keys that a rotation made of each other share one.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::row::{Columns, Record, record};
use crate::db::{Error, Executor};

/// When a budget begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// At midnight.
    Day,
    /// On Monday.
    Week,
    /// On the first day of a month.
    Month,
    /// Never.
    Total,
}

impl Window {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Window::Day => "day",
            Window::Week => "week",
            Window::Month => "month",
            Window::Total => "total",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Window> {
        [Window::Day, Window::Week, Window::Month, Window::Total].into_iter().find(|window| window.name() == name)
    }
}

/// What a budget becomes. What is missing stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetChange {
    /// The most that may be spent in a window, in micro-dollars.
    pub limit_micros: i64,
    /// When it begins anew.
    pub window: Option<Window>,
    /// The IANA time zone of the windows.
    pub timezone: Option<String>,
}

impl BudgetChange {
    /// The budget after the change; of a new one, the windows are `new_window` in UTC unless they are given.
    pub fn apply(self, current: Option<BudgetSpec>, new_window: Window) -> BudgetSpec {
        let (window, timezone) =
            current.map_or((new_window, "UTC".to_owned()), |current| (current.window, current.timezone));
        BudgetSpec {
            limit_micros: self.limit_micros,
            window: self.window.unwrap_or(window),
            timezone: self.timezone.unwrap_or(timezone),
        }
    }
}

/// What a budget is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetSpec {
    /// The most that may be spent in a window, in micro-dollars.
    pub limit_micros: i64,
    /// When it begins anew.
    pub window: Window,
    /// The IANA time zone of the windows.
    pub timezone: String,
}

record! {
    /// A budget as its owner sees it.
    #[derive(Clone, Debug, Serialize, JsonSchema)]
    pub struct Budget {
        /// Not shown.
        #[serde(skip)]
        pub id: String = "b.id",
        /// The most that may be spent in a window, in micro-dollars.
        pub limit_micros: i64 = "div(b.limit_picos, 1000000)::bigint",
        /// When it begins anew: `day`, `week` (on Monday), `month` or `total` (never).
        pub window: String = "b.period",
        /// The time zone of the windows.
        pub timezone: String = "b.timezone",
        /// What was spent in this window, in micro-dollars.
        pub spent_micros: i64 = "div(w.spent_picos, 1000000)::bigint",
        /// What is left, in micro-dollars.
        pub remaining_micros: i64 = "greatest(div(b.limit_picos - w.spent_picos, 1000000), 0)::bigint",
        /// When it begins anew.
        #[serde(serialize_with = "super::timestamp::serialize_zulu_option")]
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        pub resets: Option<OffsetDateTime> = "textgen_budget_window_end(b.period, b.timezone, now())",
        /// Until when it does not limit, if an operator has lifted it.
        #[serde(serialize_with = "super::timestamp::serialize_zulu_option", skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        pub lifted_until: Option<OffsetDateTime> = "CASE WHEN b.lifted_until > now() THEN b.lifted_until END",
    }
}

/// Makes a budget, which is nobody's yet.
///
/// # Errors
/// [`Error::ForeignKey`] if the account does not exist.
pub fn insert(db: &mut impl Executor, id: &str, user_id: &str, spec: &BudgetSpec) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO budgets (id, user_id, limit_picos, period, timezone)
        VALUES ($1, $2, $3::numeric * 1000000, $4, $5)";
    db.execute(SQL, &[&id, &user_id, &spec.limit_micros, &spec.window.name(), &spec.timezone.as_str()]).map(drop)
}

/// What a budget is, locked until the end of the transaction; `None` if there is no such budget.
///
/// # Errors
/// See [`Error`].
pub fn lock(db: &mut impl Executor, id: &str) -> Result<Option<BudgetSpec>, Error> {
    const SQL: &str = "SELECT div(limit_picos, 1000000)::bigint, period, timezone
        FROM budgets WHERE id = $1 FOR NO KEY UPDATE";
    let Some(row) = db.query_opt(SQL, &[&id])? else { return Ok(None) };
    let window = Window::named(row.try_get(1)?).unwrap_or(Window::Total);
    Ok(Some(BudgetSpec { limit_micros: row.try_get(0)?, window, timezone: row.try_get(2)? }))
}

/// Changes a budget. If its windows are others now, [`count_anew`] must follow.
///
/// # Errors
/// See [`Error`].
pub fn update(db: &mut impl Executor, id: &str, spec: &BudgetSpec) -> Result<(), Error> {
    const SQL: &str =
        "UPDATE budgets SET limit_picos = $2::numeric * 1000000, period = $3, timezone = $4 WHERE id = $1";
    db.execute(SQL, &[&id, &spec.limit_micros, &spec.window.name(), &spec.timezone.as_str()]).map(drop)
}

/// Until this time, spending is counted but not limited; `None` if it limits at once.
///
/// # Errors
/// See [`Error`].
pub fn lift(db: &mut impl Executor, id: &str, until: Option<OffsetDateTime>) -> Result<(), Error> {
    db.execute("UPDATE budgets SET lifted_until = $2 WHERE id = $1", &[&id, &until]).map(drop)
}

/// Counts what was spent in the current window from the ledger: of the account, or of the keys that have or had the budget.
///
/// # Errors
/// See [`Error`].
pub fn count_anew(db: &mut impl Executor, id: &str, user_id: &str, of_keys: bool) -> Result<(), Error> {
    const SQL: &str = "SELECT textgen_count_budget($1, $2, CASE WHEN $3 THEN
        ARRAY(SELECT k.id FROM api_keys k WHERE k.user_id = $2 AND k.budget_id = $1) END)::text";
    db.query(SQL, &[&id, &user_id, &of_keys]).map(drop)
}

/// Deletes a budget, which must be nobody's any more.
///
/// # Errors
/// See [`Error`].
pub fn delete(db: &mut impl Executor, id: &str) -> Result<(), Error> {
    db.execute("DELETE FROM budgets WHERE id = $1", &[&id]).map(drop)
}

/// Deletes those of the next 1,000 budgets, in the order of their ids, that nobody has any more: their keys were deleted, and
/// no process holds a part of them. Begins behind the id `after`, and returns the last id that it looked at, if any.
///
/// # Errors
/// See [`Error`].
pub fn delete_unused(db: &mut impl Executor, after: &str) -> Result<Option<String>, Error> {
    // Nobody gets a budget but from who has it, so it stays unused. Who asks for a part meanwhile has locked the row, or
    // changed what is leased.
    const SQL: &str = "WITH looked_at AS (
            SELECT b.id, b.user_id FROM budgets b WHERE b.id > $1 ORDER BY b.id LIMIT 1000),
        unused AS (
            SELECT l.id AS unused_id FROM looked_at l
            WHERE NOT EXISTS (SELECT FROM api_keys k WHERE k.budget_id = l.id)
                AND NOT EXISTS (SELECT FROM users u WHERE u.id = l.user_id AND l.id IN (u.budget_id, u.balance_id))
                AND NOT EXISTS (SELECT FROM credit_balances c WHERE c.budget_id = l.id)
                AND NOT EXISTS (SELECT FROM leases h WHERE h.budget_id = l.id)),
        locked AS (
            SELECT b.id AS locked_id FROM budgets b JOIN unused ON b.id = unused_id
            WHERE b.leased_picos = 0 AND textgen_unsettled(b.id, '-infinity') = 0
            ORDER BY b.id FOR UPDATE OF b SKIP LOCKED),
        deleted AS (DELETE FROM budgets b USING locked WHERE b.id = locked_id)
        SELECT max(id) FROM looked_at";
    Ok(db.query_one(SQL, &[&after])?.try_get(0)?)
}

/// Gives an account this budget, or none.
///
/// # Errors
/// See [`Error`].
pub fn assign_to_user(db: &mut impl Executor, user_id: &str, id: Option<&str>) -> Result<(), Error> {
    db.execute("UPDATE users SET budget_id = $2 WHERE id = $1", &[&user_id, &id.map(str::to_owned)]).map(drop)
}

/// Gives a key of an account this budget.
///
/// # Errors
/// See [`Error`].
pub fn assign_to_key(db: &mut impl Executor, user_id: &str, key_id: &str, id: &str) -> Result<(), Error> {
    const SQL: &str = "UPDATE api_keys SET budget_id = $3 WHERE user_id = $1 AND id = $2";
    db.execute(SQL, &[&user_id, &key_id, &id]).map(drop)
}

/// Takes its budget from a key. Returns whether no working key has it any more.
///
/// # Errors
/// See [`Error`].
pub fn take_from_key(db: &mut impl Executor, user_id: &str, key_id: &str, id: &str) -> Result<bool, Error> {
    const TAKE: &str = "UPDATE api_keys SET budget_id = NULL WHERE user_id = $1 AND id = $2";
    const IS_UNUSED: &str = "SELECT NOT EXISTS (SELECT FROM api_keys WHERE user_id = $1 AND budget_id = $2
        AND revoked IS NULL AND (expires IS NULL OR expires > now()))";
    db.execute(TAKE, &[&user_id, &key_id])?;
    Ok(db.query_one(IS_UNUSED, &[&user_id, &id])?.try_get(0)?)
}

/// The budgets `b`, each with what was spent of it in the current window, `w`.
macro_rules! with_spent {
    () => {
        " FROM budgets b CROSS JOIN LATERAL (
        SELECT coalesce((SELECT w.spent_picos FROM budget_windows w WHERE w.budget_id = b.id
            AND w.starts = textgen_budget_window(b.period, b.timezone, now())), 0)
            + textgen_unsettled(b.id, textgen_budget_window(b.period, b.timezone, now())) AS spent_picos) AS w"
    };
}

/// The budgets of these accounts, by the accounts' ids.
///
/// # Errors
/// See [`Error`].
pub fn of_accounts(db: &mut impl Executor, user_ids: &[&str]) -> Result<HashMap<String, Budget>, Error> {
    const SQL: &str = concat!(
        "SELECT u.id, ",
        columns!(),
        with_spent!(),
        " JOIN users u ON u.budget_id = b.id WHERE u.id = ANY($1::text[]::varchar[])"
    );
    let rows = db.query(SQL, &[&user_ids.to_vec()])?;
    let read = |row: &postgres::Row| {
        let mut columns = Columns::of(row);
        Ok((columns.next()?, Budget::from_columns(&mut columns)?))
    };
    rows.iter().map(read).collect()
}

/// All budgets of an account, its keys' included, but not its balance.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str) -> Result<Vec<Budget>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        with_spent!(),
        " WHERE b.user_id = $1 AND NOT EXISTS (SELECT FROM credit_balances c WHERE c.budget_id = b.id)"
    );
    db.query(SQL, &[&user_id])?.iter().map(Budget::from_row).collect()
}

/// Whether the database knows a time zone of this name. Abbreviations, and zones such as `X+3` that are made up, are
/// none.
///
/// # Errors
/// See [`Error`].
pub fn is_timezone(db: &mut impl Executor, name: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1)";
    Ok(db.query_one(SQL, &[&name])?.try_get(0)?)
}
