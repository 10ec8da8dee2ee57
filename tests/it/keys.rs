//! API keys.

use serde_json::{Value, json};

use crate::harness::{Client, Server, TestDb, User, soon};

fn list(client: &Client) -> Vec<Value> {
    client.get("/api/keys").expect(200).json()["keys"].as_array().unwrap().clone()
}

fn default_key(user: &User) -> String {
    let keys = list(&user.browser);
    keys.iter().find(|key| key["is_default"] == true).unwrap()["id"].as_str().unwrap().to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn a_key_is_created_shown_once_and_listed() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let made = user.browser.post("/api/keys", &json!({"name": "  build machine "})).expect(200).json();
    let keys: Vec<&String> = made.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "id",
            "name",
            "prefix",
            "is_default",
            "created",
            "last_used",
            "expires",
            "disabled",
            "replaced_by",
            "models",
            "permissions",
            "addresses",
            "budget",
            "rate",
            "secret"
        ]
    );
    assert_eq!(json!([made["name"], made["expires"], made["budget"]]), json!(["build machine", null, null]));
    let secret = text(&made["secret"]);
    assert!(secret.starts_with("tg_") && secret.len() == 46);
    assert_eq!(text(&made["prefix"]), format!("{}…", &secret[..8]));
    for server in [&server.web, &server.inference, &server.audio] {
        let seen = server.with_secret(secret).get("/api/current-user").expect(200).json();
        assert_eq!(seen["id"], json!(user.id));
        // The account still shows the prefix of its default key.
        assert_eq!(text(&seen["secret"]), format!("{}…", &user.secret[..8]));
    }
    let listed = user.browser.get("/api/keys").expect(200);
    assert!(!listed.text().contains(secret) && !listed.text().contains(&user.secret));
    let keys = list(&user.browser);
    let names: Vec<&Value> = keys.iter().map(|key| &key["name"]).collect();
    assert_eq!(names, ["build machine", "default"]);
    assert_eq!(keys[0]["id"], made["id"]);
    assert_eq!(json!([keys[0]["is_default"], keys[1]["is_default"]]), json!([false, true]));
    // Also by form, and with a secret.
    user.browser.form_for_json("/api/keys", &[("name", "form"), ("expires", "")]).expect(200);
    user.program(&server.web).post("/api/keys", &json!({"name": "program"})).expect(200);
    for (method, path) in [("GET", ""), ("POST", ""), ("POST", "/rotate"), ("POST", "/revoke")] {
        server.web.anonymous().send(method, &format!("/api/keys{path}"), None, b"").expect(401);
    }
}

#[test]
fn invalid_key_parameters_are_refused() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let make = |body: Value| user.browser.post("/api/keys", &body);
    for bad in [json!({}), json!({"name": 1}), json!({"name": null}), json!({"name": "n", "expires": 1})] {
        make(bad).expect(422);
    }
    for name in ["", "   ", &"x".repeat(101)] {
        make(json!({"name": name})).expect(400);
    }
    make(json!({"name": "é".repeat(100)})).expect(200);
    for expires in ["tomorrow", "2020-01-01T00:00:00Z", "2027-13-01T00:00:00Z", "1", "9999-12-31T23:59:59-12:00"] {
        make(json!({"name": "n", "expires": expires})).expect(400);
    }
    for field in [("days", "0"), ("days", "-1"), ("days", "3651"), ("window", "year")] {
        user.browser.form("/account/keys", &[("name", "n"), ("limit", "1"), field]).expect(400);
    }
    assert_eq!(list(&user.browser).len(), 2);
    let id = default_key(&user);
    for grace in [json!(-1), json!(2_592_001)] {
        user.browser.post("/api/keys/rotate", &json!({"id": id, "grace_seconds": grace})).expect(400);
    }
    for grace in [json!(1.5), json!("soon"), json!([1])] {
        user.browser.post("/api/keys/rotate", &json!({"id": id, "grace_seconds": grace})).expect(422);
    }
    for path in ["/api/keys/rotate", "/api/keys/revoke"] {
        user.browser.post(path, &json!({})).expect(422);
        user.browser.post(path, &json!({"id": 7})).expect(422);
        user.browser.post(path, &json!({"id": ""})).expect(404);
        user.browser.post(path, &json!({"id": "key_nonsense"})).expect(404);
    }
    user.program(&server.web).get("/api/current-user").expect(200);
    assert_eq!(db.count("SELECT count(*) FROM api_keys"), 2);
}

#[test]
fn rotation_ends_the_old_secret_at_once() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    user.program(&server.inference).get("/api/current-user").expect(200);
    let id = default_key(&user);
    let made = user.browser.post("/api/keys/rotate", &json!({"id": id})).expect(200).json();
    assert_eq!(json!([made["name"], made["expires"]]), json!(["default", null]));
    assert_ne!(text(&made["id"]), id);
    for server in [&server.web, &server.inference, &server.audio] {
        server.with_secret(&user.secret).get("/api/current-user").expect(401);
        let seen = server.with_secret(text(&made["secret"])).get("/api/current-user").expect(200).json();
        assert_eq!(seen["secret"], made["prefix"]);
    }
    let keys = list(&user.browser);
    assert_eq!(keys.len(), 1);
    assert_eq!(json!([keys[0]["id"], keys[0]["is_default"]]), json!([made["id"], true]));
    // The old key cannot be rotated again, and no one else can rotate the new one.
    user.browser.post("/api/keys/rotate", &json!({"id": id})).expect(404);
    let stranger = server.sign_up("bob@x");
    for path in ["/api/keys/rotate", "/api/keys/revoke"] {
        stranger.browser.post(path, &json!({"id": made["id"]})).expect(404);
    }
    server.web.with_secret(text(&made["secret"])).get("/api/current-user").expect(200);
}

#[test]
fn a_rotated_secret_works_during_its_grace_period() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let old = user.program(&server.audio);
    let made =
        user.browser.post("/api/keys/rotate", &json!({"id": default_key(&user), "grace_seconds": 3600})).expect(200);
    old.get("/api/current-user").expect(200);
    server.audio.with_secret(text(&made.json()["secret"])).get("/api/current-user").expect(200);
    let keys = list(&user.browser);
    assert_eq!(keys.len(), 2);
    assert_eq!(json!([keys[1]["replaced_by"], keys[1]["is_default"]]), json!([made.json()["id"], false]));
    assert!(keys[1]["expires"].is_string() && keys[0]["replaced_by"].is_null());
    // Whoever has only the old secret cannot take the account's new one away, nor make one that lasts.
    let thief = user.program(&server.web);
    thief.post("/api/keys/revoke", &json!({"id": made.json()["id"]})).expect(403);
    thief.post("/api/keys/rotate", &json!({"id": made.json()["id"]})).expect(403);
    thief.post("/api/keys", &json!({"name": "mine", "expires": "2100-01-01T00:00:00Z"})).expect(403);
    // The grace period ends in time, even if the caller is cached.
    db.run("UPDATE api_keys SET expires = now() WHERE replaced_by IS NOT NULL");
    crate::harness::refused_soon(&old);
    // A key can be revoked during its grace period.
    let made = user
        .browser
        .post("/api/keys/rotate", &json!({"id": default_key(&user), "grace_seconds": 3600}))
        .expect(200)
        .json();
    let old = list(&user.browser).into_iter().find(|key| key["replaced_by"] == made["id"]).unwrap();
    user.browser.post("/api/keys/revoke", &json!({"id": old["id"]})).expect(200);
    assert_eq!(list(&user.browser).len(), 1);
}

#[test]
fn a_revoked_key_no_longer_works() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let made = user.browser.post("/api/keys", &json!({"name": "n"})).expect(200).json();
    let program = server.inference.with_secret(text(&made["secret"]));
    program.get("/api/current-user").expect(200);
    let reply = user.browser.post("/api/keys/revoke", &json!({"id": made["id"]})).expect(200);
    assert_eq!(reply.json(), json!({"id": made["id"], "revoked": true}));
    program.get("/api/current-user").expect(401);
    user.browser.post("/api/keys/revoke", &json!({"id": made["id"]})).expect(404);
    user.browser.post("/api/keys/rotate", &json!({"id": made["id"]})).expect(404);
    // Without a default key the account shows no prefix; the session still works.
    user.browser.form_for_json("/api/keys/revoke", &[("id", &default_key(&user))]).expect(200);
    user.program(&server.web).get("/api/current-user").expect(401);
    assert_eq!(user.browser.get("/api/current-user").expect(200).json()["secret"], "");
    assert!(list(&user.browser).is_empty());
}

#[test]
fn a_key_expires_by_itself() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let body = json!({"name": "n", "expires": "2100-01-31T12:00:00+02:00"});
    let made = user.browser.post("/api/keys", &body).expect(200).json();
    assert_eq!(made["expires"], "2100-01-31T10:00:00Z");
    let program = server.web.with_secret(text(&made["secret"]));
    program.get("/api/current-user").expect(200);
    // Rotation does not extend its life.
    let rotated = user.browser.post("/api/keys/rotate", &json!({"id": made["id"]})).expect(200).json();
    assert_eq!(rotated["expires"], made["expires"]);

    // No notification is sent when a key expires.
    let soon_over = "UPDATE api_keys SET expires = now() + interval '2 seconds' WHERE name = 'n' AND revoked IS NULL";
    db.run(soon_over);
    crate::harness::refused_soon(&server.web.with_secret(text(&rotated["secret"])));
    user.browser.post("/api/keys/rotate", &json!({"id": rotated["id"]})).expect(404);
    assert_eq!(list(&user.browser).len(), 1);
}

#[test]
fn an_account_has_at_most_100_keys() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    db.run(
        "INSERT INTO api_keys (id, user_id, name, prefix, digest)
         SELECT 'key_' || n, (SELECT id FROM users), 'n', '', sha256(n::text::bytea) FROM generate_series(1, 98) n",
    );
    user.browser.post("/api/keys", &json!({"name": "n"})).expect(200);
    user.browser.post("/api/keys", &json!({"name": "n"})).expect(409);
    // Rotated keys in their grace period count too.
    user.browser.post("/api/keys/rotate", &json!({"id": "key_1", "grace_seconds": 60})).expect(409);
    user.browser.post("/api/keys/rotate", &json!({"id": "key_1"})).expect(200);
    user.browser.post("/api/keys/revoke", &json!({"id": "key_2"})).expect(200);
    user.browser.post("/api/keys/rotate", &json!({"id": "key_3", "grace_seconds": 60})).expect(200);
    assert_eq!(list(&user.browser).len(), 100);
}

/// A second use within a minute writes nothing, even if the key is looked up again.
#[test]
fn the_last_use_is_written_at_most_once_a_minute() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (ann, bob) = (server.sign_up("ann@x"), server.sign_up("bob@x"));
    assert!(list(&ann.browser)[0]["last_used"].is_null());
    ann.program(&server.inference).get("/api/current-user").expect(200);
    let used = |user: &User| list(&user.browser)[0]["last_used"].as_str().map(str::to_owned);
    server.wait_until("the use to be written", || used(&ann).is_some());
    let first = used(&ann).unwrap();
    // Evicts the user from every server's cache.
    db.run("UPDATE users SET name = 'Ann' WHERE email = 'ann@x'");
    soon("the name to be seen", || ann.program(&server.inference).get("/api/current-user").json()["name"] == "Ann");
    bob.program(&server.inference).get("/api/current-user").expect(200);
    server.wait_until("the later use to be written", || used(&bob).is_some());
    let (second, minute) = (used(&ann).unwrap(), "2026-11-22T10:08".len());
    assert!(second == first || second[..minute] > first[..minute], "{first} {second}");
}
