//! `textgen user`: accounts on the command line.

use serde_json::json;

use crate::documents::save;
use crate::harness::{Outcome, PASSWORD, Server, TestDb, done, refused, run};

fn user(db: &TestDb, args: &[&str], stdin: &str) -> Outcome {
    let args: Vec<&str> = ["user"].iter().chain(args).copied().collect();
    run(&args, &[("DATABASE_URL", &db.url())], stdin)
}

/// The value in the line that starts with this name.
fn field<'t>(text: &'t str, name: &str) -> &'t str {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap()
}

#[test]
fn an_account_is_created_changed_and_deleted() {
    // The command creates the tables if needed.
    let db = TestDb::empty();
    let made = done(user(&db, &["create", " Ann@Example.com "], ""));
    let (id, secret) = (field(&made, "id"), field(&made, "secret"));
    assert_eq!(field(&made, "email"), "ann@example.com");
    assert!(secret.starts_with("tg_") && secret.len() > 40, "{secret}");

    let server = Server::start(&db);
    let program = server.inference.with_secret(secret);
    assert_eq!(program.get("/api/current-user").expect(200).json()["id"], json!(id));
    // The account has no password, so none is accepted.
    let login = json!({"email": "ann@example.com", "password": "anything long"});
    server.web.anonymous().post("/api/login", &login).expect(400);

    let listed = done(user(&db, &["list"], ""));
    assert!(listed.contains("ann@example.com") && listed.contains(id) && !listed.contains(secret), "{listed}");

    let rotated = done(user(&db, &["rotate-secret", "ANN@example.com"], ""));
    let newer = field(&rotated, "secret");
    assert_ne!(newer, secret);
    server.wait_until("the old secret to end", || program.get("/api/current-user").status == 401);
    server.audio.with_secret(newer).get("/api/current-user").expect(200);
    // An id works as well as an e-mail address.
    let rotated = done(user(&db, &["rotate-secret", id], ""));
    let newest = field(&rotated, "secret");
    save(&server.web.with_secret(newest), &json!({"content": "text"}));

    assert!(done(user(&db, &["delete", id, "--yes"], "")).contains("ann@example.com"));
    server.wait_until("the secret to end", || server.web.with_secret(newest).get("/api/current-user").status == 401);
    for table in ["users", "documents", "api_keys", "sessions"] {
        assert_eq!(db.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    assert_eq!(done(user(&db, &["list"], "")).lines().count(), 1, "only the header line is printed");
    // Who did it, what, and to whom.
    let audited = db.connect().query("SELECT action, actor, user_id FROM audit ORDER BY id", &[]).unwrap();
    let rows: Vec<[String; 3]> = audited.iter().map(|row| [row.get(0), row.get(1), row.get(2)]).collect();
    let expected = ["create", "rotate secret", "rotate secret", "delete"].map(|action| [action, "command line", id]);
    assert_eq!(rows, expected);
}

#[test]
fn a_password_is_read_from_standard_input() {
    let db = TestDb::new();
    let server = Server::start(&db);
    for (n, line) in
        [format!("{PASSWORD}\n"), format!("{PASSWORD}\r\n"), PASSWORD.to_owned(), format!("{PASSWORD}\nmore")]
            .iter()
            .enumerate()
    {
        let email = format!("user{n}@example.com");
        let made = done(user(&db, &["create", &email, "--password-stdin"], line));
        assert!(!made.contains(PASSWORD));
        server.sign_in(&email, PASSWORD).get("/api/current-user").expect(200);
    }
    refused(user(&db, &["create", "short@example.com", "--password-stdin"], "1234567\n"), "at least 8");
    refused(user(&db, &["create", "none@example.com", "--password-stdin"], ""), "at least 8");
    assert_eq!(db.count("SELECT count(*) FROM users"), 4);
}

#[test]
fn failures_are_reported_in_one_line() {
    let db = TestDb::new();
    done(user(&db, &["create", "ann@example.com"], ""));
    refused(user(&db, &["create", "ANN@example.com "], ""), "ann@example.com already has an account");
    for bad in ["ann", "", "@x", "a b@x", "ann@example.com, bob@example.com", "a@x\nb@y"] {
        refused(user(&db, &["create", bad], ""), "not an e-mail address");
    }
    for unknown in ["bob@example.com", "0000000000000000", ""] {
        refused(user(&db, &["rotate-secret", unknown], ""), "no such account");
        refused(user(&db, &["delete", unknown, "--yes"], ""), "no such account");
    }
    // Without a "yes" nothing happens, also at the end of input.
    for answer in ["", "n\n", "no\n", "\n", "yesterday\n"] {
        let outcome = user(&db, &["delete", "ann@example.com"], answer);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(outcome.out.contains("ann@example.com") && outcome.err.contains("not deleted"), "{outcome:?}");
    }
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
    assert!(user(&db, &["delete", "ann@example.com"], "y\n").out.contains("deleted"));
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
    for limit in ["0", "-1", "many"] {
        assert_eq!(user(&db, &["list", "--limit", limit], "").code, 2);
    }
}

#[test]
fn an_unreachable_database_is_reported() {
    for command in [&["user", "list"][..], &["migrate"]] {
        let outcome = run(command, &[("DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/nothing")], "");
        refused(outcome, "refused");
    }
}

#[test]
fn the_newest_are_listed_first() {
    let db = TestDb::new();
    for n in 0..5 {
        done(user(&db, &["create", &format!("user{n}@example.com")], ""));
    }
    let listed = done(user(&db, &["list", "--limit", "3"], ""));
    let emails: Vec<&str> = listed.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(emails, ["user4@example.com", "user3@example.com", "user2@example.com"]);
}

#[test]
fn a_password_is_set_and_a_link_is_made() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let ann = server.sign_up("ann@example.com");
    let (url, new) = (db.url(), "another good password");
    let settings = [("DATABASE_URL", url.as_str()), ("PUBLIC_URL", "https://text.example")];
    refused(run(&["user", "set-password", "ann@example.com"], &settings, "short"), "at least 8 characters");
    refused(run(&["user", "set-password", "bob@example.com"], &settings, new), "no such account");
    let out = done(run(&["user", "set-password", "ann@example.com"], &settings, &format!("{new}\nmore")));
    assert!(out.contains("ended 1 sessions and 0 keys"), "{out}");
    ann.browser.get("/api/current-user").expect(401);
    ann.program(&server.web).get("/api/current-user").expect(200);
    let browser = server.sign_in("ann@example.com", new);
    // A link, which works once.
    let out = done(run(&["user", "link", "ann@example.com"], &settings, ""));
    let token = field(&out, "link").strip_prefix("https://text.example/reset-password?token=").unwrap();
    assert!(!field(&out, "expires").is_empty());
    let reset = || server.web.anonymous().post("/api/reset-password", &json!({"token": token, "password": PASSWORD}));
    reset().expect(200);
    reset().expect(400);
    browser.get("/api/current-user").expect(401);
    server.sign_in("ann@example.com", PASSWORD);
    let out = done(run(&["user", "set-password", "ann@example.com", "--revoke-keys"], &settings, new));
    assert!(out.contains("ended 1 sessions and 1 keys"), "{out}");
    ann.program(&server.inference).get("/api/current-user").expect(401);
    // Who made a link does not show that its user gets mails at the address.
    assert_eq!(db.count("SELECT count(*) FROM users WHERE email_verified IS NOT NULL"), 0);
    let audited =
        "SELECT count(*) FROM audit WHERE actor = 'command line' AND action IN ('set password', 'create link')";
    assert_eq!(db.count(audited), 3);
}
