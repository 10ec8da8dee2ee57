//! Budgets in the database do what the model says, and hold when processes ask at once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::iter;
use std::thread;

use proptest::prelude::*;
use textgen::db::{ConnectConfig, Database, Session};
use textgen::limits::model::Budget;
use textgen::limits::{Ask, Micros, Picos};
use textgen::store::leases::{self, Granted, Request, Settlement};
use time::OffsetDateTime;

use crate::harness::TestDb;

/// A budget `b` without an end of its window, and users and sessions for it.
fn database(limit: Picos) -> (TestDb, Database) {
    let db = TestDb::new();
    db.run(&format!(
        "INSERT INTO users (id, email) VALUES ('u', 'u@example.com');
         INSERT INTO budgets (id, user_id, limit_picos, period) VALUES ('b', 'u', {limit}, 'total')"
    ));
    let pool = Database::new(ConnectConfig::new(&db.url(), "test").unwrap(), true, 8);
    pool.open();
    (db, pool)
}

fn ask(session: &mut Session, holder_id: &str, ask: Ask) -> Option<Granted> {
    let Ask { known, at_least, at_most, returned, partial } = ask;
    let request = Request { budget_id: "b", known, at_least, at_most, returned, partial };
    leases::ask(session, holder_id, &[request]).unwrap()[0]
}

fn settlement(holder_id: &str, cost: Picos) -> Settlement<'_> {
    Settlement { budget_id: "b", number: None, holder_id, created: OffsetDateTime::now_utc(), cost }
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        holder: u64,
        needed: Picos,
        comfort: Picos,
        returned: Picos,
        partial: bool,
        /// Whether it knows of all grants.
        knows: bool,
    },
    Settle {
        holder: u64,
        cost: Picos,
        is_first_try: bool,
    },
    /// A new charge, which is settled later.
    Defer {
        holder: u64,
        cost: Picos,
    },
    SettleDeferred(u64),
    /// What is settled is not read any more, which changes nothing.
    SkipSettled(u64),
    Limit(Picos),
    End(u64),
    /// The process that collects does not ask for some time.
    Pause,
    /// An operator lifts the budget for so many hours, or none.
    Lift(i64),
    /// Credit is given, perhaps until it expires after so many hours, or taken away. Only of a balance.
    Credit(Picos, Option<i64>),
    /// Credits are ended whose time has come.
    Expire,
    /// So many hours pass.
    Pass(i64),
}

const HOUR: Micros = 3_600_000_000;

/// What the database says of a time is right to so much.
const TIME_ERROR: Micros = HOUR / 4;

/// Does in the database and in the model what changes a budget for a time. What begins lasts for half an hour longer than
/// its hours, so that it is always clear what comes first.
fn change(client: &mut postgres::Client, model: &mut Budget, now: &mut Micros, step: &Step) {
    let lasts = |hours: i64| format!("clock_timestamp() + interval '{hours} hours 30 minutes'");
    let until = |hours: i64| hours * HOUR + HOUR / 2;
    let sql = match *step {
        Step::Lift(hours) => {
            model.lifted_until = (hours > 0).then_some(*now + until(hours));
            let at = if hours > 0 { lasts(hours) } else { "NULL".to_owned() };
            format!("UPDATE budgets SET lifted_until = {at}")
        }
        Step::Credit(amount, hours) => {
            model.add_credit(amount, hours.map(|hours| *now + until(hours)), *now);
            let at = hours.map_or("NULL".to_owned(), lasts);
            format!(
                "SELECT textgen_add_credit('b', 'u', gen_random_uuid()::text, 'grant', {amount}, {at}, '')
                FROM credit_balances"
            )
        }
        Step::Expire => {
            model.expire_credits(*now);
            "SELECT textgen_expire_credits()".to_owned()
        }
        Step::Pass(hours) => {
            *now += hours * HOUR;
            model.forget_collector();
            format!(
                "UPDATE credit_entries SET expires = expires - interval '{hours} hours';
                UPDATE budgets SET collector = NULL, changes_at = changes_at - interval '{hours} hours',
                    lifted_until = lifted_until - interval '{hours} hours'"
            )
        }
        _ => return,
    };
    client.batch_execute(&sql).unwrap();
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u64, 0..400_i128, 0..200_i128, 0..300_i128, any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(holder, needed, comfort, returned, partial, knows)| {
                Step::Ask { holder, needed, comfort, returned, partial, knows }
            }),
        6 => (0..3_u64, 0..60_i128, any::<bool>())
            .prop_map(|(holder, cost, is_first_try)| Step::Settle { holder, cost, is_first_try }),
        6 => (0..3_u64, 1..60_i128).prop_map(|(holder, cost)| Step::Defer { holder, cost }),
        3 => (0..3_u64).prop_map(Step::SettleDeferred),
        3 => (0..3_u64).prop_map(Step::SkipSettled),
        1 => (0..800_i128).prop_map(Step::Limit),
        1 => (0..3_u64).prop_map(Step::End),
        1 => Just(Step::Pause),
        1 => (0..3_i64).prop_map(Step::Lift),
        2 => (-150..300_i128, prop::option::of(0..4_i64)).prop_map(|(amount, hours)| {
            Step::Credit(amount, hours.filter(|_| amount > 0))
        }),
        1 => Just(Step::Expire),
        2 => (1..3_i64).prop_map(Step::Pass),
    ]
}

/// Empties the database for a schedule: a budget of 500, or a balance with so much credit.
fn begin(client: &mut postgres::Client, is_balance: bool) -> Budget {
    client
        .batch_execute(
            "DELETE FROM leases; DELETE FROM lease_holders; DELETE FROM budget_windows;
            DELETE FROM unsettled; DELETE FROM credit_entries; DELETE FROM credit_balances;
            UPDATE budgets SET leased_picos = 0, limit_picos = 500, collector = NULL, lifted_until = NULL,
                changes_at = NULL",
        )
        .unwrap();
    if !is_balance {
        return Budget::new(500);
    }
    let open = "UPDATE budgets SET limit_picos = 0;
        INSERT INTO credit_balances (budget_id, user_id) VALUES ('b', 'u')";
    client.batch_execute(open).unwrap();
    let mut model = Budget::balance();
    change(client, &mut model, &mut 0, &Step::Credit(500, None));
    model
}

#[test]
fn the_database_does_what_the_model_says() {
    let (db, pool) = database(0);
    let client = RefCell::new(db.connect());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(40)
    });
    let schedules = (any::<bool>(), prop::collection::vec(step(), 1..60));
    let run = runner.run(&schedules, |(is_balance, steps)| {
        let mut client = client.borrow_mut();
        let mut session = pool.session().unwrap();
        let mut now = 0;
        let mut model = begin(&mut client, is_balance);
        let mut ended = BTreeSet::new();
        let mut taken = [(0, 0); 3];
        let mut charged = 0;
        for holder in 0..3 {
            leases::register(&mut session, &holder.to_string()).unwrap();
        }
        for step in steps {
            match step {
                Step::Ask { holder, needed, comfort, returned, partial, knows } => {
                    let (granted, settled) = taken[usize::try_from(holder).unwrap()];
                    // A process returns no more than it holds.
                    let returned = returned.min(granted - settled).max(0);
                    let known = if knows { Picos::MAX } else { 0 };
                    let ask = Ask { known, at_least: needed, at_most: needed + comfort, returned, partial };
                    let given = self::ask(&mut session, &holder.to_string(), ask);
                    prop_assert_eq!(given.is_none(), ended.contains(&holder));
                    if let Some(Granted { granted, returned, is_short, unspent, collects, valid_micros, .. }) = given {
                        let grant = model.ask(holder, 0, &ask, now);
                        prop_assert_eq!(unspent, model.unspent(0, now));
                        prop_assert_eq!(valid_micros.is_some(), grant.valid_for.is_some());
                        let time = |micros: Option<Micros>| micros.unwrap_or(0);
                        prop_assert!((time(valid_micros) - time(grant.valid_for)).abs() < TIME_ERROR);
                        prop_assert_eq!((granted, returned), (grant.granted, grant.returned));
                        prop_assert_eq!((is_short, collects), (grant.is_short, grant.collects));
                        // A collector has no time limit here.
                        client.batch_execute("UPDATE budgets SET collects_until = 'infinity'").unwrap();
                        taken[usize::try_from(holder).unwrap()] = (granted - returned, settled.min(granted - returned));
                    }
                }
                Step::Settle { holder, cost, is_first_try } => {
                    let made = leases::settle(&mut session, &[settlement(&holder.to_string(), cost)], is_first_try);
                    let expected = model.settle(holder, 0, cost, is_first_try);
                    prop_assert_eq!(made.is_ok(), expected.is_ok());
                    if made.is_ok() {
                        charged += cost;
                        taken[usize::try_from(holder).unwrap()].1 += cost;
                    }
                }
                Step::Defer { holder, cost } => {
                    let made = client.batch_execute(&format!(
                        "SELECT textgen_defer_settlements(ARRAY['b'], ARRAY['{holder}'], ARRAY[now()], ARRAY[{cost}])"
                    ));
                    prop_assert_eq!(made.is_err(), ended.contains(&holder));
                    if made.is_ok() {
                        model.defer(holder, 0, cost);
                        charged += cost;
                        taken[usize::try_from(holder).unwrap()].1 += cost;
                    }
                }
                Step::SettleDeferred(holder) => {
                    leases::settle_deferred(&mut session, &holder.to_string()).unwrap();
                    model.settle_deferred(holder);
                }
                Step::SkipSettled(holder) => leases::skip_settled(&mut session, &holder.to_string()).unwrap(),
                Step::Limit(_) if is_balance => {}
                Step::Limit(limit) => {
                    client.batch_execute(&format!("UPDATE budgets SET limit_picos = {limit}")).unwrap();
                    model.limit = limit;
                }
                Step::Pause => {
                    client.batch_execute("UPDATE budgets SET collector = NULL").unwrap();
                    model.forget_collector();
                }
                Step::End(holder) => {
                    leases::end(&mut session, &holder.to_string()).unwrap();
                    model.end(holder);
                    ended.insert(holder);
                }
                step => change(&mut client, &mut model, &mut now, &step),
            }
            let row = client
                .query_one(
                    "SELECT leased_picos::bigint,
                coalesce((SELECT sum(spent_picos) FROM budget_windows), 0)::bigint, textgen_spent(id)::bigint,
                limit_picos::bigint
                FROM budgets",
                    &[],
                )
                .unwrap();
            let (leased, spent): (i64, i64) = (row.get(0), row.get(1));
            prop_assert_eq!(Picos::from(row.get::<_, i64>(2)), charged, "settled or not");
            prop_assert_eq!(Picos::from(row.get::<_, i64>(3)), model.limit);
            prop_assert_eq!((Picos::from(leased), Picos::from(spent)), (model.leased(), model.spent(0)));
        }
        Ok(())
    });
    run.unwrap();
}

#[test]
fn a_budget_is_used_up_and_never_passed_by_processes_that_ask_at_once() {
    const LIMIT: i128 = 10_007;
    let (db, pool) = database(LIMIT);
    let spent: i128 = thread::scope(|scope| {
        let processes: Vec<_> = (0..6)
            .map(|n: i32| {
                let pool = &pool;
                scope.spawn(move || {
                    let holder = n.to_string();
                    // On a busy machine the pool may take long to connect.
                    let mut session = iter::repeat_with(|| pool.session()).find_map(Result::ok).unwrap();
                    leases::register(&mut session, &holder).unwrap();
                    let mut spent = 0;
                    loop {
                        let (known, at_least, at_most) = (spent, spent + 50, spent + 50);
                        let ask = Ask { known, at_least, at_most, returned: 0, partial: true };
                        let granted = self::ask(&mut session, &holder, ask).unwrap().granted;
                        if granted == spent {
                            return spent;
                        }
                        leases::settle(&mut session, &[settlement(&holder, granted - spent)], true).unwrap();
                        spent = granted;
                    }
                })
            })
            .collect();
        processes.into_iter().map(|process| process.join().unwrap()).sum()
    });
    assert_eq!(spent, LIMIT);
    assert_eq!(i128::from(db.count("SELECT sum(spent_picos)::bigint FROM budget_windows")), LIMIT);
    assert_eq!(db.count("SELECT leased_picos::bigint FROM budgets"), 0);
}

#[test]
fn windows_follow_the_time_zone() {
    let db = TestDb::new();
    let mut client = db.connect();
    for (period, zone, at, starts) in [
        // The day on which Berlin's clocks are set back has 25 hours.
        ("day", "Europe/Berlin", "2026-10-25 22:59:59+00", "2026-10-24 22:00:00+00"),
        ("day", "Europe/Berlin", "2026-10-25 23:00:00+00", "2026-10-25 23:00:00+00"),
        ("week", "America/New_York", "2026-11-02 04:59:59+00", "2026-10-26 04:00:00+00"),
        ("week", "America/New_York", "2026-11-02 05:00:00+00", "2026-11-02 05:00:00+00"),
        ("month", "Asia/Kathmandu", "2026-11-30 18:14:59+00", "2026-10-31 18:15:00+00"),
        ("total", "UTC", "2026-11-30 18:14:59+00", "1970-01-01 00:00:00+00"),
    ] {
        let sql = "SELECT textgen_budget_window($1, $2, $3::text::timestamptz) = $4::text::timestamptz";
        let is_right: bool = client.query_one(sql, &[&period, &zone, &at, &starts]).unwrap().get(0);
        assert!(is_right, "{period} in {zone} at {at}");
    }
}
