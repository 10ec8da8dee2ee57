//! Table `stripe_events`: the web-hook events that were handled.

use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// Whether an event was handled.
///
/// # Errors
/// See [`Error`].
pub fn is_handled(db: &mut impl Executor, id: &str) -> Result<bool, Error> {
    Ok(db.query_opt("SELECT 1 FROM stripe_events WHERE id = $1", &[&id])?.is_some())
}

/// Records an event, in the transaction that handles it. Returns false if it was handled before. Another transaction that
/// handles the same event waits here for this one.
///
/// # Errors
/// See [`Error`].
pub fn insert(
    db: &mut impl Executor,
    id: &str,
    kind: &str,
    object: &str,
    created: OffsetDateTime,
) -> Result<bool, Error> {
    const SQL: &str =
        "INSERT INTO stripe_events (id, kind, object, created) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    Ok(db.execute(SQL, &[&id, &kind, &object, &created])? == 1)
}

/// Forgets events that were handled more than 35 days ago, at most 10,000 at once: Stripe repeats them for 3 days by
/// itself, and for 30 days on request.
///
/// # Errors
/// See [`Error`].
pub fn forget_old(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM stripe_events WHERE id IN (
        SELECT id FROM stripe_events WHERE handled < now() - interval '35 days' ORDER BY handled LIMIT 10000)";
    db.execute(SQL, &[])
}
