//! `textgen doctor`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::stripe::Stripe;
use crate::harness::{Outcome, Proxy, Server, TestDb, Upstream, run};

/// What it says as JSON, and its exit code.
fn examine(url: &str, settings: &[(&str, &str)]) -> (i32, Value) {
    let folder = std::env::temp_dir().join(format!("textgen-doctor-{}", textgen::usage::new_id()));
    let mut all = vec![("DATABASE_URL", url), ("JOURNAL_DIR", folder.to_str().unwrap())];
    all.extend(settings);
    let Outcome { code, out, err } = run(&["doctor", "--json"], &all, "");
    assert_eq!(err, "");
    let _ = std::fs::remove_dir_all(folder);
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}")))
}

/// The status and the detail of a check.
#[track_caller]
fn of(said: &Value, name: &str) -> (String, String) {
    let checks = said["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {said}"));
    if found["status"] != "ok" {
        assert!(!found["advice"].as_str().unwrap().is_empty(), "{found}");
    }
    (found["status"].as_str().unwrap().to_owned(), found["detail"].as_str().unwrap().to_owned())
}

#[track_caller]
fn expect(said: &Value, name: &str, status: &str, words: &str) {
    let (found, detail) = of(said, name);
    assert!(found == status && detail.contains(words), "{name}: {found} {detail}");
}

/// Nothing fails, but for what is turned off on the server of the tests.
#[track_caller]
fn expect_well(code: i32, said: &Value) {
    let failed = |check: &&Value| check["status"] == "fail";
    let fails: Vec<&Value> = said["checks"].as_array().unwrap().iter().filter(failed).collect();
    assert!(
        fails.iter().all(|check| ["commits", "disk writes"].contains(&check["name"].as_str().unwrap())),
        "{fails:?}"
    );
    assert_eq!(code, i32::from(!fails.is_empty()));
}

#[test]
fn what_is_well_is_said_to_be_so() {
    let (db, upstream) = (TestDb::new(), Upstream::counting());
    let (code, said) = examine(&db.url(), &[("INFERENCE_URL", &upstream.url)]);
    expect_well(code, &said);
    expect(&said, "database", "ok", "PostgreSQL ");
    expect(&said, "schema", "ok", " of ");
    expect(&said, "clocks", "ok", " s apart");
    expect(&said, "writes", "ok", "");
    expect(&said, "encoding", "ok", "UTF8");
    expect(&said, "charges", "ok", "0 journals");
    expect(&said, "Stripe", "ok", "not configured");
    expect(&said, "mail", "ok", "not configured");
    expect(&said, &format!("provider {}", upstream.url), "ok", "lists ");
    // It changes nothing.
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
    let text = run(&["doctor"], &[("DATABASE_URL", &db.url())], "").out;
    assert!(text.lines().any(|line| line.starts_with("ok    database: PostgreSQL")), "{text}");
}

#[test]
fn what_does_not_work_is_a_failure_with_advice() {
    let refuses = refusing();
    let settings = [
        ("INFERENCE_URL", &*format!("{refuses},http://127.0.0.1:1")),
        ("INFERENCE_API_KEY", "sk-upstream-secret"),
        ("STRIPE_SECRET_KEY", "sk_live_secret"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_c2VjcmV0"),
        ("STRIPE_API_URL", "http://127.0.0.1:1"),
        ("PUBLIC_URL", "https://example.com"),
        ("PASSWORD_PEPPER", "pepper-secret"),
        ("SMTP_URL", "smtp://user:smtp-secret@127.0.0.1:1?tls=optional"),
        ("MAIL_FROM", "no-reply@example.com"),
    ];
    let (code, said) = examine("postgresql://me:hunter2@127.0.0.1:1/nothing", &settings);
    assert_eq!((code, &said["status"]), (1, &json!("fail")), "{said:#}");
    expect(&said, "database", "fail", "refused");
    expect(&said, &format!("provider {refuses}"), "fail", "does not accept this server's key");
    expect(&said, "provider http://127.0.0.1:1", "fail", "");
    expect(&said, "Stripe", "fail", "no answer from Stripe");
    expect(&said, "mail", "fail", "");
    expect(&said, "proxy", "warn", "TRUSTED_PROXIES");
    let text = said.to_string();
    for secret in ["hunter2", "sk-upstream-secret", "sk_live_secret", "whsec_", "pepper-secret", "smtp-secret"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// A server that answers everything with 401. Its address.
fn refusing() -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 401 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
        }
    });
    url
}

#[test]
fn stripe_is_asked_for_the_meter_and_the_prices() {
    let (db, stripe) = (TestDb::new(), Stripe::start());
    let [key, webhook, address] = stripe.settings();
    let settings = [
        key,
        webhook,
        address,
        ("STRIPE_METER_EVENT", "no_such_meter"),
        ("STRIPE_PRICE_MONTHLY", "price_none"),
        ("STRIPE_PRICE_METERED", "price_nothing"),
        ("PUBLIC_URL", "https://example.com"),
        ("TRUSTED_PROXIES", "10.0.0.1"),
    ];
    let (code, said) = examine(&db.url(), &settings);
    assert_eq!(code, 1);
    expect(&said, "Stripe meter", "fail", "no_such_meter");
    expect(&said, "Stripe price", "fail", "STRIPE_PRICE_MONTHLY=price_none");
    expect(&said, "proxy", "ok", "https://example.com");
}

#[test]
fn settings_of_the_database_that_lose_charges_are_found() {
    let db = TestDb::empty();
    let name = db.name().to_owned();
    db.run(&format!("ALTER DATABASE {name} SET synchronous_commit = off"));
    let (code, said) = examine(&db.url(), &[("DATABASE_POOLER", "transaction"), ("POOL_SIZE", "1000")]);
    assert_eq!(code, 1);
    expect(&said, "commits", "fail", "synchronous_commit=off");
    expect(&said, "schema", "warn", "migration 0 of ");
    expect(&said, "time limits", "warn", "lock_timeout=0");
    expect(&said, "connections", "warn", "POOL_SIZE=1000");
    expect(&said, "direct connection", "ok", "past the pooler");
}

#[test]
fn it_ends_although_the_database_is_silent() {
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    proxy.freeze();
    let began = Instant::now();
    let (code, said) = examine(&proxy.url(), &[]);
    assert_eq!(code, 1);
    assert_eq!(of(&said, "database").0, "fail");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn a_journal_that_waits_and_a_charge_that_was_set_aside_are_seen() {
    let db = TestDb::new();
    let folder = std::env::temp_dir().join(format!("textgen-doctor-{}", textgen::usage::new_id()));
    let text = folder.to_str().unwrap();
    let server = Server::start_with(&db, &[("JOURNAL_DIR", text)]);
    server.wait_until("its journal", || {
        std::fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|e| e == "journal"))
    });
    std::fs::write(folder.join("rejected.jsonl"), "{}\n").unwrap();
    let (code, said) = examine(&db.url(), &[("JOURNAL_DIR", text)]);
    expect_well(code, &said);
    expect(&said, "journal", "ok", "mode 0700");
    expect(&said, "charges", "warn", "1 journals, 0 of them of processes that died; 1 charges and 0 journals");
    let _ = std::fs::remove_dir_all(&folder);
}
