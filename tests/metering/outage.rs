//! The database goes away and comes back.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Cluster, TestDb};
use crate::proxy::Proxy;
use crate::support::{
    Folder, SMALLEST_JOURNAL, assert_books_agree, assert_charged, charge, ledger, make_users, meter, meter_with,
    set_price, wait_until,
};

/// Ends the load, also when a wait was in vain.
struct End<'d>(&'d AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn outages_lose_and_duplicate_no_charge() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 5);
    set_price(&db);
    let (proxy, url) = Proxy::new(&db.url());
    let meter = meter(&url, &folder.0);
    let (told, refused, done) = (Mutex::new(HashMap::new()), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let _end = End(&done);
        for t in 0..12_usize {
            let (meter, told, refused, done) = (&meter, &told, &refused, &done);
            scope.spawn(move || {
                for n in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let (id, micros) = (format!("{t}-{n}"), 1 + n % 9);
                    match meter.admit().and_then(|()| meter.charge(charge(&id, t % 5, micros))) {
                        Ok(receipt) => {
                            assert_eq!(receipt.cost_micros, micros);
                            told.lock().unwrap().insert(id, micros);
                        }
                        Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        for round in 0..6 {
            thread::sleep(Duration::from_millis(150 + 37 * round));
            let before = meter.stats().journaled;
            proxy.cut();
            // A short cut is over before the charges are given to the journal; a long one is not.
            if round % 2 == 0 {
                thread::sleep(Duration::from_millis(5));
            } else {
                wait_until("charges in the journal", || meter.stats().journaled > before);
            }
            proxy.mend();
            wait_until("the journal to be empty", || {
                meter.stats().is_database_available && meter.stats().journal_charges == 0
            });
        }
    });
    let told = told.into_inner().unwrap();
    assert_eq!(refused.load(Ordering::Relaxed), 0, "charges go to the journal while the database is down");
    wait_until("the journal to be empty", || meter.stats().journal_charges == 0);
    assert_charged(&db, &told);
    assert_books_agree(&db);
    assert_eq!(db.count("SELECT count(*) FROM usage_events"), i64::try_from(told.len()).unwrap());
    meter.stop();
    assert!(folder.journals().is_empty(), "an empty journal leaves no file");
}

#[test]
fn a_crash_of_the_database_loses_no_acknowledged_charge() {
    crash(&[]);
}

#[test]
fn a_crash_of_a_database_on_a_slow_disk_loses_no_acknowledged_charge() {
    // Each sync waits for so many microseconds; commits are made durable by another transaction then.
    crash(&["ALTER SYSTEM SET commit_delay = 8000", "ALTER SYSTEM SET commit_siblings = 0", "SELECT pg_reload_conf()"]);
}

fn crash(settings: &[&str]) {
    let (cluster, folder) = (Cluster::start(), Folder::new());
    let url = cluster.url();
    let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    for setting in settings {
        client.batch_execute(setting).unwrap();
    }
    drop(client);
    let db = TestDb::existing(&url);
    make_users(&db, 5);
    set_price(&db);
    let meter = meter(&url, &folder.0);
    let (told, done) = (Mutex::new(HashMap::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        let _end = End(&done);
        for t in 0..24_usize {
            let (meter, told, done) = (&meter, &told, &done);
            scope.spawn(move || {
                for n in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = format!("{t}-{n}");
                    if let Ok(receipt) = meter.charge(charge(&id, t % 5, 1 + n % 9)) {
                        told.lock().unwrap().insert(id, receipt.cost_micros);
                    }
                }
            });
        }
        for round in 0..5 {
            thread::sleep(Duration::from_millis(300 + 37 * round));
            wait_until("a crash", || {
                let Ok(mut client) = postgres::Client::connect(&url, postgres::NoTls) else { return false };
                let Ok(row) = client.query_one("SELECT pg_backend_pid()", &[]) else { return false };
                let pid: i32 = row.get(0);
                crate::harness::kill(u32::try_from(pid).unwrap());
                true
            });
            wait_until("the repaired database", || postgres::Client::connect(&url, postgres::NoTls).is_ok());
            // Whether the journal was needed depends on how long the repair took.
            let before = told.lock().unwrap().len();
            wait_until("more charges", || told.lock().unwrap().len() > before + 50);
            wait_until("the database", || meter.stats().is_database_available && meter.stats().journal_charges == 0);
        }
    });
    wait_until("the journal to be empty", || meter.stats().journal_charges == 0);
    wait_until("the database", || postgres::Client::connect(&url, postgres::NoTls).is_ok());
    assert_charged(&db, &told.into_inner().unwrap());
    assert_books_agree(&db);
}

#[test]
fn a_commit_with_an_unknown_outcome_charges_once() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 1);
    set_price(&db);
    let (proxy, url) = Proxy::new(&db.url());
    let meter = meter(&url, &folder.0);
    // Two whose ids clients chose, and two whose ids were made for them.
    for (id, stays_away) in [("marked-10", false), ("marked-20", true), ("marked-11", false), ("marked-21", true)] {
        wait_until("the database", || meter.stats().is_database_available);
        proxy.mute_from(id);
        let committed = format!("SELECT count(*) FROM usage_events WHERE id = '{id}'");
        let receipt = thread::scope(|scope| {
            let charging = scope.spawn(|| meter.charge(charge(id, 0, 11)).unwrap());
            wait_until("the commit", || db.count(&committed) == 1);
            assert!(!charging.is_finished(), "the request was answered before its charge was durable");
            proxy.cut();
            if !stays_away {
                proxy.mend();
            }
            charging.join().unwrap()
        });
        assert_eq!((receipt.cost_micros, receipt.duplicate), (11, false));
        proxy.mend();
        wait_until("the journal to be empty", || {
            meter.stats().is_database_available && meter.stats().journal_charges == 0
        });
        assert_eq!(db.count(&committed), 1);
        assert!(meter.stats().journaled > 0 || !stays_away);
        assert_books_agree(&db);
    }
    assert_eq!(ledger(&db)["u0"], (4, 44));
}

#[test]
fn a_full_journal_refuses_work_and_loses_nothing() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 1);
    set_price(&db);
    let (proxy, url) = Proxy::new(&db.url());
    let meter = meter_with(&url, &folder.0, SMALLEST_JOURNAL);
    proxy.cut();
    let mut told = HashMap::new();
    for n in 0.. {
        if meter.admit().is_err() {
            break;
        }
        let id = format!("n{n}");
        told.insert(id.clone(), meter.charge(charge(&id, 0, 2)).unwrap().cost_micros);
    }
    let stats = meter.stats();
    assert!(!stats.has_journal_room && stats.journal_bytes <= SMALLEST_JOURNAL && told.len() > 1000, "{stats:?}");
    assert_eq!(meter.admit().unwrap_err().status(), 503);
    // What was let in before still finds room.
    for n in 0..200 {
        let id = format!("late{n}");
        told.insert(id.clone(), meter.charge(charge(&id, 0, 3)).unwrap().cost_micros);
    }
    // And past the last byte a charge is refused, not lost.
    let refused = (0..10_000).find_map(|n| {
        let id = format!("last{n}");
        let outcome = meter.charge(charge(&id, 0, 4));
        outcome.map(|receipt| told.insert(id, receipt.cost_micros)).err()
    });
    assert_eq!(refused.unwrap().status(), 503);
    proxy.mend();
    wait_until("work to be let in", || meter.admit().is_ok() && meter.stats().journal_charges == 0);
    assert_charged(&db, &told);
    assert_books_agree(&db);
    assert_eq!(ledger(&db)["u0"].0, i64::try_from(told.len()).unwrap());
}

#[test]
fn without_a_journal_charges_need_the_database() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 1);
    set_price(&db);
    let (proxy, url) = Proxy::new(&db.url());
    let blocked = folder.0.join("a-file");
    std::fs::write(&blocked, "").unwrap();
    let pool = textgen::usage::Connections::new(&url, "metering").unwrap();
    let meter = textgen::usage::Meter::new(pool, blocked, SMALLEST_JOURNAL);
    meter.open();
    assert_eq!(meter.admit().unwrap_err().status(), 503, "the prices are not known yet");
    meter.start().unwrap();
    wait_until("the meter to be ready", || meter.admit().is_ok());
    meter.charge(charge("a", 0, 5)).unwrap();
    proxy.cut();
    assert_eq!(meter.charge(charge("b", 0, 5)).unwrap_err().status(), 503);
    wait_until("the outage to be noticed", || meter.admit().is_err());
    proxy.mend();
    wait_until("the database to be back", || meter.admit().is_ok());
    meter.charge(charge("b", 0, 5)).unwrap();
    assert_eq!(ledger(&db)["u0"], (2, 10));
}
