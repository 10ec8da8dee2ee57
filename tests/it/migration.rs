//! Migrating a database of the old system: nothing is lost, every secret and password still works, and no secret stays in
//! clear text.

use serde_json::json;

use crate::harness::{Process, Server, TestDb, run, wait_until};
use crate::quotas::assert_totals_are_right;

/// The tables of the old system.
const TABLES: &str = "
    CREATE TABLE users (
        id varchar NOT NULL PRIMARY KEY, email varchar NOT NULL, password_hash varchar,
        created timestamp without time zone, updated timestamp without time zone,
        name varchar, profile_url varchar, photo_url varchar, is_subscribed boolean, stripe_id varchar,
        secret varchar NOT NULL, free_credits integer, charges_monthly integer, num_self_hosted_instances integer,
        cookie_user integer, access_token varchar);
    CREATE UNIQUE INDEX ix_users_email ON users (email);
    CREATE TABLE documents (
        id varchar NOT NULL PRIMARY KEY, title varchar, content text,
        user_id varchar NOT NULL REFERENCES users (id),
        created timestamp without time zone, updated timestamp without time zone, is_public boolean);
    CREATE TABLE ai_characters (
        id varchar PRIMARY KEY, user_id varchar NOT NULL REFERENCES users (id), name varchar);
    CREATE TABLE chat_rooms (
        id varchar PRIMARY KEY, user_id varchar NOT NULL REFERENCES users (id),
        character_id varchar REFERENCES ai_characters (id));
    CREATE TABLE chat_messages (
        id varchar PRIMARY KEY, room_id varchar NOT NULL REFERENCES chat_rooms (id),
        user_id varchar REFERENCES users (id) ON DELETE RESTRICT, text varchar);
    CREATE TABLE voices (id varchar PRIMARY KEY, name varchar);
    CREATE TABLE save_games (id varchar PRIMARY KEY, user_id varchar REFERENCES users (id) ON UPDATE CASCADE
            DEFERRABLE INITIALLY DEFERRED, state text);
    CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
    INSERT INTO alembic_version VALUES ('20240101_doc_ids');";

const ANN: &str = "annSecret0123456789ABCDEFabcdefg";
const TWICE: &str = "twiceSecret0123456789ABCDEFabcde";
const SUBSCRIBER: &str = "subscriberSecret0123456789ABCDEF";
const FIREBASE: &str = "firebaseSecret0123456789ABCDEFab";

const PEPPER: &str = "old pepper";
const PASSWORD: &str = "an old password";

fn old_database() -> TestDb {
    let db = TestDb::empty();
    db.run(TABLES);
    // The lowest cost there is, to keep the test fast.
    let hash = bcrypt::hash(format!("{PASSWORD}{PEPPER}"), 4).unwrap();
    db.run(&format!(
        "INSERT INTO users (id, email, password_hash, created, updated, is_subscribed, secret, free_credits,
                            charges_monthly, num_self_hosted_instances, name, access_token) VALUES
         ('annAnnAnnAnnAnn1', ' Ann@Example.com ', '{hash}', '2024-05-06 07:08:09.5', NULL, false, '{ANN}', 7, 12,
             1, 'Ann', 'token'),
         ('oldest0000000000', 'two@x', NULL, '2023-01-01', '2023-01-02', NULL, '{TWICE}', NULL, NULL, NULL, NULL, NULL),
         ('younger000000000', 'three@x', '{hash}', '2023-06-01', NULL, false, '{TWICE}', 0, 0, 0, NULL, NULL),
         ('plainSameAddress', 'same@x', '{hash}', '2022-01-01', NULL, false, 'plain', 0, 0, 0, NULL, NULL),
         ('subscriber000000', 'SAME@x', '{hash}', '2023-01-01', NULL, true, '{SUBSCRIBER}', 0, 5, 0, NULL, NULL),
         ('FirebaseUid0123456789abcdefg', 'fire@x', NULL, NULL, NULL, true, '{FIREBASE}', 0, 0, 0, NULL, NULL);
         INSERT INTO documents VALUES
         ('doc_1', NULL, 'first', 'annAnnAnnAnnAnn1', '2024-05-06 07:08:09', NULL, NULL),
         ('doc_1715000000000', 'Second', NULL, 'annAnnAnnAnnAnn1', NULL, '2024-05-07 00:00:00', true);
         INSERT INTO ai_characters VALUES ('c1', 'annAnnAnnAnnAnn1', 'Hal');
         INSERT INTO chat_rooms VALUES ('r1', 'annAnnAnnAnnAnn1', 'c1'), ('r2', 'oldest0000000000', 'c1');
         INSERT INTO chat_messages VALUES ('m1', 'r1', 'annAnnAnnAnnAnn1', 'hi'), ('m2', 'r2', NULL, 'ho');
         INSERT INTO save_games VALUES ('s1', 'annAnnAnnAnnAnn1', '{{}}');"
    ));
    db
}

fn migrate(db: &TestDb) -> String {
    let outcome = run(&["migrate"], &[("DATABASE_URL", &db.url())], "");
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{outcome:?}");
    outcome.out
}

fn text(db: &TestDb, sql: &str) -> String {
    db.connect().query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn old_rows_are_migrated() {
    let db = old_database();
    assert!(migrate(&db).contains("applied"));
    assert_eq!(migrate(&db), "the database is up to date\n", "applying migrations again changes nothing");

    let user = |id: &str| {
        text(
            &db,
            &format!(
                "SELECT (email, secret, charges_monthly, free_credits, is_subscribed, \
        num_self_hosted_instances, created AT TIME ZONE 'UTC', updated AT TIME ZONE 'UTC')::text FROM users WHERE id = '{id}'"
            ),
        )
    };
    let ann = r#"(ann@example.com,annSec…,12000,7,f,1,"2024-05-06 07:08:09.5","2024-05-06 07:08:09.5")"#;
    assert_eq!(user("annAnnAnnAnnAnn1"), ann);
    let oldest = r#"(two@x,twiceS…,0,0,f,0,"2023-01-01 00:00:00","2023-01-02 00:00:00")"#;
    assert_eq!(user("oldest0000000000"), oldest);
    // Of two users with the same secret the older one keeps it; of two with the same e-mail address, the subscriber.
    assert!(user("younger000000000").starts_with("(three@x,\"\","), "{}", user("younger000000000"));
    assert!(user("subscriber000000").starts_with("(same@x,subscr…,5000,"), "{}", user("subscriber000000"));
    let other = user("plainSameAddress");
    assert!(other.starts_with("(duplicate-plainsameaddress-of-same@x,…,"), "{other}");

    let document = |id: &str| {
        text(
            &db,
            &format!(
                "SELECT (title, content, created AT TIME ZONE 'UTC', \
        updated AT TIME ZONE 'UTC', is_public, version)::text FROM documents WHERE id = '{id}'"
            ),
        )
    };
    let first = r#"("Untitled Document",first,"2024-05-06 07:08:09","2024-05-06 07:08:09",f,1)"#;
    assert_eq!(document("doc_1"), first);
    assert_eq!(document("doc_1715000000000"), r#"(Second,,"2024-05-07 00:00:00","2024-05-07 00:00:00",t,1)"#);
    assert_eq!(db.count("SELECT count(*) FROM users"), 6);
    assert_eq!(db.count("SELECT count(*) FROM chat_messages"), 2);
    assert_totals_are_right(&db);
    assert_eq!(db.count("SELECT documents FROM document_totals WHERE user_id = 'annAnnAnnAnnAnn1'"), 2);
}

#[test]
fn no_old_secret_is_left_in_the_clear() {
    let db = old_database();
    migrate(&db);
    let mut client = db.connect();
    let columns = "SELECT table_name::text, column_name::text FROM information_schema.columns
        WHERE table_schema = 'public'";
    let mut seen = 0;
    for row in client.query(columns, &[]).unwrap() {
        let (table, column): (String, String) = (row.get(0), row.get(1));
        for value in client.query(&format!("SELECT \"{column}\"::text FROM \"{table}\""), &[]).unwrap() {
            let value: String = value.get::<_, Option<String>>(0).unwrap_or_default();
            seen += 1;
            for secret in [ANN, TWICE, SUBSCRIBER, FIREBASE] {
                assert!(!value.contains(&secret[..12]), "{table}.{column} holds {value}");
            }
            assert_ne!(value, "plain", "{table}.{column}");
        }
    }
    assert!(seen > 100, "{seen} values were looked at");
}

#[test]
fn old_secrets_and_passwords_still_work() {
    let db = old_database();
    let server = Server::start_with(&db, &[("BCRYPT_PEPPER", PEPPER), ("PASSWORD_PEPPER", "new pepper")]);
    for address in [&server.web, &server.inference, &server.audio] {
        for (secret, id) in [
            (ANN, "annAnnAnnAnnAnn1"),
            (TWICE, "oldest0000000000"),
            (SUBSCRIBER, "subscriber000000"),
            (FIREBASE, "FirebaseUid0123456789abcdefg"),
            ("plain", "plainSameAddress"),
        ] {
            let user = address.with_secret(secret).get("/api/current-user").expect(200).json();
            assert_eq!(user["id"], id);
        }
        // The visible prefix is not accepted as a secret.
        address.with_secret("annSec…").get("/api/current-user").expect(401);
        address.with_secret("annSec").get("/api/current-user").expect(401);
    }
    let ann = server.web.with_secret(ANN).get("/api/current-user").expect(200).json();
    assert_eq!(
        (&ann["created"], &ann["updated"]),
        (&json!("2024-05-06T07:08:09.500000"), &json!("2024-05-06T07:08:09.500000"))
    );
    assert_eq!((&ann["charges_monthly"], &ann["name"]), (&json!(12000), &json!("Ann")));

    let login = |email: &str, password: &str| {
        server.web.anonymous().post("/api/login", &json!({"email": email, "password": password}))
    };
    let hash = || text(&db, "SELECT password_hash FROM users WHERE id = 'annAnnAnnAnnAnn1'");
    login("ann@example.com", "a wrong password").expect(400);
    assert!(hash().starts_with("$2"));
    let reply = login("Ann@Example.com", PASSWORD).expect(200);
    assert!(hash().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash());
    login("ann@example.com", PASSWORD).expect(200);
    login("ann@example.com", "a wrong password").expect(400);
    login("same@x", PASSWORD).expect(200);

    let documents = server.web.with_cookie(&reply.session_token()).get("/api/docs/list").expect(200).json();
    let titles: Vec<_> = documents["documents"].as_array().unwrap().iter().map(|d| &d["title"]).collect();
    assert_eq!(titles, ["Second", "Untitled Document"]);

    // An account without a password cannot be given one by signing up.
    for route in ["login", "signup"] {
        let body = json!({"email": "fire@x", "password": "taken over"});
        assert_eq!(server.web.anonymous().post(&format!("/api/{route}"), &body).status, 400);
    }
    assert_eq!(db.count("SELECT count(*) FROM users WHERE id LIKE 'Firebase%' AND password_hash IS NULL"), 1);
}

#[test]
fn of_two_concurrent_signups_one_gets_the_account() {
    let db = old_database();
    let server = Server::start_with(&db, &[("BCRYPT_PEPPER", PEPPER)]);
    // The other account is not committed yet.
    let mut other = db.connect();
    let mut transaction = other.transaction().unwrap();
    let sql = "INSERT INTO users (id, email, password_hash) SELECT 'other', 'new@x', password_hash FROM users
        WHERE id = 'annAnnAnnAnnAnn1'";
    transaction.execute(sql, &[]).unwrap();
    let sign_up =
        |password| server.web.anonymous().post("/api/signup", &json!({"email": "new@x", "password": password}));
    std::thread::scope(|scope| {
        let (same, another) = (scope.spawn(|| sign_up(PASSWORD)), scope.spawn(|| sign_up("another password")));
        server.wait_until("both to wait", || {
            db.count(
                "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'",
            ) == 2
        });
        transaction.commit().unwrap();
        assert_eq!(same.join().unwrap().expect(200).json()["id"], "other");
        another.join().unwrap().expect(400);
    });
    assert_eq!(db.count("SELECT count(*) FROM users WHERE email = 'new@x'"), 1);
}

#[test]
fn an_old_account_can_be_deleted_with_all_its_data() {
    let db = old_database();
    let server = Server::start(&db);
    let others = "SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM voices)";
    let before = db.count(others);
    // With the command line, as the test does not know the password.
    let outcome = run(&["user", "delete", "ann@example.com", "--yes"], &[("DATABASE_URL", &db.url())], "");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(db.count(others), before - 1);
    for table in ["documents", "ai_characters", "save_games", "chat_messages", "chat_rooms"] {
        assert_eq!(db.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    server.wait_until("the secret to end", || server.inference.with_secret(ANN).get("/api/current-user").status == 401);
}

#[test]
fn old_queries_still_work() {
    let db = old_database();
    migrate(&db);
    for sql in [
        "SELECT id, email, password_hash, created, updated, name, profile_url, photo_url, is_subscribed, stripe_id, \
         secret, free_credits, charges_monthly, num_self_hosted_instances, cookie_user, access_token FROM users",
        "SELECT email, charges_monthly FROM users WHERE charges_monthly > 0 ORDER BY charges_monthly DESC",
        "SELECT count(*) FROM users WHERE created > now() - interval '1 day'",
        "SELECT d.id, d.title, d.content, d.is_public, u.email FROM documents d JOIN users u ON u.id = d.user_id",
        "UPDATE users SET charges_monthly = charges_monthly + 10, updated = timestamp '2024-01-01' WHERE email = 'two@x'",
        "UPDATE documents SET title = 'x', updated = CURRENT_TIMESTAMP WHERE id = 'doc_1'",
    ] {
        db.run(sql);
    }
    for file in ["connections", "newest-users", "users-with-charges"] {
        let path = format!("{}/sql/monitoring/{file}.sql", env!("CARGO_MANIFEST_DIR"));
        db.run(&std::fs::read_to_string(path).unwrap());
    }
}

#[test]
fn email_addresses_are_stored_in_lower_case() {
    let db = TestDb::new();
    let mut client = db.connect();
    client.execute("INSERT INTO users (id, email) VALUES ('u', 'ada@example.com')", &[]).unwrap();
    for sql in [
        "INSERT INTO users (id, email) VALUES ('v', 'Bob@example.com')",
        "INSERT INTO users (id, email) VALUES ('v', ' bob@example.com')",
        "INSERT INTO users (id, email) VALUES ('v', E'bob@example.com\\t')",
        "INSERT INTO users (id, email) VALUES ('v', E'\\u00A0bob@example.com')",
        "UPDATE users SET email = 'Ada@example.com'",
    ] {
        let e = client.execute(sql, &[]).unwrap_err();
        assert_eq!(e.as_db_error().and_then(|e| e.constraint()), Some("users_email_is_normal"), "{sql}");
    }
    assert_eq!(db.count("SELECT count(*) FROM users WHERE email = 'ada@example.com'"), 1);
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
}

#[test]
fn concurrent_migrations_are_safe() {
    let db = old_database();
    let url = db.url();
    let running: Vec<_> = (0..3).map(|_| Process::start(&["migrate"], &[("DATABASE_URL", &url)])).collect();
    for process in running {
        wait_until("the end of a migration", || process.out().contains("up to date") || !process.err().is_empty());
        assert_eq!(process.err(), "");
        assert_eq!(process.wait(), 0);
    }
    assert_eq!(
        db.count("SELECT count(*) FROM refinery_schema_history"),
        db.count("SELECT max(version)::bigint FROM refinery_schema_history")
    );
    assert_eq!(db.count("SELECT charges_monthly FROM users WHERE email = 'ann@example.com'"), 12_000);
}

#[test]
fn a_migration_has_no_statement_timeout() {
    let db = old_database();
    // Rewriting hundreds of thousands of documents takes longer than a request may.
    db.run(&format!("ALTER DATABASE {} SET statement_timeout = '1ms'", db.name()));
    migrate(&db);
}
