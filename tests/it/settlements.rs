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

fn note(cost: i64) -> String {
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
fn what_is_settled_is_not_read_again_while_a_transaction_keeps_it() {
    let (db, pool) = database();
    let mut session = pool.session().unwrap();
    let mut dump = db.connect();
    dump.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM users").unwrap();
    for _ in 0..3 {
        db.run(
            "INSERT INTO unsettled (holder_id, budget_ids, created, costs)
            SELECT 'p', ARRAY['b'], ARRAY[now()], ARRAY[1] FROM generate_series(1, 20000)",
        );
        assert_eq!(leases::settle_deferred(&mut session, "p").unwrap().rows, 20000);
        leases::skip_settled(&mut session, "p").unwrap();
        leases::tidy_settled(&mut session).unwrap();
    }
    let mut client = db.connect();
    // A connection reads the catalogue of the database first.
    for _ in 0..2 {
        client.batch_execute(&note(1)).unwrap();
        client.batch_execute("SELECT textgen_spent('b'); SELECT textgen_settle_deferred('p')").unwrap();
    }
    client.batch_execute(&note(1)).unwrap();
    // Pages that a statement reads.
    let mut pages = |sql: &str| -> i64 {
        let plan = client.query_one(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"), &[]).unwrap();
        let plan: serde_json::Value = plan.get(0);
        let of = |name: &str| plan[0]["Plan"][name].as_i64().unwrap();
        of("Shared Hit Blocks") + of("Shared Read Blocks")
    };
    let (shown, settled) = (pages("SELECT textgen_spent('b')"), pages("SELECT textgen_settle_deferred('p')"));
    // 60,000 rows are kept, in more pages than this.
    assert!(db.count("SELECT pg_relation_size('unsettled') / 8192") > 500);
    assert!(shown < 50 && settled < 100, "{shown} {settled}");
    assert_eq!(picos_spent(&db), 60_003);
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
