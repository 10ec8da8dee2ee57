//! Two-factor authentication, as the owner of an account meets it.

use serde_json::{Value, json};

use crate::harness::{Authenticator, Client, PASSWORD, Reply, Server, TestDb, User};

/// Codes that may be guessed for one account in a burst, from addresses that its owner does not use.
const BURST: usize = 10;

fn required() -> Value {
    json!({"detail": "Code required", "code": "totp_required"})
}

fn wrong() -> Value {
    json!({"detail": "The code is incorrect or was used already", "code": "totp_invalid"})
}

/// Logs in as a script does.
pub fn log_in(web: &Client, email: &str, code: Option<&str>) -> Reply {
    let mut body = json!({"email": email, "password": PASSWORD});
    if let Some(code) = code {
        body["totp"] = json!(code);
    }
    web.post("/api/login", &body)
}

/// A user with an authenticator app.
pub fn with_app(server: &Server, email: &str) -> (User, Authenticator, Vec<String>) {
    let user = server.sign_up(email);
    let (app, codes) = Authenticator::set_up(&user.browser);
    (user, app, codes)
}

#[test]
fn a_log_in_takes_a_code_which_works_once() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (user, app, recovery) = with_app(&server, "ann@x");
    let web = server.web.anonymous();
    let reply = log_in(&web, "ann@x", None).expect(401);
    assert_eq!((reply.json(), reply.header("set-cookie")), (required(), None));
    for blank in ["", "  "] {
        assert_eq!(log_in(&web, "ann@x", Some(blank)).expect(401).json(), required());
    }
    let wrong_code = app.wrong_code();
    for bad in [wrong_code.as_str(), "12345", "not a code", "0000-0000-0000-0000", &"0".repeat(5000)] {
        assert_eq!(log_in(&web.header("cookie", "a=b"), "ann@x", Some(bad)).expect(401).json(), wrong(), "{bad}");
        db.run("DELETE FROM known_networks");
    }
    assert_eq!(db.count("SELECT count(*) FROM sessions"), 1);
    // The code that turned it on was used; so is this one after the log-in, and all before it.
    let next = app.code(1);
    let server = restarted(server, &db);
    let web = server.web.anonymous();
    let reply = log_in(&web, "ann@x", Some(&format!(" {} {} ", &next[..3], &next[3..]))).expect(200);
    server.web.with_cookie(&reply.session_token()).get("/api/current-user").expect(200);
    for used in [&next, &app.code(0)] {
        assert_eq!(log_in(&web, "ann@x", Some(used)).expect(401).json(), wrong());
    }
    // Each recovery code works once, however it is typed.
    log_in(&web, "ann@x", Some(&recovery[0])).expect(200);
    assert_eq!(log_in(&web, "ann@x", Some(&recovery[0])).expect(401).json(), wrong());
    log_in(&web, "ann@x", Some(&recovery[1].to_uppercase().replace('-', " "))).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM recovery_codes WHERE used IS NULL"), 8);
    // A wrong password is told as ever, whatever the code.
    let body = json!({"email": "ann@x", "password": "a wrong one", "totp": recovery[2]});
    assert_eq!(web.post("/api/login", &body).expect(400).json(), json!({"detail": "Invalid credentials"}));
    // Signing up with a known address is a log-in.
    let body = json!({"email": "ann@x", "password": PASSWORD});
    assert_eq!(web.post("/api/signup", &body).expect(401).json(), required());
    // Keys do not need it, and other accounts neither.
    user.program(&server.inference).get("/api/current-user").expect(200);
    server.sign_up("bob@x");
    log_in(&web, "bob@x", Some("123456")).expect(200);
}

/// A new process has no counters of wrong guesses.
fn restarted(server: Server, db: &TestDb) -> Server {
    assert_eq!(server.stop(), 0);
    Server::start(db)
}

#[test]
fn turning_it_on_ends_the_other_sessions_and_shows_ten_codes() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let other = server.sign_in("ann@x", PASSWORD);
    let post = |path: &str, body: Value| user.browser.post(path, &body);
    let confirm = |code: &str| post("/api/totp/confirm", json!({"totp": code}));
    confirm("123456").expect(409);
    for path in ["/api/totp/disable", "/api/totp/recovery-codes"] {
        assert_eq!(
            post(path, json!({"totp": "123456"})).expect(409).json()["detail"],
            "Two-factor authentication is off"
        );
    }
    post("/api/totp/enable", json!({"password": "a wrong one"})).expect(400);
    let first = post("/api/totp/enable", json!({})).expect(200).json();
    let begun = post("/api/totp/enable", json!({"password": PASSWORD})).expect(200).json();
    assert_ne!(first["secret"], begun["secret"]);
    let uri = begun["uri"].as_str().unwrap();
    assert!(uri.starts_with("otpauth://totp/textgen:ann%40x?secret=") && uri.contains("&digits=6&period=30"), "{uri}");
    assert!(begun["qr"].as_str().unwrap().starts_with("<svg "));
    // Nothing asks for it before it is confirmed, and only a code of the last one does that.
    log_in(&server.web.anonymous(), "ann@x", None).expect(200);
    let app = Authenticator::new(begun["secret"].as_str().unwrap());
    confirm(&Authenticator::new(first["secret"].as_str().unwrap()).code(0)).expect(401);
    assert_eq!(confirm(&app.wrong_code()).expect(401).json(), wrong());
    let done = confirm(&app.code(0)).expect(200).json();
    assert_eq!(done["recovery_codes"].as_array().unwrap().len(), 10);
    other.get("/api/current-user").expect(401);
    user.browser.get("/api/current-user").expect(200);
    confirm(&app.code(1)).expect(409);
    post("/api/totp/enable", json!({})).expect(409);
    // What is stored shows neither the seed nor the codes.
    let mut client = db.connect();
    let sealed: Vec<u8> = client.query_one("SELECT secret FROM second_factors", &[]).unwrap().get(0);
    assert!(!sealed.windows(8).any(|part| app.seed().windows(8).any(|seed| seed == part)));
    assert_eq!(db.count("SELECT count(*) FROM recovery_codes WHERE length(digest) = 32 AND used IS NULL"), 10);
    // An older session needs the password to begin, and a key always does.
    let bob = server.sign_up("bob@x");
    bob.program(&server.web).post("/api/totp/enable", &json!({})).expect(403);
    db.run("UPDATE sessions SET created = now() - interval '16 minutes' WHERE user_id = (SELECT id FROM users WHERE email = 'bob@x')");
    bob.browser.post("/api/totp/enable", &json!({})).expect(403);
    bob.program(&server.web).post("/api/totp/enable", &json!({"password": PASSWORD})).expect(200);
}

#[test]
fn it_takes_a_code_to_turn_it_off_and_to_delete_the_account() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (ann, app, recovery) = with_app(&server, "ann@x");
    let (bob, _, codes) = with_app(&server, "bob@x");
    let disable = |totp: &str| ann.browser.post("/api/totp/disable", &json!({"totp": totp}));
    ann.browser.post("/api/totp/disable", &json!({})).expect(422);
    assert_eq!(disable("").expect(401).json(), required());
    assert_eq!(disable(&app.wrong_code()).expect(401).json(), wrong());
    // New recovery codes take the place of the old ones.
    let renewed = ann.browser.post("/api/totp/recovery-codes", &json!({"totp": recovery[0]})).expect(200).json();
    assert_eq!(disable(&recovery[1]).expect(401).json(), wrong());
    assert_eq!(db.count("SELECT count(*) FROM recovery_codes"), 20);
    disable(renewed["recovery_codes"][3].as_str().unwrap()).expect(200);
    log_in(&server.web.anonymous(), "ann@x", None).expect(200);
    assert_eq!(db.count("SELECT (SELECT count(*) FROM second_factors) + (SELECT count(*) FROM recovery_codes)"), 11);
    // It can be turned on again.
    Authenticator::set_up(&ann.browser);

    let delete = |body: Value| bob.browser.post("/api/delete-account", &body);
    assert_eq!(delete(json!({})).expect(401).json(), required(), "also right after the log-in");
    assert_eq!(delete(json!({"password": PASSWORD})).expect(401).json(), required());
    assert_eq!(delete(json!({"password": PASSWORD, "totp": recovery[2]})).expect(401).json(), wrong());
    delete(json!({"password": "a wrong one", "totp": codes[0]})).expect(400);
    assert_eq!(db.count("SELECT count(*) FROM users"), 2);
    assert_eq!(db.count("SELECT count(*) FROM recovery_codes WHERE used IS NOT NULL"), 0, "nothing was used up");
    delete(json!({"password": PASSWORD, "totp": codes[0]})).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
    assert_eq!(db.count("SELECT count(*) FROM second_factors"), 1);
}

#[test]
fn a_form_asks_for_the_code_on_a_second_page() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("PUBLIC_URL", "https://text.example")]);
    let (_, app, recovery) = with_app(&server, "ann@x");
    let web = server.web.anonymous();
    let fields = [("email", "ann@x"), ("password", PASSWORD), ("next", "/usage?a=b")];
    for path in ["/api/login", "/api/signup"] {
        let half = web.form(path, &fields).expect(303);
        assert_eq!(half.header("location"), Some("/login/code?next=%2Fusage%3Fa%3Db"));
        let cookie = half.header("set-cookie").unwrap();
        assert!(
            cookie.starts_with("half_log_in=") && cookie.contains("HttpOnly") && cookie.contains("Secure"),
            "{cookie}"
        );
        assert!(
            cookie.contains("Max-Age=600") && cookie.contains("Path=/login;") && cookie.contains("SameSite=Lax"),
            "{cookie}"
        );
    }
    let half = web.form("/api/login", &fields).expect(303);
    let cookie = half.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let (_, value) = cookie.split_once('=').unwrap();
    // It is no session, under whatever name.
    for cookies in [cookie.clone(), format!("session_secret={value}"), format!("__Host-session_secret={value}")] {
        web.header("cookie", &cookies).get("/api/current-user").expect(401);
    }
    let half_way = web.header("cookie", &cookie);
    let page = half_way.get("/login/code?next=/usage").expect(200).text();
    assert!(
        page.contains(r#"autocomplete="one-time-code""#) && page.contains(r#"name="next" value="/usage""#),
        "{page}"
    );
    let page = half_way.form("/login/code", &[("totp", &app.wrong_code()), ("next", "/usage")]).expect(401).text();
    assert!(page.contains("The code is incorrect or was used already") && page.contains("aria-invalid"), "{page}");
    assert!(page.contains(r#"name="next" value="/usage""#), "{page}");
    let done = half_way.form("/login/code", &[("totp", &app.code(1)), ("next", "/usage")]).expect(303);
    assert_eq!(done.header("location"), Some("/usage"));
    server.web.with_cookie(&done.session_token()).get("/api/current-user").expect(200);
    let cleared =
        done.headers.iter().any(|(_, value)| value.starts_with("half_log_in=;") && value.contains("Max-Age=0"));
    assert!(cleared, "{:?}", done.headers);
    // The code does not work twice, nor for another site's page, nor does a forged cookie lead anywhere.
    half_way.form("/login/code", &[("totp", &app.code(1))]).expect(401);
    half_way.header("sec-fetch-site", "cross-site").form("/login/code", &[("totp", &recovery[0])]).expect(403);
    let expired = "/login?error=Your%20log%2Din%20took%20too%20long%2E%20Please%20log%20in%20again";
    let mut forged = cookie.clone().into_bytes();
    *forged.last_mut().unwrap() ^= 1;
    for bad in [String::from_utf8(forged).unwrap(), "half_log_in=1.2.3".to_owned(), "half_log_in=".to_owned()] {
        let reply = web.header("cookie", &bad).form("/login/code", &[("totp", &recovery[0])]).expect(303);
        assert_eq!(reply.header("location"), Some(expired));
        assert_eq!(web.header("cookie", &bad).get("/login/code").expect(303).header("location"), Some("/login"));
    }
    assert!(web.get(expired).expect(200).text().contains("Your log-in took too long"));
    // It ends with the password that was entered.
    db.run("UPDATE users SET password_hash = '$2b$04$another'");
    assert_eq!(half_way.get("/login/code").expect(303).header("location"), Some("/login"));
    half_way.form("/login/code", &[("totp", &recovery[0])]).expect(303);
    assert_eq!(db.count("SELECT count(*) FROM recovery_codes WHERE used IS NOT NULL"), 0);
}

#[test]
fn the_page_sets_it_up_and_turns_it_off() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let page = |path: &str| user.browser.header("accept", "text/html").get(path).expect(200).text();
    let send = |form: &str, fields: &[(&str, &str)]| user.browser.form(&format!("/account/two-factor/{form}"), fields);
    assert!(page("/account").contains(r#"href="/account/two-factor">Set up"#));
    let refused = send("begin", &[("password", "a wrong one")]).expect(400).text();
    assert!(refused.contains("The password is incorrect") && refused.contains(r#"aria-invalid="true""#), "{refused}");
    let begun = send("begin", &[("password", PASSWORD)]).expect(303);
    assert_eq!(begun.header("location"), Some("/account/two-factor"));
    let shown = page("/account/two-factor");
    assert!(shown.contains("<svg class=\"qr\"") && shown.contains("otpauth://totp/textgen:ann%40x?secret="), "{shown}");
    let secret = shown.split(r#"id="totp-secret">"#).nth(1).unwrap().split('<').next().unwrap();
    let app = Authenticator::new(secret);
    assert!(page("/account").contains("Continue setup"));
    let refused = send("confirm", &[("totp", &app.wrong_code())]).expect(401).text();
    assert!(refused.contains("The code is incorrect") && refused.contains("<svg"), "{refused}");
    let done = send("confirm", &[("totp", &app.code(0))]).expect(200).text();
    let codes = done.split(r#"id="recovery-codes">"#).nth(1).unwrap().split("</code>").next().unwrap();
    let codes: Vec<&str> = codes.split_whitespace().collect();
    assert_eq!(codes.len(), 10, "{done}");
    assert!(done.contains(r#"download="textgen-recovery-codes.txt""#));
    let shown = page("/account/two-factor");
    assert!(shown.contains("10 of 10 recovery codes are left") && !shown.contains(codes[0]) && !shown.contains("<svg"));
    assert!(page("/account").contains("10 of 10 recovery codes are left"));
    let renewed = send("codes", &[("totp", codes[0])]).expect(200).text();
    assert!(renewed.contains(r#"id="recovery-codes""#) && !renewed.contains(codes[1]), "{renewed}");
    assert!(send("disable", &[("totp", codes[1])]).expect(401).text().contains("The code is incorrect"));

    // Deleting the account asks for a code too, beside its field.
    let delete = |fields: &[(&str, &str)]| user.browser.form("/account/delete", fields);
    let refused = delete(&[("password", PASSWORD), ("totp", codes[1])]).expect(400).text();
    assert!(refused.contains("The code is incorrect or was used already. Nothing was deleted."), "{refused}");
    let off = send("disable", &[("totp", &app.code(1))]).expect(303);
    assert_eq!(off.header("location"), Some("/account/two-factor?done=off"));
    assert!(page("/account/two-factor?done=off").contains("Two-factor authentication is off."));
    delete(&[("password", PASSWORD)]).expect(303);
}

/// With the password, three of a million codes are right at any time.
#[test]
fn guesses_of_codes_are_throttled_for_the_account_but_not_where_the_owner_logs_in() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("TRUSTED_PROXIES", "127.0.0.1")]);
    let (_, app, recovery) = with_app(&server, "ann@x");
    let from = |address: &str| server.web.anonymous().header("X-Forwarded-For", address);
    for n in 0..BURST {
        log_in(&from(&format!("6.6.{n}.6")), "ann@x", Some(&app.wrong_code())).expect(401);
    }
    let refused = log_in(&from("6.6.66.6"), "ann@x", Some(&app.code(1))).expect(429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((60..=600).contains(&wait), "{wait}");
    // The form too, and who is signed in.
    let client = from("6.6.67.6");
    let half = client.form("/api/login", &[("email", "ann@x"), ("password", PASSWORD)]).expect(303);
    let cookie = half.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let page = client.header("cookie", &cookie).form("/login/code", &[("totp", &recovery[0])]).expect(429);
    assert!(page.header("retry-after").is_some() && page.text().contains("Too many attempts"), "{}", page.text());
    // The address at which the account was made is its owner's.
    log_in(&from("127.0.0.1"), "ann@x", Some(&recovery[0])).expect(200);
    // Who does not know the password learns nothing of all this.
    let body = json!({"email": "ann@x", "password": "a wrong one", "totp": "123456"});
    from("6.6.68.6").post("/api/login", &body).expect(400);
}

#[test]
fn the_seed_is_sealed_with_the_key_of_the_settings() {
    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const OTHER: &str = "MTEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let db = TestDb::new();
    let server = Server::start(&db);
    let (_, old, _) = with_app(&server, "old@x");
    assert_eq!(server.stop(), 0);
    let server = Server::start_with(&db, &[("ENCRYPTION_KEY", KEY)]);
    let (_, app, recovery) = with_app(&server, "ann@x");
    // What was sealed before there was a key is still opened.
    log_in(&server.web.anonymous(), "old@x", Some(&old.code(1))).expect(200);
    db.run("UPDATE second_factors SET counter = 0");
    assert_eq!(server.stop(), 0);
    for settings in [vec![], vec![("ENCRYPTION_KEY", OTHER)]] {
        let server = Server::start_with(&db, &settings);
        log_in(&server.web.anonymous(), "ann@x", Some(&app.code(0))).expect(500);
        server.wait_until("the reason", || server.log().contains("ENCRYPTION_KEY"));
        log_in(&server.web.anonymous(), "ann@x", Some(&recovery[settings.len()])).expect(200);
        assert_eq!(server.stop(), 0);
    }
    let server = Server::start_with(&db, &[("ENCRYPTION_KEY", KEY)]);
    log_in(&server.web.anonymous(), "ann@x", Some(&app.code(0))).expect(200);
    // A seed that is moved to another account opens nothing there.
    db.run(
        "UPDATE second_factors SET counter = 0, secret = (SELECT f.secret FROM second_factors f JOIN users u ON u.id = f.user_id
            WHERE u.email = 'ann@x')",
    );
    log_in(&server.web.anonymous(), "old@x", Some(&app.code(0))).expect(500);
}

#[test]
fn a_hash_of_the_older_system_is_renewed_before_the_code_is_known() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (_, app, _) = with_app(&server, "ann@x");
    let kept = bcrypt::hash(PASSWORD, 4).unwrap();
    db.connect().execute("UPDATE users SET password_hash = $1", &[&kept]).unwrap();
    let web = server.web.anonymous();
    let half = web.form("/api/login", &[("email", "ann@x"), ("password", PASSWORD)]).expect(303);
    assert_eq!(db.count("SELECT count(*) FROM users WHERE password_hash LIKE '$argon2id$%'"), 1);
    let cookie = half.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    web.header("cookie", &cookie).form("/login/code", &[("totp", &app.code(1))]).expect(303);
}
