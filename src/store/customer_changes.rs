//! Table `stripe_customer_changes`: customers whose account has another e-mail address or name than Stripe was told. A
//! trigger makes the rows.

use super::row::{Record, next_attempt, record};
use crate::db::{Error, Executor};

record! {
    /// A customer that Stripe is to be told of.
    #[derive(Clone, Debug)]
    pub struct Change {
        /// The customer.
        pub customer_id: String = "c.customer_id",
        /// The account.
        pub user_id: String = "c.user_id",
        /// Grows with each change.
        pub generation: i64 = "c.generation",
        /// How often it was tried, this time included.
        pub attempts: i32 = "c.attempts",
    }
}

/// Takes a customer that Stripe is to be told of. No other process gets it for a minute; the pause after failures is up to
/// an hour.
///
/// # Errors
/// See [`Error`].
pub fn take(db: &mut impl Executor) -> Result<Option<Change>, Error> {
    const SQL: &str = concat!(
        "UPDATE stripe_customer_changes c SET ",
        next_attempt!(),
        "
        WHERE c.customer_id = (
            SELECT d.customer_id FROM stripe_customer_changes d WHERE d.next_at <= now()
            ORDER BY d.next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING ",
        columns!()
    );
    db.query_opt(SQL, &[])?.as_ref().map(Change::from_row).transpose()
}

/// Stripe knows of a customer's change, unless there was another one since.
///
/// # Errors
/// See [`Error`].
pub fn done(db: &mut impl Executor, change: &Change) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM stripe_customer_changes WHERE customer_id = $1 AND generation = $2";
    db.execute(SQL, &[&change.customer_id, &change.generation]).map(drop)
}
