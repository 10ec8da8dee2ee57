//! Making charges: tables `usage_events` (the ledger), `charge_ids`, `usage_daily`, and what each user was charged this
//! month (in `users`).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use time::{Date, OffsetDateTime};

use super::columns::{UnitSet, comma_separated, unnest};
use super::kept::{REPLY_COLUMNS, Replies};
use crate::db::{Error, Executor, Param};
use crate::money::Cost;
use crate::store::leases::{self, Note, Settlements};
use crate::units::{ByUnit, Unit, Units};

use super::event::Row;
pub use super::event::{Event, LeaseBudget, LeaseUse, Part};

/// The ledger's columns of text.
const TEXTS: [&str; 6] = ["id", "user_id", "key_id", "server", "route", "model"];

/// What the rows of a day in `usage_daily` are told apart by.
const DAY_KEY: [&str; 5] = ["user_id", "server", "route", "model", "key_id"];

/// The ledger's columns, with those of `units` only, in the order of the parameters of [`Rows`].
fn ledger_columns(units: UnitSet) -> Vec<&'static str> {
    const OTHERS: [&str; 5] = ["cost_micros", "cost_picos", "latency_micros", "estimated", "created"];
    TEXTS.into_iter().chain(units.columns()).chain(OTHERS).collect()
}

/// What `usage_daily` counts beside the cost.
fn counts(units: UnitSet) -> impl Iterator<Item = &'static str> {
    ["events", "estimated"].into_iter().chain(units.columns())
}

/// The columns of `usage_daily` but `day`, in the order of the parameters of [`Totals`].
fn day_columns(units: UnitSet) -> Vec<&'static str> {
    DAY_KEY.into_iter().chain(counts(units)).chain(["cost_micros", "cost_picos"]).collect()
}

/// Adds a new row of `usage_daily` to the one that is there. Picodollars carry over to micro-dollars.
fn add_to_day(units: UnitSet) -> String {
    let sums = counts(units).map(|column| format!("{column} = d.{column} + excluded.{column}"));
    format!(
        "ON CONFLICT ON CONSTRAINT usage_daily_pkey DO UPDATE SET {},
            cost_micros = d.cost_micros + excluded.cost_micros + (d.cost_picos + excluded.cost_picos) / 1000000,
            cost_picos = (d.cost_picos + excluded.cost_picos) % 1000000",
        comma_separated(sums)
    )
}

/// Adds to what users were charged in the month `$1`, from `owed (user_id, cost_micros, cost_picos)`.
const ADD_TO_USER: &str = "UPDATE users u SET charges_month = greatest(u.charges_month, $1),
    charges_monthly = CASE WHEN u.charges_month < $1 THEN owed.cost_micros
                           WHEN u.charges_month = $1 THEN u.charges_monthly + owed.cost_micros
                                + (u.charges_picos + owed.cost_picos) / 1000000
                           ELSE u.charges_monthly END,
    charges_picos = CASE WHEN u.charges_month < $1 THEN owed.cost_picos
                         WHEN u.charges_month = $1 THEN (u.charges_picos + owed.cost_picos) % 1000000
                         ELSE u.charges_picos END";

/// The exact cost of several rows, in SQL: whole micro-dollars, and picodollars beyond them.
const SUM_OF_COSTS: &str = "(sum(cost_micros) + div(sum(cost_picos), 1000000))::bigint AS cost_micros,
    mod(sum(cost_picos), 1000000)::bigint AS cost_picos";

/// The first parameter of [`Rows`]: `$1` and `$2` are the month and the day.
const FIRST_ROW_PARAMETER: usize = 3;

/// [`charge`]'s statements, by the units that they write; see [`CHARGE_NEW`].
static CHARGE: [OnceLock<String>; UnitSet::COUNT] = [const { OnceLock::new() }; UnitSet::COUNT];

/// Composes the statement of [`CHARGE`]. The reply to a charge of yesterday is kept among those of today: there it
/// meets, in a unique index, a repetition that is charged now by [`charge_new`], which looks nowhere else. It sorts by
/// bytes, as Rust does, whatever the collation of the database is. `id IN (SELECT …)` in the list of a SELECT is a
/// look-up in a hash table, whatever the planner thinks of the sizes.
fn charge_statement(units: UnitSet) -> String {
    let ledger = ledger_columns(units);
    let given: Vec<&str> = ledger.iter().copied().chain(["client_supplied", "keyed_by"]).collect();
    let first_reply_parameter = FIRST_ROW_PARAMETER + given.len();
    let replies = REPLY_COLUMNS.iter().zip(unnest(first_reply_parameter, &REPLY_COLUMNS));
    let replies = comma_separated(replies.map(|(column, array)| format!("{array} AS {column}")));
    let [created, of_reply @ ..] = REPLY_COLUMNS;
    let (reply_columns, of_reply) = (comma_separated(REPLY_COLUMNS), comma_separated(of_reply));
    let given =
        given.iter().zip(unnest(FIRST_ROW_PARAMETER, &given)).map(|(column, array)| format!("{array} AS {column}"));
    let given = comma_separated(given);
    let values = comma_separated(ledger.iter().map(|column| or_null(column, column)));
    let ledger = comma_separated(ledger);
    let (day_key, day_columns) = (comma_separated(DAY_KEY), comma_separated(day_columns(units)));
    let add_to_day = add_to_day(units);
    let sums = ["count(*)".to_owned(), "count(*) FILTER (WHERE estimated)".to_owned()].into_iter();
    let sums = comma_separated(sums.chain(units.columns().map(|column| format!("sum({column})"))));
    let day_order = comma_separated(DAY_KEY.map(|column| format!("{column} COLLATE \"C\"")));
    format!(
        "WITH given AS MATERIALIZED (SELECT {given}),
        claimed AS (
            INSERT INTO charge_ids (id, created) SELECT id, created FROM given WHERE client_supplied
            ON CONFLICT DO NOTHING RETURNING id),
        kept AS (
            INSERT INTO kept_replies ({reply_columns})
            SELECT CASE WHEN {created} > now() - interval '1 day'
                THEN greatest({created}, date_trunc('day', now(), 'UTC')) ELSE {created} END, {of_reply}
            FROM (SELECT {replies} OFFSET 0) AS r WHERE textgen_may_keep(r.user_id, r.key, r.created)
            ON CONFLICT DO NOTHING RETURNING charge_id),
        ledger AS (
            INSERT INTO usage_events ({ledger}) SELECT {values}
            FROM given WHERE (NOT client_supplied OR id IN (SELECT id FROM claimed))
                AND (keyed_by = '' OR keyed_by IN (SELECT charge_id FROM kept))
            ON CONFLICT (user_id, created, id) DO NOTHING RETURNING id),
        marked AS MATERIALIZED (SELECT given.*, id IN (SELECT id FROM ledger) AS is_new FROM given),
        daily AS (
            INSERT INTO usage_daily AS d (day, {day_columns})
            SELECT $2, {day_key}, {sums}, {SUM_OF_COSTS}
            FROM marked WHERE is_new GROUP BY {day_key} ORDER BY {day_order}
            {add_to_day}),
        total AS (
            {ADD_TO_USER}
            FROM (SELECT user_id, {SUM_OF_COSTS} FROM marked WHERE is_new
                  GROUP BY user_id ORDER BY user_id COLLATE \"C\" OFFSET 0) AS owed
            WHERE u.id = owed.user_id)
        SELECT id FROM marked WHERE NOT is_new"
    )
}

/// [`charge_new`]'s statements, by the units that they write: most charges use few of them, and each column costs the
/// database time. Columns that are left out are 0. The number of statements is bounded, and they are kept, as sessions
/// know a prepared statement by the address of its text.
static CHARGE_NEW: [[OnceLock<String>; UnitSet::COUNT]; Extras::COUNT] =
    [const { [const { OnceLock::new() }; UnitSet::COUNT] }; Extras::COUNT];

/// What a statement of [`CHARGE_NEW`] does beyond charging.
#[derive(Clone, Copy)]
struct Extras {
    keeps_replies: bool,
    settles: Settles,
}

/// How it notes what leases pay.
#[derive(Clone, Copy)]
enum Settles {
    Nothing,
    /// As [`Note`].
    ByNumber,
    /// As [`Settlements`].
    ById,
}

impl Extras {
    const COUNT: usize = 6;

    fn index(self) -> usize {
        3 * usize::from(self.keeps_replies) + self.settles as usize
    }
}

/// Composes the statement of [`CHARGE_NEW`]. PostgreSQL runs the last of the parts in WITH first, and all writers must
/// lock rows in one order.
fn charge_new_statement(units: UnitSet, extras: Extras) -> String {
    let (ledger, day) = (ledger_columns(units), day_columns(units));
    let first_day_parameter = FIRST_ROW_PARAMETER + ledger.len();
    let owed_users = first_day_parameter + day.len();
    let (owed_micros, owed_picos) = (owed_users + 1, owed_users + 2);
    let rows = unnest(FIRST_ROW_PARAMETER, &ledger);
    let rows = comma_separated(ledger.iter().zip(rows).map(|(column, value)| or_null(column, &value)));
    let totals = comma_separated(unnest(first_day_parameter, &day));
    let (ledger, day, add_to_day) = (comma_separated(ledger), comma_separated(day), add_to_day(units));
    let daily = format!("INSERT INTO usage_daily AS d (day, {day}) SELECT $2, {totals} {add_to_day}");
    let total = format!(
        "{ADD_TO_USER}
        FROM (SELECT unnest(${owed_users}) AS user_id, unnest(${owed_micros}) AS cost_micros,
                unnest(${owed_picos}) AS cost_picos OFFSET 0) AS owed
        WHERE u.id = owed.user_id"
    );
    let events = format!("INSERT INTO usage_events ({ledger}) SELECT {rows}");
    let first_reply_parameter = owed_picos + 1;
    let (kept, after_replies) = if extras.keeps_replies {
        let values = comma_separated(unnest(first_reply_parameter, &REPLY_COLUMNS));
        let insert = format!("INSERT INTO kept_replies ({}) SELECT {values}", comma_separated(REPLY_COLUMNS));
        (format!(", kept AS ({insert} RETURNING 1)"), first_reply_parameter + REPLY_COLUMNS.len())
    } else {
        (String::new(), first_reply_parameter)
    };
    let (noted, settle) = match extras.settles {
        Settles::Nothing => return format!("WITH daily AS ({daily}), total AS ({total}){kept} {events}"),
        Settles::ByNumber => (
            format!(", noted AS ({} RETURNING 1)", leases::note_insert(after_replies)),
            "CASE WHEN (SELECT count(*) FROM noted) = 0 THEN textgen_refuse_ended() END".to_owned(),
        ),
        Settles::ById => (String::new(), leases::defer_call(after_replies)),
    };
    // A part is done when its count is asked for: replies, then users, then days, then leases.
    let count_kept = if extras.keeps_replies { "(SELECT count(*) FROM kept)" } else { "0" };
    format!(
        "WITH daily AS ({daily} RETURNING 1), total AS ({total} RETURNING 1){kept}{noted}, events AS ({events})
        SELECT CASE WHEN {count_kept} >= 0
            THEN CASE WHEN (SELECT count(*) FROM total) >= 0
                THEN CASE WHEN (SELECT count(*) FROM daily) >= 0 THEN {settle} END END END"
    )
}

/// The value of a ledger's column: no key is NULL there.
fn or_null(column: &str, value: &str) -> String {
    if column == "key_id" { format!("nullif({value}, '')") } else { value.to_owned() }
}

/// Charges: for each event that is new, adds a row to the ledger, and its units and cost to the totals of its user's day
/// and month. This is one statement, so one transaction in one round trip; the database decides which events are new.
/// Returns the ids that were charged before. It settles no leases.
///
/// The events must all be of `day` (UTC), ordered by id, and no id may occur twice. Every writer locks ids, then kept
/// replies, then users, then days, each in the order of their keys, so that writers never deadlock (provided that the
/// session's plans use nested loops only). A user who was deleted has no monthly total any more; the ledger and the
/// daily totals are kept.
///
/// # Errors
/// See [`Error`]. After [`Error::Unavailable`] the charges may have been made: the same call finds out.
pub fn charge(db: &mut impl Executor, day: Date, events: &[&Event]) -> Result<Vec<String>, Error> {
    let all = rows_of(events);
    let units = UnitSet::used(all.iter().map(|row| row.units));
    let (month, rows, replies) = (month_of(day), Rows::of(&all, units), replies_of(events));
    let client_supplied: Vec<bool> = all.iter().map(|row| row.event.client_supplied).collect();
    // The parts of a charge are made with it or not at all.
    let keyed_by: Vec<&str> =
        all.iter().map(|row| if row.event.reply.is_some() { &*row.event.id } else { "" }).collect();
    let mut params: Vec<&dyn Param> = vec![&month, &day];
    params.extend(rows.params(units));
    params.extend::<[&dyn Param; 2]>([&client_supplied, &keyed_by]);
    params.extend(replies.params());
    let statement = CHARGE[units.index()].get_or_init(|| charge_statement(units));
    db.query(statement, &params)?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// [`charge`] for events whose ids were generated and that were never tried before. It is much less work for the
/// database, which need not find out what is new. What their leases pay is noted in the same statement, to
/// be settled soon.
///
/// Keys of replies must have been claimed on the same day, and that must not be about to end: only within it is it
/// certain that no other reply is kept.
///
/// # Errors
/// As [`charge`]; if one of them was charged before after all, another reply is kept for its key, or its leases have
/// ended, nothing is charged.
pub fn charge_new(db: &mut impl Executor, day: Date, events: &[&Event]) -> Result<(), Error> {
    let all = rows_of(events);
    let units = UnitSet::used(all.iter().map(|row| row.units));
    let (month, rows, totals) = (month_of(day), Rows::of(&all, units), Totals::of(&all, units));
    let replies = replies_of(events);
    let settled = || events.iter().flat_map(|event| event.settlements());
    let (settles, note, by_id) = match Note::of(settled()) {
        Some(note) if note.is_empty() => (Settles::Nothing, None, None),
        Some(note) => (Settles::ByNumber, Some(note), None),
        None => (Settles::ById, None, Some(Settlements::of(settled()))),
    };
    let extras = Extras { keeps_replies: !replies.is_empty(), settles };
    let mut params: Vec<&dyn Param> = vec![&month, &day];
    params.extend(rows.params(units));
    params.extend(totals.params(units));
    if extras.keeps_replies {
        params.extend(replies.params());
    }
    params.extend(note.iter().flat_map(Note::params));
    params.extend(by_id.iter().flat_map(Settlements::params));
    let statement = CHARGE_NEW[extras.index()][units.index()].get_or_init(|| charge_new_statement(units, extras));
    match settles {
        Settles::Nothing => db.execute(statement, &params).map(drop),
        Settles::ByNumber | Settles::ById => db.query(statement, &params).map(drop),
    }
}

fn replies_of<'e>(events: &[&'e Event]) -> Replies<'e> {
    Replies::of(events.iter().filter_map(|e| Some((e.created, &*e.user_id, &*e.id, e.reply.as_deref()?))))
}

fn rows_of<'e>(events: &[&'e Event]) -> Vec<Row<'e>> {
    events.iter().flat_map(|event| event.rows()).collect()
}

fn month_of(day: Date) -> Date {
    day.replace_day(1).unwrap_or(day)
}

/// Events as columns of the ledger.
struct Rows<'e> {
    texts: [Vec<&'e str>; TEXTS.len()],
    units: ByUnit<Vec<i64>>,
    costs: Costs,
    latencies: Vec<i64>,
    estimated: Vec<bool>,
    created: Vec<OffsetDateTime>,
}

impl<'e> Rows<'e> {
    fn of(rows: &[Row<'e>], units: UnitSet) -> Rows<'e> {
        const VALUES: [for<'r> fn(&Row<'r>) -> &'r str; TEXTS.len()] = [
            |row| row.id,
            |row| &row.event.user_id,
            |row| &row.event.key_id,
            |row| &row.event.server,
            |row| &row.event.route,
            |row| row.model,
        ];
        Rows {
            texts: VALUES.map(|value| rows.iter().map(value).collect()),
            units: units.collect(|unit| rows.iter().map(|row| row.units[unit]).collect()),
            costs: rows.iter().map(|row| row.cost).collect(),
            latencies: rows.iter().map(|row| row.latency_micros).collect(),
            estimated: rows.iter().map(|row| row.estimated).collect(),
            created: rows.iter().map(|row| row.event.created).collect(),
        }
    }

    /// In the order of [`ledger_columns`].
    fn params(&self, units: UnitSet) -> impl Iterator<Item = &dyn Param> {
        let others: [&dyn Param; 5] =
            [&self.costs.micros, &self.costs.picos, &self.latencies, &self.estimated, &self.created];
        params(&self.texts).chain(units.select(&self.units)).chain(others)
    }
}

/// Costs as two columns.
#[derive(Default)]
struct Costs {
    micros: Vec<i64>,
    picos: Vec<i64>,
}

impl FromIterator<Cost> for Costs {
    fn from_iter<I: IntoIterator<Item = Cost>>(costs: I) -> Costs {
        let (micros, picos) = costs.into_iter().map(|cost| (cost.micros(), cost.picos())).unzip();
        Costs { micros, picos }
    }
}

/// What events add to the rows of `usage_daily` and to users, each in the order of their keys.
struct Totals<'e> {
    keys: [Vec<&'e str>; DAY_KEY.len()],
    events: Vec<i64>,
    estimated: Vec<i64>,
    units: ByUnit<Vec<i64>>,
    costs: Costs,
    owed_users: Vec<&'e str>,
    owed_costs: Costs,
}

/// What the events with one key add up to. Sums saturate, so that a fault elsewhere never turns them negative.
#[derive(Default)]
struct DaySum {
    events: i64,
    estimated: i64,
    units: Units,
    cost: Cost,
}

impl<'e> Totals<'e> {
    fn of(rows: &[Row<'e>], units: UnitSet) -> Totals<'e> {
        let mut days: BTreeMap<[&str; DAY_KEY.len()], DaySum> = BTreeMap::new();
        let mut users: BTreeMap<&str, Cost> = BTreeMap::new();
        for row in rows {
            let event = row.event;
            let key = [&*event.user_id, &*event.server, &*event.route, row.model, &*event.key_id];
            let total = days.entry(key).or_default();
            total.events += 1;
            total.units += row.units;
            total.estimated += i64::from(row.estimated);
            total.cost += row.cost;
            *users.entry(&event.user_id).or_default() += row.cost;
        }
        Totals {
            keys: std::array::from_fn(|n| days.keys().map(|key| key[n]).collect()),
            events: days.values().map(|total| total.events).collect(),
            estimated: days.values().map(|total| total.estimated).collect(),
            units: units.collect(|unit| days.values().map(|total| total.units[unit]).collect()),
            costs: days.values().map(|total| total.cost).collect(),
            owed_users: users.keys().copied().collect(),
            owed_costs: users.into_values().collect(),
        }
    }

    /// In the order of [`day_columns`], then what users owe.
    fn params(&self, units: UnitSet) -> impl Iterator<Item = &dyn Param> {
        let counts: [&dyn Param; 2] = [&self.events, &self.estimated];
        let others: [&dyn Param; 5] =
            [&self.costs.micros, &self.costs.picos, &self.owed_users, &self.owed_costs.micros, &self.owed_costs.picos];
        params(&self.keys).chain(counts).chain(units.select(&self.units)).chain(others)
    }
}

fn params<P: Param>(columns: &[P]) -> impl Iterator<Item = &dyn Param> {
    columns.iter().map(|column| column as &dyn Param)
}

impl UnitSet {
    /// The column that `make` returns for each of these units, and none for the others.
    fn collect(self, mut make: impl FnMut(Unit) -> Vec<i64>) -> ByUnit<Vec<i64>> {
        ByUnit::from_fn(|unit| if self.contains(unit) { make(unit) } else { Vec::new() })
    }

    /// The columns of these units.
    fn select<P: Param>(self, columns: &ByUnit<P>) -> impl Iterator<Item = &dyn Param> {
        columns.iter().filter(move |(unit, _)| self.contains(*unit)).map(|(_, column)| column as &dyn Param)
    }
}

/// Makes every transaction durable that was committed before, on any connection. The connection used for this must be
/// one that commits durably.
///
/// # Errors
/// See [`Error`]. Whether they are durable is then not known.
pub fn sync(db: &mut impl Executor) -> Result<(), Error> {
    // The smallest transaction that has to be durable itself; its record lies behind theirs in the log.
    db.query("SELECT pg_logical_emit_message(true, 'textgen', '')::text", &[]).map(drop)
}

/// A charge that was made before.
#[derive(Clone, Debug)]
pub struct EarlierCharge {
    /// Its id.
    pub id: String,
    /// What it cost, in micro-dollars.
    pub cost_micros: i64,
    /// When it was made.
    pub created: OffsetDateTime,
}

/// The earlier charges with the ids of these events, which [`charge`] has returned. What was charged to other users is
/// left out.
///
/// # Errors
/// See [`Error`].
pub fn find_earlier(db: &mut impl Executor, events: &[&Event]) -> Result<Vec<EarlierCharge>, Error> {
    // All three columns lead to the row by the index of one partition, however little the planner knows of the tables.
    const SQL: &str = "SELECT e.id, e.cost_micros, e.created
        FROM (SELECT t.id, t.user_id, coalesce(c.created, t.created) AS created
              FROM unnest($1, $2, $3) AS t (id, user_id, created) LEFT JOIN charge_ids c ON c.id = t.id OFFSET 0) AS t
        JOIN usage_events e ON e.user_id = t.user_id AND e.created = t.created AND e.id = t.id";
    let earlier = |row: &postgres::Row| {
        Ok(EarlierCharge { id: row.try_get(0)?, cost_micros: row.try_get(1)?, created: row.try_get(2)? })
    };
    let (ids, users): (Vec<&str>, Vec<&str>) = events.iter().map(|event| (&*event.id, &*event.user_id)).unzip();
    let created: Vec<OffsetDateTime> = events.iter().map(|event| event.created).collect();
    db.query(SQL, &[&ids, &users, &created])?.iter().map(earlier).collect()
}
