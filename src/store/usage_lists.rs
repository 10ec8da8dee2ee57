//! Tables `usage_events` and `usage_daily`, as pages list them.

use postgres::Row;
use time::{Date, OffsetDateTime};

use crate::db::{Error, Executor};

/// A call that was charged.
#[derive(Clone, Debug)]
pub struct Charged {
    /// When.
    pub created: OffsetDateTime,
    /// The server that did the work.
    pub server: String,
    /// The route that was asked.
    pub route: String,
    /// The model that did the work.
    pub model: String,
    /// The key that was used; empty for none.
    pub key_id: String,
    /// Tokens read, written and embedded.
    pub tokens: i64,
    /// Milliseconds of audio heard.
    pub audio_millis: i64,
    /// Characters spoken.
    pub characters: i64,
    /// What it cost, in micro-dollars.
    pub cost_micros: i64,
}

/// A person's last charged calls of one server (of all, where it is empty), the newest first.
///
/// # Errors
/// See [`Error`].
pub fn newest(db: &mut impl Executor, user_id: &str, server: &str, limit: i64) -> Result<Vec<Charged>, Error> {
    const SQL: &str = "SELECT created, server, route, model, coalesce(key_id, ''),
            prompt_tokens + completion_tokens + embedding_tokens, audio_millis, characters, cost_micros
        FROM usage_events WHERE user_id = $1 AND ($2 = '' OR server = $2) ORDER BY created DESC LIMIT $3";
    let charged = |row: &Row| {
        Ok(Charged {
            created: row.try_get(0)?,
            server: row.try_get(1)?,
            route: row.try_get(2)?,
            model: row.try_get(3)?,
            key_id: row.try_get(4)?,
            tokens: row.try_get(5)?,
            audio_millis: row.try_get(6)?,
            characters: row.try_get(7)?,
            cost_micros: row.try_get(8)?,
        })
    };
    db.query(SQL, &[&user_id, &server, &limit])?.iter().map(charged).collect()
}

/// What a person used on one day of one model, by one key, on one route.
#[derive(Clone, Debug)]
pub struct Line {
    /// The day (UTC), as `2026-11-22`.
    pub day: String,
    /// Server, route, model and the key's id, in this order.
    pub of: [String; 4],
    /// Requests, prompt tokens, completion tokens, embedding tokens, milliseconds of audio, characters and
    /// micro-dollars, in this order.
    pub numbers: [i64; 7],
}

/// What a person used from one day to another, both included, in full, at most `limit` lines.
///
/// # Errors
/// See [`Error`].
pub fn lines(db: &mut impl Executor, user_id: &str, days: (Date, Date), limit: i64) -> Result<Vec<Line>, Error> {
    const SQL: &str = "SELECT to_char(day, 'YYYY-MM-DD'), server, route, model, key_id, requests, prompt_tokens,
            completion_tokens, embedding_tokens, audio_millis, characters, cost_micros
        FROM usage_daily WHERE user_id = $1 AND day BETWEEN $2 AND $3
        ORDER BY usage_daily.day, server, route, model, key_id LIMIT $4";
    let line = |row: &Row| {
        let mut line = Line { day: row.try_get(0)?, of: Default::default(), numbers: [0; 7] };
        for (at, text) in line.of.iter_mut().enumerate() {
            *text = row.try_get(1 + at)?;
        }
        for (at, number) in line.numbers.iter_mut().enumerate() {
            *number = row.try_get(5 + at)?;
        }
        Ok(line)
    };
    db.query(SQL, &[&user_id, &days.0, &days.1, &limit])?.iter().map(line).collect()
}
