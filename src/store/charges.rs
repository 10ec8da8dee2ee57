//! Tables `usage_events` (the ledger), `charge_ids`, `usage_daily`, and what a user was charged this month: how charges are
//! made.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use time::{Date, OffsetDateTime};

use crate::db::{Error, Executor, Param};

/// A row of the ledger. Serialised, it is a record of the journal, which a newer version must be able to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// No two rows ever have the same.
    pub id: String,
    /// Whether a client chose the id, which may come again with another request. Otherwise the id was made for this
    /// charge, and can only come again with this very event, `created` and all. Older journals do not tell.
    #[serde(default = "may_repeat")]
    pub may_repeat: bool,
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

impl Event {
    /// The units, what they cost, and how long they took: in the order of the ledger's columns.
    fn numbers(&self) -> [i64; 8] {
        [
            self.prompt_tokens,
            self.completion_tokens,
            self.embedding_tokens,
            self.audio_millis,
            self.characters,
            self.requests,
            self.cost_micros,
            self.latency_micros,
        ]
    }
}

fn may_repeat() -> bool {
    true
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

const LEDGER: &str = "id, user_id, key_id, server, route, model, prompt_tokens, completion_tokens, embedding_tokens,
    audio_millis, characters, requests, cost_micros, latency_micros, created";

const DAY: &str = "user_id, day, server, route, model, key_id, events, prompt_tokens, completion_tokens,
    embedding_tokens, audio_millis, characters, requests, cost_micros";

/// What a charge adds to the row of its day.
const ADD_TO_DAY: &str = "ON CONFLICT ON CONSTRAINT usage_daily_pkey DO UPDATE SET events = d.events + excluded.events,
    prompt_tokens = d.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = d.completion_tokens + excluded.completion_tokens,
    embedding_tokens = d.embedding_tokens + excluded.embedding_tokens,
    audio_millis = d.audio_millis + excluded.audio_millis,
    characters = d.characters + excluded.characters,
    requests = d.requests + excluded.requests,
    cost_micros = d.cost_micros + excluded.cost_micros";

/// What users owe, of `owed (user_id, cost_micros)` and the month `$1`.
const ADD_TO_USER: &str = "UPDATE users u SET charges_month = greatest(u.charges_month, $1),
    charges_monthly = CASE WHEN u.charges_month < $1 THEN owed.cost_micros
                           WHEN u.charges_month = $1 THEN u.charges_monthly + owed.cost_micros
                           ELSE u.charges_monthly END";

/// [`charge`]'s statement. It sorts by bytes, as Rust does, whatever the database's own order of texts is. `unnest` in a
/// list of columns goes through all arrays in step; in FROM it would first copy each to a table of its own.
/// `id IN (SELECT …)` there is a look-up in a hash table, whatever the planner thinks of the sizes.
static CHARGE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH given AS MATERIALIZED (
            SELECT unnest($3) AS id, unnest($4) AS user_id, unnest($5) AS key_id, unnest($6) AS server,
                unnest($7) AS route, unnest($8) AS model, unnest($9) AS prompt_tokens,
                unnest($10) AS completion_tokens, unnest($11) AS embedding_tokens, unnest($12) AS audio_millis,
                unnest($13) AS characters, unnest($14) AS requests, unnest($15) AS cost_micros,
                unnest($16) AS latency_micros, unnest($17) AS created, unnest($18) AS may_repeat),
        chosen AS (
            INSERT INTO charge_ids (id, created) SELECT id, created FROM given WHERE may_repeat
            ON CONFLICT DO NOTHING RETURNING id),
        ledger AS (
            INSERT INTO usage_events ({LEDGER})
            SELECT id, user_id, nullif(key_id, ''), server, route, model, prompt_tokens, completion_tokens,
                embedding_tokens, audio_millis, characters, requests, cost_micros, latency_micros, created
            FROM given WHERE NOT may_repeat OR id IN (SELECT id FROM chosen)
            ON CONFLICT (user_id, created, id) DO NOTHING RETURNING id),
        marked AS MATERIALIZED (SELECT given.*, id IN (SELECT id FROM ledger) AS is_fresh FROM given),
        daily AS (
            INSERT INTO usage_daily AS d ({DAY})
            SELECT user_id, $2, server, route, model, key_id, count(*), sum(prompt_tokens), sum(completion_tokens),
                sum(embedding_tokens), sum(audio_millis), sum(characters), sum(requests), sum(cost_micros)
            FROM marked WHERE is_fresh
            GROUP BY user_id, server, route, model, key_id
            ORDER BY user_id COLLATE \"C\", server COLLATE \"C\", route COLLATE \"C\", model COLLATE \"C\", key_id COLLATE \"C\"
            {ADD_TO_DAY}),
        total AS (
            {ADD_TO_USER}
            FROM (SELECT user_id, sum(cost_micros)::bigint AS cost_micros FROM marked WHERE is_fresh
                  GROUP BY user_id ORDER BY user_id COLLATE \"C\" OFFSET 0) AS owed
            WHERE u.id = owed.user_id)
        SELECT id FROM marked WHERE NOT is_fresh"
    )
});

/// [`charge_new`]'s statement, in which the parts that change rows stand in the same order: PostgreSQL runs them in one
/// order of its own, and of two writers that lock the same rows neither may go the other way round.
static CHARGE_NEW: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH daily AS (
            INSERT INTO usage_daily AS d ({DAY})
            SELECT unnest($18), $2, unnest($19), unnest($20), unnest($21), unnest($22), unnest($23), unnest($24),
                unnest($25), unnest($26), unnest($27), unnest($28), unnest($29), unnest($30)
            {ADD_TO_DAY}),
        total AS (
            {ADD_TO_USER}
            FROM (SELECT unnest($31) AS user_id, unnest($32) AS cost_micros OFFSET 0) AS owed
            WHERE u.id = owed.user_id)
        INSERT INTO usage_events ({LEDGER})
        SELECT unnest($3), unnest($4), nullif(unnest($5), ''), unnest($6), unnest($7), unnest($8), unnest($9),
            unnest($10), unnest($11), unnest($12), unnest($13), unnest($14), unnest($15), unnest($16), unnest($17)"
    )
});

/// Charges: for each event that is new, a row of the ledger, and its units and cost added to the totals of its user's day
/// and month. One statement, so one transaction of one round trip; what is new and what is not is decided by the
/// database. Returns the ids that were charged before.
///
/// The events must all be of `day` (UTC), in the order of their ids, and no id may come twice: every writer locks ids,
/// then users, then days, each in the order of their keys, so that none waits for another in a circle (where the session
/// plans nested loops only). A user who is gone has no total of the month any more; the ledger and the day's totals are kept.
///
/// # Errors
/// See [`Error`]. After [`Error::Unavailable`] the charges may have been made: the same call finds out.
pub fn charge(db: &mut impl Executor, day: Date, events: &[&Event]) -> Result<Vec<String>, Error> {
    let (month, rows) = (month_of(day), Rows::of(events));
    let may_repeat: Vec<bool> = events.iter().map(|event| event.may_repeat).collect();
    let mut params: Vec<&dyn Param> = vec![&month, &day];
    params.extend(rows.params());
    params.push(&may_repeat);
    db.query(&CHARGE, &params)?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// [`charge`] for events whose ids were made for them and that nobody has tried to charge before: about a sixth less work
/// for the database, which has not to find out what is new.
///
/// # Errors
/// As [`charge`]; where one of them was charged before all the same, nothing is charged.
pub fn charge_new(db: &mut impl Executor, day: Date, events: &[&Event]) -> Result<(), Error> {
    let (month, rows, sums) = (month_of(day), Rows::of(events), Sums::of(events));
    let mut params: Vec<&dyn Param> = vec![&month, &day];
    params.extend(rows.params());
    params.extend(sums.params());
    db.execute(&CHARGE_NEW, &params).map(drop)
}

fn month_of(day: Date) -> Date {
    day.replace_day(1).unwrap_or(day)
}

/// The columns of the ledger, in the order of both statements.
struct Rows<'e> {
    texts: [Vec<&'e str>; 6],
    numbers: [Vec<i64>; 8],
    created: Vec<OffsetDateTime>,
}

impl<'e> Rows<'e> {
    fn of(events: &[&'e Event]) -> Rows<'e> {
        const TEXTS: [fn(&Event) -> &str; 6] =
            [|e| &e.id, |e| &e.user_id, |e| &e.key_id, |e| &e.server, |e| &e.route, |e| &e.model];
        Rows {
            texts: TEXTS.map(|text| events.iter().map(|event| text(event)).collect()),
            numbers: std::array::from_fn(|n| events.iter().map(|event| event.numbers()[n]).collect()),
            created: events.iter().map(|event| event.created).collect(),
        }
    }

    fn params(&self) -> impl Iterator<Item = &dyn Param> {
        params(&self.texts).chain(params(&self.numbers)).chain([&self.created as &dyn Param])
    }
}

/// What events come to, by what `usage_daily` tells apart and by user, each in the order of its keys.
struct Sums<'e> {
    /// User, server, route, model and key.
    keys: [Vec<&'e str>; 5],
    /// How many events, then their units and cost.
    days: [Vec<i64>; 8],
    users: Vec<&'e str>,
    owed: Vec<i64>,
}

impl<'e> Sums<'e> {
    fn of(events: &[&'e Event]) -> Sums<'e> {
        let mut days: BTreeMap<[&str; 5], [i64; 8]> = BTreeMap::new();
        let mut users: BTreeMap<&str, i64> = BTreeMap::new();
        for event in events {
            let key = [&*event.user_id, &*event.server, &*event.route, &*event.model, &*event.key_id];
            let sums = days.entry(key).or_default();
            sums[0] += 1;
            sums[1..].iter_mut().zip(event.numbers()).for_each(|(sum, number)| *sum += number);
            *users.entry(&event.user_id).or_default() += event.cost_micros;
        }
        Sums {
            keys: std::array::from_fn(|n| days.keys().map(|key| key[n]).collect()),
            days: std::array::from_fn(|n| days.values().map(|sums| sums[n]).collect()),
            users: users.keys().copied().collect(),
            owed: users.into_values().collect(),
        }
    }

    fn params(&self) -> impl Iterator<Item = &dyn Param> {
        params(&self.keys).chain(params(&self.days)).chain([&self.users as &dyn Param, &self.owed])
    }
}

fn params<P: Param>(columns: &[P]) -> impl Iterator<Item = &dyn Param> {
    columns.iter().map(|column| column as &dyn Param)
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

/// What was charged before, of events whose ids [`charge`] has returned; not what was charged to somebody else.
///
/// # Errors
/// See [`Error`].
pub fn made(db: &mut impl Executor, events: &[&Event]) -> Result<Vec<Made>, Error> {
    // All three columns lead to the row by the index of one partition, however little the planner knows of the tables.
    const SQL: &str = "SELECT e.id, e.cost_micros, e.created
        FROM (SELECT t.id, t.user_id, coalesce(c.created, t.created) AS created
              FROM unnest($1, $2, $3) AS t (id, user_id, created) LEFT JOIN charge_ids c ON c.id = t.id OFFSET 0) AS t
        JOIN usage_events e ON e.user_id = t.user_id AND e.created = t.created AND e.id = t.id";
    let made =
        |row: &postgres::Row| Ok(Made { id: row.try_get(0)?, cost_micros: row.try_get(1)?, created: row.try_get(2)? });
    let (ids, users): (Vec<&str>, Vec<&str>) = events.iter().map(|event| (&*event.id, &*event.user_id)).unzip();
    let created: Vec<OffsetDateTime> = events.iter().map(|event| event.created).collect();
    db.query(SQL, &[&ids, &users, &created])?.iter().map(made).collect()
}
