//! Table `known_networks`: from where a person has signed in.

use crate::db::{Error, Executor};

/// Days after which a network that was not seen again is forgotten.
const KEPT_DAYS: i32 = 180;

/// Whether the person of this e-mail address has signed in from this network.
///
/// # Errors
/// See [`Error`].
pub fn is_known(db: &mut impl Executor, email: &str, network: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT 1 FROM known_networks k JOIN users u ON u.id = k.user_id \
        WHERE u.email = $1 AND k.network = $2";
    Ok(db.query_opt(SQL, &[&email, &network])?.is_some())
}

/// Records that a person has signed in from this network.
///
/// # Errors
/// See [`Error`].
pub fn saw(db: &mut impl Executor, user_id: &str, network: &str) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO known_networks (user_id, network) VALUES ($1, $2) \
        ON CONFLICT (user_id, network) DO UPDATE SET last_seen = now()";
    db.execute(SQL, &[&user_id, &network]).map(drop)
}

/// Forgets the networks that were not seen for long.
///
/// # Errors
/// See [`Error`].
pub fn forget_old(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM known_networks WHERE last_seen < now() - make_interval(days => $1)";
    db.execute(SQL, &[&KEPT_DAYS])
}
