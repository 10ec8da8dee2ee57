//! Every charge once, to the micro-dollar.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use textgen::db::{self, Database};
use textgen::http::Response;
use textgen::store::users;
use textgen::units::{Unit, Units};
use textgen::usage::Receipt;

use crate::harness::TestDb;
use crate::support::{Folder, assert_books_agree, charge, ledger, make_users, meter, set_price, wait_until};

const THREADS: usize = 24;
const CHARGES: usize = 200;
const USERS: usize = 7;

#[test]
fn totals_match_the_ledger_with_many_threads_in_two_processes() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, USERS);
    set_price(&db);
    let meters = [meter(&db.url(), &folder.0), meter(&db.url(), &folder.0)];
    let spent: Vec<AtomicI64> = (0..USERS).map(|_| AtomicI64::new(0)).collect();
    thread::scope(|scope| {
        for t in 0..THREADS {
            let (meters, spent) = (&meters, &spent);
            scope.spawn(move || {
                for n in 0..CHARGES {
                    let (user, micros) = ((t + n) % USERS, i64::try_from(n % 50).unwrap());
                    let receipt = meters[t % 2].charge(charge(&format!("{t}-{n}"), user, micros)).unwrap();
                    assert_eq!(receipt, Receipt { cost_micros: micros, duplicate: false });
                    spent[user].fetch_add(micros, Ordering::Relaxed);
                }
            });
        }
    });
    // None, unless the disk stood still for seconds.
    wait_until("what is in the journals", || meters.iter().all(|m| m.stats().journal_charges == 0));
    assert_books_agree(&db);
    let ledger = ledger(&db);
    for (user, spent) in spent.iter().enumerate() {
        assert_eq!(ledger[&format!("u{user}")].1, spent.load(Ordering::Relaxed));
    }
    let charges = u64::try_from(THREADS * CHARGES).unwrap();
    assert_eq!(meters.iter().map(|m| m.stats().committed + m.stats().replayed).sum::<u64>(), charges);
    assert!(meters.iter().map(|m| m.stats().commits).sum::<u64>() < charges, "most charges share a commit");
}

#[test]
fn concurrent_writers_do_not_deadlock() {
    let (db, folder) = (TestDb::with_linguistic_collation(), Folder::new());
    // Bytes and words put these ids into different orders.
    let user = |n: usize| format!("{}{n}", if n.is_multiple_of(2) { 'u' } else { 'V' });
    for n in 0..40 {
        db.run(&format!("INSERT INTO users (id, email) VALUES ('{}', '{n}@example.com')", user(n)));
    }
    set_price(&db);
    let meters: Vec<_> = (0..4).map(|_| meter(&db.url(), &folder.0)).collect();
    // The same people; their rows of the day are first each writer's own, which would put writers in order by
    // themselves, and then the same as well.
    for models in [4, 1] {
        thread::scope(|scope| {
            for t in 0..32 {
                let meters = &meters;
                scope.spawn(move || {
                    for n in 0..60 {
                        let mut charge = charge(&format!("{models}-{t}-{n}"), 0, 1);
                        charge.user_id = user((t * 17 + n * 23) % 40);
                        charge.model = format!("model of {}", t % models);
                        meters[t % 4].charge(charge).unwrap();
                    }
                });
            }
        });
    }
    wait_until("what is in the journals", || meters.iter().all(|m| m.stats().journal_charges == 0));
    drop(meters);
    assert_books_agree(&db);
    // PostgreSQL ends such a circle after a second, and a backend reports what it counted as it ends.
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    wait_until("the writers' connections to end", || db.count(others) == 0);
    assert_eq!(db.count("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"), 0);
}

#[test]
fn a_deferred_response_is_sent_once_its_charge_is_durable() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 1);
    set_price(&db);
    let meter = meter(&db.url(), &folder.0);
    let deferred = |id: &str| {
        let mut response = Response::new(200);
        response.deferred = Some(meter.charge_deferred(charge(id, 0, 3), |e, _| Response::new(e.status())).unwrap());
        response
    };
    // Nothing is charged for a reply that is never sent.
    drop(deferred("dropped"));
    assert_eq!(deferred("sent").wait().status.as_u16(), 200);
    assert_eq!(ledger(&db)["u0"], (1, 3));
    meter.stop();
    assert_eq!(deferred("late").wait().status.as_u16(), 503);
    assert_eq!(ledger(&db)["u0"], (1, 3));
    assert_books_agree(&db);
}

#[test]
fn a_repeated_id_is_charged_once() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 2);
    set_price(&db);
    let meters = [meter(&db.url(), &folder.0), meter(&db.url(), &folder.0)];
    let fresh = AtomicI64::new(0);
    // Eight threads of two processes make the same hundred charges, in different orders, each at a price of its own.
    thread::scope(|scope| {
        for t in 0..8_u8 {
            let (meters, fresh) = (&meters, &fresh);
            scope.spawn(move || {
                for n in 0..100 {
                    let n = if t % 2 == 0 { n } else { 99 - n };
                    let receipt = meters[usize::from(t / 2 % 2)]
                        .charge(charge(&format!("u0:{n}"), 0, 10 + i64::from(t)))
                        .unwrap();
                    fresh.fetch_add(i64::from(!receipt.duplicate), Ordering::Relaxed);
                    assert!((10..18).contains(&receipt.cost_micros));
                }
            });
        }
    });
    assert_books_agree(&db);
    assert_eq!((ledger(&db)["u0"].0, fresh.load(Ordering::Relaxed)), (100, 100));
    let first: i64 = db.count("SELECT cost_micros FROM usage_events WHERE id = 'u0:7'");
    let again = meters[0].charge(charge("u0:7", 0, 999)).unwrap();
    assert_eq!(again, Receipt { cost_micros: first, duplicate: true }, "the receipt has the cost of the first charge");
}

#[test]
fn a_charge_of_a_deleted_user_does_not_block_others() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 3);
    set_price(&db);
    let meter = meter(&db.url(), &folder.0);
    thread::scope(|scope| {
        for user in 0..3 {
            let (meter, db) = (&meter, &db);
            scope.spawn(move || {
                for n in 0..100 {
                    if user == 0 && n == 50 {
                        db.run("DELETE FROM users WHERE id = 'u0'");
                    }
                    meter.charge(charge(&format!("{user}-{n}"), user, 3)).unwrap();
                }
            });
        }
    });
    assert_books_agree(&db);
    for user in ["u0", "u1", "u2"] {
        assert_eq!(ledger(&db)[user], (100, 300), "the ledger keeps charges of deleted accounts");
    }
    assert_eq!(meter.stats().journaled, 0);
}

#[test]
fn the_monthly_total_restarts_each_month() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 1);
    set_price(&db);
    let meter = meter(&db.url(), &folder.0);
    let pool = Database::new(db::ConnectConfig::new(&db.url(), "test").unwrap(), true, 1);
    pool.open();
    let total = || users::by_id(&mut pool.session().unwrap(), "u0").unwrap().unwrap().charges_monthly;
    meter.charge(charge("a", 0, 40)).unwrap();
    meter.charge(charge("b", 0, 2)).unwrap();
    assert_eq!(total(), 42);
    db.run("UPDATE users SET charges_month = charges_month - interval '1 month'");
    assert_eq!(total(), 0, "last month's charges are not part of this month's total");
    meter.charge(charge("c", 0, 5)).unwrap();
    assert_eq!(total(), 5);
    // A charge of last month that comes late, as from a journal, is booked there and not here.
    let mut late = serde_json::json!({"id": "late", "user_id": "u0", "key_id": "", "server": "audio", "route": "/r",
        "model": "m", "prompt_tokens": 0, "completion_tokens": 0, "embedding_tokens": 0, "audio_millis": 0,
        "characters": 0, "requests": 1, "cost_micros": 7, "latency_micros": 0, "created": 1_000_000_000_000_000_i64});
    late["created"] = serde_json::json!(1_700_000_000_000_000_i64);
    let late: textgen::store::usage::charges::Event = serde_json::from_value(late).unwrap();
    let day = late.created.date();
    textgen::store::usage::charges::charge(&mut pool.session().unwrap(), day, &[&late]).unwrap();
    assert_eq!(total(), 5);
    assert_eq!(db.count("SELECT cost_micros FROM usage_daily WHERE day = '2023-11-14'"), 7);
    assert_eq!(db.count("SELECT count(*) FROM usage_events_default"), 1);
}

#[test]
fn partitions_are_created_ahead_and_take_over_rows_of_the_default_partition() {
    let (db, folder) = (TestDb::new(), Folder::new());
    db.run(
        "DO $$ DECLARE p record; BEGIN
        FOR p IN SELECT inhrelid::regclass AS name FROM pg_inherits
            WHERE inhparent = 'usage_events'::regclass AND inhrelid <> 'usage_events_default'::regclass
        LOOP EXECUTE 'DROP TABLE ' || p.name; END LOOP; END $$",
    );
    db.run("INSERT INTO usage_events VALUES (now(), 0, 0, 0, 0, 0, 1, 9, 0, 'early', 'u', NULL, 's', 'r', 'm')");
    assert_eq!(db.count("SELECT count(*) FROM usage_events_default"), 1);
    let _meters = [meter(&db.url(), &folder.0), meter(&db.url(), &folder.0)];
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage_events'::regclass";
    wait_until("the partitions", || db.count(partitions) == 4);
    assert_eq!(db.count("SELECT count(*) FROM usage_events_default"), 0);
    assert_eq!(db.count("SELECT count(*) FROM usage_events"), 1);
}

#[test]
fn a_new_price_applies_soon_and_charges_send_no_notifications() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 1);
    let meter = meter(&db.url(), &folder.0);
    let mut listener = db.connect();
    listener.batch_execute("LISTEN textgen_auth").unwrap();
    let cost = || {
        let mut charge = charge(&textgen::usage::new_id(), 0, 0);
        charge.units = Units::of([(Unit::Characters, 100)]);
        meter.charge(charge).unwrap().cost_micros
    };
    assert_eq!(cost(), 1500, "15 dollars for a million characters, by default");
    db.run("UPDATE prices SET characters_per_million = 20000000 WHERE model = 'default'");
    wait_until("the new price", || cost() == 2000);
    assert_books_agree(&db);
    use fallible_iterator::FallibleIterator;
    listener.batch_execute("SELECT 1").unwrap();
    assert_eq!(listener.notifications().iter().count().unwrap(), 0);
}

#[test]
fn fractions_of_a_micro_dollar_add_up() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 1);
    set_price(&db);
    let meter = meter(&db.url(), &folder.0);
    // 20 tokens at 0.02 US$ a million are 0.4 micro-dollars.
    let charge_tokens = |id: &str| {
        let mut charge = charge(id, 0, 0);
        charge.model = "an embedding model".to_owned();
        charge.units = Units::of([(Unit::EmbeddingTokens, 20), (Unit::Requests, 1)]);
        charge.estimated = true;
        meter.charge(charge).unwrap().cost_micros
    };
    let exact =
        |of: &str| db.count(&format!("SELECT (sum(cost_micros) * 1000000 + sum(cost_picos))::bigint FROM {of}"));
    let of_user = || db.count("SELECT charges_monthly * 1000000 + charges_picos FROM users");
    for n in 1..=7 {
        // One of both ways to charge, by the kind of id.
        assert_eq!(charge_tokens(&if n % 2 == 0 { format!("u0:{n}") } else { format!("new-{n}") }), 0);
        assert_eq!((exact("usage_events"), exact("usage_daily"), of_user()), (n * 400_000, n * 400_000, n * 400_000));
    }
    assert_eq!(db.count("SELECT charges_monthly FROM users"), 2, "2.8 micro-dollars");
    assert_eq!(db.count("SELECT cost_micros FROM usage_daily"), 2);
    assert_eq!(db.count("SELECT estimated FROM usage_daily"), 7);
    assert_eq!(db.count("SELECT count(*) FROM usage_events WHERE estimated"), 7);
}
