//! A process that migrates a database of the Python system is killed: the database is as it was, or migrated, and the next
//! start completes. `make chaos` does it with many rows, `MIGRATION_USERS` and `MIGRATION_DOCUMENTS`, at ten moments.

use std::time::{Duration, Instant};

use crate::harness::{Process, Signal, TestDb, run, wait_until};
use crate::quotas::assert_totals_are_right;

/// A database of the first form, with numbered documents and without foreign keys. Of ten addresses one has white space
/// around it.
fn old_database(users: u64, documents: u64) -> TestDb {
    let db = TestDb::empty();
    db.run(&format!(
        "CREATE TABLE users (
            id varchar PRIMARY KEY, email varchar NOT NULL UNIQUE, password_hash varchar, created timestamp,
            updated timestamp, name varchar, profile_url varchar, photo_url varchar, is_subscribed boolean,
            stripe_id varchar, secret varchar NOT NULL, free_credits integer, charges_monthly integer,
            num_self_hosted_instances integer, cookie_user integer, access_token varchar);
        CREATE TABLE documents (
            id serial PRIMARY KEY, user_id varchar NOT NULL, title varchar, content text, created timestamp,
            updated timestamp);
        INSERT INTO users (id, email, password_hash, created, secret, charges_monthly, is_subscribed)
        SELECT 'user' || n, CASE n % 10 WHEN 0 THEN E'\\tUser' || n || '@Example.com' ELSE 'user' || n || '@example.com' END,
            '$2b$12$' || left(md5(n::text) || md5(n::text), 53), timestamp '2024-01-01' + n * interval '1 second',
            md5('secret' || n), n % 100, n % 7 = 0
        FROM generate_series(1, {users}) AS n;
        INSERT INTO documents (user_id, title, content, created)
        SELECT 'user' || 1 + n % {users}, 'Document ' || n, repeat(md5(n::text), 20), timestamp '2024-01-01'
        FROM generate_series(1, {documents}) AS n;"
    ));
    db
}

/// All tables with their columns, keys and indexes, the functions, and sums of all rows.
fn fingerprint(db: &TestDb) -> String {
    let mut client = db.connect();
    let mut text = String::new();
    let tables = "SELECT c.relname::text, concat_ws(' ', c.relname,
            (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull), ', ' ORDER BY attnum)
                FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0),
            (SELECT string_agg(pg_get_constraintdef(oid), ', ' ORDER BY conname) FROM pg_constraint WHERE conrelid = c.oid),
            (SELECT string_agg(pg_get_indexdef(indexrelid), ', ' ORDER BY indexrelid) FROM pg_index WHERE indrelid = c.oid))
        FROM pg_class c WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY 1";
    for row in client.query(tables, &[]).unwrap() {
        let (name, shape): (String, String) = (row.get(0), row.get(1));
        let sums = format!("SELECT concat_ws(' ', count(*), sum(hashtextextended(t::text, 0)::numeric)) FROM {name} t");
        let sums: String = client.query_one(&sums, &[]).unwrap().get(0);
        text += &format!("{shape}: {sums}\n");
    }
    let functions = "SELECT coalesce(string_agg(proname, ' ' ORDER BY proname), '') FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace";
    text + &client.query_one(functions, &[]).unwrap().get::<_, String>(0)
}

/// Checks every row that a complete migration makes of the old ones.
#[track_caller]
fn assert_migrated(db: &TestDb, users: u64, documents: u64) {
    let right_users = "SELECT count(*) FROM users u JOIN api_keys k ON k.user_id = u.id AND k.is_default
        CROSS JOIN LATERAL (SELECT substr(u.id, 5)::bigint AS n) AS number
        WHERE u.email = 'user' || n || '@example.com' AND u.charges_monthly = n % 100 * 1000
            AND k.digest = sha256(convert_to(md5('secret' || n), 'UTF8')) AND u.secret = k.prefix
            AND u.is_subscribed = (n % 7 = 0) AND u.created = timestamptz '2024-01-01Z' + n * interval '1 second'";
    assert_eq!(db.count(right_users), i64::try_from(users).unwrap());
    let right_documents = format!(
        "SELECT count(*) FROM documents CROSS JOIN LATERAL (SELECT substr(id, 5)::bigint AS n) AS number
        WHERE id LIKE 'doc\\_%' AND title = 'Document ' || n AND content = repeat(md5(n::text), 20)
            AND user_id = 'user' || 1 + n % {users} AND NOT is_public"
    );
    assert_eq!(db.count(&right_documents), i64::try_from(documents).unwrap());
    assert_eq!(db.count("SELECT count(*) FROM users"), i64::try_from(users).unwrap());
    assert_eq!(db.count("SELECT count(*) FROM api_keys"), i64::try_from(users).unwrap());
    assert_eq!(db.count("SELECT count(*) FROM documents"), i64::try_from(documents).unwrap());
    assert_totals_are_right(db);
}

fn migrate(db: &TestDb) -> String {
    let outcome = run(&["migrate"], &[("DATABASE_URL", &db.url())], "");
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{outcome:?}");
    outcome.out
}

/// Kills a migration as soon as `is_now`, and migrates again. Returns whether the first one had come to its end.
fn kill_one(old: &TestDb, users: u64, documents: u64, is_now: impl Fn(&str, Duration) -> bool) -> bool {
    let db = TestDb::copy_of(old);
    let before = fingerprint(&db);
    let (process, began) = (Process::start(&["migrate"], &[("DATABASE_URL", &db.url())]), Instant::now());
    while !is_now(&process.out(), began.elapsed()) {
        assert_eq!(process.err(), "");
        std::thread::sleep(Duration::from_millis(1));
    }
    process.signal(Signal::KILL);
    process.wait();
    // The database notices at once, also amid a long statement.
    wait_until("the end of its sessions", || db.sessions() == 0);
    let is_migrated = db.count("SELECT count(*) FROM pg_class WHERE relname = 'refinery_schema_history'") == 1;
    if is_migrated {
        assert_migrated(&db, users, documents);
        assert_eq!(migrate(&db), "the database is up to date\n");
    } else {
        assert_eq!(fingerprint(&db), before);
        migrate(&db);
        assert_migrated(&db, users, documents);
    }
    is_migrated
}

#[test]
fn a_killed_migration_changes_nothing() {
    const USERS: u64 = 2_000;
    const DOCUMENTS: u64 = 10_000;
    let old = old_database(USERS, DOCUMENTS);
    for line in ["taking over documents: 5000 of 10000 rows", "migration 4 of ", "migration 46 of "] {
        assert!(!kill_one(&old, USERS, DOCUMENTS, |out, _| out.contains(line)), "it ended too soon after {line}");
    }
}

#[test]
#[ignore = "long: `make chaos` runs it"]
fn migrations_of_many_rows_are_killed_at_many_moments() {
    let number = |name: &str, usual: u32| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let users = u64::from(number("MIGRATION_USERS", 200_000));
    let documents = u64::from(number("MIGRATION_DOCUMENTS", 1_000_000));
    let moments = number("MIGRATION_KILLS", 10);
    let old = old_database(users, documents);

    let whole = TestDb::copy_of(&old);
    let began = Instant::now();
    let out = migrate(&whole);
    let takes = began.elapsed();
    println!("{out}{users} accounts and {documents} documents are migrated in {takes:?}");
    assert_migrated(&whole, users, documents);
    drop(whole);

    let mut ended = 0;
    for moment in 0..moments {
        let after = takes * (2 * moment + 1) / (2 * moments);
        let has_ended = kill_one(&old, users, documents, |_, elapsed| elapsed >= after);
        println!("killed after {after:?}: {}", if has_ended { "migrated" } else { "as before" });
        ended += u32::from(has_ended);
    }
    assert!(ended < moments, "each migration ended before it was killed");
}
