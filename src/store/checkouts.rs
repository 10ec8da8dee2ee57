//! Tables `stripe_checkouts` and `stripe_cancellations`: the open pages at Stripe, and the subscriptions that are to end
//! with their account.

use super::row::{Record, next_attempt, record};
use crate::db::{Error, Executor};

/// The page at Stripe on which an account can subscribe.
#[derive(Clone, Debug)]
pub struct Checkout {
    /// How often there was one before.
    pub generation: i64,
    /// The session's id; `None` while it is being made.
    pub session_id: Option<String>,
}

/// The account's page, or a new one that is to be made.
///
/// # Errors
/// [`Error::ForeignKey`] if the account is gone.
pub fn open(db: &mut impl Executor, user_id: &str) -> Result<Checkout, Error> {
    const MAKE: &str = "INSERT INTO stripe_checkouts (user_id) VALUES ($1) ON CONFLICT DO NOTHING";
    const READ: &str = "SELECT generation, session_id FROM stripe_checkouts WHERE user_id = $1";
    db.execute(MAKE, &[&user_id])?;
    let row = db.query_one(READ, &[&user_id])?;
    Ok(Checkout { generation: row.try_get(0)?, session_id: row.try_get(1)? })
}

/// The page was made. Returns whether it is still the account's: if not, it must not be paid.
///
/// # Errors
/// See [`Error`].
pub fn made(db: &mut impl Executor, user_id: &str, generation: i64, session_id: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE stripe_checkouts SET session_id = $3 WHERE user_id = $1 AND generation = $2";
    Ok(db.execute(SQL, &[&user_id, &generation, &session_id])? == 1)
}

/// The page is closed, or will not be noted if `seen` is `None`, so the next one is another. Nothing happens if another
/// was noted meanwhile.
///
/// # Errors
/// See [`Error`].
pub fn closed(db: &mut impl Executor, user_id: &str, generation: i64, seen: Option<&str>) -> Result<(), Error> {
    const SQL: &str = "UPDATE stripe_checkouts SET generation = generation + 1, session_id = NULL
        WHERE user_id = $1 AND generation = $2 AND session_id IS NOT DISTINCT FROM $3";
    db.execute(SQL, &[&user_id, &generation, &seen]).map(drop)
}

record! {
    /// A customer whose account is gone.
    #[derive(Clone, Debug)]
    pub struct Cancellation {
        /// The customer's id.
        pub customer_id: String = "c.customer_id",
        /// The account's id.
        pub user_id: String = "c.user_id",
        /// The account's e-mail address.
        pub user_email: String = "c.user_email",
        /// The page at Stripe that was open.
        pub session_id: Option<String> = "c.session_id",
        /// How often it was tried, this time included.
        pub attempts: i32 = "c.attempts",
    }
}

/// Takes a customer whose subscriptions are to be cancelled. No other process gets it for a minute; the pause after
/// failures is up to an hour.
///
/// # Errors
/// See [`Error`].
pub fn take_cancellation(db: &mut impl Executor) -> Result<Option<Cancellation>, Error> {
    const SQL: &str = concat!(
        "UPDATE stripe_cancellations c SET ",
        next_attempt!(),
        "
        WHERE c.customer_id = (
            SELECT d.customer_id FROM stripe_cancellations d WHERE d.done IS NULL AND d.next_at <= now()
            ORDER BY d.next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING ",
        columns!()
    );
    db.query_opt(SQL, &[])?.as_ref().map(Cancellation::from_row).transpose()
}

/// Takes a customer again in two seconds.
///
/// # Errors
/// See [`Error`].
pub fn postpone_cancellation(db: &mut impl Executor, customer_id: &str) -> Result<(), Error> {
    const SQL: &str = "UPDATE stripe_cancellations SET next_at = now() + interval '2 seconds' WHERE customer_id = $1";
    db.execute(SQL, &[&customer_id]).map(drop)
}

/// All subscriptions of a customer were cancelled at this attempt, unless there was [another](cancel_again) meanwhile.
///
/// # Errors
/// See [`Error`].
pub fn cancelled(db: &mut impl Executor, customer_id: &str, attempts: i32) -> Result<(), Error> {
    const SQL: &str = "UPDATE stripe_cancellations SET done = now(), session_id = NULL
        WHERE customer_id = $1 AND attempts = $2";
    db.execute(SQL, &[&customer_id, &attempts]).map(drop)
}

/// Has the subscriptions of a customer cancelled once more, if the account is gone. Returns whether it is.
///
/// # Errors
/// See [`Error`].
pub fn cancel_again(db: &mut impl Executor, customer_id: &str) -> Result<bool, Error> {
    const SQL: &str =
        "UPDATE stripe_cancellations SET done = NULL, attempts = 0, next_at = now() WHERE customer_id = $1";
    Ok(db.execute(SQL, &[&customer_id])? == 1)
}

/// Forgets what was done more than 35 days ago.
///
/// # Errors
/// See [`Error`].
pub fn forget_cancelled(db: &mut impl Executor) -> Result<u64, Error> {
    db.execute("DELETE FROM stripe_cancellations WHERE done < now() - interval '35 days'", &[])
}

/// After which account `textgen billing import` goes on; empty to begin.
///
/// # Errors
/// See [`Error`].
pub fn import_position(db: &mut impl Executor) -> Result<String, Error> {
    Ok(db.query_one("SELECT after_user FROM stripe_import", &[])?.try_get(0)?)
}

/// Sets that.
///
/// # Errors
/// See [`Error`].
pub fn set_import_position(db: &mut impl Executor, after_user: &str) -> Result<(), Error> {
    db.execute("UPDATE stripe_import SET after_user = $1", &[&after_user]).map(drop)
}

/// The next customers after an account's id, with their accounts' ids and e-mail addresses, at most 100.
///
/// # Errors
/// See [`Error`].
pub fn customers_after(db: &mut impl Executor, user_id: &str) -> Result<Vec<(String, String)>, Error> {
    const SQL: &str = "SELECT id, stripe_id FROM users WHERE id > $1 AND stripe_id <> '' ORDER BY id LIMIT 100";
    db.query(SQL, &[&user_id])?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// How many accounts have a customer.
///
/// # Errors
/// See [`Error`].
pub fn count_customers(db: &mut impl Executor) -> Result<i64, Error> {
    Ok(db.query_one("SELECT count(*) FROM users WHERE stripe_id <> ''", &[])?.try_get(0)?)
}
