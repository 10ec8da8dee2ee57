//! What was charged is settled once, whatever happens meanwhile, and what is settled costs nothing more.

use std::thread;

use textgen::db::{ConnectConfig, Database};
use textgen::store::leases;

use crate::budgets::{chat, key_with, obedient, start};
use crate::budgets_at_once::{charged, spent};
use crate::harness::{TestDb, soon};
use crate::rates::CHAT;

/// A budget `b`, and a process `p` that holds all of it.
fn database() -> (TestDb, Database) {
    let db = TestDb::new();
    db.run(
        "INSERT INTO users (id, email) VALUES ('u', 'u@example.com');
        INSERT INTO budgets (id, user_id, limit_picos, period, leased_picos) VALUES ('b', 'u', 1e18, 'total', 1e18);
        INSERT INTO lease_holders (id) VALUES ('p');
        INSERT INTO leases VALUES ('b', 'p', 1e18, 0, 0, now())",
    );
    let pool = Database::new(ConnectConfig::new(&db.url(), "test").unwrap(), true, 8);
    pool.open();
    (db, pool)
}

/// What the statement that charges does.
fn note(cost: i64) -> String {
    format!(
        "INSERT INTO unsettled (holder_id, charged, numbers, picos)
        SELECT h.id, now(), ARRAY(SELECT number FROM budgets), ARRAY[{cost}]
        FROM (SELECT h.id FROM lease_holders h WHERE h.id = 'p' FOR SHARE) AS h"
    )
}

/// The same by a process of an earlier version, or where the number of a budget is not known.
fn note_by_id(cost: i64) -> String {
    format!("SELECT textgen_defer_settlements(ARRAY['b'], ARRAY['p'], ARRAY[now()], ARRAY[{cost}])")
}

fn picos_spent(db: &TestDb) -> i64 {
    db.count("SELECT textgen_spent('b')::bigint")
}

#[test]
fn a_note_that_commits_late_is_settled() {
    let (db, pool) = database();
    let mut session = pool.session().unwrap();
    let mut late = db.connect();
    late.batch_execute(&format!("BEGIN; {}", note(1))).unwrap();
    db.run(&note(10));
    assert_eq!(leases::settle_deferred(&mut session, "p").unwrap().rows, 1);
    thread::scope(|scope| {
        let skips = scope.spawn(|| leases::skip_settled(&mut pool.session().unwrap(), "p").unwrap());
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (
            SELECT oid FROM pg_database WHERE datname = current_database()) OR NOT granted AND transactionid IS NOT NULL";
        soon("it to wait for the late one", || db.count(waits) > 0);
        // Other charges do not wait for it.
        db.run(&note(100));
        late.batch_execute("COMMIT").unwrap();
        skips.join().unwrap();
    });
    assert_eq!(picos_spent(&db), 111, "settled or not");
    assert_eq!(leases::settle_deferred(&mut session, "p").unwrap().rows, 2);
    assert_eq!(db.count("SELECT sum(spent_picos)::bigint FROM budget_windows"), 111);
    leases::skip_settled(&mut session, "p").unwrap();
    db.run(&note(1000));
    assert_eq!(picos_spent(&db), 1111);
    leases::end(&mut session, "p").unwrap();
    assert_eq!(db.count("SELECT sum(spent_picos)::bigint FROM budget_windows"), 1111, "also of one that ends");
}

#[test]
fn notes_by_number_and_by_id_are_added_up() {
    let (db, pool) = database();
    let mut session = pool.session().unwrap();
    // Three windows: those of two days, by both ways, and today's.
    db.run(
        "UPDATE budgets SET period = 'day';
        INSERT INTO budgets (id, user_id, limit_picos, period, leased_picos) VALUES ('c', 'u', 1e18, 'total', 1e18);
        INSERT INTO leases VALUES ('c', 'p', 1e18, 0, 0, now());
        INSERT INTO unsettled (holder_id, charged, numbers, picos)
        SELECT 'p', c.at, array_agg(b.number), array_agg(CASE b.id WHEN 'b' THEN 1000 ELSE 5 END::bigint)
        FROM budgets b, (VALUES (timestamptz '2026-01-01 23:59:59+00'), ('2026-01-02 00:00:00+00')) AS c (at)
        GROUP BY c.at;
        SELECT textgen_defer_settlements(ARRAY['b'], ARRAY['p'], ARRAY[timestamptz '2026-01-01 12:00:00+00'], ARRAY[1])",
    );
    db.run(&note_by_id(10));
    let spent = |budget: &str| db.count(&format!("SELECT textgen_spent('{budget}')::bigint"));
    assert_eq!((spent("b"), spent("c")), (2011, 10), "not settled");
    let since = "SELECT textgen_unsettled('b', '2026-01-02 00:00:00+00')::bigint";
    assert_eq!(db.count(since), 1010, "in the windows since then");
    let settled = leases::settle_deferred(&mut session, "p").unwrap();
    assert_eq!((settled.rows, settled.is_covered), (4, true));
    assert_eq!((spent("b"), spent("c")), (2011, 10), "settled");
    let of_day = |day: &str| {
        db.count(&format!(
            "SELECT spent_picos::bigint FROM budget_windows WHERE budget_id = 'b' AND starts = '{day} 00:00:00+00'"
        ))
    };
    assert_eq!((of_day("2026-01-01"), of_day("2026-01-02")), (1001, 1000));
    assert_eq!(db.count("SELECT sum(settled_picos)::bigint FROM leases"), 2021);
    assert_eq!(db.count("SELECT sum(2e18 / 2 - leased_picos)::bigint FROM budgets"), 2021);
}

#[test]
fn what_is_settled_is_not_read_again_while_a_transaction_keeps_it() {
    let (db, pool) = database();
    let mut session = pool.session().unwrap();
    let mut dump = db.connect();
    dump.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM users").unwrap();
    for _ in 0..3 {
        db.run(
            "INSERT INTO unsettled (holder_id, charged, numbers, picos)
            SELECT 'p', now(), ARRAY[b.number], ARRAY[1] FROM budgets b, generate_series(1, 20000)",
        );
        assert_eq!(leases::settle_deferred(&mut session, "p").unwrap().rows, 20000);
        leases::skip_settled(&mut session, "p").unwrap();
        leases::tidy_settled(&mut session).unwrap();
    }
    let mut client = db.connect();
    // Pages that a statement reads with one note. A connection reads the catalogue of the database too, at first and after
    // the server's own VACUUM.
    let mut pages = |sql: &str| -> i64 {
        let run = |_| {
            client.batch_execute(&note(1)).unwrap();
            let plan = client.query_one(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"), &[]).unwrap();
            client.batch_execute("SELECT textgen_settle_deferred('p')").unwrap();
            let plan: serde_json::Value = plan.get(0);
            let of = |name: &str| plan[0]["Plan"][name].as_i64().unwrap();
            of("Shared Hit Blocks") + of("Shared Read Blocks")
        };
        (0..5).map(run).min().unwrap()
    };
    let (shown, settled) = (pages("SELECT textgen_spent('b')"), pages("SELECT textgen_settle_deferred('p')"));
    // 60,000 rows are kept, in more pages than this.
    assert!(db.count("SELECT pg_relation_size('unsettled') / 8192") > 500);
    assert!(shown < 50 && settled < 100, "{shown} {settled}");
    assert_eq!(picos_spent(&db), 60_010);
    drop(dump);
}

#[test]
fn leases_are_granted_while_nothing_can_be_settled() {
    let (db, server, user) = start(&obedient(), &[]);
    let (_, client) = key_with(&user, &server, 100);
    db.run(
        "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no settlements now'; END $$;
        CREATE TRIGGER fails BEFORE INSERT OR UPDATE ON budget_windows FOR EACH ROW EXECUTE FUNCTION fails()",
    );
    for _ in 0..10 {
        client.post(CHAT, &chat(10)).expect(200);
        soon("a settlement to fail", || server.log().contains("charges are not settled"));
    }
    client.post(CHAT, &chat(10)).expect(402);
    assert_eq!(db.count("SELECT count(*) FROM budget_windows WHERE spent_picos > 0"), 0);
    db.run("DROP TRIGGER fails ON budget_windows");
    soon("the charges to be settled", || db.count("SELECT count(*) FROM unsettled") == 0);
    assert_eq!((spent(&db), charged(&db)), (100, 100));
}
