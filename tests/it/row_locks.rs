//! Requests that wait for locks in the database: each has a connection meanwhile, and one account must not have all of them.

use std::thread;
use std::time::Instant;

use serde_json::json;

use textgen::blocking::{self, Party};
use textgen::db::{ConnectConfig, Database, LOCK_TIMEOUT};

use crate::documents::save;
use crate::harness::{PASSWORD, Server, TestDb, soon};

/// Of six connections, one account can have four.
const CONNECTIONS: &str = "6";
const SHARE: i64 = 4;

#[test]
fn who_waits_for_locks_leaves_connections_to_others_and_is_told_to_come_back() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", CONNECTIONS)]);
    let (hog, other) = (server.sign_up("hog@x"), server.sign_up("ann@x"));
    // Signs in so often that its first session ends.
    server.sign_up("ben@x");
    let [id, deleted] = ["text", "deleted"].map(|text| save(&hog.browser, &json!({"content": text})));
    let own = save(&other.browser, &json!({"content": "text"}));
    hog.browser.post("/api/docs/delete", &json!({"id": deleted})).expect(200);
    let mut locker = db.connect();
    let mut lock = locker.transaction().unwrap();
    lock.execute("SELECT FROM documents WHERE id = $1 FOR UPDATE", &[&id]).unwrap();
    lock.execute("SELECT FROM deleted_documents FOR UPDATE", &[]).unwrap();
    let (mut watcher, waiting) = (
        db.connect(),
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    );
    let mut waiting = || watcher.query_one(waiting, &[]).unwrap().get::<_, i64>(0);
    let replies = thread::scope(|scope| {
        let requests: Vec<_> = (0..36)
            .map(|n| {
                let (path, id) = [("delete", &id), ("autosave", &id), ("restore", &deleted)][n % 3];
                let client = hog.program(&server.web);
                let body = json!({"id": id, "content": "later"});
                scope.spawn(move || client.post(&format!("/api/docs/{path}"), &body))
            })
            .collect();
        server.wait_until("the account to have its share", || waiting() == SHARE);
        let mut served = 0;
        while served < 5 || requests.iter().any(|request| !request.is_finished()) {
            let began = Instant::now();
            other.browser.post("/api/docs/autosave", &json!({"id": own, "content": "more"})).expect(200);
            other.browser.get("/api/docs/list").expect(200);
            save(&other.browser, &json!({"content": "another"}));
            server.sign_in("ben@x", PASSWORD);
            server.web.anonymous().get("/readyz").expect(200);
            assert!(waiting() <= SHARE);
            served += 1;
            println!("served after {:?}", began.elapsed());
        }
        requests.into_iter().map(|request| request.join().unwrap()).collect::<Vec<_>>()
    });
    for reply in &replies {
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{}", reply.text());
    }
    // Some waited for the lock, and the others for those.
    for reason in ["55P03", "no database connection is free"] {
        server.wait_until(reason, || server.log().contains(reason));
    }
    lock.rollback().unwrap();
    hog.browser.post("/api/docs/delete", &json!({"id": id})).expect(200);
    hog.browser.post("/api/docs/restore", &json!({"id": deleted})).expect(200);
}

#[test]
fn log_ins_that_wait_for_an_account_leave_connections_to_those_who_have_logged_in() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", CONNECTIONS)]);
    let (locked, other) = (server.sign_up("locked@x"), server.sign_up("ann@x"));
    let own = save(&other.browser, &json!({"content": "text"}));
    let mut locker = db.connect();
    let mut lock = locker.transaction().unwrap();
    lock.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", &[&locked.id]).unwrap();
    let body = json!({"email": "locked@x", "password": PASSWORD});
    thread::scope(|scope| {
        let requests: Vec<_> =
            (0..12).map(|_| scope.spawn(|| server.web.anonymous().post("/api/login", &body))).collect();
        server.wait_until("one to wait for the account", || db.has_waiting());
        while requests.iter().any(|request| !request.is_finished()) {
            other.browser.post("/api/docs/autosave", &json!({"id": own, "content": "more"})).expect(200);
        }
        for request in requests {
            let status = request.join().unwrap().status;
            assert!([429, 503].contains(&status), "{status}");
        }
    });
    lock.rollback().unwrap();
}

#[test]
fn a_lock_is_waited_for_no_longer_than_that() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let id = save(&user.browser, &json!({"content": "text"}));
    let mut locker = db.connect();
    let mut lock = locker.transaction().unwrap();
    lock.execute("SELECT FROM documents FOR UPDATE", &[]).unwrap();
    let began = Instant::now();
    let reply = user.browser.post("/api/docs/save", &json!({"id": id, "content": "later"})).expect(503);
    let took = began.elapsed();
    assert!(took >= LOCK_TIMEOUT, "{took:?}");
    server.wait_until("the reason to be logged", || server.log().contains("55P03"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    lock.rollback().unwrap();
    user.browser.post("/api/docs/save", &json!({"id": id, "content": "later"})).expect(200);
}

/// How often it is tried on a busy machine, on which somebody may be late in the queue.
const TRIES: usize = 3;

/// However many of one account wait, others wait for one of them.
#[test]
fn connections_are_handed_on_in_turns() {
    const HOGS: usize = 20;
    let db = TestDb::new();
    for round in 1..=TRIES {
        let pool = Database::new(ConnectConfig::new(&db.url(), "turns").unwrap(), true, 1);
        pool.open();
        let served = parking_lot::Mutex::new(Vec::new());
        let held = pool.session().unwrap();
        thread::scope(|scope| {
            for n in 0..HOGS + 2 {
                let (pool, served, account) =
                    (&pool, &served, ["ann", "ben"].get(n.wrapping_sub(HOGS)).unwrap_or(&"hog"));
                scope.spawn(move || {
                    blocking::set_party(Party::account(account));
                    let session = pool.session().unwrap();
                    served.lock().push(*account);
                    drop(session);
                });
                soon("it to wait", || pool.pool_state().waiting == n + 1);
            }
            drop(held);
        });
        let served = served.into_inner();
        assert_eq!(served.len(), HOGS + 2);
        if served[..3].contains(&"ann") && served[..3].contains(&"ben") {
            return;
        }
        println!("{served:?} in round {round}");
    }
    panic!("who came last was served last");
}
