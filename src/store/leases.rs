//! Tables `budgets`, `budget_windows`, `lease_holders`, `leases` and `unsettled`: what may be spent, and the parts of it that
//! processes hold. Amounts are in picodollars. `limits::model` says what each function does.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use postgres::Row;
use time::OffsetDateTime;

use super::row::{Record, record};
use crate::db::{Error, Executor, Param};

/// What a process asks for. Amounts are sums over its life, so that asking twice gives nothing twice.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The budget.
    pub budget_id: &'a str,
    /// All grants that it knows of.
    pub known: i128,
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
    /// What is left of the limit in this window, were everything handed back; below zero if the limit was lowered.
    pub unspent: i128,
    /// Whether this process alone is granted less than it needs, for now.
    pub collects: bool,
    /// For how many microseconds requests may be admitted out of it, if not for good.
    pub valid_micros: Option<i64>,
    /// The number that stands for the budget in notes.
    pub number: i64,
}

/// A new charge against a budget.
#[derive(Clone, Copy, Debug)]
pub struct Settlement<'a> {
    /// The budget.
    pub budget_id: &'a str,
    /// The number that stands for it in notes, if that is known.
    pub number: Option<i64>,
    /// The process that charges.
    pub holder_id: &'a str,
    /// The time that the charge bears.
    pub created: OffsetDateTime,
    /// What it costs.
    pub cost: i128,
}

/// The first four parameters of both ways to settle the charges of [`Settlements`]; `first` is the number of the first.
fn settlement_parameters(first: usize) -> String {
    let [holders, created, costs] = [first + 1, first + 2, first + 3];
    format!(
        "${first}::text[]::varchar[], ${holders}::text[]::varchar[], ${created},
            ${costs}::text[]::numeric[]"
    )
}

/// The call that notes the charges of [`Settlements`], to be settled by [`settle_deferred`]. It fails if a process has
/// ended. `first` is the number of its first parameter of four.
pub(super) fn defer_call(first: usize) -> String {
    format!("textgen_defer_settlements({})::text", settlement_parameters(first))
}

/// Windows begin at multiples of so many seconds: zones differ by quarters of an hour.
const WINDOW_STEP: i64 = 900;

/// Times with the same number are in the same windows.
fn window_part(at: OffsetDateTime) -> i64 {
    at.unix_timestamp().div_euclid(WINDOW_STEP)
}

/// [`Settlement`]s as the columns that are sent, in the order of their budgets, those of one window added up. What costs
/// nothing settles nothing.
#[derive(Default)]
pub(super) struct Settlements<'a> {
    budgets: Vec<&'a str>,
    holders: Vec<&'a str>,
    created: Vec<OffsetDateTime>,
    costs: Vec<String>,
}

impl<'a> Settlements<'a> {
    pub(super) fn of(charges: impl IntoIterator<Item = Settlement<'a>>) -> Settlements<'a> {
        let mut sums: BTreeMap<(&str, &str, i64), (OffsetDateTime, i128)> = BTreeMap::new();
        for Settlement { budget_id, holder_id, created, cost, .. } in charges {
            sums.entry((budget_id, holder_id, window_part(created))).or_insert((created, 0)).1 += cost;
        }
        let mut columns = Settlements::default();
        for ((budget_id, holder_id, _), (created, cost)) in sums.into_iter().filter(|(_, (_, cost))| *cost > 0) {
            columns.budgets.push(budget_id);
            columns.holders.push(holder_id);
            columns.created.push(created);
            columns.costs.push(cost.to_string());
        }
        columns
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.budgets.is_empty()
    }

    /// The parameters of [`defer_call`].
    pub(super) fn params(&self) -> Vec<&dyn Param> {
        vec![&self.budgets, &self.holders, &self.created, &self.costs]
    }
}

/// [`Settlement`]s that a statement can note by the numbers of their budgets, which is much less work: those of one
/// process in one window, added up.
#[derive(Default)]
pub(super) struct Note<'a> {
    holder: &'a str,
    charged: Option<OffsetDateTime>,
    numbers: Vec<i64>,
    picos: Vec<i64>,
}

impl<'a> Note<'a> {
    /// `None` if they must be noted as [`Settlements`]. What costs nothing settles nothing.
    pub(super) fn of(charges: impl IntoIterator<Item = Settlement<'a>>) -> Option<Note<'a>> {
        let mut note = Note::default();
        let mut sums: Vec<(i64, i128)> = Vec::new();
        for Settlement { number, holder_id, created, cost, .. } in charges.into_iter().filter(|c| c.cost > 0) {
            let charged = *note.charged.get_or_insert(created);
            if sums.is_empty() {
                note.holder = holder_id;
            }
            if note.holder != holder_id || window_part(charged) != window_part(created) {
                return None;
            }
            sums.push((number?, cost));
        }
        sums.sort_unstable_by_key(|(number, _)| *number);
        for of_budget in sums.chunk_by(|(a, _), (b, _)| a == b) {
            let sum: i128 = of_budget.iter().map(|(_, cost)| cost).sum();
            note.numbers.push(of_budget[0].0);
            note.picos.push(i64::try_from(sum).ok()?);
        }
        Some(note)
    }

    /// Whether it settles nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The parameters of [`note_insert`].
    pub(super) fn params(&self) -> Vec<&dyn Param> {
        vec![&self.holder, &self.charged, &self.numbers, &self.picos]
    }
}

/// Adds a [`Note`], to be settled by [`settle_deferred`]; nothing if the process has ended. `first` is the number of its
/// first parameter of four.
pub(super) fn note_insert(first: usize) -> String {
    let [charged, numbers, picos] = [first + 1, first + 2, first + 3];
    format!(
        "INSERT INTO unsettled (holder_id, charged, numbers, picos) SELECT h.id, ${charged}, ${numbers}, ${picos}
        FROM (SELECT h.id FROM lease_holders h WHERE h.id = ${first} AND h.ended IS NULL FOR SHARE) AS h"
    )
}

/// Makes a process known, before it asks for its first lease. One that has ended stays so. Returns whether it is not
/// one of these.
///
/// # Errors
/// See [`Error`].
pub fn register(db: &mut impl Executor, holder_id: &str) -> Result<bool, Error> {
    const REGISTER: &str = "INSERT INTO lease_holders (id) VALUES ($1) ON CONFLICT DO NOTHING";
    const LIVES: &str = "SELECT ended IS NULL FROM lease_holders WHERE id = $1";
    db.execute(REGISTER, &[&holder_id])?;
    Ok(db.query_one(LIVES, &[&holder_id])?.try_get(0)?)
}

/// Grants leases to a process, or takes parts of them back, in one round trip. The requests must be in the byte order of
/// their budgets. Returns the answer to each; `None` if there is no such budget, or the process is unknown or has ended.
///
/// # Errors
/// See [`Error`].
pub fn ask(db: &mut impl Executor, holder_id: &str, requests: &[Request<'_>]) -> Result<Vec<Option<Granted>>, Error> {
    const SQL: &str = "SELECT r.place, l.granted::text, l.returned::text, l.starts, l.is_short, l.unspent::text,
            l.collects, l.valid_micros, (SELECT b.number FROM budgets b WHERE b.id = r.budget_id)
        FROM unnest($2::text[]::varchar[], $3::text[]::numeric[], $4::text[]::numeric[], $5::text[]::numeric[],
                $6::text[]::numeric[], $7)
            WITH ORDINALITY AS r (budget_id, known, at_least, at_most, returned, partial, place)
        CROSS JOIN LATERAL
            textgen_ask_lease(r.budget_id, $1, r.known, r.at_least, r.at_most, r.returned, r.partial) AS l";
    let budgets: Vec<&str> = requests.iter().map(|request| request.budget_id).collect();
    let amounts = |of: fn(&Request<'_>) -> i128| requests.iter().map(|r| of(r).to_string()).collect::<Vec<String>>();
    let (known, at_least) = (amounts(|r| r.known), amounts(|r| r.at_least));
    let (at_most, returned) = (amounts(|r| r.at_most), amounts(|r| r.returned));
    let partial: Vec<bool> = requests.iter().map(|request| request.partial).collect();
    let mut answers = vec![None; requests.len()];
    for row in db.query(SQL, &[&holder_id, &budgets, &known, &at_least, &at_most, &returned, &partial])? {
        let place: i64 = row.try_get(0)?;
        let answer = Granted {
            granted: amount(&row, 1)?,
            returned: amount(&row, 2)?,
            window_starts: row.try_get(3)?,
            is_short: row.try_get(4)?,
            unspent: amount(&row, 5)?,
            collects: row.try_get(6)?,
            valid_micros: row.try_get(7)?,
            number: row.try_get(8)?,
        };
        if let Some(slot) = usize::try_from(place - 1).ok().and_then(|place| answers.get_mut(place)) {
            *slot = Some(answer);
        }
    }
    Ok(answers)
}

/// Moves what new charges cost from leased to spent. It belongs in the transaction that adds them to the ledger.
///
/// # Errors
/// See [`Error`]. If it is the first try and a process holds less than it charges, which happens when its leases have
/// ended, nothing is settled; a second try always is.
pub fn settle(db: &mut impl Executor, charges: &[Settlement<'_>], is_first_try: bool) -> Result<(), Error> {
    static SQL: LazyLock<String> =
        LazyLock::new(|| format!("SELECT textgen_settle_leases({}, $5)::text", settlement_parameters(1)));
    let columns = Settlements::of(charges.iter().copied());
    if columns.is_empty() {
        return Ok(());
    }
    let mut params = columns.params();
    params.push(&is_first_try);
    db.query(&SQL, &params).map(drop)
}

/// What [`settle_deferred`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// In how many rows it was noted.
    pub rows: i64,
    /// Whether all of it was set aside for the process. If not, the database has lost a grant, and does not know what the
    /// process holds.
    pub is_covered: bool,
}

/// Settles what a process has noted with its charges: moves it from leased to spent.
///
/// # Errors
/// See [`Error`].
pub fn settle_deferred(db: &mut impl Executor, holder_id: &str) -> Result<Settled, Error> {
    let row = db.query_one("SELECT settled, uncovered = 0 FROM textgen_settle_noted($1)", &[&holder_id])?;
    Ok(Settled { rows: row.try_get(0)?, is_covered: row.try_get(1)? })
}

/// Forgets leases of a process of which nothing is outstanding, by budget, with the sum of all grants that it knows of.
/// Returns the budgets of which it has no lease now; it may begin anew with these. In the byte order of the budgets.
///
/// # Errors
/// See [`Error`]; then it is unknown, and to be asked again.
pub fn forget(db: &mut impl Executor, holder_id: &str, leases: &[(&str, i128)]) -> Result<Vec<String>, Error> {
    const SQL: &str = "SELECT textgen_forget_leases($1, $2::text[]::varchar[], $3::text[]::numeric[])";
    let budgets: Vec<&str> = leases.iter().map(|(budget, _)| *budget).collect();
    let known: Vec<String> = leases.iter().map(|(_, granted)| granted.to_string()).collect();
    db.query(SQL, &[&holder_id, &budgets, &known])?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// From now on, rows of a process that are settled already are not read any more. It waits for charges of that process
/// that are being noted.
///
/// # Errors
/// See [`Error`]; then they are read as before.
pub fn skip_settled(db: &mut impl Executor, holder_id: &str) -> Result<(), Error> {
    db.query("SELECT textgen_skip_settled($1)", &[&holder_id]).map(drop)
}

/// Gives the space of settled rows free for others, rather than once a minute as the server would.
///
/// # Errors
/// See [`Error`].
pub fn tidy_settled(db: &mut impl Executor) -> Result<(), Error> {
    db.execute("VACUUM (SKIP_LOCKED, TRUNCATE FALSE) unsettled", &[]).map(drop)
}

/// Whether a process that was made known is known still and has not ended. A standby that took over may never have heard
/// of it.
///
/// # Errors
/// See [`Error`].
pub fn lives(db: &mut impl Executor, holder_id: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM lease_holders WHERE id = $1 AND ended IS NULL)";
    Ok(db.query_one(SQL, &[&holder_id])?.try_get(0)?)
}

record! {
    /// A process that may hold leases and permits.
    #[derive(Clone, Debug)]
    pub struct Holder {
        /// Its id.
        pub id: String = "h.id",
        /// When it was made known.
        pub started: OffsetDateTime = "h.started",
        /// Of how many budgets something is set aside for it.
        pub budgets: i64 = "l.budgets",
        /// How much that is, in micro-dollars.
        pub leased_micros: i64 = "l.leased_micros",
        /// How many permits it holds.
        pub permits: i64 = "(SELECT coalesce(sum(s.granted - s.returned), 0) FROM rate_shares s
            WHERE s.holder_id = h.id)::bigint",
    }
}

/// The processes that have not ended, oldest first; at most 1,000.
///
/// # Errors
/// See [`Error`].
pub fn holders(db: &mut impl Executor) -> Result<Vec<Holder>, Error> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM lease_holders h CROSS JOIN LATERAL (
            SELECT count(*) AS budgets,
                coalesce(div(sum(l.granted_picos - l.returned_picos - l.settled_picos), 1000000), 0)::bigint AS leased_micros
            FROM leases l WHERE l.holder_id = h.id AND l.granted_picos > l.returned_picos + l.settled_picos) AS l
        WHERE h.ended IS NULL ORDER BY h.started, h.id LIMIT 1000"
    );
    db.query(SQL, &[])?.iter().map(Holder::from_row).collect()
}

/// A process is gone, and all charges of its journals have been made: what it holds is free. Give it a session, as these
/// are three transactions; the first one keeps messages from it that are under way from being obeyed.
///
/// # Errors
/// See [`Error`]; then call it again.
pub fn end(db: &mut crate::db::Session, holder_id: &str) -> Result<(), Error> {
    const END: &str = "INSERT INTO lease_holders (id, ended) VALUES ($1, now())
        ON CONFLICT ON CONSTRAINT lease_holders_pkey DO UPDATE SET ended = now()";
    const FREE: &str = "SELECT textgen_free_leases($1)::text";
    const FREE_PERMITS: &str = "SELECT textgen_free_permits($1)::text";
    db.execute(END, &[&holder_id])?;
    db.query(FREE, &[&holder_id])?;
    db.query(FREE_PERMITS, &[&holder_id]).map(drop)
}

/// Forgets processes that ended long ago: no message of theirs is under way any more.
///
/// # Errors
/// See [`Error`].
pub fn forget_ended(db: &mut impl Executor) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM lease_holders h WHERE h.ended < now() - interval '1 day'
        AND NOT EXISTS (SELECT FROM leases l WHERE l.holder_id = h.id)
        AND NOT EXISTS (SELECT FROM rate_shares s WHERE s.holder_id = h.id)
        AND NOT EXISTS (SELECT FROM unsettled u WHERE u.holder_id = h.id AND u.id > h.settled_up_to)";
    db.execute(SQL, &[])
}

fn amount(row: &Row, column: usize) -> Result<i128, Error> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|_| Error::Other(format!("{text} is no amount")))
}
