//! Tables `budgets`, `budget_windows`, `lease_holders` and `leases`: what may be spent, and the parts of it that processes
//! hold. Amounts are in picodollars. `limits::model` says what each function does.

use postgres::Row;
use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// What a process asks for. Amounts are sums over its life, so that asking twice gives nothing twice.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The budget.
    pub budget_id: &'a str,
    /// The process.
    pub holder_id: &'a str,
    /// All grants that it needs.
    pub at_least: i128,
    /// All grants that it would like to have.
    pub at_most: i128,
    /// All that it has handed back.
    pub returned: i128,
    /// Whether it also takes less than it needs.
    pub partial: bool,
}

/// The answer to a [`Request`].
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// The sum of all grants.
    pub granted: i128,
    /// The sum of all that was handed back.
    pub returned: i128,
    /// When the window began; of all windows in which the process asked, the newest.
    pub window_starts: OffsetDateTime,
    /// Whether there was less than was needed. Then all processes are told with `NOTIFY textgen_limits`.
    pub is_short: bool,
}

/// A new charge against a budget.
#[derive(Clone, Copy, Debug)]
pub struct Settlement<'a> {
    /// The budget.
    pub budget_id: &'a str,
    /// The process that charges.
    pub holder_id: &'a str,
    /// The time that the charge bears.
    pub created: OffsetDateTime,
    /// What it costs.
    pub cost: i128,
}

/// Makes a process known, before it asks for its first lease. One that has ended stays so.
///
/// # Errors
/// See [`Error`].
pub fn register(db: &mut impl Executor, holder_id: &str) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO lease_holders (id) VALUES ($1) ON CONFLICT DO NOTHING";
    db.execute(SQL, &[&holder_id]).map(drop)
}

/// Grants a lease, or takes part of one back. `None` if there is no such budget, or the process is unknown or has ended.
///
/// # Errors
/// See [`Error`].
pub fn ask(db: &mut impl Executor, request: &Request<'_>) -> Result<Option<Granted>, Error> {
    const SQL: &str = "SELECT granted::text, returned::text, starts, is_short
        FROM textgen_ask_lease($1, $2, $3::numeric, $4::numeric, $5::numeric, $6)";
    let Request { budget_id, holder_id, at_least, at_most, returned, partial } = request;
    let [at_least, at_most, returned] = [at_least, at_most, returned].map(ToString::to_string);
    let row = db.query_opt(SQL, &[budget_id, holder_id, &at_least, &at_most, &returned, partial])?;
    let granted = |row: Row| {
        Ok(Granted {
            granted: amount(&row, 0)?,
            returned: amount(&row, 1)?,
            window_starts: row.try_get(2)?,
            is_short: row.try_get(3)?,
        })
    };
    row.map(granted).transpose()
}

/// Moves what new charges cost from leased to spent. It belongs in the transaction that adds them to the ledger.
///
/// # Errors
/// See [`Error`]. If it is the first try and a process holds less than it charges, which happens when its leases have
/// ended, nothing is settled; a second try always is.
pub fn settle(db: &mut impl Executor, charges: &[Settlement<'_>], is_first_try: bool) -> Result<(), Error> {
    const SQL: &str = "SELECT textgen_settle_leases($1::text[]::varchar[], $2::text[]::varchar[], $3,
        $4::text[]::numeric[], $5)::text";
    let budgets: Vec<&str> = charges.iter().map(|charge| charge.budget_id).collect();
    let holders: Vec<&str> = charges.iter().map(|charge| charge.holder_id).collect();
    let created: Vec<OffsetDateTime> = charges.iter().map(|charge| charge.created).collect();
    let costs: Vec<String> = charges.iter().map(|charge| charge.cost.to_string()).collect();
    db.query(SQL, &[&budgets, &holders, &created, &costs, &is_first_try]).map(drop)
}

/// A process is gone, and all charges of its journals have been made: what it holds is free. Give it a session, as these
/// are two transactions; the first one keeps messages from it that are under way from being obeyed.
///
/// # Errors
/// See [`Error`]; then call it again.
pub fn end(db: &mut crate::db::Session, holder_id: &str) -> Result<(), Error> {
    const END: &str = "INSERT INTO lease_holders (id, ended) VALUES ($1, now())
        ON CONFLICT ON CONSTRAINT lease_holders_pkey DO UPDATE SET ended = now()";
    const FREE: &str = "SELECT textgen_free_leases($1)::text";
    db.execute(END, &[&holder_id])?;
    db.query(FREE, &[&holder_id]).map(drop)
}

fn amount(row: &Row, column: usize) -> Result<i128, Error> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|_| Error::Other(format!("{text} is no amount")))
}
