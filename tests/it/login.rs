//! Signing in and out.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{PASSWORD, Server, TestDb};

#[test]
fn scripts_get_json_and_forms_are_redirected() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let web = server.web.anonymous();
    let (right, wrong) = ([("email", "ann@x"), ("password", PASSWORD)], [("email", "ann@x"), ("password", "wrong")]);

    let reply = web.form_for_json("/api/login", &right).expect(200);
    assert_eq!(reply.json()["id"], json!(user.id));
    assert_eq!(reply.json()["secret"], json!(format!("{}…", &user.secret[..8])));
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000"), "{cookie}");
    let reply = web.form_for_json("/api/login", &wrong).expect(400);
    assert_eq!(reply.json(), json!({"detail": "Invalid credentials"}));
    assert_eq!(reply.header("set-cookie"), None);

    let reply = web.form("/api/login", &right).expect(303);
    assert_eq!(reply.header("location"), Some("/playground"));
    server.web.with_cookie(&reply.session_token()).get("/api/current-user").expect(200);
    let reply = web.form("/api/login", &wrong).expect(303);
    assert_eq!(reply.header("location"), Some("/login?error=Invalid%20credentials"));
    // What was typed stays, but for the password.
    let cookie = reply.header("set-cookie").unwrap();
    assert!(
        cookie.starts_with("entered_email=ann%40x; HttpOnly; ") && cookie.contains("Path=/login; Max-Age=60"),
        "{cookie}"
    );
    assert!(web.follow(&reply).expect(200).text().contains(r#"value="ann@x""#));

    // Every login creates a session.
    assert_eq!(db.count("SELECT count(DISTINCT digest) FROM sessions"), 3);
}

#[test]
fn login_redirects_only_to_this_site() {
    let db = TestDb::new();
    let server = Server::start(&db);
    server.sign_up("ann@x");
    let web = server.web.anonymous();
    let location = |next: &str, password: &str| {
        let fields = [("email", "ann@x"), ("password", password), ("next", next)];
        web.form("/api/login", &fields).expect(303).header("location").unwrap().to_owned()
    };
    for good in ["/account", "/account?tab=keys&a=%2F%2Fevil", "/"] {
        assert_eq!(location(good, PASSWORD), good);
    }
    let evil = [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "evil",
        " /account",
        "/a\r\nSet-Cookie: a=b",
        "/\t/evil.example",
        "///evil.example",
        "/é",
        "",
    ];
    for bad in evil {
        assert_eq!(location(bad, PASSWORD), "/playground", "{bad:?}");
    }
    // After a wrong password `next` is kept if it is valid, and dropped otherwise.
    assert_eq!(location("/account", "wrong"), "/login?error=Invalid%20credentials&next=%2Faccount");
    assert_eq!(location("//evil.example", "wrong"), "/login?error=Invalid%20credentials");
    // The page does not pass on an invalid one either.
    let page = web.get("/login?next=//evil.example").expect(200).text();
    assert!(!page.contains("evil.example"), "{page}");
    assert!(web.get("/login?next=/account").expect(200).text().contains(r#"value="/account""#));
}

#[test]
fn an_unknown_address_creates_nothing() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let reply = web.post("/api/login", &json!({"email": "new@x", "password": PASSWORD})).expect(400);
    assert_eq!(reply.json(), json!({"detail": "Invalid credentials"}));
    assert_eq!(reply.header("set-cookie"), None);
    let reply = web.form("/api/login", &[("email", "new@x"), ("password", PASSWORD)]).expect(303);
    assert_eq!(reply.header("location"), Some("/login?error=Invalid%20credentials"));
    assert_eq!(db.count("SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM sessions)"), 0);
}

/// One hash is computed in either case. It takes by far the longest part of a login: without it the fastest of many
/// attempts would take a small fraction of the time. A busy machine only makes some attempts slower.
#[test]
fn an_unknown_address_takes_as_long_as_a_wrong_password() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("TRUSTED_PROXIES", "127.0.0.1")]);
    server.sign_up("ann@x");
    db.run("INSERT INTO users (id, email) VALUES ('firebase-uid', 'old@x')");
    let mut times: [Vec<Duration>; 3] = Default::default();
    for n in 0..15 {
        for (kind, email) in ["ann@x".to_owned(), format!("nobody{n}@x"), "old@x".to_owned()].iter().enumerate() {
            // From different addresses, so that the attempts are checked and not throttled.
            let web = server.web.anonymous().header("X-Forwarded-For", &format!("10.0.{kind}.{n}"));
            let began = Instant::now();
            web.post("/api/login", &json!({"email": email, "password": "a wrong one"})).expect(400);
            times[kind].push(began.elapsed());
        }
    }
    let [known, unknown, without] = times.map(|kind| kind.into_iter().min().unwrap());
    for other in [unknown, without] {
        assert!(other > known / 3 && other < known * 3, "{known:?} and {other:?}");
    }
}

/// A check against a hash of the older system takes about ten times as long as others. Nobody can tell by that which
/// accounts have one.
#[test]
fn a_wrong_password_takes_as_long_whatever_hash_the_account_has() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("TRUSTED_PROXIES", "127.0.0.1")]);
    server.sign_up("ann@x");
    let hash = bcrypt::hash("password1", 12).unwrap();
    db.connect().execute("INSERT INTO users (id, email, password_hash) VALUES ('old', 'old@x', $1)", &[&hash]).unwrap();
    let mut times: [Vec<Duration>; 3] = Default::default();
    for n in 0..6 {
        for (kind, email) in ["old@x".to_owned(), "ann@x".to_owned(), format!("nobody{n}@x")].iter().enumerate() {
            // From different addresses, so that the attempts are checked and not throttled.
            let web = server.web.anonymous().header("X-Forwarded-For", &format!("10.0.{kind}.{n}"));
            let began = Instant::now();
            web.post("/api/login", &json!({"email": email, "password": "a wrong one"})).expect(400);
            times[kind].push(began.elapsed());
        }
    }
    // The first ones are not counted: they find out how long it takes.
    let [old, known, unknown] = times.map(|kind| kind.into_iter().skip(1).min().unwrap());
    for other in [known, unknown] {
        assert!(other > old / 2 && other < old * 2, "{old:?} and {other:?}");
    }
}

#[test]
fn logging_out_ends_the_session_on_the_server() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let other = server.sign_in("ann@x", PASSWORD);
    user.browser.get("/api/current-user").expect(200);
    let reply = user.browser.post("/api/logout", &json!({})).expect(200);
    assert_eq!(reply.json(), json!({"message": "Logged out successfully"}));
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.starts_with("session_secret=; ") && cookie.contains("Max-Age=0"), "{cookie}");
    assert!(cookie.contains("Path=/") && cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    user.browser.get("/api/current-user").expect(401);
    // The user's other session and secret still work.
    other.get("/api/current-user").expect(200);
    user.program(&server.web).get("/api/current-user").expect(200);
    // Logging out twice, without a session or with an invalid one is no error.
    user.browser.post("/api/logout", &json!({})).expect(200);
    server.web.anonymous().send("POST", "/api/logout", None, b"").expect(200);
    server.web.with_cookie("nonsense").send("POST", "/api/logout", None, b"").expect(200);
    // A form is led on.
    let reply = other.form("/api/logout", &[]).expect(303);
    assert_eq!(reply.header("location"), Some("/"));
    other.get("/api/current-user").expect(401);
}

#[test]
fn the_log_out_link_logs_out() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    user.browser.get("/account").expect(200);
    user.browser.send("HEAD", "/logout", None, b"").expect(303);
    user.browser.get("/api/current-user").expect(200);
    let reply = user.browser.get("/logout").expect(303);
    assert_eq!(reply.header("location"), Some("/"));
    assert!(reply.header("set-cookie").unwrap().contains("Max-Age=0"));
    user.browser.get("/api/current-user").expect(401);
    assert_eq!(user.browser.get("/account").expect(303).header("location"), Some("/login?next=/account"));
    assert_eq!(db.count("SELECT count(*) FROM sessions"), 0);
    server.web.anonymous().get("/logout").expect(303);
}

#[test]
fn a_hash_of_the_older_system_becomes_argon2id() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("PASSWORD_PEPPER", "salt of the earth"), ("BCRYPT_PEPPER", "older")]);
    // bcrypt of "password1older", cost 4.
    let kept = bcrypt::hash("password1older", 4).unwrap();
    db.connect().execute("INSERT INTO users (id, email, password_hash) VALUES ('old', 'old@x', $1)", &[&kept]).unwrap();
    let web = server.web.anonymous();
    web.post("/api/login", &json!({"email": "old@x", "password": "password2"})).expect(400);
    server.sign_in("old@x", "password1").get("/api/current-user").expect(200);
    assert_eq!(db.count("SELECT count(*) FROM users WHERE password_hash LIKE '$argon2id$v=19$m=19456,t=2,p=1$%'"), 1);
    server.sign_in("old@x", "password1");
    web.post("/api/login", &json!({"email": "old@x", "password": "password2"})).expect(400);
}

#[test]
fn the_pepper_is_part_of_every_password() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("PASSWORD_PEPPER", "one")]);
    server.sign_up("ann@x");
    assert_eq!(server.stop(), 0);
    let server = Server::start_with(&db, &[("PASSWORD_PEPPER", "another")]);
    let body = json!({"email": "ann@x", "password": PASSWORD});
    server.web.anonymous().post("/api/login", &body).expect(400);
    drop(server);
    let server = Server::start_with(&db, &[("PASSWORD_PEPPER", "one")]);
    server.web.anonymous().post("/api/login", &body).expect(200);
}
