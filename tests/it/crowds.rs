//! Concurrent requests for the same account or key: one wins, nothing is duplicated, nothing fails.

use serde_json::{Value, json};

use crate::harness::{PASSWORD, Reply, Server, TestDb, at_once, retry_while_unavailable};

const CROWD: usize = 64;

fn statuses(replies: &[Reply]) -> Vec<u16> {
    replies.iter().map(|reply| reply.status).collect()
}

#[test]
fn concurrent_signups_create_one_account() {
    let db = TestDb::new();
    let (one, two) = (Server::start(&db), Server::start(&db));
    let replies = at_once(CROWD, |n| {
        let web = if n % 2 == 0 { &one.web } else { &two.web };
        let email = if n % 3 == 0 { "Ann@Example.com " } else { "ann@example.com" };
        retry_while_unavailable(|| web.anonymous().post("/api/signup", &json!({"email": email, "password": PASSWORD})))
    });
    assert_eq!(statuses(&replies), [200; CROWD]);
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
    assert_eq!(db.count("SELECT count(*) FROM api_keys"), 1);
    // One of them was shown the secret; all are signed in.
    let users: Vec<Value> = replies.iter().map(Reply::json).collect();
    assert!(users.iter().all(|user| user["id"] == users[0]["id"]));
    let whole = |user: &&Value| user["secret"].as_str().unwrap().len() == 46;
    assert_eq!(users.iter().filter(whole).count(), 1);
    let secret = users.iter().find(whole).unwrap()["secret"].as_str().unwrap();
    two.inference.with_secret(secret).get("/api/current-user").expect(200);
    for reply in &replies {
        one.web.with_cookie(&reply.session_token()).get("/api/current-user").expect(200);
    }
}

#[test]
fn concurrent_signups_with_different_passwords_let_one_in() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let replies = at_once(CROWD, |n| {
        let body = json!({"email": "ann@x", "password": format!("password number {n}")});
        retry_while_unavailable(|| web.post("/api/signup", &body))
    });
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
    assert_eq!(db.count("SELECT count(*) FROM sessions"), 1);
    let statuses = statuses(&replies);
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 400, 429].contains(status)), "{statuses:?}");
}

#[test]
fn concurrent_rotations_of_a_key_succeed_once() {
    let db = TestDb::new();
    let (one, two) = (Server::start(&db), Server::start(&db));
    let user = one.sign_up("ann@x");
    let id = user.browser.get("/api/keys").expect(200).json()["keys"][0]["id"].clone();
    let old = [&one, &two].map(|server| user.program(&server.audio));
    for client in &old {
        client.get("/api/current-user").expect(200);
    }
    let replies = at_once(CROWD, |n| {
        let web = if n % 2 == 0 { &one.web } else { &two.web };
        retry_while_unavailable(|| web.with_cookie(&user.token).post("/api/keys/rotate", &json!({"id": id})))
    });
    let won: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 200).collect();
    assert_eq!(won.len(), 1, "{:?}", statuses(&replies));
    assert!(replies.iter().all(|reply| [200, 404].contains(&reply.status)), "{:?}", statuses(&replies));
    assert_eq!(db.count("SELECT count(*) FROM api_keys WHERE revoked IS NULL"), 1);
    assert_eq!(db.count("SELECT count(*) FROM api_keys"), 2);
    for client in &old {
        crate::harness::refused_soon(client);
    }
    let secret = won[0].json()["secret"].as_str().unwrap().to_owned();
    two.audio.with_secret(&secret).get("/api/current-user").expect(200);
    let seen = one.web.with_secret(&secret).get("/api/current-user").expect(200).json();
    assert_eq!(seen["secret"], won[0].json()["prefix"]);
}

/// Keys are rotated, revoked and created while the account is deleted: no 500 in any order, and no rows remain.
#[test]
fn concurrent_key_and_account_changes_never_fail() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", "16")]);
    for round in 0..4 {
        let user = server.sign_up(&format!("ann{round}@x"));
        let id = user.browser.get("/api/keys").expect(200).json()["keys"][0]["id"].clone();
        let replies = at_once(24, |n| {
            let post = |path: &str, body: Value| retry_while_unavailable(|| user.browser.post(path, &body));
            match n % 6 {
                0 => post("/api/keys", json!({"name": "n"})),
                1 => post("/api/keys/rotate", json!({"id": id, "grace_seconds": 60})),
                2 => post("/api/keys/revoke", json!({"id": id})),
                3 => post("/api/docs/save", json!({"title": "t"})),
                4 => post("/api/sessions/revoke", json!({"others": true})),
                _ if n > 18 => post("/api/delete-account", json!({"password": PASSWORD})),
                _ => post("/api/get-user", json!({})),
            }
        });
        let statuses = statuses(&replies);
        assert!(statuses.iter().all(|status| *status < 500), "{statuses:?} {}", server.log());
        user.browser.get("/api/current-user").expect(401);
    }
    for table in ["users", "api_keys", "sessions", "documents"] {
        assert_eq!(db.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
}

#[test]
fn concurrent_password_changes_succeed_once() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let replies = at_once(8, |n| {
        let body = json!({"current_password": PASSWORD, "new_password": format!("password number {n}")});
        retry_while_unavailable(|| user.browser.post("/api/change-password", &body))
    });
    let won: Vec<usize> = (0..8).filter(|n| replies[*n].status == 200).collect();
    assert_eq!(won.len(), 1, "{:?}", statuses(&replies));
    assert!(replies.iter().all(|reply| [200, 400, 409, 429].contains(&reply.status)), "{:?}", statuses(&replies));
    server.sign_in("ann@x", &format!("password number {}", won[0]));
}
