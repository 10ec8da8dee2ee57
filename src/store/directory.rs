//! Searching table `users`, fast even with a million accounts: each page reads short ranges of indexes.

use time::OffsetDateTime;

use super::row::{Record, record};
use crate::db::{Error, Executor};

record! {
    /// An account as shown in the list of accounts.
    #[derive(Clone, Debug)]
    pub struct UserSummary {
        /// The account's id.
        pub id: String = "id",
        /// Its e-mail address.
        pub email: String = "email",
        /// Display name.
        pub name: Option<String> = "name",
        /// When the account was created.
        pub created: OffsetDateTime = "created",
        /// Whether a subscription is active.
        pub is_subscribed: bool = "is_subscribed",
        /// Whether the user may manage other accounts.
        pub is_admin: bool = "is_admin",
        /// When the account was suspended, if it is.
        pub suspended: Option<OffsetDateTime> = "suspended",
        /// The models that it may call; `None` for all.
        pub models: Option<Vec<String>> = "models",
        /// The networks that it may be used from; `None` for all.
        pub addresses: Option<Vec<String>> = "addresses",
        /// The text that the search matched, by which the results are sorted. Empty in [`newest`].
        pub matched: String = "matched",
    }
}

/// Which accounts are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listed {
    /// All of them.
    #[default]
    All,
    /// Administrators.
    Admins,
    /// Those that are suspended.
    Suspended,
    /// Those with a subscription.
    Subscribed,
}

impl Listed {
    /// The one of this name; empty for all.
    pub fn named(name: &str) -> Option<Listed> {
        match name {
            "" => Some(Listed::All),
            "admin" => Some(Listed::Admins),
            "suspended" => Some(Listed::Suspended),
            "subscribed" => Some(Listed::Subscribed),
            _ => None,
        }
    }
}

/// The statement of [`newest`] for accounts of which a condition holds, each with an index of its own.
macro_rules! newest {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM users CROSS JOIN (SELECT '' AS matched) AS no_search \
             WHERE (created, id) < ($1, $2)",
            $condition,
            " ORDER BY created DESC, id DESC LIMIT $3"
        )
    };
}

/// A page of accounts, newest first, after the one created at this time with this id.
///
/// # Errors
/// See [`Error`].
pub fn newest(
    db: &mut impl Executor,
    listed: Listed,
    after: Option<(OffsetDateTime, &str)>,
    limit: i64,
) -> Result<Vec<UserSummary>, Error> {
    let sql = match listed {
        Listed::All => newest!(""),
        Listed::Admins => newest!(" AND is_admin"),
        Listed::Suspended => newest!(" AND suspended IS NOT NULL"),
        Listed::Subscribed => newest!(" AND is_subscribed"),
    };
    // By default, a time that is certainly later than all.
    let (time, id) = after.unwrap_or((OffsetDateTime::now_utc() + time::Duration::days(36_500), ""));
    db.query_list(sql, &[&time, &id, &limit])?.iter().map(UserSummary::from_row).collect()
}

/// The accounts with these ids.
///
/// # Errors
/// See [`Error`].
pub fn with_ids(db: &mut impl Executor, ids: &[&str]) -> Result<Vec<UserSummary>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM users CROSS JOIN (SELECT '' AS matched) AS no_search
         WHERE id = ANY($1::text[]::varchar[]) ORDER BY created DESC, id DESC"
    );
    db.query_list(SQL, &[&ids.to_vec()])?.iter().map(UserSummary::from_row).collect()
}

/// A page of the accounts of which the e-mail address, its domain (`@example.com`), the name or the visible prefix of a
/// key starts with this text, or whose id it is. They are sorted by the text that matched. `after` is that text and the
/// id of the last account on the previous page.
///
/// # Errors
/// See [`Error`].
pub fn search(
    db: &mut impl Executor,
    text: &str,
    after: Option<(&str, &str)>,
    limit: i64,
) -> Result<Vec<UserSummary>, Error> {
    // Reads a range of at most a page from each of five indexes, and merges them. Each range has only one lower bound:
    // given two of them, PostgreSQL may start at the lower one. An account whose address and name both match is listed
    // once, by its address.
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        r#" FROM (
        (SELECT u.*, email COLLATE "C" AS matched FROM users u
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
        ) AS matches ORDER BY matched COLLATE "C", id LIMIT $10"#
    );
    let (lower, exact) = (text.to_lowercase(), key_prefix(text));
    let after = after.unwrap_or(("", ""));
    // The lower bounds: the end of the previous page, or the first possible match.
    let (start, start_exact) = (after.max((lower.as_str(), "")), after.max((exact, "")));
    let (end, end_exact) = (end_of(&lower), end_of(exact));
    let rows = db.query_list(
        SQL,
        &[
            &start.0,
            &start.1,
            &end,
            &lower.as_str(),
            &start_exact.0,
            &start_exact.1,
            &end_exact,
            &text,
            &after.0,
            &limit,
        ],
    )?;
    rows.iter().map(UserSummary::from_row).collect()
}

/// The number of accounts. Above 10,000 it is the planner's estimate, because counting a million takes long.
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

/// The visible prefix of a secret; any other text as it is.
fn key_prefix(text: &str) -> &str {
    match text.strip_prefix("tg_") {
        Some(_) => text.char_indices().nth(8).map_or(text, |(at, _)| &text[..at]),
        None => text,
    }
}

/// A text that sorts after every text that starts with this one.
fn end_of(text: &str) -> String {
    format!("{text}{}", char::MAX)
}
