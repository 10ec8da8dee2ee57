//! Table `stripe_refunds`: payments for credit of accounts that are gone.

use super::row::{Record, next_attempt, record};
use crate::db::{Error, Executor};

record! {
    /// A payment that nothing was given for.
    #[derive(Clone, Debug)]
    pub struct Refund {
        /// The id of the checkout session.
        pub session_id: String = "r.session_id",
        /// The id of the payment.
        pub payment_intent: String = "r.payment_intent",
        /// The customer.
        pub customer: String = "r.customer",
        /// The account that was given to the checkout.
        pub user_id: String = "r.user_id",
        /// What was paid, in hundredths of the currency.
        pub cents: i64 = "r.cents",
        /// Whether an operator has to decide what becomes of it.
        pub put_aside: bool = "r.put_aside",
        /// How often it was tried to refund it, this time included.
        pub attempts: i32 = "r.attempts",
        /// How many `Idempotency-Key`s were used up.
        pub key_number: i32 = "r.key_number",
        /// Why it was not refunded yet.
        pub problem: String = "coalesce(r.problem, '')",
    }
}

impl Refund {
    /// For the operator.
    pub fn in_words(&self) -> String {
        let Refund { session_id, payment_intent, customer, user_id, cents, .. } = self;
        let state = match (self.put_aside, self.problem.as_str()) {
            (true, "") => "no account has this id, and none was deleted: decide with `textgen billing refund`",
            (false, "") => "is being refunded",
            (_, problem) => problem,
        };
        format!("{session_id} {payment_intent} customer {customer} account {user_id} {cents} hundredths: {state}")
    }
}

/// Records a payment, once. If its customer is that of an account which was deleted, it is to be refunded; if not, an
/// operator has to decide. Returns what was recorded, `None` if it was before.
///
/// # Errors
/// See [`Error`].
pub fn insert(db: &mut impl Executor, new: &Refund) -> Result<Option<Refund>, Error> {
    const SQL: &str = concat!(
        "INSERT INTO stripe_refunds AS r (session_id, payment_intent, customer, user_id, cents, put_aside, problem)
        SELECT $1, $2, $3, $4, $5, $6 OR NOT EXISTS (SELECT FROM stripe_cancellations c WHERE c.customer_id = $3),
            nullif($7, '')
        ON CONFLICT DO NOTHING RETURNING ",
        columns!()
    );
    let Refund { session_id, payment_intent, customer, user_id, cents, put_aside, problem, .. } = new;
    let row = db.query_opt(SQL, &[session_id, payment_intent, customer, user_id, cents, put_aside, problem])?;
    row.as_ref().map(Refund::from_row).transpose()
}

/// Takes a payment that is to be refunded. No other process gets it for a minute; the pause after failures is up to an
/// hour.
///
/// # Errors
/// See [`Error`].
pub fn take(db: &mut impl Executor) -> Result<Option<Refund>, Error> {
    const SQL: &str = concat!(
        "UPDATE stripe_refunds r SET ",
        next_attempt!(),
        "
        WHERE r.session_id = (
            SELECT d.session_id FROM stripe_refunds d WHERE d.done IS NULL AND NOT d.put_aside AND d.next_at <= now()
            ORDER BY d.next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING ",
        columns!()
    );
    db.query_opt(SQL, &[])?.as_ref().map(Refund::from_row).transpose()
}

/// A payment was refunded, or an operator wants nothing done about it. Returns whether it was open.
///
/// # Errors
/// See [`Error`].
pub fn done(db: &mut impl Executor, session_id: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE stripe_refunds SET done = now(), put_aside = false, problem = NULL
        WHERE session_id = $1 AND done IS NULL";
    Ok(db.execute(SQL, &[&session_id])? == 1)
}

/// A payment was not refunded, and is tried again.
///
/// # Errors
/// See [`Error`].
pub fn failed(db: &mut impl Executor, session_id: &str, problem: &str, needs_new_key: bool) -> Result<(), Error> {
    const SQL: &str = "UPDATE stripe_refunds
        SET problem = $2, key_number = key_number + CASE WHEN $3 THEN 1 ELSE 0 END WHERE session_id = $1";
    db.execute(SQL, &[&session_id, &problem, &needs_new_key]).map(drop)
}

/// Has a payment refunded that was put aside. Returns whether it is open.
///
/// # Errors
/// See [`Error`].
pub fn approve(db: &mut impl Executor, session_id: &str) -> Result<bool, Error> {
    const SQL: &str = "UPDATE stripe_refunds SET put_aside = false, next_at = now(), problem = NULL
        WHERE session_id = $1 AND done IS NULL";
    Ok(db.execute(SQL, &[&session_id])? == 1)
}

/// Payments that were neither refunded nor dismissed, the oldest first.
///
/// # Errors
/// See [`Error`].
pub fn open(db: &mut impl Executor, limit: i64) -> Result<Vec<Refund>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM stripe_refunds r WHERE r.done IS NULL ORDER BY r.created, r.session_id LIMIT $1"
    );
    db.query(SQL, &[&limit])?.iter().map(Refund::from_row).collect()
}
