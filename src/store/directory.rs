//! Finding accounts among a million: pages of table `users`, each one range of an index.

use postgres::Row;
use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// An account as the list of accounts shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Names it.
    pub id: String,
    /// Its address.
    pub email: String,
    /// What the person is called.
    pub name: Option<String>,
    /// When the account was made.
    pub created: OffsetDateTime,
    /// Whether a subscription is active.
    pub is_subscribed: bool,
    /// Whether the person may look after other accounts.
    pub is_admin: bool,
    /// Since when it is kept out.
    pub suspended: Option<OffsetDateTime>,
    /// What the search found it by: its place in the order of the results.
    pub found: String,
}

fn from_row(row: &Row) -> Result<Listed, Error> {
    Ok(Listed {
        id: row.try_get(0)?,
        email: row.try_get(1)?,
        name: row.try_get(2)?,
        created: row.try_get(3)?,
        is_subscribed: row.try_get(4)?,
        is_admin: row.try_get(5)?,
        suspended: row.try_get(6)?,
        found: row.try_get(7)?,
    })
}

/// The newest accounts, behind the one made at this time with this id.
///
/// # Errors
/// See [`Error`].
pub fn newest(db: &mut impl Executor, after: Option<(OffsetDateTime, &str)>, limit: i64) -> Result<Vec<Listed>, Error> {
    const SQL: &str = "SELECT id, email, name, created, is_subscribed, is_admin, suspended, '' FROM users \
        WHERE (created, id) < ($1, $2) ORDER BY created DESC, id DESC LIMIT $3";
    // No clock of ours is that far ahead.
    let (time, id) = after.unwrap_or((OffsetDateTime::now_utc() + time::Duration::days(36_500), ""));
    db.query(SQL, &[&time, &id, &limit])?.iter().map(from_row).collect()
}

/// The accounts of which the address, its domain (written `@example.com`), the name or a key's visible prefix begins
/// with this text, or whose id it is; in the order of what was found, behind `after` (what was found, and the id).
///
/// # Errors
/// See [`Error`].
pub fn search(
    db: &mut impl Executor,
    text: &str,
    after: Option<(&str, &str)>,
    limit: i64,
) -> Result<Vec<Listed>, Error> {
    // Five ranges of five indexes, each at most a page long, merged. A range is said by its two ends and nothing more:
    // given two beginnings, PostgreSQL may start at the lower. An account whose address and name both match is listed
    // by its address.
    const SQL: &str = r#"SELECT id, email, name, created, is_subscribed, is_admin, suspended, found FROM (
        (SELECT u.*, email COLLATE "C" AS found FROM users u
         WHERE (email COLLATE "C", id) > ($1, $2) AND email COLLATE "C" < $3
         ORDER BY email COLLATE "C", id LIMIT $10)
        UNION ALL
        (SELECT u.*, ('@' || split_part(email, '@', 2)) COLLATE "C" FROM users u
         WHERE (('@' || split_part(email, '@', 2)) COLLATE "C", id) > ($1, $2)
           AND ('@' || split_part(email, '@', 2)) COLLATE "C" < $3
         ORDER BY ('@' || split_part(email, '@', 2)) COLLATE "C", id LIMIT $10)
        UNION ALL
        (SELECT u.*, lower(name) COLLATE "C" FROM users u
         WHERE name IS NOT NULL AND (lower(name) COLLATE "C", id) > ($1, $2) AND lower(name) COLLATE "C" < $3
           AND NOT (email COLLATE "C" >= $4 AND email COLLATE "C" < $3)
         ORDER BY lower(name) COLLATE "C", id LIMIT $10)
        UNION ALL
        (SELECT u.*, k.prefix COLLATE "C" FROM (
            SELECT prefix, user_id FROM api_keys WHERE (prefix COLLATE "C", user_id) > ($5, $6) AND prefix COLLATE "C" < $7
            ORDER BY prefix COLLATE "C", user_id LIMIT $10) AS k JOIN users u ON u.id = k.user_id)
        UNION ALL
        (SELECT u.*, id COLLATE "C" FROM users u WHERE id = $8 AND id COLLATE "C" > $9)
        ) AS matches ORDER BY found COLLATE "C", id LIMIT $10"#;
    let (lower, exact) = (text.to_lowercase(), key_prefix(text));
    let after = after.unwrap_or(("", ""));
    // Where the page before ended, or where the matches begin.
    let (begin, begin_exact) = (after.max((lower.as_str(), "")), after.max((exact, "")));
    let (end, end_exact) = (end_of(&lower), end_of(exact));
    let rows = db.query(
        SQL,
        &[
            &begin.0,
            &begin.1,
            &end,
            &lower.as_str(),
            &begin_exact.0,
            &begin_exact.1,
            &end_exact,
            &text,
            &after.0,
            &limit,
        ],
    )?;
    rows.iter().map(from_row).collect()
}

/// About how many accounts there are: what the planner believes, as counting a million takes its time.
///
/// # Errors
/// See [`Error`].
pub fn estimate(db: &mut impl Executor) -> Result<i64, Error> {
    const SQL: &str = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'users'::regclass";
    let estimate: i64 = db.query_one(SQL, &[])?.try_get(0)?;
    if estimate > 10_000 {
        return Ok(estimate);
    }
    Ok(db.query_one("SELECT count(*) FROM users", &[])?.try_get(0)?)
}

/// Of a whole secret, only the part that may be seen is searched for.
fn key_prefix(text: &str) -> &str {
    match text.strip_prefix("tg_") {
        Some(_) => text.char_indices().nth(8).map_or(text, |(at, _)| &text[..at]),
        None => text,
    }
}

/// Sorts behind every text that begins with this one.
fn end_of(text: &str) -> String {
    format!("{text}{}", char::MAX)
}
