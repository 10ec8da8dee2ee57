//! A user's own account: reading it, changing the password, deleting it.

use serde_json::json;

use crate::harness::{PASSWORD, Server, TestDb};

#[test]
fn the_account_is_reported_as_stored() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    db.run(
        "UPDATE users SET name = 'Ann', is_subscribed = true, stripe_id = 'cus_1', charges_monthly = 1234567,
            free_credits = 7, created = '2026-11-22 10:08:25Z', updated = '2026-11-22 10:08:25.5Z'",
    );
    for path in ["/api/get-user", "/api/get-user/stripe-usage"] {
        for client in [&user.browser, &user.program(&server.web)] {
            let seen = client.send("POST", path, None, b"").expect(200).json();
            assert_eq!(seen["id"], json!(user.id));
            assert_eq!(json!([seen["name"], seen["is_subscribed"], seen["stripe_id"]]), json!(["Ann", true, "cus_1"]));
            assert_eq!(json!([seen["charges_monthly"], seen["free_credits"]]), json!([1_234_567, 7]));
            assert_eq!(
                json!([seen["created"], seen["updated"]]),
                json!(["2026-11-22T10:08:25", "2026-11-22T10:08:25.500000"])
            );
            assert_eq!(seen.as_object().unwrap().keys().count(), 13);
        }
        let refused = server.web.anonymous().send("POST", path, None, b"").expect(401);
        assert_eq!(refused.json(), json!({"detail": "Not authenticated"}));
        user.browser.get(path).expect(405);
    }
    let refused = server.web.anonymous().get("/api/current-user").expect(401);
    assert_eq!(refused.json(), json!({"detail": "Not authenticated"}));
    user.browser.send("POST", "/api/current-user", None, b"").expect(405);
}

#[test]
fn anyone_may_read_the_subscription_status() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    db.run("UPDATE users SET is_subscribed = true");
    let known = r#"{"is_subscribed":true,"authenticated":true,"user_email":"ann@x"}"#;
    let unknown = r#"{"is_subscribed":false,"authenticated":false}"#;
    let status = "/api/subscription-status";
    assert_eq!(user.browser.get(status).expect(200).text(), known);
    assert_eq!(user.program(&server.web).get(status).expect(200).text(), known);
    assert_eq!(server.web.anonymous().get(status).expect(200).text(), unknown);
    assert_eq!(server.web.with_cookie("nonsense").get(status).expect(200).text(), unknown);
}

#[test]
fn changing_the_password_ends_the_other_sessions() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let other = server.sign_in("ann@x", PASSWORD);
    let change = |old: &str, new: &str| {
        user.browser.post("/api/change-password", &json!({"current_password": old, "new_password": new}))
    };
    assert_eq!(change("wrong one", "a new password").expect(400).json(), json!({"detail": "Invalid credentials"}));
    change(PASSWORD, "1234567").expect(400);
    change(PASSWORD, &"a".repeat(1025)).expect(400);
    for missing in [json!({}), json!({"new_password": "a new password"}), json!({"current_password": PASSWORD})] {
        user.browser.post("/api/change-password", &missing).expect(422);
    }
    other.get("/api/current-user").expect(200);
    assert_eq!(db.count("SELECT count(*) FROM sessions"), 2);

    let reply = change(PASSWORD, "a new password").expect(200);
    assert_eq!(reply.json()["sessions_ended"], 1);
    // The session goes on with another token: whoever has the old one is signed out too.
    let renewed = server.web.with_cookie(&reply.session_token());
    renewed.get("/api/current-user").expect(200);
    user.browser.get("/api/current-user").expect(401);
    other.get("/api/current-user").expect(401);
    // Secrets are not sessions, and still work.
    user.program(&server.inference).get("/api/current-user").expect(200);
    let web = server.web.anonymous();
    web.post("/api/login", &json!({"email": "ann@x", "password": PASSWORD})).expect(400);
    server.sign_in("ann@x", "a new password");
    web.post("/api/change-password", &json!({"current_password": "a", "new_password": "b"})).expect(401);
}

#[test]
fn passwords_that_anybody_would_guess_are_refused() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann.lee@example.com");
    for password in ["12345678", "Password1", "ann.lee@example.com"] {
        let body = json!({"email": "ann.lee@example.com", "password": password});
        let refused = server.web.anonymous().post("/api/signup", &body).expect(400).json();
        assert!(refused["detail"].as_str().unwrap().contains("too easy to guess"), "{refused}");
        let body = json!({"current_password": PASSWORD, "new_password": password});
        user.browser.post("/api/change-password", &body).expect(400);
        let created = crate::harness::run(
            &["user", "create", "bob@example.com", "--password-stdin"],
            &[("DATABASE_URL", &db.url())],
            password.replace("ann.lee", "bob").as_str(),
        );
        assert!(created.code != 0, "{password}");
    }
}

#[test]
fn every_cookie_of_the_session_is_looked_at() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("PUBLIC_URL", "https://text.example")]);
    let user = server.sign_up("ann@x");
    let ask = |cookies: &str| server.web.anonymous().header("cookie", cookies).get("/api/current-user").status;
    assert_eq!(ask(&format!("session_secret=garbage; session_secret={}", user.token)), 200);
    assert_eq!(ask(&format!("__Host-session_secret={}; session_secret=another", user.token)), 200);
    let garbage = "session_secret=garbage; ".repeat(4);
    assert_eq!(ask(&format!("{garbage}session_secret={}", user.token)), 401);
    let login = json!({"email": "ann@x", "password": PASSWORD});
    let reply = server.web.anonymous().post("/api/login", &login).expect(200);
    let set: Vec<_> = reply.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).collect();
    assert_eq!(set.len(), 4, "and those of the device");
    assert!(set[1].1.starts_with("__Host-session_secret=") && set[1].1.contains("; Secure"), "{}", set[1].1);
    // Both are the same session, which one log-out ends.
    let both = format!("__Host-session_secret={0}; session_secret={0}", reply.session_token());
    server.web.anonymous().header("cookie", &both).post("/api/logout", &json!({})).expect(200);
    assert_eq!(ask(&both), 401);
}

#[test]
fn a_password_can_be_changed_by_form_and_with_a_secret() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    user.browser
        .form_for_json("/api/change-password", &[("current_password", PASSWORD), ("new_password", "a new password")])
        .expect(200);
    // A program has no session to keep.
    let body = json!({"current_password": "a new password", "new_password": "yet another one"});
    let reply = user.program(&server.web).post("/api/change-password", &body).expect(200).json();
    assert_eq!(reply["sessions_ended"], 1);
    user.browser.get("/api/current-user").expect(401);
    server.sign_in("ann@x", "yet another one");
}

#[test]
fn deleting_an_account_deletes_all_its_data() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let bystander = server.sign_up("bob@x");
    let other = server.sign_in("ann@x", PASSWORD);
    for owner in [&user, &bystander] {
        owner.browser.post("/api/docs/save", &json!({"title": "t"})).expect(200);
        owner.browser.post("/api/keys", &json!({"name": "n"})).expect(200);
    }
    user.program(&server.audio).get("/api/current-user").expect(200);

    let reply = user.browser.send("POST", "/api/delete-account", None, b"").expect(200);
    assert_eq!(reply.json(), json!({"message": "Account deleted successfully"}));
    assert!(reply.header("set-cookie").unwrap().contains("Max-Age=0"));
    for client in [&user.browser, &other, &user.program(&server.web), &user.program(&server.audio)] {
        client.get("/api/current-user").expect(401);
    }
    assert_eq!(user.browser.get("/api/docs/list").expect(401).json(), json!({"error": "Authentication required"}));
    for table in ["users", "documents", "sessions"] {
        assert_eq!(db.count(&format!("SELECT count(*) FROM {table}")), 1, "{table}");
    }
    assert_eq!(db.count("SELECT count(*) FROM api_keys"), 2);
    bystander.browser.get("/api/current-user").expect(200);
    server.web.anonymous().post("/api/login", &json!({"email": "ann@x", "password": PASSWORD})).expect(400);
    // The e-mail address is free again.
    assert_ne!(server.sign_up("ann@x").id, user.id);
    server.web.anonymous().send("POST", "/api/delete-account", None, b"").expect(401);
}

#[test]
fn deleting_from_an_older_session_requires_the_password() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    // Before the first use, as a cached session keeps its age.
    db.run("UPDATE sessions SET created = now() - interval '16 minutes'");
    let delete = |body| user.browser.post("/api/delete-account", &body);
    delete(json!({})).expect(403);
    delete(json!({"password": null})).expect(403);
    user.browser.send("POST", "/api/delete-account", None, b"").expect(403);
    assert_eq!(delete(json!({"password": "wrong one"})).expect(400).json(), json!({"detail": "Invalid credentials"}));
    delete(json!({"password": 1})).expect(422);
    user.browser.form_for_json("/api/delete-account", &[("password", "")]).expect(400);
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
    user.browser.form_for_json("/api/delete-account", &[("password", PASSWORD)]).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
}

#[test]
fn a_secret_alone_cannot_delete_an_account() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let program = user.program(&server.web);
    program.post("/api/delete-account", &json!({})).expect(403);
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
    program.post("/api/delete-account", &json!({"password": PASSWORD})).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
}
