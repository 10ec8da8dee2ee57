//! Outages of the database: what can work without it does, the rest answers 503, and everything recovers by itself.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::documents::save;
use crate::harness::{Client, Proxy, Reply, Server, Signal, TestDb, User, admin};

/// The replies to requests that need the database, for cached and unknown callers.
pub fn in_need(server: &Server, user: &User, document: &str) -> Vec<Reply> {
    let credentials = json!({"email": user.email, "password": crate::harness::PASSWORD});
    let body = json!({"id": document, "content": "x"});
    vec![
        user.browser.get("/api/docs/list"),
        user.browser.get(&format!("/api/docs/get?id={document}")),
        user.browser.post("/api/docs/save", &body),
        user.program(&server.web).post("/api/docs/autosave", &body),
        user.browser.get("/api/keys"),
        server.web.anonymous().post("/api/login", &credentials),
        server.web.anonymous().post("/api/signup", &credentials),
    ]
}

#[track_caller]
pub fn expect_unavailable(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.header("Retry-After").is_some_and(|wait| wait.parse::<u32>().is_ok_and(|n| n > 0)));
    let body = reply.json();
    assert!(body["error"].is_string() || body["detail"].is_string(), "{body}");
}

/// Clients with credentials that no server has seen: during an outage they must not get 401.
pub fn strangers(server: &Server, number: usize) -> Vec<Client> {
    let secret = format!("tg_stranger{number}");
    let addresses = [&server.web, &server.inference, &server.audio];
    let mut clients: Vec<Client> = addresses.iter().map(|address| address.with_secret(&secret)).collect();
    clients.push(server.web.with_cookie(&format!("ts_stranger{number}")));
    clients
}

pub fn known(server: &Server, user: &User) -> Vec<Client> {
    let addresses = [&server.web, &server.inference, &server.audio];
    let mut clients: Vec<Client> = addresses.iter().map(|address| user.program(address)).collect();
    clients.push(user.browser.clone());
    clients
}

#[test]
fn servers_start_without_a_database() {
    let db = TestDb::empty();
    let proxy = Proxy::absent(&db);
    let server = Server::spawn(&proxy.url(), &[]);
    for address in [&server.web, &server.inference, &server.audio] {
        let nobody = address.anonymous();
        assert_eq!(nobody.get("/liveness_check").expect(200).json(), json!({"status": "ok"}));
        let reply = nobody.get("/readyz");
        assert_eq!((reply.status, reply.header("Retry-After")), (503, Some("1")));
        assert!(reply.json()["reason"].as_str().unwrap().contains("database"), "{}", reply.text());
        expect_unavailable(&nobody.get("/api/current-user"));
        expect_unavailable(&address.with_secret("tg_x").get("/api/current-user"));
    }
    for path in
        ["/api/docs/list", "/api/docs/get?id=doc_1", "/api/docs/get", "/account", "/login", "/api/subscription-status"]
    {
        expect_unavailable(&server.web.anonymous().get(path));
        expect_unavailable(&server.web.with_cookie("ts_x").get(path));
    }
    let credentials = json!({"email": "ann@example.com", "password": "long enough"});
    expect_unavailable(&server.web.anonymous().post("/api/signup", &credentials));
    server.web.anonymous().get("/nowhere").expect(404);
    server.wait_until("a line that says what is wrong", || server.log().contains("refused"));

    proxy.appear();
    server.wait_until_ready();
    server.web.anonymous().post("/api/signup", &credentials).expect(200);
}

#[test]
fn the_log_reports_the_outage() {
    let db = TestDb::empty();
    let url = db.url();
    let (credentials, rest) = url.rsplit_once('@').unwrap();
    let password = credentials.rsplit_once(':').unwrap().1;
    let wrong = url.replace(&format!(":{password}@"), ":not-the-password@");
    assert!(rest.contains(db.name()) && wrong != url);
    let server = Server::spawn(&wrong, &[]);
    server.wait_until("the reason", || server.log().contains("password authentication failed"));
    assert!(!server.log().contains("not-the-password"));
    server.web.anonymous().get("/readyz").expect(503);
    drop(server);

    admin().batch_execute(&format!("DROP DATABASE {}", db.name())).unwrap();
    let server = Server::spawn(&url, &[]);
    let reason = format!("database \"{}\" does not exist", db.name());
    server.wait_until("the reason", || server.log().contains(&reason));
    assert!(!server.log().contains(password));
    admin().batch_execute(&format!("CREATE DATABASE {} TEMPLATE template0", db.name())).unwrap();
    server.wait_until_ready();
    server.sign_up("ann@example.com");
}

#[test]
fn servers_survive_an_outage() {
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    let server = Server::spawn(&proxy.url(), &[]);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({"content": "text"}));
    let known = known(&server, &user);
    for round in 0..2 {
        for client in &known {
            client.get("/api/current-user").expect(200);
        }
        proxy.cut();
        for _ in 0..5 {
            for client in &known {
                assert_eq!(client.get("/api/current-user").expect(200).json()["id"], json!(user.id), "{round}");
            }
        }
        for client in strangers(&server, round) {
            expect_unavailable(&client.get("/api/current-user"));
        }
        for reply in in_need(&server, &user, &id) {
            expect_unavailable(&reply);
        }
        server.web.anonymous().get("/liveness_check").expect(200);
        server.web.anonymous().get("/readyz").expect(503);
        // The server knows by now that it may have missed notifications; cached callers have a grace period.
        server
            .wait_until("the loss to be noticed", || server.log().matches("not receiving revocations").count() > round);
        for client in &known {
            client.get("/api/current-user").expect(200);
        }

        proxy.restore();
        server.wait_until_ready();
        for reply in in_need(&server, &user, &id) {
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        for client in &known {
            client.get("/api/current-user").expect(200);
        }
        for client in strangers(&server, round) {
            client.get("/api/current-user").expect(401);
        }
        server.wait_until_listening();
        db.run(&format!("UPDATE users SET name = 'round {round}' WHERE id = '{}'", user.id));
        server.wait_until("the change to be seen", || {
            user.browser.get("/api/current-user").expect(200).json()["name"] == format!("round {round}")
        });
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn credentials_revoked_during_an_outage_are_refused_after_it() {
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    let server = Server::spawn(&proxy.url(), &[]);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    client.get("/api/current-user").expect(200);
    proxy.cut();
    db.run("UPDATE api_keys SET revoked = now()");
    client.get("/api/current-user").expect(200);
    proxy.restore();
    server.wait_until_ready();
    client.get("/api/current-user").expect(401);
}

#[test]
fn without_a_grace_period_cached_callers_are_refused() {
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    let server = Server::spawn(&proxy.url(), &[("AUTH_GRACE", "0")]);
    server.wait_until_listening();
    let client = server.sign_up("ann@example.com").browser;
    client.get("/api/current-user").expect(200);
    proxy.cut();
    server.wait_until("the loss to be noticed", || client.get("/api/current-user").status == 503);
    expect_unavailable(&client.get("/api/current-user"));
    proxy.restore();
    server.wait_until("the way back", || client.get("/api/current-user").status == 200);
}

#[test]
fn a_silent_database_delays_only_requests_that_need_it() {
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    let server = Server::spawn(&proxy.url(), &[("POOL_SIZE", "2")]);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    let known = known(&server, &user);
    for client in &known {
        client.get("/api/current-user").expect(200);
    }
    proxy.freeze();
    for _ in 0..3 {
        for client in &known {
            client.get("/api/current-user").expect(200);
        }
    }
    server.wait_until("the loss to be noticed", || server.log().contains("not receiving revocations"));
    for client in &known {
        client.get("/api/current-user").expect(200);
    }
    for client in strangers(&server, 0) {
        expect_unavailable(&client.get("/api/current-user"));
    }
    server.web.anonymous().get("/liveness_check").expect(200);
    proxy.restore();
    server.wait_until_ready();
    save(&user.browser, &json!({"content": "text"}));
}

#[test]
fn shutdown_does_not_wait_for_a_silent_database() {
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    // The listener bypasses the proxy, so that nothing detects the silence.
    let server = Server::spawn(&proxy.url(), &[("DATABASE_LISTEN_URL", &db.url())]);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    // Last uses that are not written yet.
    for client in known(&server, &user) {
        client.get("/api/current-user").expect(200);
    }
    proxy.freeze();
    server.signal(Signal::TERM);
    server.wait_until("the end", || server.has_ended());
    assert_eq!(server.wait(), 0);

    let absent = Proxy::absent(&db);
    assert_eq!(Server::spawn(&absent.url(), &[]).stop(), 0);
}

/// A role for one test, as connection limits do not apply to superusers.
struct Role<'d>(&'d TestDb, String);

impl Role<'_> {
    fn new(db: &TestDb) -> Role<'_> {
        let role = format!("{}_role", db.name());
        db.run(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'limited'; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
        ));
        Role(db, role)
    }

    fn url(&self) -> String {
        let url = self.0.url();
        format!("postgresql://{}:limited@{}", self.1, url.rsplit_once('@').unwrap().1)
    }

    /// Closes all its connections and limits their number from now on.
    fn limit(&self, connections: u32) {
        self.0.run(&format!(
            "ALTER ROLE {0} CONNECTION LIMIT {connections};
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{0}'",
            self.1
        ));
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        // A role belongs to the whole cluster, so it is not dropped with the database.
        let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'", self.1);
        // No panic: during the panic of a failed test it would abort the whole run.
        if let Ok(mut client) = postgres::Client::connect(&self.0.url(), postgres::NoTls) {
            let _ = client.batch_execute(&format!("{kill}; DROP OWNED BY {0}; DROP ROLE {0}", self.1));
        }
    }
}

#[test]
fn a_pool_that_cannot_grow_keeps_working() {
    let db = TestDb::new();
    let role = Role::new(&db);
    let server = Server::spawn(&role.url(), &[("POOL_SIZE", "16")]);
    server.wait_until_ready();
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({}));
    role.limit(4);
    server.wait_until_ready();
    let is_felt = || server.log().contains("too many connections");
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let began = Instant::now();
                for n in 0.. {
                    if n >= 10 && (is_felt() || began.elapsed() > Duration::from_secs(30)) {
                        return;
                    }
                    user.browser.post("/api/docs/autosave", &json!({"id": id, "content": "text"})).expect(200);
                }
            });
        }
    });
    let told = server.log().matches("grants no more connections").count();
    assert_eq!((is_felt(), told), (true, 1), "{}", server.log());
}

#[test]
fn connections_that_are_killed_are_replaced() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({"content": "text"}));
    let path = format!("/api/docs/get?id={id}");
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let mut killer = db.connect();
    for _ in 0..5 {
        assert!(!killer.query(kill, &[]).unwrap().is_empty());
        for _ in 0..20 {
            let status = user.browser.get(&path).status;
            assert!(status == 200 || status == 503, "{status}: {}", server.log());
        }
        server.wait_until("new connections", || user.browser.get(&path).status == 200);
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn cached_callers_do_not_wait_for_a_connection() {
    let db = TestDb::new();
    let url = db.url() + "?options=-c%20statement_timeout%3D60000%20-c%20lock_timeout%3D0";
    let server = Server::spawn(&url, &[("POOL_SIZE", "1")]);
    server.wait_until_ready();
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({"content": "text"}));
    let known = known(&server, &user);
    for client in &known {
        client.get("/api/current-user").expect(200);
    }
    let mut locker = db.connect();
    let mut lock = locker.transaction().unwrap();
    lock.execute("SELECT 1 FROM documents FOR UPDATE", &[]).unwrap();
    thread::scope(|scope| {
        let held = scope.spawn(|| user.browser.post("/api/docs/save", &json!({"id": id, "content": "later"})));
        server.wait_until("the lock to be waited for", || db.has_waiting());
        let others: Vec<_> = (0..20).map(|_| scope.spawn(|| user.browser.get("/api/docs/list"))).collect();
        for _ in 0..10 {
            for client in &known {
                client.get("/api/current-user").expect(200);
            }
        }
        for other in others {
            expect_unavailable(&other.join().unwrap());
        }
        assert!(!held.is_finished());
        lock.commit().unwrap();
        assert_eq!(held.join().unwrap().expect(200).json()["version"], 2);
    });
    user.browser.get("/api/docs/list").expect(200);
}

#[test]
fn a_statement_that_takes_too_long_is_503() {
    let db = TestDb::new();
    let server = Server::spawn(&(db.url() + "?options=-c%20statement_timeout%3D1000"), &[]);
    server.wait_until_ready();
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({"content": "text"}));
    let mut locker = db.connect();
    let mut lock = locker.transaction().unwrap();
    lock.execute("SELECT 1 FROM documents FOR UPDATE", &[]).unwrap();
    let later = json!({"id": id, "content": "later"});
    expect_unavailable(&user.browser.post("/api/docs/save", &later));
    assert_eq!(user.browser.get(&format!("/api/docs/get?id={id}")).expect(200).json()["content"], "text");
    lock.commit().unwrap();
    assert_eq!(user.browser.post("/api/docs/save", &later).expect(200).json()["version"], 2);
}

#[test]
fn reads_work_on_a_read_only_database() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({"content": "text"}));
    let path = format!("/api/docs/get?id={id}");
    let turn = |read_only: &str| {
        let name = db.name();
        let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = {read_only}");
        admin().batch_execute(&sql).unwrap();
        let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        admin().batch_execute(&kill).unwrap();
    };
    let check = |server: &Server| {
        server.wait_until("the server to read", || user.browser_of(server).get(&path).status == 200);
        let client = user.browser_of(server);
        expect_unavailable(&client.post("/api/docs/save", &json!({"id": id, "content": "x"})));
        expect_unavailable(&client.post("/api/docs/delete", &json!({"id": id})));
        let credentials = json!({"email": user.email, "password": crate::harness::PASSWORD});
        expect_unavailable(&server.web.anonymous().post("/api/login", &credentials));
        client.get(&path).expect(200);
        client.get("/api/current-user").expect(200);
    };
    turn("on");
    check(&server);
    // A server that starts now has nothing to migrate and can read too.
    check(&Server::start(&db));
    turn("off");
    server.wait_until("the server to write", || {
        user.browser.post("/api/docs/save", &json!({"id": id, "content": "more"})).status == 200
    });
}

#[test]
fn a_listener_that_cannot_connect_is_reported() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("DATABASE_LISTEN_URL", "postgresql://me@127.0.0.1:1/nothing")]);
    server.wait_until("a line about it", || server.log().contains("not receiving revocations"));
    let user = server.sign_up("ann@example.com");
    // Every caller is looked up in the database, so no change is missed.
    user.browser.get("/api/current-user").expect(200);
    db.run("DELETE FROM sessions");
    user.browser.get("/api/current-user").expect(401);
    assert_eq!(server.log().matches("not receiving revocations").count(), 1, "the failure is logged once");
}
