//! Table `stripe_subscriptions`: who has subscribed, as Stripe told when it was last asked. `users.is_subscribed` follows
//! from it.

use time::OffsetDateTime;

use super::row::{Record, record};
use crate::db::{Error, Executor};

record! {
    /// A subscription.
    #[derive(Clone, Debug)]
    pub struct Subscription {
        /// Its id at Stripe.
        pub id: String = "s.id",
        /// The account.
        pub user_id: String = "s.user_id",
        /// The id of the plan's item; empty if it has none.
        pub item_id: String = "s.item_id",
        /// `monthly`, `annual`, `self-hosted` or `other`.
        pub plan: String = "s.plan",
        /// Stripe's status, such as `active` or `past_due`.
        pub state: String = "s.state",
        /// The self-hosted instances that it pays for.
        pub instances: i32 = "s.instances",
        /// The end of the period that is paid for.
        pub period_end: Option<OffsetDateTime> = "s.period_end",
        /// Whether it ends then.
        pub cancel_at_period_end: bool = "s.cancel_at_period_end",
    }
}

/// Takes the number of a fetch, before Stripe is asked: of two fetches, the one with the higher number began later.
///
/// # Errors
/// See [`Error`].
pub fn begin_fetch(db: &mut impl Executor) -> Result<i64, Error> {
    Ok(db.query_one("SELECT nextval('stripe_fetches')", &[])?.try_get(0)?)
}

/// Stores what a fetch with this number told of a subscription, unless a later one did already. Returns whether it was
/// stored, and the state before. The account's row must be locked.
///
/// # Errors
/// See [`Error`].
pub fn put(db: &mut impl Executor, new: &Subscription, fetch: i64) -> Result<(bool, Option<String>), Error> {
    const SQL: &str = "WITH before AS (SELECT state FROM stripe_subscriptions WHERE id = $1),
        stored AS (
            INSERT INTO stripe_subscriptions AS s (id, user_id, item_id, plan, state, instances, period_end,
                cancel_at_period_end, past_due_since, fetch_number)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, CASE WHEN $5 = 'past_due' THEN now() END, $9)
            ON CONFLICT ON CONSTRAINT stripe_subscriptions_pkey DO UPDATE SET
                user_id = excluded.user_id, item_id = excluded.item_id, plan = excluded.plan, state = excluded.state,
                instances = excluded.instances, period_end = excluded.period_end,
                cancel_at_period_end = excluded.cancel_at_period_end,
                past_due_since = CASE WHEN excluded.state = 'past_due' THEN coalesce(s.past_due_since, now()) END,
                fetch_number = excluded.fetch_number, updated = now()
            WHERE s.fetch_number < excluded.fetch_number
            RETURNING 1)
        SELECT EXISTS (SELECT FROM stored), (SELECT state FROM before)";
    let Subscription { id, user_id, item_id, plan, state, instances, period_end, cancel_at_period_end } = new;
    let row =
        db.query_one(SQL, &[id, user_id, item_id, plan, state, instances, period_end, cancel_at_period_end, &fetch])?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Brings an account into accordance with its subscriptions: whether it is subscribed, where those that are past due
/// count for so many days, and how many instances it hosts. Its row must be locked. Returns whether that changed.
///
/// # Errors
/// See [`Error`].
pub fn refresh_account(db: &mut impl Executor, user_id: &str, grace_days: i32) -> Result<bool, Error> {
    const SQL: &str = "UPDATE users u
        SET is_subscribed = s.is_subscribed, num_self_hosted_instances = s.instances, updated = now()
        FROM (
            SELECT count(*) > 0 AS is_subscribed, coalesce(sum(instances), 0)::integer AS instances
            FROM stripe_subscriptions
            WHERE user_id = $1 AND textgen_subscription_counts(state, past_due_since, $2)) AS s
        WHERE u.id = $1
          AND (u.is_subscribed, u.num_self_hosted_instances) IS DISTINCT FROM (s.is_subscribed, s.instances)";
    Ok(db.execute(SQL, &[&user_id, &grace_days])? == 1)
}

/// Accounts for which the grace of a subscription that is past due has ended, or was made longer; at most 100.
///
/// # Errors
/// See [`Error`].
pub fn with_changed_grace(db: &mut impl Executor, grace_days: i32) -> Result<Vec<String>, Error> {
    const SQL: &str = "SELECT DISTINCT u.id FROM stripe_subscriptions s JOIN users u ON u.id = s.user_id
        WHERE s.past_due_since IS NOT NULL AND u.is_subscribed <> EXISTS (
            SELECT FROM stripe_subscriptions o
            WHERE o.user_id = u.id AND textgen_subscription_counts(o.state, o.past_due_since, $1))
        LIMIT 100";
    db.query(SQL, &[&grace_days])?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Whether an account has a subscription that is not over, also one whose payment has failed or that is paused: whoever has
/// one must not buy another.
///
/// # Errors
/// See [`Error`].
pub fn has_any(db: &mut impl Executor, user_id: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM stripe_subscriptions WHERE user_id = $1
        AND state IN ('active', 'trialing', 'past_due', 'unpaid', 'paused'))";
    Ok(db.query_one(SQL, &[&user_id])?.try_get(0)?)
}

/// The subscription that is shown of an account: one that counts, else one that can be paid or resumed, else the newest.
///
/// # Errors
/// See [`Error`].
pub fn of_user(db: &mut impl Executor, user_id: &str) -> Result<Option<Subscription>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM stripe_subscriptions s WHERE s.user_id = $1
        ORDER BY s.state IN ('active', 'trialing') DESC, s.state = 'past_due' DESC, s.state IN ('unpaid', 'paused') DESC,
            s.period_end DESC NULLS LAST, s.id DESC
        LIMIT 1"
    );
    db.query_opt(SQL, &[&user_id])?.as_ref().map(Subscription::from_row).transpose()
}

/// An account with a subscription that ends in the next seconds, once for such an end.
///
/// # Errors
/// See [`Error`].
pub fn take_ending(db: &mut impl Executor, seconds: i32) -> Result<Option<String>, Error> {
    const SQL: &str = "UPDATE stripe_subscriptions s SET usage_closed = s.period_end
        FROM (SELECT id FROM stripe_subscriptions
              WHERE cancel_at_period_end AND period_end > now() AND period_end < now() + $1 * interval '1 second'
                AND usage_closed IS DISTINCT FROM period_end
              ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) AS due
        WHERE s.id = due.id RETURNING s.user_id";
    db.query_opt(SQL, &[&seconds])?.map_or(Ok(None), |row| Ok(Some(row.try_get(0)?)))
}

/// Whether a subscription is stored.
///
/// # Errors
/// See [`Error`].
pub fn is_known(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    Ok(db.query_opt("SELECT 1 FROM stripe_subscriptions WHERE id = $1", &[&id])?.is_some())
}

/// The account that a customer's payments are for: the one with this customer, else the one with the id that was given
/// with the payment. Accounts of the older system may share a customer, which then is that of the one with that id, else of
/// the oldest, and rather of one that has kept its address.
///
/// # Errors
/// See [`Error`].
pub fn owner(db: &mut impl Executor, customer_id: &str, reference: &str) -> Result<Option<String>, Error> {
    const SQL: &str = "SELECT id FROM (
            SELECT id, 1 AS place, email LIKE 'duplicate-%' AS is_duplicate, created
            FROM users WHERE stripe_id = $1 AND $1 <> ''
            UNION ALL SELECT id, 2, false, created FROM users WHERE id = $2) AS found
        ORDER BY place, id = $2 DESC, is_duplicate, created, id LIMIT 1";
    db.query_opt(SQL, &[&customer_id, &reference])?.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Sets the customer of an account that has none. Returns the one that it has then; `None` if the account is gone.
///
/// # Errors
/// See [`Error`].
pub fn set_customer(db: &mut impl Executor, user_id: &str, customer_id: &str) -> Result<Option<String>, Error> {
    const SET: &str = "UPDATE users SET stripe_id = $2, updated = now() WHERE id = $1 AND coalesce(stripe_id, '') = ''";
    db.execute(SET, &[&user_id, &customer_id])?;
    let row = db.query_opt("SELECT coalesce(stripe_id, '') FROM users WHERE id = $1", &[&user_id])?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Forgets the customer of an account, which Stripe does not know any more, unless it has another one by now.
///
/// # Errors
/// See [`Error`].
pub fn forget_customer(db: &mut impl Executor, user_id: &str, customer_id: &str) -> Result<(), Error> {
    const SQL: &str = "UPDATE users SET stripe_id = NULL, updated = now() WHERE id = $1 AND stripe_id = $2";
    db.execute(SQL, &[&user_id, &customer_id]).map(drop)
}
