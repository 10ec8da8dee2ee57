//! Mails: what is sent, when, and how often, whatever mail servers and processes do.

use serde_json::json;

use crate::harness::smtp::{Behaviour, Smtp, Stage};
use crate::harness::{PASSWORD, Scrape, Server, Signal, TestDb, at_once, wait_until};

const VERIFY: &str = "Confirm your e-mail address";
const DEVICE: &str = "New sign-in to your account";

/// Makes what failed due at once.
fn hurry(db: &TestDb) {
    db.run("UPDATE mails SET next_at = now() WHERE sent IS NULL");
}

fn waiting(db: &TestDb) -> i64 {
    db.count("SELECT count(*) FROM mails WHERE sent IS NULL AND put_aside IS NULL")
}

fn sent(db: &TestDb) -> i64 {
    db.count("SELECT count(*) FROM mails WHERE sent IS NOT NULL")
}

fn aside(db: &TestDb) -> i64 {
    db.count("SELECT count(*) FROM mails WHERE put_aside IS NOT NULL")
}

fn problem(db: &TestDb) -> String {
    db.connect().query_one("SELECT coalesce(max(problem), '') FROM mails", &[]).unwrap().get(0)
}

#[test]
fn a_mail_after_sign_up_verifies_the_address() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let user = server.sign_up("ann@example.com");
    let mail = smtp.wait_for(1, "ann@example.com", VERIFY);
    assert_eq!((mail.from.as_str(), mail.to.as_str()), ("no-reply@text.example", "ann@example.com"));
    assert_eq!(mail.header("From"), "\"Text Example\" <no-reply@text.example>");
    assert_eq!((mail.header("To"), mail.header("Auto-Submitted")), ("ann@example.com".into(), "auto-generated".into()));
    assert!(mail.header("Message-ID").ends_with("@text.example>") && !mail.header("Date").is_empty(), "{}", mail.data);
    let (text, token) = (mail.part("text/plain"), mail.token());
    assert!(text.contains(&format!("\nhttp://text.example/confirm-email?token={token}\n")), "{text}");
    assert!(mail.part("text/html").contains(&format!("href=\"http://text.example/confirm-email?token={token}\"")));
    // Who only opens the link, such as a program that looks for viruses, changes nothing.
    let web = server.web.anonymous().header("accept", "text/html");
    let page = web.get(&format!("/confirm-email?token={token}")).expect(200).text();
    assert!(page.contains("Is <strong>ann@example.com</strong> your e-mail address?"), "{page}");
    let verified = "SELECT count(*) FROM users WHERE email_verified IS NOT NULL";
    assert_eq!(db.count(verified), 0);
    assert!(user.browser.get("/account").expect(200).text().contains("not confirmed"));
    let reply = web.form("/confirm-email", &[("token", &token)]).expect(303);
    let done = web.get(reply.header("location").unwrap()).expect(200).text();
    assert!(done.contains("your e-mail address is confirmed"), "{done}");
    assert_eq!(db.count(verified), 1);
    assert!(!user.browser.get("/account").expect(200).text().contains("not confirmed"));
    for refused in [
        web.get(&format!("/confirm-email?token={token}")),
        web.form("/confirm-email", &[("token", &token)]),
        server.web.anonymous().post("/api/confirm-email", &json!({"token": token})),
    ] {
        assert!(refused.expect(400).text().contains("expired or was already used"));
    }
    // The link is a secret: it was never stored, and is not in the log.
    let stored = db.connect().query("SELECT m::text FROM mails m", &[]).unwrap();
    assert!(stored.iter().all(|row| !row.get::<_, String>(0).contains(&token)));
    assert_eq!(db.count("SELECT count(*) FROM account_links"), 0);
    assert!(!server.log().contains(&token) && !server.log().contains("pass word") && !server.log().contains("pass%20"));
    assert_eq!(server.stop(), 0);
}

#[test]
fn another_mail_is_sent_to_who_asks_for_it() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let user = server.sign_up("ann@example.com");
    let first = smtp.wait_for(1, "ann@example.com", VERIFY).token();
    let reply = user.browser.form("/account/email/verify", &[]).expect(303);
    assert_eq!(reply.header("location"), Some("/account?done=verify"));
    let second = smtp.wait_for(2, "ann@example.com", VERIFY).token();
    assert_ne!(first, second);
    server.web.anonymous().post("/api/confirm-email", &json!({"token": first})).expect(200);
    // What is confirmed is not asked again.
    user.browser.post("/api/verify-email", &json!({})).expect(200);
    server.wait_until("the mail to be dropped", || waiting(&db) == 0);
    assert_eq!(smtp.about("ann@example.com", VERIFY).len(), 2);
}

#[test]
fn a_refused_recipient_is_put_aside_and_counted() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    smtp.set(Behaviour::Refuse(Stage::Rcpt, "550 5.1.1 <ann@example.com>: no such user".to_owned()));
    let server = smtp.server(&db, &[]);
    server.sign_up("ann@example.com");
    wait_until("it to be put aside", || aside(&db) == 1);
    assert_eq!(problem(&db), "the mail server refuses the recipient: 550");
    let scrape = || Scrape::of(server.metrics.as_ref().unwrap());
    server.wait_until("the figures", || scrape().sum("textgen_mail_rows", &[("state", "put_aside")]) > 0.0);
    assert!(scrape().value("textgen_mails_total", &[("outcome", "put_aside")]) > 0.0);
    assert!(!server.log().contains("ann@example.com"), "{}", server.log());
    smtp.set(Behaviour::Accept);
    // Others are not held up by it.
    server.sign_up("bob@example.com");
    smtp.wait_for(1, "bob@example.com", VERIFY);
    assert!(smtp.about("ann@example.com", VERIFY).is_empty());
}

#[test]
fn what_is_refused_for_now_is_tried_again() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let refusals = [
        (Stage::Greeting, "421 4.3.2 come back later"),
        (Stage::Greeting, "554 5.3.2 nobody is here"),
        (Stage::Auth, "535 5.7.8 a new password is not known here yet"),
        (Stage::Mail, "550 5.7.1 this sender is not allowed"),
        (Stage::Rcpt, "451 4.7.1 greylisted"),
        (Stage::Data, "452 4.3.1 no room"),
        (Stage::Text, "451 4.3.0 the disk is slow"),
    ];
    for (n, (stage, reply)) in refusals.into_iter().enumerate() {
        let address = format!("person{n}@example.com");
        smtp.set(Behaviour::Refuse(stage, reply.to_owned()));
        server.sign_up(&address);
        let tried = "SELECT count(*) FROM mails WHERE sent IS NULL AND attempts > 0 AND problem IS NOT NULL";
        server.wait_until(reply, || db.count(tried) == 1);
        assert!(problem(&db).ends_with(&reply[..3]), "{}", problem(&db));
        smtp.set(Behaviour::Accept);
        server.wait_until("the mail", || {
            hurry(&db);
            sent(&db) == i64::try_from(n).unwrap() + 1
        });
        assert_eq!(smtp.about(&address, VERIFY).len(), 1, "{reply}");
    }
    assert_eq!((aside(&db), waiting(&db)), (0, 0));
}

#[test]
fn a_mail_whose_connection_broke_is_sent_again_under_the_same_id() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    for (behaviour, copies) in [(Behaviour::DropText, 1), (Behaviour::DropReply, 2)] {
        let address = format!("{copies}@example.com");
        smtp.set(behaviour);
        server.sign_up(&address);
        let failed = "SELECT count(*) FROM mails WHERE sent IS NULL AND problem IS NOT NULL";
        server.wait_until("a failure", || db.count(failed) == 1);
        smtp.set(Behaviour::Accept);
        server.wait_until("the mail", || {
            hurry(&db);
            waiting(&db) == 0
        });
        // Only where nobody can know whether it was taken, it comes twice.
        let mails = smtp.about(&address, VERIFY);
        assert_eq!(mails.len(), copies);
        assert!(mails.iter().all(|mail| mail.header("Message-ID") == mails[0].header("Message-ID")));
        for mail in &mails {
            assert_eq!(server.web.anonymous().get(&format!("/confirm-email?token={}", mail.token())).status, 200);
        }
    }
}

#[test]
fn several_processes_send_each_mail_once() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let servers = [smtp.server(&db, &[]), smtp.server(&db, &[])];
    at_once(4, |n| {
        for m in 0..5 {
            servers[m % 2].sign_up(&format!("person{}@example.com", n * 5 + m));
        }
    });
    wait_until("all mails", || sent(&db) == 20);
    assert_eq!(smtp.mails().len(), 20);
    for n in 0..20 {
        assert_eq!(smtp.about(&format!("person{n}@example.com"), VERIFY).len(), 1, "{n}");
    }
}

#[test]
fn a_killed_sender_loses_no_mail() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    smtp.set(Behaviour::Hang(Stage::Text));
    let server = smtp.server(&db, &[]);
    server.sign_up("ann@example.com");
    server.wait_until("an attempt", || smtp.reached(Stage::Text) == 1);
    server.signal(Signal::KILL);
    server.wait();
    smtp.set(Behaviour::Accept);
    let next = smtp.server(&db, &[]);
    // Nobody takes it while the first process might still be at it.
    next.sign_up("bob@example.com");
    smtp.wait_for(1, "bob@example.com", VERIFY);
    assert!(smtp.about("ann@example.com", VERIFY).is_empty() && waiting(&db) == 1);
    hurry(&db);
    smtp.wait_for(1, "ann@example.com", VERIFY);
    wait_until("it to be recorded", || sent(&db) == 2);
    assert_eq!(smtp.mails().len(), 2);
}

#[test]
fn old_mails_are_given_up_and_leave_nothing() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    smtp.set(Behaviour::Refuse(Stage::Greeting, "421 later".to_owned()));
    let server = smtp.server(&db, &[]);
    server.sign_up("ann@example.com");
    server.wait_until("an attempt", || !problem(&db).is_empty());
    assert_eq!(waiting(&db), 1);
    db.run("UPDATE mails SET expires = now(), details = '{\"browser\": \"x\"}'");
    server.wait_until("it to be given up", || aside(&db) == 1);
    assert!(problem(&db).starts_with("too old: no connection to the mail server: 421"), "{}", problem(&db));
    assert_eq!(db.count("SELECT count(*) FROM mails WHERE details <> '{}'"), 0);
    db.run("UPDATE mails SET created = now() - interval '31 days'");
    server.wait_until("it to be forgotten", || db.count("SELECT count(*) FROM mails") == 0);
}

#[test]
fn each_event_is_one_mail() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let servers = [smtp.server(&db, &[]), smtp.server(&db, &[])];
    let user = servers[0].sign_up("ann@example.com");
    let key = user.browser.post("/api/keys", &json!({"name": "laptop"})).expect(200).json();
    let add = |kind: &str, key: &str, percent: i64, payload: &str, created: &str| {
        db.run(&format!(
            "WITH event AS (
                INSERT INTO events (kind, user_id, key_id, budget_id, starts, percent, payload, created)
                VALUES ('{kind}', '{}', {key}, '{kind}', now(), {percent}, '{payload}', {created}) RETURNING id)
             INSERT INTO event_deliveries (sender, event_id, next_at)
             SELECT sender, id, now() FROM event, (VALUES ('mail'), ('webhook')) AS senders (sender)",
            user.id
        ));
    };
    let budget = r#"{"percent": 80, "limit_micros": 5000000, "spent_micros": 4000500, "window": "month",
        "timezone": "UTC", "resets": "2026-12-01T00:00:00Z"}"#;
    let key = format!("'{}'", key["id"].as_str().unwrap());
    add("budget.threshold", &key, 80, budget, "now()");
    add("credit.low", "NULL", 100, r#"{"percent": 100, "balance_micros": 0, "topped_up_micros": 5}"#, "now()");
    add("budget.threshold", "NULL", 50, budget, "now() - interval '2 days'");
    add("billing.held", "NULL", 0, "{}", "now()");
    let mail = smtp.wait_for(1, "ann@example.com", "80 % of your budget is used").part("text/plain");
    assert!(mail.replace('\n', " ").contains("the key “laptop” of ann@example.com has spent $4.0005"), "{mail}");
    assert!(mail.contains("2026-12-01 00:00:00 UTC"), "{mail}");
    smtp.wait_for(1, "ann@example.com", "Your credit is used up");
    let open = "SELECT count(*) FROM event_deliveries WHERE sender = 'mail' AND delivered IS NULL";
    wait_until("all to be delivered", || db.count(open) == 0 && waiting(&db) == 0);
    assert_eq!(smtp.mails().len(), 3, "and that of the sign-up");
}

#[test]
fn a_sign_in_from_elsewhere_is_told() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[("TRUSTED_PROXIES", "127.0.0.1")]);
    let body = json!({"email": "ann@example.com", "password": PASSWORD});
    let from = |address: &str| server.web.anonymous().header("x-forwarded-for", address);
    from("192.0.2.1").post("/api/signup", &body).expect(200);
    // The same network is no news.
    let known = from("192.0.2.1").post("/api/login", &body).expect(200);
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0";
    from("198.51.100.7").header("user-agent", agent).post("/api/login", &body).expect(200);
    let text = smtp.wait_for(1, "ann@example.com", DEVICE).part("text/plain");
    assert!(text.contains("Browser: Firefox on Linux") && text.contains("IP address: 198.51.100.7"), "{text}");
    // Nor is a device from which its owner has signed in.
    let cookies: Vec<&str> = known.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, v)| &**v).collect();
    let device = cookies.iter().find_map(|cookie| cookie.strip_prefix("device=")).unwrap().split(';').next().unwrap();
    from("203.0.113.5").header("cookie", &format!("device={device}")).post("/api/login", &body).expect(200);
    // What a stranger's program calls itself is not repeated.
    from("203.0.113.9").header("user-agent", "Call 0900 now").post("/api/login", &body).expect(200);
    let text = smtp.wait_for(2, "ann@example.com", DEVICE).part("text/plain");
    assert!(text.contains("Browser: Unknown") && text.contains("203.0.113.9") && !text.contains("0900"), "{text}");
    wait_until("all to be sent", || waiting(&db) == 0);
    assert_eq!(smtp.mails().len(), 3);
}

#[test]
fn the_owner_of_a_known_address_is_told_of_a_sign_up() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    server.sign_up("ann@example.com");
    let again = |password: &str| {
        server.web.anonymous().post("/api/signup", &json!({"email": "Ann@example.com", "password": password}))
    };
    for _ in 0..2 {
        assert_eq!(again("not the right one").expect(400).json(), json!({"detail": "Invalid credentials"}));
    }
    let text = smtp.wait_for(1, "ann@example.com", "You already have an account").part("text/plain");
    assert!(text.contains("http://text.example/forgot-password"), "{text}");
    again(PASSWORD).expect(200);
    // A wrong password at log-in is no sign-up.
    let login = json!({"email": "ann@example.com", "password": "not the right one"});
    server.web.anonymous().post("/api/login", &login).expect(400);
    wait_until("all to be sent", || waiting(&db) == 0);
    assert_eq!(smtp.mails().len(), 2, "once an hour, and that of the first sign-up");
}

#[test]
fn without_a_mail_server_pages_say_so_and_mails_may_go_to_a_folder() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let web = server.web.anonymous();
    assert!(web.get("/forgot-password").expect(200).text().contains("E-mail is not set up on this server"));
    assert!(user.browser.get("/account").expect(200).text().contains("E-mail is not set up on this server"));
    let refused = web.post("/api/forgot-password", &json!({"email": "ann@example.com"})).expect(503);
    assert!(refused.json()["detail"].as_str().unwrap().contains("SMTP_URL is not set"));
    assert_eq!(db.count("SELECT count(*) FROM mails"), 0);
    drop(server);

    let folder = std::env::temp_dir().join(format!("textgen-mails-{}", textgen::usage::new_id()));
    let server = Server::start_with(&db, &[("MAIL_FOLDER", folder.to_str().unwrap())]);
    assert!(server.log().contains(&format!("written to {}", folder.display())), "{}", server.log());
    server.sign_up("bob@example.com");
    let files = || std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
    server.wait_until("a file", || files().iter().any(|file| file.extension().is_some_and(|e| e == "eml")));
    let mail = std::fs::read_to_string(&files()[0]).unwrap().replace("=\r\n", "");
    let own = format!("{}/confirm-email?token", server.web.0);
    assert!(mail.contains("To: bob@example.com\r\n") && mail.contains(&own), "{mail}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_server_that_cannot_send_mails_does_not_start() {
    let db = TestDb::new();
    let url = ("SMTP_URL", "smtp://127.0.0.1:1");
    for (settings, words) in [
        (vec![url], "MAIL_FROM is not"),
        (vec![url, ("MAIL_FROM", "no-reply@text.example")], "PUBLIC_URL is not"),
        (vec![("MAIL_FOLDER", "/proc/mails")], "MAIL_FOLDER: /proc/mails"),
    ] {
        let address = db.url();
        let settings = [&[("DATABASE_URL", address.as_str())], settings.as_slice()].concat();
        crate::harness::refused(crate::harness::run(&["serve"], &settings, ""), words);
    }
}
