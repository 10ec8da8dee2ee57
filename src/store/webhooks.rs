//! Tables `webhook_endpoints` and `webhook_deliveries`: whom the operator wants to be told of events, and what became of it.

use time::OffsetDateTime;

use super::row::{Record, record};
use crate::db::{Error, Executor};

/// Endpoints that there may be: each event is sent to all of them.
pub const MOST_ENDPOINTS: i64 = 20;

/// Attempts to deliver an event to an endpoint.
pub const MOST_ATTEMPTS: i32 = 10;

record! {
    /// An address that is called.
    #[derive(Clone, Debug)]
    pub struct Endpoint {
        /// Its id, `we_…`.
        pub id: String = "id",
        /// Where it is.
        pub url: String = "url",
        /// The kinds of events that it wants; empty for all.
        pub kinds: Vec<String> = "kinds",
        /// What it is for.
        pub description: String = "description",
        /// Since when nothing is sent to it.
        pub disabled: Option<OffsetDateTime> = "disabled",
        /// When it was made.
        pub created: OffsetDateTime = "created",
    }
}

/// All of them, oldest first.
///
/// # Errors
/// See [`Error`].
pub fn endpoints(db: &mut impl Executor) -> Result<Vec<Endpoint>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM webhook_endpoints ORDER BY created, id");
    db.query(SQL, &[])?.iter().map(Endpoint::from_row).collect()
}

/// Adds one. `None` if there are [`MOST_ENDPOINTS`] already.
///
/// # Errors
/// See [`Error`].
pub fn add(
    db: &mut impl Executor,
    id: &str,
    url: &str,
    secret: &[u8],
    kinds: &[String],
    description: &str,
) -> Result<Option<Endpoint>, Error> {
    const SQL: &str = concat!(
        "INSERT INTO webhook_endpoints (id, url, secret, kinds, description)
         SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM webhook_endpoints) < $6 RETURNING ",
        columns!()
    );
    let row = db.query_opt(SQL, &[&id, &url, &secret, &kinds.to_vec(), &description, &MOST_ENDPOINTS])?;
    row.as_ref().map(Endpoint::from_row).transpose()
}

/// Turns one off or on again. `None` if there is none.
///
/// # Errors
/// See [`Error`].
pub fn set_disabled(db: &mut impl Executor, id: &str, is_disabled: bool) -> Result<Option<Endpoint>, Error> {
    const SQL: &str = concat!(
        "UPDATE webhook_endpoints SET disabled = CASE WHEN $2 THEN coalesce(disabled, now()) END WHERE id = $1 RETURNING ",
        columns!()
    );
    db.query_opt(SQL, &[&id, &is_disabled])?.as_ref().map(Endpoint::from_row).transpose()
}

/// Removes one, with its deliveries. Whether it was there.
///
/// # Errors
/// See [`Error`].
pub fn remove(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    Ok(db.execute("DELETE FROM webhook_endpoints WHERE id = $1", &[&id])? == 1)
}

/// Makes an event of kind `webhook.test` for one endpoint alone. Whether there is such an endpoint.
///
/// # Errors
/// See [`Error`].
pub fn test(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    // The trigger's row is for all endpoints; this one is delivered by then.
    const SQL: &str = "WITH made AS (
            INSERT INTO events (kind, user_id, budget_id, starts, percent, payload, created)
            SELECT 'webhook.test', '', 'webhook ' || id, clock_timestamp(), 0, '{}', clock_timestamp()
            FROM webhook_endpoints WHERE id = $1 RETURNING id)
        INSERT INTO webhook_deliveries (endpoint_id, event_id, next_at) SELECT $1, id, now() FROM made";
    Ok(db.execute(SQL, &[&id])? == 1)
}

/// Makes deliveries of events that came since, for each endpoint that wants them. Returns how many events there were.
///
/// # Errors
/// See [`Error`].
pub fn distribute(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "WITH due AS (
            SELECT event_id FROM event_deliveries WHERE sender = 'webhook' AND delivered IS NULL AND next_at <= now()
            ORDER BY next_at, event_id LIMIT 200 FOR UPDATE SKIP LOCKED),
        made AS (
            INSERT INTO webhook_deliveries (endpoint_id, event_id, next_at)
            SELECT p.id, e.id, now() FROM due JOIN events e ON e.id = due.event_id
            JOIN webhook_endpoints p ON p.disabled IS NULL AND p.created <= e.created
                AND (cardinality(p.kinds) = 0 OR e.kind = ANY (p.kinds))
            WHERE e.kind <> 'webhook.test'
            ON CONFLICT DO NOTHING)
        UPDATE event_deliveries d SET delivered = now() FROM due WHERE d.event_id = due.event_id AND d.sender = 'webhook'";
    db.execute(SQL, &[])
}

/// Makes an event of kind `outbox.stuck`, of no account, once a day, if usage has waited for three hours to be sent to
/// Stripe, or was put aside.
///
/// # Errors
/// See [`Error`].
pub fn note_stuck_outbox(db: &mut impl Executor) -> Result<bool, Error> {
    const SQL: &str = "INSERT INTO events (kind, user_id, budget_id, starts, percent, payload, created)
        SELECT 'outbox.stuck', '', 'outbox', date_trunc('day', now(), 'UTC'), 0,
            jsonb_build_object('waiting', o.waiting, 'put_aside', o.put_aside, 'oldest', o.oldest), now()
        FROM (SELECT count(*) FILTER (WHERE put_aside IS NULL) AS waiting,
                count(*) FILTER (WHERE put_aside IS NOT NULL) AS put_aside, min(used_at) AS oldest
              FROM stripe_outbox WHERE sent IS NULL) AS o
        WHERE o.oldest < now() - interval '3 hours' ON CONFLICT DO NOTHING";
    Ok(db.execute(SQL, &[])? == 1)
}

/// Something to be delivered.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its id.
    pub id: i64,
    /// The endpoint.
    pub endpoint_id: String,
    /// Where that is.
    pub url: String,
    /// The key of the signature.
    pub secret: Vec<u8>,
    /// How often it was tried, this time included.
    pub attempts: i32,
    /// The event.
    pub event_id: i64,
    /// Its kind.
    pub kind: String,
    /// The account; empty for none.
    pub user_id: String,
    /// The key; empty for none.
    pub key_id: String,
    /// Details, as JSON.
    pub payload: String,
    /// When it happened.
    pub created: OffsetDateTime,
}

/// Takes deliveries that are due. No other process gets them for two minutes.
///
/// # Errors
/// See [`Error`].
pub fn take(db: &mut impl Executor, limit: i64) -> Result<Vec<Delivery>, Error> {
    const SQL: &str = "WITH due AS (
            SELECT d.id FROM webhook_deliveries d JOIN webhook_endpoints p ON p.id = d.endpoint_id AND p.disabled IS NULL
            WHERE d.delivered IS NULL AND d.gave_up IS NULL AND d.next_at <= now()
            ORDER BY d.next_at, d.id LIMIT $1 FOR UPDATE OF d SKIP LOCKED),
        taken AS (
            UPDATE webhook_deliveries d SET attempts = d.attempts + 1, next_at = now() + interval '2 minutes'
            FROM due WHERE d.id = due.id RETURNING d.id, d.endpoint_id, d.event_id, d.attempts)
        SELECT t.id, t.endpoint_id, p.url, p.secret, t.attempts, e.id, e.kind, e.user_id, coalesce(e.key_id, ''),
            (e.payload || CASE WHEN e.percent > 0 THEN jsonb_build_object('percent', e.percent) ELSE '{}' END)::text, e.created
        FROM taken t JOIN webhook_endpoints p ON p.id = t.endpoint_id JOIN events e ON e.id = t.event_id ORDER BY t.id";
    let delivery = |row: &postgres::Row| {
        Ok(Delivery {
            id: row.try_get(0)?,
            endpoint_id: row.try_get(1)?,
            url: row.try_get(2)?,
            secret: row.try_get(3)?,
            attempts: row.try_get(4)?,
            event_id: row.try_get(5)?,
            kind: row.try_get(6)?,
            user_id: row.try_get(7)?,
            key_id: row.try_get(8)?,
            payload: row.try_get(9)?,
            created: row.try_get(10)?,
        })
    };
    db.query(SQL, &[&limit])?.iter().map(delivery).collect()
}

/// It was delivered: this was answered.
///
/// # Errors
/// See [`Error`].
pub fn delivered(db: &mut impl Executor, id: i64, status: i32) -> Result<(), Error> {
    const SQL: &str = "UPDATE webhook_deliveries SET delivered = now(), status = $2, problem = '' WHERE id = $1";
    db.execute(SQL, &[&id, &status]).map(drop)
}

/// It was not. It is tried again after a while that grows, or given up after the last attempt.
///
/// # Errors
/// See [`Error`].
pub fn failed(db: &mut impl Executor, id: i64, status: Option<i32>, problem: &str) -> Result<(), Error> {
    const SQL: &str = "UPDATE webhook_deliveries SET status = $2, problem = $3,
            gave_up = CASE WHEN attempts >= $4 THEN now() END,
            next_at = now() + interval '1 second'
                * (ARRAY[5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400])[greatest(least(attempts, 9), 1)]
        WHERE id = $1";
    db.execute(SQL, &[&id, &status, &problem, &MOST_ATTEMPTS]).map(drop)
}

/// Tries a delivery again now, also one that was given up. Whether there is one that was not delivered.
///
/// # Errors
/// See [`Error`].
pub fn retry(db: &mut impl Executor, id: i64) -> Result<bool, Error> {
    const SQL: &str =
        "UPDATE webhook_deliveries SET next_at = now(), gave_up = NULL, attempts = least(attempts, $2 - 1)
        WHERE id = $1 AND delivered IS NULL";
    Ok(db.execute(SQL, &[&id, &MOST_ATTEMPTS])? == 1)
}

/// A delivery as it is listed.
#[derive(Clone, Debug)]
pub struct ListedDelivery {
    /// Its id.
    pub id: i64,
    /// The endpoint.
    pub endpoint_id: String,
    /// The event.
    pub event_id: i64,
    /// Its kind.
    pub kind: String,
    /// How often it was tried.
    pub attempts: i32,
    /// `delivered`, `waiting` or `given_up`.
    pub state: &'static str,
    /// When it is tried next, if it waits.
    pub next_at: Option<OffsetDateTime>,
    /// The status of the last answer.
    pub status: Option<i32>,
    /// What went wrong the last time.
    pub problem: String,
    /// When the event was made.
    pub created: OffsetDateTime,
}

/// Deliveries, newest first: those before the one with this id, of all endpoints or of one.
///
/// # Errors
/// See [`Error`].
pub fn page(
    db: &mut impl Executor,
    endpoint: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<ListedDelivery>, Error> {
    const SQL: &str = "SELECT d.id, d.endpoint_id, d.event_id, e.kind, d.attempts, d.delivered IS NOT NULL,
            d.gave_up IS NOT NULL, d.next_at, d.status, d.problem, e.created
        FROM webhook_deliveries d JOIN events e ON e.id = d.event_id
        WHERE d.id < $1 AND ($2 = '' OR d.endpoint_id = $2) ORDER BY d.id DESC LIMIT $3";
    let delivery = |row: &postgres::Row| {
        let state = match (row.try_get(5)?, row.try_get(6)?) {
            (true, _) => "delivered",
            (false, true) => "given_up",
            (false, false) => "waiting",
        };
        let next_at: OffsetDateTime = row.try_get(7)?;
        Ok(ListedDelivery {
            id: row.try_get(0)?,
            endpoint_id: row.try_get(1)?,
            event_id: row.try_get(2)?,
            kind: row.try_get(3)?,
            attempts: row.try_get(4)?,
            state,
            next_at: Some(next_at).filter(|_| state == "waiting"),
            status: row.try_get(8)?,
            problem: row.try_get(9)?,
            created: row.try_get(10)?,
        })
    };
    let rows = db.query_list(SQL, &[&before.unwrap_or(i64::MAX), &endpoint.unwrap_or_default(), &limit])?;
    rows.iter().map(delivery).collect()
}
