//! Tables `usage_events` (the ledger), `charge_ids`, `usage_daily`, and what a user was charged this month.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use time::{Date, OffsetDateTime};

use crate::db::{Error, Executor};

/// A row of the ledger. Serialised, it is a record of the journal, which a newer version must be able to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The idempotency key: no two rows ever have the same.
    pub id: String,
    /// Who pays.
    pub user_id: String,
    /// The key that was used; empty for none.
    pub key_id: String,
    /// The server that did the work.
    pub server: Cow<'static, str>,
    /// The route that was asked.
    pub route: Cow<'static, str>,
    /// The model that did the work.
    pub model: String,
    /// Tokens read.
    pub prompt_tokens: i64,
    /// Tokens written.
    pub completion_tokens: i64,
    /// Tokens embedded.
    pub embedding_tokens: i64,
    /// Milliseconds of audio heard.
    pub audio_millis: i64,
    /// Characters spoken.
    pub characters: i64,
    /// Requests.
    pub requests: i64,
    /// What it costs, in micro-dollars.
    pub cost_micros: i64,
    /// How long the model took, in microseconds.
    pub latency_micros: i64,
    /// When it was charged, to the microsecond.
    #[serde(with = "micros")]
    pub created: OffsetDateTime,
}

/// A time as microseconds since 1970.
mod micros {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use time::OffsetDateTime;

    pub(super) fn serialize<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
        let micros = i64::deserialize(deserializer)?;
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(D::Error::custom)
    }
}

/// Charges: for each event whose id is new, a row of the ledger, and its units and cost added to the totals of its
/// user's day and month. One statement, so one transaction of one round trip; what is new and what is not is decided
/// by the database. Returns the ids that were charged before.
///
/// The events must all be of `day` (UTC), in the order of their ids, and no id may come twice: every writer locks ids,
/// then days, then users, each in their order, so that none waits for another in a circle (where the session plans
/// nested loops only). A user who is gone has no total of the month any more; the ledger and the day's totals are kept.
///
/// # Errors
/// See [`Error`]. After [`Error::Unavailable`] the charges may have been made: the same call finds out.
pub fn charge(db: &mut impl Executor, day: Date, events: &[&Event]) -> Result<Vec<String>, Error> {
    // `unnest` in a list of columns goes through all arrays in step; in FROM it would first copy each to a table of its
    // own. `id IN (SELECT …)` there is a look-up in a hash table, whatever the planner thinks of the sizes.
    const SQL: &str = "WITH given AS MATERIALIZED (
            SELECT unnest($1) AS id, unnest($2) AS user_id, unnest($3) AS key_id, unnest($4) AS server,
                unnest($5) AS route, unnest($6) AS model, unnest($7) AS prompt_tokens,
                unnest($8) AS completion_tokens, unnest($9) AS embedding_tokens, unnest($10) AS audio_millis,
                unnest($11) AS characters, unnest($12) AS requests, unnest($13) AS cost_micros,
                unnest($14) AS latency_micros, unnest($15) AS created),
        fresh AS (
            INSERT INTO charge_ids (id, created) SELECT id, created FROM given ON CONFLICT DO NOTHING RETURNING id),
        marked AS MATERIALIZED (SELECT given.*, id IN (SELECT id FROM fresh) AS is_fresh FROM given),
        ledger AS (
            INSERT INTO usage_events (id, user_id, key_id, server, route, model, prompt_tokens, completion_tokens,
                embedding_tokens, audio_millis, characters, requests, cost_micros, latency_micros, created)
            SELECT id, user_id, nullif(key_id, ''), server, route, model, prompt_tokens, completion_tokens,
                embedding_tokens, audio_millis, characters, requests, cost_micros, latency_micros, created
            FROM marked WHERE is_fresh),
        daily AS (
            INSERT INTO usage_daily AS d (user_id, day, server, route, model, key_id, events, prompt_tokens,
                completion_tokens, embedding_tokens, audio_millis, characters, requests, cost_micros)
            SELECT user_id, $16, server, route, model, key_id, count(*), sum(prompt_tokens), sum(completion_tokens),
                sum(embedding_tokens), sum(audio_millis), sum(characters), sum(requests), sum(cost_micros)
            FROM marked WHERE is_fresh
            GROUP BY user_id, server, route, model, key_id ORDER BY user_id, server, route, model, key_id
            ON CONFLICT ON CONSTRAINT usage_daily_pkey DO UPDATE SET events = d.events + excluded.events,
                prompt_tokens = d.prompt_tokens + excluded.prompt_tokens,
                completion_tokens = d.completion_tokens + excluded.completion_tokens,
                embedding_tokens = d.embedding_tokens + excluded.embedding_tokens,
                audio_millis = d.audio_millis + excluded.audio_millis,
                characters = d.characters + excluded.characters,
                requests = d.requests + excluded.requests,
                cost_micros = d.cost_micros + excluded.cost_micros),
        total AS (
            UPDATE users u SET charges_month = greatest(u.charges_month, $17),
                charges_monthly = CASE WHEN u.charges_month < $17 THEN owed.cost_micros
                                       WHEN u.charges_month = $17 THEN u.charges_monthly + owed.cost_micros
                                       ELSE u.charges_monthly END
            FROM (SELECT user_id, sum(cost_micros)::bigint AS cost_micros FROM marked WHERE is_fresh
                  GROUP BY user_id ORDER BY user_id OFFSET 0) AS owed
            WHERE u.id = owed.user_id)
        SELECT id FROM marked WHERE NOT is_fresh";
    let text = |field: fn(&Event) -> &str| events.iter().map(|event| field(event)).collect::<Vec<&str>>();
    let number = |field: fn(&Event) -> i64| events.iter().map(|event| field(event)).collect::<Vec<i64>>();
    let created: Vec<OffsetDateTime> = events.iter().map(|event| event.created).collect();
    let month = day.replace_day(1).unwrap_or(day);
    let rows = db.query(
        SQL,
        &[
            &text(|e| &e.id),
            &text(|e| &e.user_id),
            &text(|e| &e.key_id),
            &text(|e| &e.server),
            &text(|e| &e.route),
            &text(|e| &e.model),
            &number(|e| e.prompt_tokens),
            &number(|e| e.completion_tokens),
            &number(|e| e.embedding_tokens),
            &number(|e| e.audio_millis),
            &number(|e| e.characters),
            &number(|e| e.requests),
            &number(|e| e.cost_micros),
            &number(|e| e.latency_micros),
            &created,
            &day,
            &month,
        ],
    )?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Makes every transaction durable that was committed before, on any connection: on one that commits durably.
///
/// # Errors
/// See [`Error`]. Whether they are durable is then not known.
pub fn sync(db: &mut impl Executor) -> Result<(), Error> {
    // The smallest transaction that has to be durable itself; its record lies behind theirs in the log.
    db.query("SELECT pg_logical_emit_message(true, 'textgen', '')::text", &[]).map(drop)
}

/// A charge that was made before.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its id.
    pub id: String,
    /// What it cost, in micro-dollars.
    pub cost_micros: i64,
    /// When it was made.
    pub created: OffsetDateTime,
}

/// The charges with these ids, where they were made for these users.
///
/// # Errors
/// See [`Error`].
pub fn made(db: &mut impl Executor, ids: Vec<&str>, user_ids: Vec<&str>) -> Result<Vec<Made>, Error> {
    const SQL: &str = "SELECT e.id, e.cost_micros, e.created FROM unnest($1, $2) AS t (id, user_id)
        JOIN charge_ids c ON c.id = t.id
        JOIN usage_events e ON e.user_id = t.user_id AND e.created = c.created AND e.id = c.id";
    let made =
        |row: &postgres::Row| Ok(Made { id: row.try_get(0)?, cost_micros: row.try_get(1)?, created: row.try_get(2)? });
    db.query(SQL, &[&ids, &user_ids])?.iter().map(made).collect()
}

/// By what a person's usage is grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The day (UTC), as `2026-11-22`.
    Day,
    /// The model.
    Model,
    /// The id of the key; empty for none.
    Key,
    /// The path of the route.
    Route,
}

/// What a person used, all in one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// What the group has in common.
    pub name: String,
    /// Charges.
    pub events: i64,
    /// Tokens read.
    pub prompt_tokens: i64,
    /// Tokens written.
    pub completion_tokens: i64,
    /// Tokens embedded.
    pub embedding_tokens: i64,
    /// Milliseconds of audio heard.
    pub audio_millis: i64,
    /// Characters spoken.
    pub characters: i64,
    /// Requests.
    pub requests: i64,
    /// What it cost, in micro-dollars.
    pub cost_micros: i64,
}

/// What a person used from one day to another, both included, at most `limit` groups in the order of their names.
///
/// # Errors
/// See [`Error`].
pub fn sums(db: &mut impl Executor, user_id: &str, days: (Date, Date), by: By, limit: i64) -> Result<Vec<Sum>, Error> {
    const SQL: &str = "SELECT CASE $4 WHEN 'day' THEN to_char(day, 'YYYY-MM-DD') WHEN 'model' THEN model
                WHEN 'key' THEN key_id ELSE route END COLLATE \"C\" AS name,
            sum(events)::bigint, sum(prompt_tokens)::bigint, sum(completion_tokens)::bigint,
            sum(embedding_tokens)::bigint, sum(audio_millis)::bigint, sum(characters)::bigint, sum(requests)::bigint,
            sum(cost_micros)::bigint
        FROM usage_daily WHERE user_id = $1 AND day BETWEEN $2 AND $3 GROUP BY name ORDER BY name LIMIT $5";
    let by = match by {
        By::Day => "day",
        By::Model => "model",
        By::Key => "key",
        By::Route => "route",
    };
    let sum = |row: &postgres::Row| {
        Ok(Sum {
            name: row.try_get(0)?,
            events: row.try_get(1)?,
            prompt_tokens: row.try_get(2)?,
            completion_tokens: row.try_get(3)?,
            embedding_tokens: row.try_get(4)?,
            audio_millis: row.try_get(5)?,
            characters: row.try_get(6)?,
            requests: row.try_get(7)?,
            cost_micros: row.try_get(8)?,
        })
    };
    db.query(SQL, &[&user_id, &days.0, &days.1, &by, &limit])?.iter().map(sum).collect()
}

/// What tells this database from every other: the id of the installation and the database's name.
///
/// # Errors
/// See [`Error`].
pub fn identity(db: &mut impl Executor) -> Result<String, Error> {
    Ok(db.query_one("SELECT id::text || current_database() FROM installation", &[])?.try_get(0)?)
}

/// Makes the ledger's partitions of this month and the next two, unless another process is at it. How many were made.
///
/// # Errors
/// See [`Error`].
pub fn make_partitions(db: &mut impl Executor) -> Result<i64, Error> {
    // The lock is "partiti" in ASCII, and ends with the statement's transaction.
    const SQL: &str = "SELECT count(*) FILTER (WHERE textgen_make_usage_partition(month)) FROM (
            SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month')::date AS month
            FROM generate_series(0, 2) AS n WHERE (SELECT pg_try_advisory_xact_lock(31632341598827625))
        ) AS months";
    Ok(db.query_one(SQL, &[])?.try_get(0)?)
}

/// Drops the ledger's months before the last `months` and this one, unless another process is at it. How many there were.
///
/// # Errors
/// See [`Error`]; [`Error::Unavailable`] also where others read the ledger just now.
pub fn drop_partitions(db: &mut impl Executor, months: i32) -> Result<i32, Error> {
    // The lock is that of `make_partitions`.
    const SQL: &str = "SELECT coalesce((
            SELECT textgen_drop_usage_before((date_trunc('month', now() AT TIME ZONE 'UTC')
                - make_interval(months => $1))::date)
            WHERE (SELECT pg_try_advisory_xact_lock(31632341598827625))
        ), 0)";
    Ok(db.query_one(SQL, &[&months])?.try_get(0)?)
}
