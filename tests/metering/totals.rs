//! The totals of each day: there soon, and never without a charge that came late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use postgres::Client;
use textgen::db::{self, Database};
use textgen::store::usage::charges::Event;
use textgen::store::usage::days;
use time::{Date, OffsetDateTime};

use crate::harness::TestDb;
use crate::support::{Folder, charge, leave_journal, make_users, meter, set_price, wait_until};

/// Days whose totals are not what their rows of `usage_daily` add up to.
const WRONG: &str = "SELECT count(*) FROM (
        SELECT day, sum(events)::bigint AS events, sum(cost_micros)::bigint AS cost_micros,
            count(DISTINCT user_id) AS people FROM usage_daily GROUP BY day
    ) AS d FULL JOIN (SELECT * FROM usage_days WHERE events > 0) AS t USING (day)
    WHERE (d.events, d.cost_micros, d.people) IS DISTINCT FROM (t.events, t.cost_micros, t.people)";

fn days_ago(days: i64) -> Date {
    OffsetDateTime::now_utc().date() - time::Duration::days(days)
}

/// A charge of 7 micro-dollars, at noon so many days ago.
pub fn event(id: &str, user: usize, days: i64) -> Event {
    let noon = days_ago(days).with_hms(12, 0, 0).unwrap().assume_utc().unix_timestamp() * 1_000_000;
    serde_json::from_value(serde_json::json!({"id": id, "user_id": format!("u{user}"), "key_id": "",
        "server": "audio", "route": "/r", "model": "m", "prompt_tokens": 0, "completion_tokens": 0,
        "embedding_tokens": 0, "audio_millis": 0, "characters": 0, "requests": 1, "cost_micros": 7,
        "latency_micros": 0, "created": noon}))
    .unwrap()
}

fn pool(db: &TestDb, size: u32) -> Database {
    let pool = Database::new(db::ConnectConfig::new(&db.url(), "test").unwrap(), true, size);
    pool.open();
    pool
}

fn charge_late(pool: &Database, event: &Event) -> Vec<String> {
    let mut session = pool.session().unwrap();
    let mut transaction = session.transaction().unwrap();
    let earlier = days::charge_late(&mut transaction, event.created.date(), &[event]).unwrap();
    transaction.commit().unwrap();
    earlier
}

/// Computes until nothing is left that may be computed at once.
fn compute_all(pool: &Database) {
    while days::compute(&mut pool.session().unwrap()).unwrap() == Some(Duration::ZERO) {}
}

/// What the function says by itself: milliseconds until the next call is worth it, or nothing.
fn ask(client: &mut impl postgres::GenericClient) -> Option<i64> {
    let sql = "SELECT ceil(1000 * extract(epoch FROM textgen_total_days()))::bigint";
    client.query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn totals_follow_charges_within_seconds() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 3);
    set_price(&db);
    let meters = [meter(&db.url(), &folder.0), meter(&db.url(), &folder.0)];
    for round in 0..3 {
        for n in 0..6 {
            meters[n % 2].charge(charge(&format!("{round}-{n}"), n % 3, 5)).unwrap();
        }
        let began = std::time::Instant::now();
        let sums = format!("SELECT count(*) FROM usage_days WHERE cost_micros = {} AND people = 3", 30 * (round + 1));
        wait_until("the totals", || db.count(&sums) == 1);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(db.count(WRONG), 0);
    }
}

#[test]
fn a_late_charge_corrects_the_total_of_its_day() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 2);
    charge_late(&pool(&db, 1), &event("first", 0, 30));
    let meter = meter(&db.url(), &folder.0);
    let month_ago = days_ago(30);
    let events = || {
        let row = db.connect().query_opt("SELECT events FROM usage_days WHERE day = $1", &[&month_ago]).unwrap();
        row.map(|row| row.get::<_, i64>(0))
    };
    wait_until("the total of a month ago", || events() == Some(1));
    let own = folder.journals().pop().unwrap();
    let left = leave_journal(&db, &folder.0, &own, &[event("late", 1, 30)]);
    wait_until("the journal of the dead", || !left.exists());
    assert_ne!(events(), Some(1), "the late charge deleted the old total");
    wait_until("the new total", || events() == Some(2));
    assert_eq!(db.count(WRONG), 0);
    // Once more, as if the process had died before it could remove the journal: nothing is charged.
    let left = leave_journal(&db, &folder.0, &own, &[event("late", 1, 30)]);
    wait_until("the journal of the dead", || !left.exists());
    wait_until("the same total", || events() == Some(2));
    assert_eq!((db.count(WRONG), db.count("SELECT count(*) FROM usage_events")), (0, 2));
    assert_eq!(meter.stats().journaled, 0);
}

#[test]
fn late_charges_of_a_dropped_month_are_set_aside() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 2);
    db.run("SELECT textgen_drop_usage_before((now() - interval '2 months')::date)");
    let meter = meter(&db.url(), &folder.0);
    let own = folder.journals().pop().unwrap();
    // `charge_ids` knows what clients chose, for ever; of other charges nothing is left.
    let (chosen, mut made) = (event("chosen", 0, 100), event("made", 1, 100));
    made.client_supplied = false;
    let mut again = chosen.clone();
    again.created += time::Duration::SECOND;
    for event in [&chosen, &made, &again] {
        let left = leave_journal(&db, &folder.0, &own, std::slice::from_ref(event));
        wait_until("the journal of the dead", || !left.exists());
    }
    let aside = std::fs::read_to_string(folder.0.join("rejected.jsonl")).unwrap();
    let aside: Event = serde_json::from_str(aside.trim_end()).unwrap();
    assert_eq!(aside, made);
    let kept = "SELECT count(*) FROM usage_events WHERE id = 'chosen'";
    assert_eq!((db.count(kept), db.count("SELECT count(*) FROM usage_events")), (1, 1));
    assert_eq!((meter.stats().replayed, meter.stats().duplicates), (1, 1));
    // A month that is kept takes both.
    made.created += time::Duration::days(95);
    let left = leave_journal(&db, &folder.0, &own, std::slice::from_ref(&made));
    wait_until("the journal of the dead", || !left.exists());
    assert_eq!(db.count("SELECT count(*) FROM usage_events"), 2);
}

#[test]
fn one_process_computes_totals_at_a_time_and_not_too_often() {
    let db = TestDb::new();
    let (mut one, mut other) = (db.connect(), db.connect());
    let mut first = one.transaction().unwrap();
    assert_eq!(ask(&mut first), None, "the total contains all committed charges");
    assert_eq!(ask(&mut other), Some(2000), "another process computes the totals");
    first.commit().unwrap();
    let computed = |client: &mut Client| -> OffsetDateTime {
        client.query_one("SELECT max(computed) FROM usage_days", &[]).unwrap().get(0)
    };
    let before = computed(&mut one);
    let wait = ask(&mut other).unwrap();
    assert!((1..=2000).contains(&wait), "{wait}");
    assert_eq!(computed(&mut one), before, "the totals were recomputed too early");
    one.batch_execute("UPDATE usage_days SET took = '3 s'").unwrap();
    let wait = ask(&mut other).unwrap();
    assert!(wait > 250_000, "{wait}: what takes 6 seconds or more is not computed again for 50 times as long");
    one.batch_execute("UPDATE usage_days SET computed = computed - interval '1 hour'").unwrap();
    assert_eq!(ask(&mut other), None);
    assert!(computed(&mut one) > before);
}

#[test]
fn a_day_is_final_once_it_was_computed_after_its_end() {
    let db = TestDb::new();
    let pool = pool(&db, 1);
    charge_late(&pool, &event("a", 0, 6));
    compute_all(&pool);
    compute_all(&pool);
    let mut client = db.connect();
    let day = |client: &mut Client, days: i64| {
        let row =
            client.query_one("SELECT events, people, computed FROM usage_days WHERE day = $1", &[&days_ago(days)]);
        let row = row.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, OffsetDateTime>(2))
    };
    assert_eq!(db.count("SELECT count(*) FROM usage_days"), 7, "there is a total for each day since the first charge");
    let (used, unused) = (day(&mut client, 6), day(&mut client, 5));
    assert_eq!((used.0, used.1, unused.0, unused.1), (1, 1, 0, 0), "a day without charges has a total of zero");
    compute_all(&pool);
    assert_eq!((day(&mut client, 6), day(&mut client, 5)), (used, unused), "final totals are not recomputed");
    // Computed before an hour after the end of the day that follows, they may lack charges.
    for (days, margin) in [(6, "00:59"), (5, "01:00")] {
        let sql = "UPDATE usage_days SET computed = (day + 2 + $2::text::interval) AT TIME ZONE 'UTC' WHERE day = $1";
        client.execute(sql, &[&days_ago(days), &margin]).unwrap();
    }
    let unused = day(&mut client, 5);
    compute_all(&pool);
    assert!(day(&mut client, 6).2 > used.2, "the total was not final");
    assert_eq!(day(&mut client, 5), unused, "it was final");
}

#[test]
fn no_total_is_computed_while_a_late_charge_is_being_committed() {
    let db = TestDb::new();
    let pool = pool(&db, 2);
    charge_late(&pool, &event("first", 0, 20));
    compute_all(&pool);
    compute_all(&pool);
    assert_eq!(db.count(WRONG), 0);
    // There is no total, and a charge is about to be committed that has found none to delete. Open days are not due.
    db.run("DELETE FROM usage_days WHERE events > 0; UPDATE usage_days SET took = '1 min'");
    let mut client = db.connect();
    let mut late = client.transaction().unwrap();
    assert_eq!(late.execute("DELETE FROM usage_days WHERE day = $1", &[&days_ago(20)]).unwrap(), 0);
    let sql = "UPDATE usage_daily SET events = events + 1, cost_micros = cost_micros + 7";
    assert_eq!(late.execute(sql, &[]).unwrap(), 1);
    thread::scope(|scope| {
        let computing = scope.spawn(|| compute_all(&pool));
        wait_until("the one who waits for the charge", || computing.is_finished() || db.has_waiting());
        late.commit().unwrap();
        computing.join().unwrap();
    });
    compute_all(&pool);
    assert_eq!(db.count(WRONG), 0);
    // The other way about: a charge waits for those who compute, and then deletes what they computed.
    db.run("DELETE FROM usage_days WHERE events > 0");
    let mut computing = client.transaction().unwrap();
    assert!(ask(&mut computing).is_some());
    thread::scope(|scope| {
        let charging = scope.spawn(|| charge_late(&pool, &event("second", 1, 20)));
        wait_until("the charge that waits", || charging.is_finished() || db.has_waiting());
        assert!(!charging.is_finished());
        computing.commit().unwrap();
        assert!(charging.join().unwrap().is_empty());
    });
    compute_all(&pool);
    assert_eq!(db.count(WRONG), 0);
}

#[test]
fn late_charges_of_many_threads_are_all_in_the_totals() {
    const THREADS: usize = 6;
    const CHARGES: i64 = 120;
    const DAYS: i64 = 40;
    let db = TestDb::new();
    make_users(&db, THREADS);
    let (pool, done) = (pool(&db, 8), AtomicBool::new(false));
    thread::scope(|scope| {
        let charging: Vec<_> = (0..THREADS)
            .map(|t| {
                let pool = &pool;
                scope.spawn(move || {
                    for n in 0..CHARGES {
                        // Each day has its last charge at a time of its own.
                        charge_late(pool, &event(&format!("{t}-{n}"), t, 3 + n * DAYS / CHARGES));
                    }
                })
            })
            .collect();
        let computing = scope.spawn(|| {
            let mut calls = 0;
            while !done.load(Ordering::Relaxed) {
                days::compute(&mut pool.session().unwrap()).unwrap();
                calls += 1;
            }
            calls
        });
        for thread in charging {
            thread.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(computing.join().unwrap() > 10);
    });
    compute_all(&pool);
    let made = i64::try_from(THREADS).unwrap() * CHARGES;
    assert_eq!(db.count("SELECT sum(events)::bigint FROM usage_days"), made);
    assert_eq!((db.count("SELECT count(*) FROM usage_days WHERE events > 0"), db.count(WRONG)), (DAYS, 0));
}
