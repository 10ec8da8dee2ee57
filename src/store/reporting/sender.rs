//! Which process sends. It is a lease with a time, not a lock of a connection, as no connection is held while Stripe is
//! called. If a process that was stopped for long goes on, two may send for a moment. That costs calls, but nothing is
//! counted twice: Stripe knows the identifiers.

use time::OffsetDateTime;

use crate::db::{Error, Executor};
use crate::store::timestamp;

/// What the sender has to do.
#[derive(Clone, Copy, Debug)]
pub struct Duties {
    /// The hour that is over and must be closed, if there is one.
    pub hour: Option<OffsetDateTime>,
    /// Whether all days must be looked at.
    pub is_full_due: bool,
    /// The hour that is not over yet.
    pub current_hour: OffsetDateTime,
    /// If no hour may be closed: the time in which nobody reported usage.
    pub held: Option<Gap>,
}

/// A time in which nobody reported usage, although there was some.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// When it began.
    pub since: OffsetDateTime,
    /// When it ended.
    pub until: OffsetDateTime,
}

impl Gap {
    /// What an operator has to know and do.
    pub fn in_words(&self) -> String {
        format!(
            "usage is not reported: nobody reported it from {} to {}. Run `textgen billing resume report` if it is to be \
             billed, or `textgen billing resume skip` if it was paid for otherwise",
            timestamp::zulu(self.since),
            timestamp::zulu(self.until)
        )
    }
}

/// Makes `process` the sender for so many seconds, or keeps it. `None` if another process is the sender. If there was none
/// for a whole day (UTC) with charges, reporting is [held](held).
///
/// # Errors
/// See [`Error`].
pub fn take(db: &mut impl Executor, process: &str, seconds: i32) -> Result<Option<Duties>, Error> {
    const SQL: &str = "WITH days AS (
            SELECT greatest((sender_until AT TIME ZONE 'UTC')::date + 1, begins) AS first,
                (now() AT TIME ZONE 'UTC')::date - 1 AS last FROM stripe_reporting),
        gap AS (
            SELECT CASE WHEN first <= last
                THEN EXISTS (SELECT FROM usage_daily d WHERE d.day BETWEEN first AND last) ELSE false END AS is_found
            FROM days)
        UPDATE stripe_reporting r
        SET sender = $1, sender_until = clock_timestamp() + $2 * interval '1 second',
            held_since = coalesce(r.held_since, CASE WHEN gap.is_found THEN r.sender_until END),
            held_until = coalesce(r.held_until, CASE WHEN gap.is_found THEN now() END)
        FROM gap WHERE r.sender = $1 OR r.sender_until < clock_timestamp()
        RETURNING CASE WHEN r.closed < date_trunc('hour', now()) THEN date_trunc('hour', now()) - interval '1 hour' END,
            r.closed_all < now() - interval '1 day', date_trunc('hour', now()), r.held_since, r.held_until";
    let Some(row) = db.query_opt(SQL, &[&process, &seconds])? else { return Ok(None) };
    let duties = Duties {
        hour: row.try_get(0)?,
        is_full_due: row.try_get(1)?,
        current_hour: row.try_get(2)?,
        held: gap(row.try_get(3)?, row.try_get(4)?),
    };
    Ok(Some(duties))
}

/// Makes an event of kind `billing.held`, of no account, once for a gap.
///
/// # Errors
/// See [`Error`].
pub fn note_held(db: &mut impl Executor, gap: Gap) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO events (kind, user_id, budget_id, starts, percent, payload, created)
        VALUES ('billing.held', '', 'stripe held', $1, 0, jsonb_build_object('problem', $2::text), now())
        ON CONFLICT DO NOTHING";
    db.execute(SQL, &[&gap.since, &gap.in_words()]).map(drop)
}

fn gap(since: Option<OffsetDateTime>, until: Option<OffsetDateTime>) -> Option<Gap> {
    Some(Gap { since: since?, until: until? })
}

/// Whether reporting is held: it is not known whether usage of some time is to be reported.
///
/// # Errors
/// See [`Error`].
pub fn held(db: &mut impl Executor) -> Result<Option<Gap>, Error> {
    let row = db.query_opt("SELECT held_since, held_until FROM stripe_reporting", &[])?;
    row.map_or(Ok(None), |row| Ok(gap(row.try_get(0)?, row.try_get(1)?)))
}

/// Goes on with reporting that was [held](held). Returns whether it was. To be called in a transaction.
///
/// With `skips`, what accounts were charged in that time is not reported: on its whole days by their daily sums, on the
/// first and the last one by the ledger.
///
/// # Errors
/// See [`Error`].
pub fn resume(db: &mut impl Executor, skips: bool) -> Result<bool, Error> {
    const SKIP: &str = "WITH gap AS (
            SELECT held_since, held_until, begins, (held_since AT TIME ZONE 'UTC')::date AS first,
                (held_until AT TIME ZONE 'UTC')::date AS last FROM stripe_reporting),
        skipped AS (
            SELECT a.user_id, begins,
                (SELECT coalesce(sum(d.cost_micros::numeric * 1000000 + d.cost_picos), 0) FROM usage_daily d
                 WHERE d.user_id = a.user_id AND d.day > first AND d.day < last AND d.day >= begins)
                + (SELECT coalesce(sum(e.cost_micros::numeric * 1000000 + e.cost_picos), 0) FROM usage_events e
                   WHERE e.user_id = a.user_id AND e.created >= held_since
                       AND e.created < (first + 1)::timestamp AT TIME ZONE 'UTC')
                + (SELECT coalesce(sum(e.cost_micros::numeric * 1000000 + e.cost_picos), 0) FROM usage_events e
                   WHERE e.user_id = a.user_id AND e.created >= last::timestamp AT TIME ZONE 'UTC'
                       AND e.created < held_until) AS picos
            FROM gap, LATERAL (SELECT DISTINCT d.user_id FROM usage_daily d WHERE d.day BETWEEN first AND last) AS a)
        INSERT INTO stripe_usage AS s (user_id, customer, settled_day, skipped_picos)
        SELECT user_id, coalesce((SELECT u.stripe_id FROM users u WHERE u.id = user_id COLLATE \"default\"), ''), begins, picos
        FROM skipped WHERE picos > 0 ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE SET skipped_picos = s.skipped_picos + excluded.skipped_picos";
    if db.query_opt("SELECT FROM stripe_reporting WHERE held_since IS NOT NULL FOR UPDATE", &[])?.is_none() {
        return Ok(false);
    }
    if skips {
        db.execute(SKIP, &[])?;
    }
    db.execute("UPDATE stripe_reporting SET held_since = NULL, held_until = NULL", &[])?;
    Ok(true)
}

/// Lets another process be the sender.
///
/// # Errors
/// See [`Error`].
pub fn release(db: &mut impl Executor, process: &str) -> Result<(), Error> {
    db.execute("UPDATE stripe_reporting SET sender_until = now() WHERE sender = $1", &[&process]).map(drop)
}

/// The sums could not be compared: it is due again in an hour.
///
/// # Errors
/// See [`Error`].
pub fn put_off_check(db: &mut impl Executor) -> Result<(), Error> {
    db.execute("UPDATE stripe_reporting SET checked = now() - interval '23 hours'", &[]).map(drop)
}

/// Whether it is a day since the sums were compared. It is so for one process only.
///
/// # Errors
/// See [`Error`].
pub fn take_check(db: &mut impl Executor) -> Result<bool, Error> {
    const SQL: &str = "UPDATE stripe_reporting SET checked = now() WHERE checked < now() - interval '1 day'";
    Ok(db.execute(SQL, &[])? == 1)
}
