//! Table `audit`: what was done to accounts by those who look after them.

use postgres::Row;
use time::OffsetDateTime;

use super::User;
use crate::db::{Error, Executor};

/// Who acts.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// The account's id; empty for the command line.
    pub id: &'a str,
    /// Its e-mail address, or `command line`.
    pub name: &'a str,
    /// Where it is.
    pub address: &'a str,
}

/// Whoever may run `textgen` on the machine.
pub const COMMAND_LINE: Actor<'static> = Actor { id: "", name: "command line", address: "" };

/// Something that was done.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counts up.
    pub id: i64,
    /// When.
    pub at: OffsetDateTime,
    /// By whom.
    pub actor: String,
    /// What.
    pub action: String,
    /// To which account.
    pub user_id: String,
    /// The address it had.
    pub user_email: String,
    /// More about it.
    pub detail: String,
}

/// Writes down what is done, in the transaction that does it.
///
/// # Errors
/// See [`Error`].
pub fn insert(db: &mut impl Executor, actor: Actor<'_>, action: &str, user: &User, detail: &str) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO audit (actor_id, actor, address, action, user_id, user_email, detail) \
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let Actor { id, name, address } = actor;
    db.execute(SQL, &[&id, &name, &address, &action, &user.id, &user.email, &detail]).map(drop)
}

/// What was done, the last first: all before entry `before`, to one account if it is given.
///
/// # Errors
/// See [`Error`].
pub fn page(
    db: &mut impl Executor,
    user_id: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, Error> {
    const ALL: &str = "SELECT id, at, actor, action, user_id, user_email, detail FROM audit \
        WHERE id < $1 ORDER BY id DESC LIMIT $2";
    const OF_USER: &str = "SELECT id, at, actor, action, user_id, user_email, detail FROM audit \
        WHERE id < $1 AND user_id = $3 ORDER BY id DESC LIMIT $2";
    let before = before.unwrap_or(i64::MAX);
    let rows = match user_id {
        Some(user_id) => db.query(OF_USER, &[&before, &limit, &user_id])?,
        None => db.query(ALL, &[&before, &limit])?,
    };
    rows.iter().map(from_row).collect()
}

fn from_row(row: &Row) -> Result<Entry, Error> {
    Ok(Entry {
        id: row.try_get(0)?,
        at: row.try_get(1)?,
        actor: row.try_get(2)?,
        action: row.try_get(3)?,
        user_id: row.try_get(4)?,
        user_email: row.try_get(5)?,
        detail: row.try_get(6)?,
    })
}
