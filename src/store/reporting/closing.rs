//! Making rows of the outbox.

use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Charges of the last week, to accounts that were charged something since yesterday.
    Recent,
    /// All charges since reporting began. This is the work of a query for each account.
    Everything,
}

impl Scope {
    /// Accounts that are looked at in one transaction, which locks their rows.
    fn batch(self) -> i32 {
        match self {
            Scope::Recent => 1000,
            Scope::Everything => 200,
        }
    }
}

/// Begins reporting with the charges of today (UTC), unless that was done before.
///
/// # Errors
/// See [`Error`].
pub fn begin(db: &mut impl Executor) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO stripe_reporting (begins, closed, closed_all, checked)
        VALUES ((now() AT TIME ZONE 'UTC')::date, date_trunc('hour', now()), now(), now()) ON CONFLICT DO NOTHING";
    db.execute(SQL, &[]).map(drop)
}

/// Makes rows for some of the accounts behind `after`, in the order of their ids. Returns the last one that was looked
/// at, `None` if there was none. An account's row has all that it was charged until this call, beyond its earlier rows.
///
/// # Errors
/// See [`Error`].
pub fn close_some(
    db: &mut impl Executor,
    after: &str,
    meter: &str,
    hour: OffsetDateTime,
    scope: Scope,
) -> Result<Option<String>, Error> {
    const SQL: &str = "SELECT last FROM textgen_close_subscribed_usage($1,
        CASE WHEN $4 THEN '-infinity' ELSE (now() AT TIME ZONE 'UTC')::date - 1 END, $2, $3, $4, $5)";
    let is_full = scope == Scope::Everything;
    Ok(db.query_one(SQL, &[&after, &meter, &hour, &is_full, &scope.batch()])?.try_get(0)?)
}

/// Makes a row for one account: for all that it was charged until now, beyond its earlier rows.
///
/// # Errors
/// See [`Error`].
pub fn close_account(db: &mut impl Executor, user_id: &str, meter: &str) -> Result<(), Error> {
    // The function looks at the accounts behind another one.
    const SQL: &str = "SELECT made FROM textgen_close_subscribed_usage(
        coalesce((SELECT max(d.user_id) FROM usage_daily d WHERE d.user_id < $1), ''),
        '-infinity', $2, date_trunc('hour', now()), true, 1)";
    db.query_one(SQL, &[&user_id, &meter]).map(drop)
}

/// All rows were made for what was charged until this time.
///
/// # Errors
/// See [`Error`].
pub fn closed(db: &mut impl Executor, until: OffsetDateTime, scope: Scope) -> Result<(), Error> {
    const SQL: &str = "UPDATE stripe_reporting SET closed = greatest(closed, $1),
        closed_all = CASE WHEN $2 THEN now() ELSE closed_all END";
    db.execute(SQL, &[&until, &(scope == Scope::Everything)]).map(drop)
}

/// Deletes rows that were sent more than 100 days ago, at most 10,000 at once. Their sums stay. Returns of how many
/// accounts they were. To be called in a transaction.
///
/// # Errors
/// See [`Error`].
pub fn forget_old(db: &mut impl Executor) -> Result<u64, Error> {
    // The accounts' rows are locked before those of the outbox, as where rows are made.
    const LOCK: &str = "SELECT user_id FROM stripe_usage WHERE user_id IN (
            SELECT user_id FROM stripe_outbox WHERE sent IS NOT NULL AND used_at < now() - interval '100 days'
            ORDER BY used_at LIMIT 10000)
        ORDER BY user_id FOR UPDATE";
    const FORGET: &str = "WITH old AS (
            SELECT id FROM stripe_outbox
            WHERE sent IS NOT NULL AND used_at < now() - interval '100 days' AND user_id = ANY($1)
            ORDER BY id LIMIT 10000 FOR UPDATE SKIP LOCKED),
        gone AS (DELETE FROM stripe_outbox o USING old WHERE o.id = old.id RETURNING o.user_id, o.amount_micros),
        sums AS (SELECT user_id, sum(amount_micros)::bigint AS micros FROM gone GROUP BY user_id)
        UPDATE stripe_usage u SET forgotten_micros = u.forgotten_micros + sums.micros
        FROM sums WHERE u.user_id = sums.user_id";
    let rows = db.query(LOCK, &[])?;
    let accounts = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    db.execute(FORGET, &[&accounts])
}
