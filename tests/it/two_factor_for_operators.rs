//! Two-factor authentication, as operators demand it and turn it off.

use serde_json::json;

use crate::harness::{Authenticator, Client, Server, TestDb, User, done, refused, run};
use crate::two_factor::{log_in, with_app};

fn user(db: &TestDb, command: &str, email: &str) -> crate::harness::Outcome {
    run(&["user", command, email], &[("DATABASE_URL", &db.url())], "")
}

fn promoted(db: &TestDb, server: &Server, email: &str) -> User {
    let root = server.sign_up(email);
    done(user(db, "promote", email));
    root
}

fn open(client: &Client, path: &str) -> crate::harness::Reply {
    client.header("accept", "text/html").get(path)
}

#[test]
fn an_operator_turns_it_off_for_whoever_has_lost_everything() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let root = promoted(&db, &server, "root@x");
    server.wait_until("the promotion to be seen", || open(&root.browser, "/admin").status == 200);
    let web = server.web.anonymous();

    let (ann, _, _) = with_app(&server, "ann@x");
    let path = format!("/admin/users/{}", ann.id);
    assert!(open(&root.browser, &path).expect(200).text().contains("Turn off two-factor authentication"));
    let reply = root.browser.form(&format!("{path}/two-factor"), &[("reason", "lost her phone")]).expect(303);
    let page = open(&root.browser, reply.header("location").unwrap()).expect(200).text();
    assert!(page.contains("lost her phone") && page.contains("turn off two-factor"), "{page}");
    log_in(&web, "ann@x", None).expect(200);
    ann.browser.get("/api/current-user").expect(200);

    let (bob, _, _) = with_app(&server, "bob@x");
    let update = |two_factor: bool| {
        root.browser.post("/api/admin/users/update", &json!({"user": "bob@x", "two_factor": two_factor, "reason": "R"}))
    };
    let listed = root.browser.get("/api/admin/users?user=bob@x").expect(200).json();
    assert_eq!(listed["users"][0]["two_factor"], true);
    update(true).expect(400);
    log_in(&web, "bob@x", None).expect(401);
    assert_eq!(update(false).expect(200).json()["two_factor"], false);
    update(false).expect(200);
    log_in(&web, "bob@x", None).expect(200);
    bob.browser.post("/api/admin/users/update", &json!({"user": "ann@x", "two_factor": false})).expect(403);

    with_app(&server, "cid@x");
    assert!(done(user(&db, "disable-totp", "cid@x")).contains("two-factor authentication is off for"));
    refused(user(&db, "disable-totp", "cid@x"), "does not use two-factor authentication");
    log_in(&web, "cid@x", None).expect(200);
    // One row for each that was turned off.
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'turn off two-factor'"), 3);
    assert_eq!(
        db.count(
            "SELECT count(*) FROM audit WHERE action = 'turn off two-factor' AND detail IN ('lost her phone', 'R')"
        ),
        2
    );
    assert_eq!(db.count("SELECT (SELECT count(*) FROM second_factors) + (SELECT count(*) FROM recovery_codes)"), 0);
}

#[test]
fn administrators_without_it_can_only_set_it_up_where_that_is_demanded() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("ADMIN_2FA", "true")]);
    let root = promoted(&db, &server, "root@x");
    let demanded = "Administrators must use two-factor authentication here";
    server.wait_until("the promotion to be seen", || open(&root.browser, "/admin").text().contains(demanded));
    let key = json!({"name": "ops", "permissions": ["admin"]});
    let key = root.browser.post("/api/keys", &key).expect(200).json();
    let program = server.web.with_secret(key["secret"].as_str().unwrap());
    let page = open(&root.browser, "/admin/users").expect(403).text();
    assert!(page.contains(r#"href="/account/two-factor""#), "{page}");
    for client in [&root.browser, &program] {
        let refused = client.get("/api/admin/users").expect(403).json();
        assert_eq!(refused["code"], "two_factor_required");
        assert!(refused["detail"].as_str().unwrap().starts_with(demanded), "{refused}");
    }
    // All else works, and others are not asked.
    open(&root.browser, "/documents").expect(200);
    assert!(open(&root.browser, "/account/two-factor").expect(200).text().contains(demanded));
    let other = server.sign_up("ann@x");
    assert!(!open(&other.browser, "/account/two-factor").expect(200).text().contains(demanded));
    assert_eq!(other.browser.get("/api/admin/users").expect(403).json()["code"], json!(null));

    let (app, _) = Authenticator::set_up(&root.browser);
    server.wait_until("it to be seen", || open(&root.browser, "/admin").status == 200);
    program.get("/api/admin/users").expect(200);
    // Turned off again, also by hand in the database, it is missed at once.
    root.browser.post("/api/totp/disable", &json!({"totp": app.code(1)})).expect(200);
    program.get("/api/admin/users").expect(403);
    Authenticator::set_up(&root.browser);
    server.wait_until("it to be seen", || program.get("/api/admin/users").status == 200);
    db.run("DELETE FROM second_factors");
    server.wait_until("it to be missed", || program.get("/api/admin/users").status == 403);
}

#[test]
fn a_new_password_by_a_link_does_not_skip_it() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (_, app, _) = with_app(&server, "ann@x");
    let link = done(user(&db, "link", "ann@x"));
    let token = link.split("token=").nth(1).unwrap().split_whitespace().next().unwrap();
    let web = server.web.anonymous();
    let reset = json!({"token": token, "password": "another good password"});
    let reply = web.post("/api/reset-password", &reset).expect(200);
    assert_eq!(reply.header("set-cookie"), None);
    let mut body = json!({"email": "ann@x", "password": "another good password"});
    assert_eq!(web.post("/api/login", &body).expect(401).json()["code"], "totp_required");
    body["totp"] = json!(app.code(1));
    web.post("/api/login", &body).expect(200);
}
