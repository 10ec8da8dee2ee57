//! Comparing the ledger with the outbox, and the outbox with Stripe.

use time::{Date, OffsetDateTime};

use crate::db::{Error, Executor};
use crate::store::row::{Columns, Record, record};

/// Accounts or customers that are read at once.
const BATCH: i64 = 500;

/// What has been closed.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// The first day (UTC) whose charges are reported.
    pub begins: Date,
    /// All that was charged before this time should be in the outbox.
    pub until: OffsetDateTime,
    /// The hour that is not over yet.
    pub current_hour: OffsetDateTime,
    /// Whether hours that are over have not been closed for long.
    pub is_late: bool,
}

/// Until when hours were closed; `None` if reporting has not begun.
///
/// # Errors
/// See [`Error`].
pub fn closed(db: &mut impl Executor) -> Result<Option<Closed>, Error> {
    const SQL: &str = "SELECT begins, closed, date_trunc('hour', now()), closed < now() - interval '3 hours'
        FROM stripe_reporting";
    let Some(row) = db.query_opt(SQL, &[])? else { return Ok(None) };
    let (begins, until) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Some(Closed { begins, until, current_hour: row.try_get(2)?, is_late: row.try_get(3)? }))
}

record! {
    /// The sums of an account, in whole micro-dollars.
    #[derive(Clone, Debug)]
    pub struct AccountSums {
        /// The account, which may have been deleted.
        pub user_id: String = "a.user_id",
        /// Whether it has a customer with a subscription, or had a customer when it was deleted. Until then, its charges wait.
        pub is_invoiced: bool = "textgen_usage_customer(a.user_id) <> ''",
        /// What is to be reported of its charges.
        pub ledger: i64 = "div(a.picos - coalesce(u.skipped_picos, 0), 1000000)::bigint",
        /// The part of it that was charged before [`Closed::until`].
        pub closed: i64 = "div(a.picos - coalesce(u.skipped_picos, 0)
            - CASE WHEN div(a.picos - coalesce(u.skipped_picos, 0), 1000000) > coalesce(u.reported_micros, 0)
              THEN (SELECT coalesce(sum(e.cost_micros::numeric * 1000000 + e.cost_picos), 0) FROM usage_events e
                    WHERE e.user_id = a.user_id COLLATE \"default\" AND e.created >= $4) ELSE 0 END, 1000000)::bigint",
        /// What was put into the outbox.
        pub reported: i64 = "coalesce(u.reported_micros, 0)",
        /// What is in the outbox, and was deleted from it after it was sent.
        pub outbox: i64 = "coalesce(u.forgotten_micros, 0)
            + coalesce((SELECT sum(o.amount_micros) FROM stripe_outbox o WHERE o.user_id = a.user_id), 0)::bigint",
    }
}

/// The sums of some of the accounts that were charged something since reporting began, or have something in the outbox:
/// those behind `after`, in the order of their ids.
///
/// # Errors
/// See [`Error`].
pub fn accounts(db: &mut impl Executor, after: &str, closed: &Closed) -> Result<Vec<AccountSums>, Error> {
    // One snapshot: charges that are made meanwhile are in all sums or in none.
    const SQL: &str = concat!(
        "WITH ids AS (
            (SELECT user_id FROM stripe_usage WHERE user_id > $1 ORDER BY user_id LIMIT $2)
            UNION (SELECT DISTINCT d.user_id FROM usage_daily d WHERE d.day >= $3 AND d.user_id > $1
                ORDER BY d.user_id LIMIT $2)
            ORDER BY user_id LIMIT $2),
        a AS (
            SELECT i.user_id, (SELECT coalesce(sum(d.cost_micros::numeric * 1000000 + d.cost_picos), 0)
                FROM usage_daily d WHERE d.user_id = i.user_id AND d.day >= $3) AS picos
            FROM ids i)
        SELECT ",
        columns!(),
        " FROM a LEFT JOIN stripe_usage u ON u.user_id = a.user_id ORDER BY a.user_id"
    );
    db.query(SQL, &[&after, &BATCH, &closed.begins, &closed.until])?.iter().map(AccountSums::from_row).collect()
}

/// What was put into the outbox of an account, in micro-dollars.
///
/// # Errors
/// See [`Error`].
pub fn reported(db: &mut impl Executor, user_id: &str) -> Result<i64, Error> {
    let row = db.query_opt("SELECT reported_micros FROM stripe_usage WHERE user_id = $1", &[&user_id])?;
    row.map_or(Ok(0), |row| Ok(row.try_get(0)?))
}

/// What a customer's rows with one meter add up to, in micro-dollars, since [`window`].
#[derive(Clone, Debug)]
pub struct CustomerSums {
    /// The customer.
    pub customer: String,
    /// The event name of the meter.
    pub meter: String,
    /// Rows that were sent.
    pub sent: i64,
    /// Those of them that were sent in the last 15 minutes. Stripe may not have added them up yet.
    pub just_sent: i64,
    /// Rows of which it is not known whether Stripe has counted them.
    pub unknown: i64,
}

/// The time from which rows are compared with Stripe: the beginning of the day (UTC) 35 days ago.
///
/// # Errors
/// See [`Error`].
pub fn window(db: &mut impl Executor) -> Result<OffsetDateTime, Error> {
    const SQL: &str = "SELECT date_trunc('day', now(), 'UTC') - interval '35 days'";
    Ok(db.query_one(SQL, &[])?.try_get(0)?)
}

/// The columns of [`CustomerSums`].
macro_rules! sums {
    () => {
        "customer, meter,
        coalesce(sum(amount_micros) FILTER (WHERE sent IS NOT NULL), 0)::bigint,
        coalesce(sum(amount_micros) FILTER (WHERE sent > now() - interval '15 minutes'), 0)::bigint,
        coalesce(sum(amount_micros) FILTER (WHERE unknown_since IS NOT NULL), 0)::bigint"
    };
}

fn sums(row: &postgres::Row) -> Result<CustomerSums, Error> {
    let mut columns = Columns::of(row);
    Ok(CustomerSums {
        customer: columns.next()?,
        meter: columns.next()?,
        sent: columns.next()?,
        just_sent: columns.next()?,
        unknown: columns.next()?,
    })
}

/// The sums of some of the customers behind `after` (a customer and a meter).
///
/// # Errors
/// See [`Error`].
pub fn customers(
    db: &mut impl Executor,
    since: OffsetDateTime,
    after: (&str, &str),
) -> Result<Vec<CustomerSums>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        sums!(),
        " FROM stripe_outbox WHERE used_at >= $1 AND (customer, meter) > ($2, $3)
        GROUP BY customer, meter ORDER BY customer, meter LIMIT $4"
    );
    db.query(SQL, &[&since, &after.0, &after.1, &BATCH])?.iter().map(sums).collect()
}

/// The sums of a customer and meter as they are now.
///
/// # Errors
/// See [`Error`].
pub fn customer(
    db: &mut impl Executor,
    since: OffsetDateTime,
    customer: &str,
    meter: &str,
) -> Result<Option<CustomerSums>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        sums!(),
        " FROM stripe_outbox WHERE used_at >= $1 AND customer = $2 AND meter = $3 GROUP BY customer, meter"
    );
    db.query_opt(SQL, &[&since, &customer, &meter])?.as_ref().map(sums).transpose()
}

/// Makes an event of kind `billing.difference`, of no account, with what differs.
///
/// # Errors
/// See [`Error`].
pub fn note_difference(db: &mut impl Executor, what: &str) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO events (kind, user_id, budget_id, starts, percent, payload, created)
        VALUES ('billing.difference', '', 'stripe', now(), 0, jsonb_build_object('difference', $1), now())
        ON CONFLICT DO NOTHING";
    db.execute(SQL, &[&what]).map(drop)
}

/// Makes an event of kind `billing.uncounted`, of no account: by a web-hook event, Stripe has said that it did not count usage
/// which it had taken.
///
/// # Errors
/// See [`Error`].
pub fn note_uncounted(db: &mut impl Executor, event_id: &str, problem: &str) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO events (kind, user_id, budget_id, starts, percent, payload, created)
        VALUES ('billing.uncounted', '', $1, now(), 0, jsonb_build_object('event', $1, 'problem', $2::text), now())
        ON CONFLICT DO NOTHING";
    db.execute(SQL, &[&event_id, &problem]).map(drop)
}
