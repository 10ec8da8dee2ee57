//! Tables `credit_purchases` and `credit_returns`: credit that was bought, and what went back of the payments.

use super::row::{Record, record};
use crate::db::{Error, Executor};

record! {
    /// A purchase of credit.
    #[derive(Clone, Debug)]
    pub struct Purchase {
        /// The id of the checkout session.
        pub session_id: String = "p.session_id",
        /// The id of the payment, if one was made.
        pub payment_intent: Option<String> = "p.payment_intent",
        /// The account.
        pub user_id: String = "p.user_id",
        /// The credit, in micro-dollars.
        pub amount_micros: i64 = "p.amount_micros",
        /// What was paid for it, taxes included, in hundredths of the currency.
        pub paid_cents: i64 = "p.paid_cents",
        /// How much of the credit is to be taken back, in micro-dollars.
        pub due_micros: i64 = "p.due_micros",
        /// How much of that was there to be taken.
        pub taken_micros: i64 = "p.taken_micros",
    }
}

/// Records a purchase. Returns false if it was recorded before.
///
/// # Errors
/// See [`Error`].
pub fn insert(db: &mut impl Executor, new: &Purchase) -> Result<bool, Error> {
    const SQL: &str = "INSERT INTO credit_purchases (session_id, payment_intent, user_id, amount_micros, paid_cents)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    let Purchase { session_id, payment_intent, user_id, amount_micros, paid_cents, .. } = new;
    Ok(db.execute(SQL, &[session_id, payment_intent, user_id, amount_micros, paid_cents])? == 1)
}

/// The account that bought by this session before.
///
/// # Errors
/// See [`Error`].
pub fn buyer(db: &mut impl Executor, session_id: &str) -> Result<Option<String>, Error> {
    const SQL: &str = "SELECT user_id FROM credit_purchases WHERE session_id = $1";
    db.query_opt(SQL, &[&session_id])?.map_or(Ok(None), |row| Ok(Some(row.try_get(0)?)))
}

/// The purchase that was paid for by this payment.
///
/// # Errors
/// See [`Error`].
pub fn by_payment(db: &mut impl Executor, payment_intent: &str) -> Result<Option<Purchase>, Error> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM credit_purchases p WHERE p.payment_intent = $1");
    db.query_opt(SQL, &[&payment_intent])?.as_ref().map(Purchase::from_row).transpose()
}

/// Stores what a fetch with this number told of a charge's refunds or of a dispute, unless a later one did already: so much
/// went back. Returns how much of the purchase's payment went back by all of them. The account's row must be locked.
///
/// # Errors
/// See [`Error`].
pub fn put_return(db: &mut impl Executor, session_id: &str, id: &str, cents: i64, fetch: i64) -> Result<i64, Error> {
    const PUT: &str = "INSERT INTO credit_returns AS r (id, session_id, cents, fetch_number) VALUES ($1, $2, $3, $4)
        ON CONFLICT ON CONSTRAINT credit_returns_pkey DO UPDATE SET cents = excluded.cents, fetch_number = excluded.fetch_number
        WHERE r.fetch_number < excluded.fetch_number";
    const SUM: &str = "SELECT coalesce(sum(cents), 0)::bigint FROM credit_returns WHERE session_id = $1";
    db.execute(PUT, &[&id, &session_id, &cents, &fetch])?;
    Ok(db.query_one(SUM, &[&session_id])?.try_get(0)?)
}

/// Sets how much of a purchase is to be taken back, and how much was.
///
/// # Errors
/// See [`Error`].
pub fn set_taken(db: &mut impl Executor, session_id: &str, due_micros: i64, taken_micros: i64) -> Result<(), Error> {
    const SQL: &str = "UPDATE credit_purchases SET due_micros = $2, taken_micros = $3 WHERE session_id = $1";
    db.execute(SQL, &[&session_id, &due_micros, &taken_micros]).map(drop)
}
