//! A user's sessions.

use serde_json::{Value, json};

use crate::harness::{PASSWORD, Server, TestDb};

fn ids(sessions: &Value) -> Vec<String> {
    let list = sessions["sessions"].as_array().unwrap();
    list.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn sessions_are_listed_newest_first() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let phone = server.web.anonymous().header("User-Agent", "A phone/1.0");
    let token = phone.post("/api/login", &json!({"email": "ann@x", "password": PASSWORD})).expect(200).session_token();
    server.sign_up("bob@x");

    let listed = server.web.with_cookie(&token).get("/api/sessions").expect(200).json();
    let list = listed["sessions"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    let keys: Vec<&String> = list[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "created", "last_seen", "expires", "address", "user_agent", "current"]);
    assert_eq!(json!([list[0]["user_agent"], list[0]["address"]]), json!(["A phone/1.0", "127.0.0.1"]));
    assert_eq!(json!([list[0]["current"], list[1]["current"]]), json!([true, false]));
    assert!(list[0]["created"].as_str().unwrap() > list[1]["created"].as_str().unwrap());
    // A session's id is not accepted as a credential.
    for id in ids(&listed) {
        server.web.with_cookie(&id).get("/api/current-user").expect(401);
    }
    // A program sees them too; none is marked as its own.
    let listed = user.program(&server.web).get("/api/sessions").expect(200).json();
    assert!(listed["sessions"].as_array().unwrap().iter().all(|session| session["current"] == false));
    server.web.anonymous().get("/api/sessions").expect(401);
}

#[test]
fn one_session_or_all_others_can_be_revoked() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let others: Vec<_> = (0..3).map(|_| server.sign_in("ann@x", PASSWORD)).collect();
    for client in &others {
        client.get("/api/current-user").expect(200);
    }
    let revoke = |body: Value| user.browser.post("/api/sessions/revoke", &body);
    let newest = ids(&user.browser.get("/api/sessions").expect(200).json())[0].clone();
    assert_eq!(revoke(json!({"id": newest})).expect(200).json(), json!({"revoked": 1}));
    others[2].get("/api/current-user").expect(401);
    others[1].get("/api/current-user").expect(200);
    revoke(json!({"id": newest})).expect(404);

    let stranger = server.sign_up("bob@x");
    let last = ids(&user.browser.get("/api/sessions").expect(200).json())[0].clone();
    stranger.browser.post("/api/sessions/revoke", &json!({"id": last})).expect(404);
    others[1].get("/api/current-user").expect(200);

    for bad in [json!({}), json!({"others": false}), json!({"id": last, "others": true}), json!({"id": null})] {
        revoke(bad).expect(400);
    }
    for bad in [json!({"id": 1}), json!({"others": "maybe"}), json!({"others": 2})] {
        revoke(bad).expect(422);
    }
    assert_eq!(
        user.browser.form_for_json("/api/sessions/revoke", &[("others", "true")]).expect(200).json()["revoked"],
        2
    );
    assert_eq!(revoke(json!({"others": true})).expect(200).json(), json!({"revoked": 0}));
    for client in &others {
        client.get("/api/current-user").expect(401);
    }
    user.browser.get("/api/current-user").expect(200);
    stranger.browser.get("/api/current-user").expect(200);
    // Its own session can be revoked too.
    let own = ids(&user.browser.get("/api/sessions").expect(200).json())[0].clone();
    revoke(json!({"id": own})).expect(200);
    user.browser.get("/api/current-user").expect(401);
    server.web.anonymous().post("/api/sessions/revoke", &json!({"others": true})).expect(401);
}

#[test]
fn using_a_session_extends_it() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    // A fresh session's cookie is not sent again.
    let fresh = server.sign_in("ann@x", PASSWORD);
    assert_eq!(fresh.get("/api/current-user").expect(200).header("set-cookie"), None);
    db.run(
        "UPDATE sessions SET created = created - interval '20 days', renewed = renewed - interval '20 days',
            last_seen = last_seen - interval '20 days', expires = expires - interval '20 days'",
    );
    let reply = user.browser.get("/api/current-user").expect(200);
    assert_eq!(reply.session_token(), user.token);
    assert!(reply.header("set-cookie").unwrap().contains("; Max-Age=2592000"));
    let slid = "SELECT count(*) FROM sessions WHERE expires > now() + interval '29 days'
        AND renewed > now() - interval '1 day' AND last_seen > now() - interval '1 day'";
    server.wait_until("the session to be written", || db.count(slid) == 1);
}

#[test]
fn a_session_unused_for_30_days_has_expired() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let other = server.sign_in("ann@x", PASSWORD);
    let days: i64 = db.count("SELECT extract(day FROM expires - created)::bigint FROM sessions LIMIT 1");
    assert!((29..=30).contains(&days), "{days}");
    db.run("UPDATE sessions SET expires = now() - interval '1 second' WHERE id = (SELECT min(id) FROM sessions)");
    let statuses = [user.browser.get("/api/current-user").status, other.get("/api/current-user").status];
    assert!(statuses == [200, 401] || statuses == [401, 200], "{statuses:?}");
    let alive = if statuses[0] == 200 { &user.browser } else { &other };
    assert_eq!(ids(&alive.get("/api/sessions").expect(200).json()).len(), 1);
}

/// A session may be deleted in SQL while its last use is not written yet.
#[test]
fn an_ended_session_does_not_come_back() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let ended = server.sign_up("ann@x");
    let other = server.sign_up("bob@x");
    db.run("UPDATE sessions SET last_seen = now() - interval '1 hour'");
    ended.browser.get("/api/current-user").expect(200);
    other.browser.get("/api/current-user").expect(200);
    db.connect().execute("UPDATE sessions SET expires = now() WHERE user_id = $1", &[&ended.id]).unwrap();
    // Both uses are written together.
    let written = "SELECT count(*) FROM sessions WHERE last_seen > now() - interval '30 minutes' AND expires > now()";
    server.wait_until("the other session to be written", || db.count(written) > 0);
    assert_eq!(db.count(written), 1);
    ended.browser.get("/api/current-user").expect(401);
}
