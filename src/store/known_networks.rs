//! Table `known_networks`: networks from which users have signed in.

use crate::db::{Error, Executor};

/// Days after its last sign-in for which a network stays known.
const KEPT_DAYS: i32 = 180;

/// Whether the user with this e-mail address has signed in from this network.
///
/// # Errors
/// See [`Error`].
pub fn is_known(db: &mut impl Executor, email: &str, network: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT 1 FROM known_networks k JOIN users u ON u.id = k.user_id \
        WHERE u.email = $1 AND k.network = $2";
    Ok(db.query_opt(SQL, &[&email, &network])?.is_some())
}

/// Records a sign-in from this network. Returns whether it is the first one from there.
///
/// # Errors
/// See [`Error`].
pub fn record(db: &mut impl Executor, user_id: &str, network: &str) -> Result<bool, Error> {
    const SQL: &str = "INSERT INTO known_networks (user_id, network) VALUES ($1, $2) \
        ON CONFLICT (user_id, network) DO UPDATE SET last_seen = now() RETURNING xmax = 0";
    Ok(db.query_one(SQL, &[&user_id, &network])?.try_get(0)?)
}

/// Deletes networks without a sign-in for [`KEPT_DAYS`] days, and returns how many.
///
/// # Errors
/// See [`Error`].
pub fn delete_old(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM known_networks WHERE last_seen < now() - make_interval(days => $1)";
    db.execute(SQL, &[&KEPT_DAYS])
}
