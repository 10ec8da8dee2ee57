//! Comparing the ledger with the outbox, and the outbox with Stripe.

use time::OffsetDateTime;

use crate::db::{Error, Executor};
use crate::store::row::{Columns, Record, record};

/// Accounts or customers that are read at once.
const BATCH: i64 = 500;

record! {
    /// The sums of an account, in micro-dollars.
    #[derive(Clone, Debug)]
    pub struct AccountSums {
        /// The account, which may have been deleted.
        pub user_id: String = "u.user_id",
        /// Whole micro-dollars of its charges since reporting began.
        pub ledger: i64 = "coalesce((SELECT div(sum(d.cost_micros::numeric * 1000000 + d.cost_picos), 1000000)::bigint
            FROM usage_daily d, stripe_reporting r WHERE d.user_id = u.user_id AND d.day >= r.begins), 0)",
        /// What was put into the outbox.
        pub reported: i64 = "u.reported_micros",
        /// What is in the outbox, and was deleted from it after it was sent.
        pub outbox: i64 = "u.forgotten_micros
            + coalesce((SELECT sum(o.amount_micros) FROM stripe_outbox o WHERE o.user_id = u.user_id), 0)::bigint",
    }
}

/// The sums of some of the accounts that have something in the outbox, behind `after`, in the order of their ids.
///
/// # Errors
/// See [`Error`].
pub fn accounts(db: &mut impl Executor, after: &str) -> Result<Vec<AccountSums>, Error> {
    // One snapshot: charges that are made meanwhile are in all sums or in none.
    const SQL: &str =
        concat!("SELECT ", columns!(), " FROM stripe_usage u WHERE u.user_id > $1 ORDER BY u.user_id LIMIT $2");
    db.query(SQL, &[&after, &BATCH])?.iter().map(AccountSums::from_row).collect()
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

/// The sums of some of the customers behind `after` (a customer and a meter).
///
/// # Errors
/// See [`Error`].
pub fn customers(
    db: &mut impl Executor,
    since: OffsetDateTime,
    after: (&str, &str),
) -> Result<Vec<CustomerSums>, Error> {
    const SQL: &str = "SELECT customer, meter,
            coalesce(sum(amount_micros) FILTER (WHERE sent IS NOT NULL), 0)::bigint,
            coalesce(sum(amount_micros) FILTER (WHERE sent > now() - interval '15 minutes'), 0)::bigint,
            coalesce(sum(amount_micros) FILTER (WHERE unknown_since IS NOT NULL), 0)::bigint
        FROM stripe_outbox WHERE used_at >= $1 AND (customer, meter) > ($2, $3)
        GROUP BY customer, meter ORDER BY customer, meter LIMIT $4";
    let sums = |row: &postgres::Row| {
        let mut columns = Columns::of(row);
        Ok(CustomerSums {
            customer: columns.next()?,
            meter: columns.next()?,
            sent: columns.next()?,
            just_sent: columns.next()?,
            unknown: columns.next()?,
        })
    };
    db.query(SQL, &[&since, &after.0, &after.1, &BATCH])?.iter().map(sums).collect()
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
