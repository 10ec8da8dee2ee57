//! A revoked credential is refused by every server of every process, whoever revoked it.

use serde_json::{Value, json};

use crate::harness::{Client, PASSWORD, Server, TestDb, User, at_once, refused_soon, retry_while_unavailable, soon};

/// Two processes on one database: six servers.
struct Pair {
    db: TestDb,
    one: Server,
    two: Server,
}

impl Pair {
    fn new() -> Pair {
        let db = TestDb::new();
        let (one, two) = (Server::start(&db), Server::start(&db));
        for server in [&one, &two] {
            server.wait_until("the server to listen", || {
                server.web.anonymous().get("/readyz").json()["listening"] == true
            });
        }
        Pair { db, one, two }
    }

    /// One client per server, with this secret.
    fn programs(&self, secret: &str) -> Vec<Client> {
        let servers = [&self.one, &self.two];
        servers.iter().flat_map(|s| [&s.web, &s.inference, &s.audio]).map(|a| a.with_secret(secret)).collect()
    }

    /// One client per web server, with this cookie.
    fn browsers(&self, token: &str) -> Vec<Client> {
        [&self.one, &self.two].iter().map(|server| server.web.with_cookie(token)).collect()
    }
}

/// Uses each client, so that its server caches the caller.
#[track_caller]
fn all_work(clients: &[Client]) {
    for client in clients.iter().chain(clients) {
        client.get("/api/current-user").expect(200);
    }
}

#[track_caller]
fn all_end(clients: &[Client]) {
    for client in clients {
        refused_soon(client);
    }
}

fn default_key(user: &User) -> Value {
    user.browser.get("/api/keys").expect(200).json()["keys"][0]["id"].clone()
}

#[test]
fn logging_out_takes_effect_everywhere() {
    let pair = Pair::new();
    let user = pair.one.sign_up("ann@x");
    let (browsers, programs) = (pair.browsers(&user.token), pair.programs(&user.secret));
    all_work(&browsers);
    pair.two.web.with_cookie(&user.token).post("/api/logout", &json!({})).expect(200);
    all_end(&browsers);
    all_work(&programs);
}

#[test]
fn revoked_sessions_and_password_changes_take_effect_everywhere() {
    let pair = Pair::new();
    let user = pair.one.sign_up("ann@x");
    let log_in = || {
        let body = json!({"email": "ann@x", "password": PASSWORD});
        pair.two.web.anonymous().post("/api/login", &body).expect(200).session_token()
    };
    let other = pair.browsers(&log_in());
    all_work(&other);
    user.browser.post("/api/sessions/revoke", &json!({"others": true})).expect(200);
    all_end(&other);

    let other = pair.browsers(&log_in());
    all_work(&other);
    let body = json!({"current_password": PASSWORD, "new_password": "a new password"});
    let renewed = user.browser.post("/api/change-password", &body).expect(200).session_token();
    all_end(&other);
    all_end(&pair.browsers(&user.token));
    all_work(&pair.browsers(&renewed));
    pair.two.web.anonymous().post("/api/login", &json!({"email": "ann@x", "password": PASSWORD})).expect(400);
}

#[test]
fn rotation_and_revocation_take_effect_everywhere() {
    let pair = Pair::new();
    let user = pair.one.sign_up("ann@x");
    let old = pair.programs(&user.secret);
    all_work(&old);
    let body = json!({"id": default_key(&user)});
    let made = user.browser.post("/api/keys/rotate", &body).expect(200).json();
    all_end(&old);
    let new = pair.programs(made["secret"].as_str().unwrap());
    all_work(&new);
    user.browser.post("/api/keys/revoke", &json!({"id": made["id"]})).expect(200);
    all_end(&new);
    all_work(&pair.browsers(&user.token));
}

#[test]
fn a_deleted_account_is_gone_everywhere() {
    let pair = Pair::new();
    let user = pair.one.sign_up("ann@x");
    let clients = [pair.browsers(&user.token), pair.programs(&user.secret)].concat();
    all_work(&clients);
    user.browser.send("POST", "/api/delete-account", None, b"").expect(200);
    all_end(&clients);
    // A deleted user cannot save a document.
    pair.two.web.with_secret(&user.secret).post("/api/docs/save", &json!({})).expect(401);
}

#[test]
fn a_user_deleted_in_sql_is_gone_everywhere() {
    let pair = Pair::new();
    let (user, other) = (pair.one.sign_up("ann@x"), pair.one.sign_up("bob@x"));
    let clients = [pair.browsers(&user.token), pair.programs(&user.secret)].concat();
    all_work(&clients);
    pair.db.run("DELETE FROM users WHERE email = 'ann@x'");
    all_end(&clients);
    all_work(&pair.programs(&other.secret));
}

#[test]
fn keys_and_sessions_ended_in_sql_end_everywhere() {
    let pair = Pair::new();
    let by_hand = [
        "UPDATE api_keys SET revoked = now()",
        "UPDATE api_keys SET expires = now()",
        "UPDATE api_keys SET digest = sha256(id::bytea)",
        "DELETE FROM api_keys",
        "TRUNCATE api_keys CASCADE",
    ];
    for (n, sql) in by_hand.iter().enumerate() {
        let user = pair.one.sign_up(&format!("key{n}@x"));
        let clients = pair.programs(&user.secret);
        all_work(&clients);
        pair.db.run(sql);
        all_end(&clients);
    }
    let by_hand = [
        "UPDATE sessions SET expires = now()",
        "UPDATE sessions SET digest = sha256(id::bytea)",
        "DELETE FROM sessions",
        "TRUNCATE sessions",
    ];
    for (n, sql) in by_hand.iter().enumerate() {
        let user = pair.one.sign_up(&format!("session{n}@x"));
        let clients = pair.browsers(&user.token);
        all_work(&clients);
        pair.db.run(sql);
        all_end(&clients);
    }
    let user = pair.one.sign_up("last@x");
    let clients = [pair.browsers(&user.token), pair.programs(&user.secret)].concat();
    all_work(&clients);
    pair.db.run("TRUNCATE users CASCADE");
    all_end(&clients);
}

/// As operators of the old system did it, when the column held the secret itself.
#[test]
fn a_secret_rotated_in_sql_is_rotated_everywhere() {
    let pair = Pair::new();
    let (user, other) = (pair.one.sign_up("ann@x"), pair.one.sign_up("bob@x"));
    let old = pair.programs(&user.secret);
    all_work(&old);
    let written = "Ab3dE5gH7jKl9NoPqRsTuVwXyZ012345";
    pair.db.run(&format!("UPDATE users SET secret = '{written}' WHERE email = 'ann@x'"));
    all_end(&old);
    let new = pair.programs(written);
    all_work(&new);
    assert_eq!(user.browser.get("/api/current-user").expect(200).json()["secret"], "Ab3dE5…");
    assert_eq!(pair.db.count(&format!("SELECT count(*) FROM users WHERE secret = '{written}'")), 0);
    // It is a regular key.
    let made = user.browser.post("/api/keys/rotate", &json!({"id": default_key(&user)})).expect(200).json();
    all_end(&new);
    all_work(&pair.programs(made["secret"].as_str().unwrap()));
    // Clearing the column revokes it.
    pair.db.run("UPDATE users SET secret = '' WHERE email = 'ann@x'");
    all_end(&pair.programs(made["secret"].as_str().unwrap()));
    all_work(&pair.programs(&other.secret));
}

#[test]
fn users_changed_in_sql_are_updated_everywhere() {
    let pair = Pair::new();
    let user = pair.one.sign_up("ann@x");
    let clients = pair.programs(&user.secret);
    all_work(&clients);
    pair.db.run("UPDATE users SET name = 'Ann', is_subscribed = true");
    for client in &clients {
        soon("the change to be seen", || {
            let seen = client.get("/api/current-user").expect(200).json();
            seen["name"] == "Ann" && seen["is_subscribed"] == true
        });
    }
}

/// A login that checked the old password before the change must not create a session after it.
#[test]
fn a_login_in_progress_does_not_survive_a_password_change() {
    let db = TestDb::new();
    let server = Server::start(&db);
    server.sign_up("ann@x");
    let mut client = db.connect();
    let mut change = client.transaction().unwrap();
    change.execute("SELECT 1 FROM users FOR UPDATE", &[]).unwrap();
    std::thread::scope(|scope| {
        let login =
            scope.spawn(|| server.web.anonymous().post("/api/login", &json!({"email": "ann@x", "password": PASSWORD})));
        // The login has checked the password and is about to insert the session.
        let waits = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        server.wait_until("the login to wait for the account", || db.count(waits) == 1);
        change.execute("UPDATE users SET password_hash = '$argon2id$another'", &[]).unwrap();
        change.execute("DELETE FROM sessions", &[]).unwrap();
        change.commit().unwrap();
        login.join().unwrap().expect(400);
    });
    assert_eq!(db.count("SELECT count(*) FROM sessions"), 0);
}

/// Each login finds the old system's hash; one replaces it, and the others notice.
#[test]
fn concurrent_logins_rehash_an_old_password_once_and_all_succeed() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let kept = bcrypt::hash("password1", 4).unwrap();
    db.connect().execute("INSERT INTO users (id, email, password_hash) VALUES ('old', 'old@x', $1)", &[&kept]).unwrap();
    let body = json!({"email": "old@x", "password": "password1"});
    for reply in at_once(12, |_| retry_while_unavailable(|| server.web.anonymous().post("/api/login", &body))) {
        server.web.with_cookie(&reply.expect(200).session_token()).get("/api/current-user").expect(200);
    }
    assert_eq!(db.count("SELECT count(*) FROM users WHERE password_hash LIKE '$argon2id$v=19$%'"), 1);
}
