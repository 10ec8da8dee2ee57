//! Room that is set aside of an account's quota, so that those who save at once do not wait for each other. Nobody gets
//! beyond the quota by it, or is refused before it.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use serde_json::json;

use crate::documents::save;
use crate::harness::{PASSWORD, Server, TestDb, User, at_once, soon};
use crate::quotas::{FULL, TOO_MANY, assert_refused, assert_totals_are_right};

/// What the account takes, according to the server.
fn usage(user: &User, of: &str) -> i64 {
    user.browser.get("/api/docs/usage").expect(200).json()[of].as_i64().unwrap()
}

#[test]
fn a_save_waits_for_no_other_save_of_its_account() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let id = save(&user.browser, &json!({"content": "text"}));
    let mut client = db.connect();
    let mut other = client.transaction().unwrap();
    // What one holds that was counted in the totals.
    other.execute("SELECT FROM document_totals FOR NO KEY UPDATE", &[]).unwrap();
    for n in 0..10 {
        user.browser.post("/api/docs/save", &json!({"content": "text"})).expect(200);
        user.browser.post("/api/docs/save", &json!({"id": id, "content": "x".repeat(n)})).expect(200);
    }
    other.rollback().unwrap();
    assert_eq!(usage(&user, "documents"), 11);
    // And one that took from a room.
    let mut other = client.transaction().unwrap();
    let slot = "SELECT textgen_document_slot(user_id) FROM document_rooms LIMIT 1";
    assert_eq!(other.query_one(slot, &[]).unwrap().get::<_, i16>(0), 0);
    other.execute("UPDATE document_rooms SET documents = documents - 1", &[]).unwrap();
    for n in 0..10 {
        user.browser.post("/api/docs/save", &json!({"content": "text"})).expect(200);
        user.browser.post("/api/docs/save", &json!({"id": id, "content": "x".repeat(n)})).expect(200);
    }
    other.rollback().unwrap();
    assert_eq!(usage(&user, "documents"), 21);
    assert_totals_are_right(&db);
}

/// Who found the first room in use fills its own, even if the first one is free by then, and so finds something the next time.
#[test]
fn a_save_that_finds_the_first_room_in_use_has_its_own_the_next_time() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    save(&user.browser, &json!({"content": "text"}));
    let rooms = || db.count("SELECT count(*) FROM document_rooms");
    assert_eq!(rooms(), 1);
    let mut client = db.connect();
    // In one session, so each time with the same room.
    for n in 0..3_i32 {
        let sql = "SELECT textgen_insert_document($1, $2, 't', 'text', max_documents, max_bytes) FROM document_rooms
            WHERE slot = 0";
        assert_eq!(client.query_one(sql, &[&format!("doc_{n}"), &user.id]).unwrap().get::<_, Option<i64>>(0), Some(1));
        assert_eq!(rooms(), 2, "its own beside the first");
    }
    assert_totals_are_right(&db);
    // The first one is filled once it is used up.
    db.run(
        "UPDATE document_totals SET documents = documents - (SELECT documents FROM document_rooms WHERE slot = 0);
            UPDATE document_rooms SET documents = 0 WHERE slot = 0",
    );
    save(&user.browser, &json!({"content": "text"}));
    assert!(db.count("SELECT documents FROM document_rooms WHERE slot = 0") > 0);
    assert_totals_are_right(&db);
}

#[test]
fn as_many_are_saved_as_the_quota_says_whatever_is_set_aside() {
    const QUOTA: i64 = 250;
    let db = TestDb::new();
    let settings = [("DOCUMENTS_PER_ACCOUNT", "250"), ("POOL_SIZE", "8")];
    let servers = [Server::start_with(&db, &settings), Server::start_with(&db, &settings)];
    let user = servers[0].sign_up("ann@x");
    let made = AtomicI64::new(0);
    at_once(12, |n| {
        let client = user.program(&servers[n % 2].web);
        for _ in 0..30 {
            let reply = client.post("/api/docs/save", &json!({"content": "text"}));
            match reply.status {
                200 => drop(made.fetch_add(1, SeqCst)),
                _ => assert_refused(reply, TOO_MANY, QUOTA),
            }
        }
    });
    assert_eq!((made.into_inner(), usage(&user, "documents")), (QUOTA, QUOTA));
    assert_totals_are_right(&db);
}

#[test]
fn as_many_bytes_are_saved_as_the_quota_says_whatever_is_set_aside() {
    const QUOTA: i64 = 1_000_000;
    let db = TestDb::new();
    let settings = [("DOCUMENT_BYTES_PER_ACCOUNT", "1000000"), ("POOL_SIZE", "8")];
    let servers = [Server::start_with(&db, &settings), Server::start_with(&db, &settings)];
    let user = servers[0].sign_up("ann@x");
    // Each client has a document that grows, and makes others: 12 * 20 * 5,000 bytes are more than fit.
    let ids: Vec<String> = (0..12).map(|_| save(&user.browser, &json!({"title": ""}))).collect();
    let taken = AtomicI64::new(0);
    at_once(12, |n| {
        let client = user.program(&servers[n % 2].web);
        for step in 1..=20 {
            let grown = json!({"id": ids[n], "content": "x".repeat(2500 * step)});
            for body in [grown, json!({"title": "", "content": "x".repeat(2500)})] {
                let reply = client.post("/api/docs/save", &body);
                match reply.status {
                    200 => drop(taken.fetch_add(1, SeqCst)),
                    _ => assert_refused(reply, FULL, QUOTA),
                }
            }
        }
    });
    assert_eq!(usage(&user, "bytes"), QUOTA);
    assert!(taken.into_inner() <= 400);
    assert_totals_are_right(&db);
    // What is made shorter is free for others.
    let longest = user.browser.post("/api/docs/save", &json!({"id": ids[0], "content": ""})).status;
    let freed = QUOTA - usage(&user, "bytes");
    assert!(longest == 200 && freed >= 2500, "{freed}");
    let body = json!({"title": "", "content": "x".repeat(usize::try_from(freed).unwrap())});
    user.browser.post("/api/docs/save", &body).expect(200);
    assert_refused(user.browser.post("/api/docs/save", &json!({"title": "t"})), FULL, QUOTA);
    assert_totals_are_right(&db);
}

#[test]
fn what_is_set_aside_is_no_use_once_the_quota_is_used_by_other_means() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("DOCUMENTS_PER_ACCOUNT", "1000")]);
    let user = server.sign_up("ann@x");
    save(&user.browser, &json!({"content": "text"}));
    assert!(db.count("SELECT sum(documents)::bigint FROM document_rooms") > 10, "something is set aside");
    let insert = |from: i64, to: i64| {
        let id = &user.id;
        db.run(&format!(
            "INSERT INTO documents (id, user_id) SELECT 'd' || n, '{id}' FROM generate_series({from}, {to}) n"
        ));
    };
    // By hand.
    insert(1, 1000);
    assert_refused(user.browser.post("/api/docs/save", &json!({"content": "text"})), TOO_MANY, 1000);
    assert_eq!(usage(&user, "documents"), 1001);
    assert_totals_are_right(&db);
    // By a setting.
    db.run("DELETE FROM documents");
    save(&user.browser, &json!({"content": "text"}));
    insert(1, 4);
    save(&user.browser, &json!({"content": "text"}));
    assert!(db.count("SELECT sum(documents)::bigint FROM document_rooms") > 0, "something is set aside");
    let stricter = Server::start_with(&db, &[("DOCUMENTS_PER_ACCOUNT", "5")]);
    let program = user.program(&stricter.web);
    assert_refused(program.post("/api/docs/save", &json!({"content": "text"})), TOO_MANY, 5);
    assert_totals_are_right(&db);
}

/// As version 46 of the schema was used to insert a document.
const OLD_INSERT: &str = "
    WITH account AS (SELECT u.id AS account_id FROM users u WHERE u.id = $2 FOR KEY SHARE),
    counted AS (
        UPDATE document_totals t
        SET documents = t.documents + 1, bytes = t.bytes + textgen_document_bytes($3, $4)
        FROM account
        WHERE t.user_id = account_id AND t.documents < $5 AND t.bytes + textgen_document_bytes($3, $4) <= $6
        RETURNING t.user_id AS counted_for),
    added AS (
        INSERT INTO documents (id, user_id, title, content) SELECT $1, counted_for, $3, $4 FROM counted
        RETURNING version, textgen_note_counted())
    SELECT version FROM added";

#[test]
fn an_older_version_counts_with_a_newer_one() {
    const QUOTA: i64 = 400;
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("DOCUMENTS_PER_ACCOUNT", "400"), ("POOL_SIZE", "8")]);
    let user = server.sign_up("ann@x");
    let made = AtomicI64::new(0);
    at_once(8, |n| {
        let (program, mut client) = (user.program(&server.web), db.connect());
        for step in 0..40 {
            if n % 2 == 0 {
                let reply = program.post("/api/docs/save", &json!({"content": "text"}));
                made.fetch_add(i64::from(reply.status == 200), SeqCst);
            } else {
                let id = format!("doc_{n}_{step}");
                let rows = client.query(OLD_INSERT, &[&id, &user.id, &"t", &"text", &QUOTA, &i64::MAX]).unwrap();
                made.fetch_add(i64::try_from(rows.len()).unwrap(), SeqCst);
            }
        }
    });
    let total = made.into_inner();
    assert!(total > 200 && total <= QUOTA, "{total}");
    assert_eq!(usage(&user, "documents"), total);
    assert_totals_are_right(&db);
}

/// After a restore the foreign keys may have been made in another order, and an account's rows go in that order.
#[test]
fn an_account_is_deleted_while_its_documents_are_saved_whatever_the_order_of_foreign_keys() {
    let db = TestDb::new();
    let server = Server::start(&db);
    for table in ["documents", "deleted_documents"] {
        db.run(&format!(
            "ALTER TABLE {table} DROP CONSTRAINT {table}_user_id_fkey;
             ALTER TABLE {table} ADD CONSTRAINT {table}_user_id_fkey
                FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE"
        ));
    }
    let user = server.sign_up("ann@x");
    let ids = [(); 2].map(|()| save(&user.browser, &json!({"content": "text"})));
    let mut client = db.connect();
    // A program that has locked its documents, and not yet what counts them.
    let mut other = client.transaction().unwrap();
    other.execute("SELECT FROM documents FOR NO KEY UPDATE", &[]).unwrap();
    std::thread::scope(|scope| {
        let left = scope.spawn(|| user.browser.post("/api/delete-account", &json!({"password": PASSWORD})));
        soon("the account's deletion to wait for the document", || db.has_waiting());
        for id in &ids {
            other.execute("UPDATE documents SET content = 'a longer text' WHERE id = $1", &[id]).unwrap();
        }
        other.commit().unwrap();
        left.join().unwrap().expect(200);
    });
    let nothing_is_left = || {
        for table in ["users", "documents", "document_totals", "document_rooms"] {
            assert_eq!(db.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
    };
    nothing_is_left();
    let bob = server.sign_up("bob@x");
    save(&bob.browser, &json!({"content": "text"}));
    db.run("TRUNCATE users CASCADE");
    nothing_is_left();
}
