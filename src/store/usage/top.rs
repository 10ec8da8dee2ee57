//! Tables `usage_top` and `usage_daily`: who and what was charged most in some days.

use std::sync::LazyLock;

use postgres::Row;
use time::Date;

use crate::db::{Error, Executor};
use crate::money::Cost;

/// Most that are found.
pub const MOST: i64 = 1000;

/// Of what the largest are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopBy {
    /// Accounts.
    User,
    /// Keys.
    Key,
    /// Models.
    Model,
}

/// What was charged to an account or a key, or for a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spender {
    /// The account's id; empty for a model.
    pub user_id: String,
    /// Its e-mail address; empty if it was deleted.
    pub email: String,
    /// The key's id; empty for none, and if it was not asked for.
    pub key_id: String,
    /// Its name; empty if there is none, or if it was deleted.
    pub key_name: String,
    /// The model; empty if it was not asked for.
    pub model: String,
    /// Charges.
    pub events: i64,
    /// What they cost.
    pub cost: Cost,
}

/// The statement for accounts or keys: those that were among the first of a day, with all that they were charged.
fn of_spenders(by_key: bool) -> String {
    let (name, of_key) = if by_key { ("t.name", "AND d.key_id = c.name") } else { ("''::varchar COLLATE \"C\"", "") };
    let kind = if by_key { "key" } else { "user" };
    format!(
        "WITH c AS MATERIALIZED (
            SELECT t.user_id, {name} AS name FROM usage_top t
            WHERE t.kind = '{kind}' AND t.day BETWEEN $1 AND $2
            GROUP BY 1, 2 ORDER BY sum(t.cost_micros) DESC, 1, 2 LIMIT $3)
        SELECT c.user_id, coalesce(u.email, ''), c.name, coalesce(k.name, ''), '', s.events, s.micros, s.picos
        FROM c CROSS JOIN LATERAL (
            SELECT coalesce(sum(d.events), 0)::bigint AS events, coalesce(sum(d.cost_micros), 0)::bigint AS micros,
                coalesce(sum(d.cost_picos), 0)::bigint AS picos
            FROM usage_daily d WHERE d.user_id = c.user_id AND d.day BETWEEN $1 AND $2 {of_key}) AS s
        LEFT JOIN users u ON u.id = c.user_id COLLATE \"default\"
        LEFT JOIN api_keys k ON k.id = c.name COLLATE \"default\" AND c.name <> ''
        ORDER BY s.micros DESC, c.user_id, c.name"
    )
}

static OF_USERS: LazyLock<String> = LazyLock::new(|| of_spenders(false));
static OF_KEYS: LazyLock<String> = LazyLock::new(|| of_spenders(true));

/// Those that were charged most from the first day to the last, both included, the largest first; [`MOST`] at most. An
/// account or a key that was not among the first thousand on any of the days is not found.
///
/// # Errors
/// See [`Error`].
pub fn top(db: &mut impl Executor, days: (Date, Date), by: TopBy, limit: i64) -> Result<Vec<Spender>, Error> {
    const OF_MODELS: &str = "SELECT '', '', '', '', t.name, sum(t.events)::bigint, sum(t.cost_micros)::bigint,
            sum(t.cost_picos)::bigint
        FROM usage_top t WHERE t.kind = 'model' AND t.day BETWEEN $1 AND $2
        GROUP BY t.name ORDER BY sum(t.cost_micros) DESC, t.name LIMIT $3";
    let sql = match by {
        TopBy::User => &OF_USERS,
        TopBy::Key => &OF_KEYS,
        TopBy::Model => OF_MODELS,
    };
    let limit = limit.min(MOST);
    db.query_list(sql, &[&days.0, &days.1, &limit])?.iter().map(spender).collect()
}

fn spender(row: &Row) -> Result<Spender, Error> {
    Ok(Spender {
        user_id: row.try_get(0)?,
        email: row.try_get(1)?,
        key_id: row.try_get(2)?,
        key_name: row.try_get(3)?,
        model: row.try_get(4)?,
        events: row.try_get(5)?,
        cost: Cost::new(row.try_get(6)?, row.try_get(7)?),
    })
}
