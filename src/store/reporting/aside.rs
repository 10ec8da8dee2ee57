//! Rows of the outbox that an operator has to look at: they were put aside, or their time runs out.

use time::OffsetDateTime;

use crate::db::{Error, Executor};
use crate::store::row::{Record, record};

record! {
    /// A row for the operator to look at.
    #[derive(Clone, Debug)]
    pub struct Stuck {
        /// The event's identifier.
        pub id: String = "o.id",
        /// The account, which may have been deleted.
        pub user_id: String = "o.user_id",
        /// The customer.
        pub customer: String = "o.customer",
        /// In micro-dollars.
        pub amount_micros: i64 = "o.amount_micros",
        /// The event's time.
        pub used_at: OffsetDateTime = "o.used_at",
        /// Whether Stripe may have counted it.
        pub is_unknown: bool = "o.unknown_since IS NOT NULL",
        /// What the last attempt failed with.
        pub problem: String = "coalesce(o.problem, '')",
    }
}

/// Rows that were put aside, the newest first.
///
/// # Errors
/// See [`Error`].
pub fn list(db: &mut impl Executor, limit: i64) -> Result<Vec<Stuck>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM stripe_outbox o WHERE o.put_aside IS NOT NULL ORDER BY o.put_aside DESC, o.id LIMIT $1"
    );
    db.query(SQL, &[&limit])?.iter().map(Stuck::from_row).collect()
}

/// Has rows that were put aside tried again, for the customers that their accounts have now: all those that Stripe has not
/// counted for certain. Returns how many.
///
/// # Errors
/// See [`Error`].
pub fn retry_known(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "UPDATE stripe_outbox o
        SET put_aside = NULL, next_at = now(), key_number = o.key_number + 1,
            customer = coalesce((SELECT u.stripe_id FROM users u WHERE u.id = o.user_id), o.customer)
        FROM (SELECT id FROM stripe_outbox WHERE put_aside IS NOT NULL AND unknown_since IS NULL
              ORDER BY id FOR UPDATE) AS due
        WHERE o.id = due.id";
    db.execute(SQL, &[])
}

/// Has one row that was put aside tried again, whether or not it is known what became of it. If it is not, its customer
/// stays, as it may have been counted for that one. Returns whether there was such a row.
///
/// # Errors
/// See [`Error`].
pub fn retry(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE stripe_outbox o
        SET put_aside = NULL, next_at = now(), key_number = o.key_number + 1,
            customer = CASE WHEN o.unknown_since IS NOT NULL THEN o.customer
                ELSE coalesce((SELECT u.stripe_id FROM users u WHERE u.id = o.user_id), o.customer) END
        WHERE o.id = $1 AND o.put_aside IS NOT NULL";
    Ok(db.execute(SQL, &[&id])? == 1)
}

/// Records what an operator knows of a row that was put aside: Stripe has counted it, so it is sent; or not, so it can be
/// sent without a comparison. Returns whether there was such a row.
///
/// # Errors
/// See [`Error`].
pub fn settle(db: &mut impl Executor, id: &str, was_counted: bool) -> Result<bool, Error> {
    const SQL: &str = "UPDATE stripe_outbox
        SET put_aside = NULL, unknown_since = NULL, next_at = now(), key_number = key_number + 1,
            sent = CASE WHEN $2 THEN now() END, problem = CASE WHEN $2 THEN NULL ELSE problem END
        WHERE id = $1 AND put_aside IS NOT NULL";
    Ok(db.execute(SQL, &[&id, &was_counted])? == 1)
}

/// Alarms: rows that were not sent 28 days after their time, also those that were put aside, a week before Stripe does not
/// take them any more. Each is returned once, and is an event of kind `billing.late`, of no account.
///
/// # Errors
/// See [`Error`].
pub fn alarm(db: &mut impl Executor) -> Result<Vec<Stuck>, Error> {
    const SQL: &str = concat!(
        "WITH due AS (
            SELECT id FROM stripe_outbox WHERE sent IS NULL AND alarmed IS NULL AND used_at < now() - interval '28 days'
            ORDER BY id FOR UPDATE SKIP LOCKED),
        o AS (UPDATE stripe_outbox l SET alarmed = now() FROM due WHERE l.id = due.id RETURNING l.*),
        noted AS (
            INSERT INTO events (kind, user_id, budget_id, starts, percent, payload, created)
            SELECT 'billing.late', '', id, used_at, 0, jsonb_build_object('id', id, 'user_id', user_id,
                'customer', customer, 'amount_micros', amount_micros, 'problem', coalesce(problem, '')), now()
            FROM o ON CONFLICT DO NOTHING)
        SELECT ",
        columns!(),
        " FROM o ORDER BY o.used_at"
    );
    db.query(SQL, &[])?.iter().map(Stuck::from_row).collect()
}
