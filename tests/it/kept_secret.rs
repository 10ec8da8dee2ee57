//! Secrets are neither stored in clear text nor logged.

use serde_json::json;

use crate::harness::{PASSWORD, Server, TestDb, textgen};

/// Every row of every table, as text.
fn everything(db: &TestDb) -> String {
    let mut client = db.connect();
    let tables = "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    let mut text = String::new();
    for table in client.query(tables, &[]).unwrap() {
        let table: String = table.get(0);
        for row in client.query(&format!("SELECT t::text FROM {table} t"), &[]).unwrap() {
            text += &row.get::<_, String>(0);
        }
    }
    text
}

/// Uses every route that handles credentials. Returns all credentials used.
fn exercise(server: &Server) -> Vec<String> {
    let user = server.sign_up("ann@example.com");
    let other = server.web.anonymous().post("/api/login", &json!({"email": "ann@example.com", "password": PASSWORD}));
    let mut secrets = vec![PASSWORD.to_owned(), user.secret.clone(), user.token.clone(), other.session_token()];
    let secret = |reply: crate::harness::Reply| reply.expect(200).json()["secret"].as_str().unwrap().to_owned();
    secrets.push(secret(user.browser.post("/api/keys", &json!({"name": "one"}))));
    let id = user.browser.get("/api/keys").expect(200).json()["keys"][0]["id"].clone();
    secrets.push(secret(user.browser.post("/api/keys/rotate", &json!({"id": id, "grace_seconds": 60}))));
    let made = user.browser.form("/account/keys", &[("name", "two")]).expect(303);
    let page = user.browser.follow(&made).expect(200).text();
    let shown = page.split("<code id=\"new-secret\">").nth(1).unwrap().split('<').next().unwrap();
    secrets.push(shown.to_owned());
    let change = |old: &str, new: &str| {
        user.browser.post("/api/change-password", &json!({"current_password": old, "new_password": new}))
    };
    change("wr0ng-guess-1", "wr0ng-guess-2").expect(400);
    change(PASSWORD, "an0ther-password").expect(200);
    let login = |body| server.web.anonymous().post("/api/login", &body);
    login(json!({"email": "ann@example.com", "password": "wr0ng-guess-3"})).expect(400);
    login(json!({"email": "ann@example.com", "password": ["wr0ng-guess-4"]})).expect(422);
    server.web.anonymous().send("POST", "/api/login", Some("application/json"), b"{wr0ng-guess-5").expect(400);
    server.web.anonymous().get("/login?error=x&password=wr0ng-guess-6").expect(200);
    for address in [&server.web, &server.inference, &server.audio] {
        user.program(address).get("/api/current-user").expect(200);
        address.with_secret("wr0ng-guess-7").get("/api/current-user?secret=wr0ng-guess-8").expect(401);
        address.anonymous().header("Authorization", "Bearer wr0ng-guess-9").get("/api/nothing").expect(404);
    }
    server.web.with_cookie("wr0ng-guess-0").get("/account").expect(303);
    secrets.extend(["an0ther-password".to_owned(), "wr0ng-guess".to_owned(), "p3pper-of-this-server".to_owned()]);
    secrets
}

#[test]
fn the_database_stores_only_digests() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("PASSWORD_PEPPER", "p3pper-of-this-server")]);
    let secrets = exercise(&server);
    let text = everything(&db);
    assert!(text.contains("ann@example.com") && text.contains("$argon2id$"));
    for secret in &secrets {
        assert!(!text.contains(secret.as_str()), "{secret} is in the database");
        let mut hex = String::new();
        secret.bytes().for_each(|byte| hex += &format!("{byte:02x}"));
        assert!(!text.contains(&hex), "{secret} is in the database, in hex");
    }
    // The visible prefix of the default key is in the user's row, where old queries expect it.
    let prefix = format!("{}…", &secrets[1][..8]);
    assert!(prefix.starts_with("tg_"));
    assert_eq!(db.count(&format!("SELECT count(*) FROM users WHERE secret = '{prefix}'")), 1);
    assert_eq!(db.count("SELECT count(*) FROM api_keys WHERE length(prefix) > 9 OR length(digest) <> 32"), 0);
}

#[test]
fn the_log_contains_no_secrets() {
    for format in ["text", "json"] {
        let db = TestDb::new();
        let settings = [("LOG_LEVEL", "trace"), ("LOG_FORMAT", format), ("PASSWORD_PEPPER", "p3pper-of-this-server")];
        let server = Server::start_with(&db, &settings);
        let mut secrets = exercise(&server);
        let url = db.url();
        let password = url.split("://").nth(1).unwrap().split('@').next().unwrap().split_once(':').unwrap().1;
        secrets.push(password.to_owned());
        // Lines are written in order, so all others precede the last request's.
        server.web.anonymous().get("/the-last-request").expect(404);
        server.wait_until("the log to be written", || server.log().contains("/the-last-request"));
        let log = server.log();
        assert!(log.contains("/api/change-password") && log.contains("/api/login"), "{log}");
        for secret in &secrets {
            assert!(!log.contains(secret.as_str()), "{secret} is in the log");
        }
        assert!(!log.contains("$argon2id$"));
    }
}

#[test]
fn each_request_is_logged_in_one_line() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("LOG_FORMAT", "json")]);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.audio).header("X-Request-Id", "the-one.42");
    client.get("/api/current-user?what=ever").expect(200);
    let lines = || -> Vec<String> {
        server.log().lines().filter(|line| line.contains("the-one.42")).map(str::to_owned).collect()
    };
    server.wait_until("the line", || !lines().is_empty());
    let [line] = &lines()[..] else { panic!("{:?}", lines()) };
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    for (key, value) in [
        ("server", json!("audio")),
        ("method", json!("GET")),
        ("path", json!("/api/current-user")),
        ("status", json!(200)),
        ("client", json!("127.0.0.1")),
        ("user", json!(user.id)),
        ("request", json!("the-one.42")),
    ] {
        assert_eq!(line[key], value, "{key}");
    }
}

/// The command line prints a secret once, and the database does not store it.
#[test]
fn an_operators_secret_is_shown_once() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    user.program(&server.audio).get("/api/current-user").expect(200);
    let output = textgen(&["user", "rotate-secret", "ann@example.com"]).env("DATABASE_URL", db.url()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let secret = told.split_whitespace().find(|word| word.starts_with("tg_") && word.len() == 46).unwrap();
    server.audio.with_secret(secret).get("/api/current-user").expect(200);
    crate::harness::refused_soon(&user.program(&server.audio));
    assert!(!everything(&db).contains(secret));
}
