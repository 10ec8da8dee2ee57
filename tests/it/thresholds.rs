//! Events of budgets and credit that run low, and budgets that are lifted.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use textgen::db::{ConnectConfig, Database};
use textgen::store::events::{self, Sender};
use textgen::store::timestamp;
use time::OffsetDateTime;

use crate::budgets::{chat, key_with, obedient, set_price, settled, start};
use crate::budgets_at_once::{Fleet, LIMIT, Received, assert_all_is_spent, spend};
use crate::harness::{Client, TestDb, at_once, done, refused, run, soon};

/// The kinds and percentages of all events, in their order.
fn told(db: &TestDb) -> Vec<(String, i32)> {
    settled(db);
    let rows = db.connect().query("SELECT kind, percent FROM events ORDER BY id", &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn percents(db: &TestDb) -> Vec<i32> {
    told(db).into_iter().map(|(_, percent)| percent).collect()
}

fn textgen(db: &TestDb, args: &[&str]) -> String {
    done(run(args, &[("DATABASE_URL", &db.url())], ""))
}

fn status(client: &Client, tokens: i64) -> u16 {
    client.post("/v1/chat/completions", &chat(tokens)).status
}

#[test]
fn each_threshold_of_a_budget_is_told_once() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let (id, client) = key_with(&user, &server, 100);
    assert_eq!((status(&client, 49), told(&db).len()), (200, 0));
    assert_eq!((status(&client, 1), told(&db)), (200, vec![("budget.threshold".to_owned(), 50)]));
    assert_eq!((status(&client, 50), percents(&db)), (200, vec![50, 80, 100]));
    let row =
        db.connect().query_one("SELECT key_id, user_id, payload::text FROM events WHERE percent = 80", &[]).unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (id.as_str(), user.id.as_str()));
    let payload: Value = serde_json::from_str(row.get(2)).unwrap();
    let expected = json!({"percent": 80, "limit_micros": 100, "spent_micros": 100, "window": "total", "timezone": "UTC",
        "resets": null});
    assert_eq!(payload, expected);
    // Those that were told in a window are not told again, though the limit moves them.
    user.browser.post("/api/keys/update", &json!({"id": id, "budget": {"limit_micros": 200}})).expect(200);
    assert_eq!((status(&client, 100), percents(&db).len()), (200, 3));
    // A limit that changes reaches thresholds too.
    let limit = |dollars: &str| textgen(&db, &["limit", "set", &user.email, "--budget", dollars, "--window", "day"]);
    limit("0.001");
    assert_eq!(percents(&db).len(), 3);
    limit("0.00024");
    assert_eq!(percents(&db), [50, 80, 100, 50, 80]);
    limit("0");
    assert_eq!(percents(&db).len(), 5, "nothing was spent of nothing");
}

#[test]
fn credit_that_runs_low_is_told_each_time_it_was_filled_up() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[("BILLING", "prepaid")]);
    let client = user.program(&server.inference);
    textgen(&db, &["credit", "grant", &user.email, "0.0001"]);
    soon("the credit to be known", || status(&client, 1) == 200);
    let spent = || db.count("SELECT sum(cost_micros)::bigint FROM usage_events");
    assert_eq!((status(&client, 79 - spent()), told(&db).len()), (200, 0));
    assert_eq!((status(&client, 1), told(&db)), (200, vec![("credit.low".to_owned(), 80)]));
    assert_eq!((status(&client, 20), percents(&db)), (200, vec![80, 100]));
    textgen(&db, &["credit", "grant", &user.email, "0.00005"]);
    soon("the credit to be known", || status(&client, 1) == 200);
    assert_eq!((status(&client, 139 - spent()), percents(&db).len()), (200, 2));
    assert_eq!((status(&client, 1), percents(&db)), (200, vec![80, 100, 80]));
}

#[test]
fn four_processes_tell_each_threshold_once_and_each_sender_gets_it_once() {
    let db = TestDb::new();
    set_price(&db);
    let fleet = Fleet::start(&db.url(), &obedient(), &[]);
    let user = fleet.servers[0].sign_up("ann@example.com");
    let key =
        user.browser.post("/api/keys", &json!({"name": "k", "budget": {"limit_micros": LIMIT}})).expect(200).json();
    let received = Received::default();
    spend(&fleet.inference(), &[key["secret"].as_str().unwrap().to_owned()], &received);
    assert_all_is_spent(&db, &received);
    assert_eq!(percents(&db), [50, 80, 100]);
    let pool = Database::new(ConnectConfig::new(&db.url(), "test").unwrap(), true, 8);
    pool.open();
    let session = || std::iter::repeat_with(|| pool.session()).find_map(Result::ok).unwrap();
    let take = |sender, seconds| events::take(&mut session(), sender, 2, seconds).unwrap();
    let taken = at_once(8, |_| [take(Sender::Mail, 60), take(Sender::Mail, 60)].concat());
    let mut ids: Vec<i64> = taken.iter().flatten().map(|delivery| delivery.event.id).collect();
    ids.sort_unstable();
    assert_eq!(
        ids,
        events::newest(&mut session(), &user.id, 9).unwrap().iter().rev().map(|e| e.id).collect::<Vec<_>>()
    );
    assert!(take(Sender::Mail, 60).is_empty());
    // One that fails is due again, one that was delivered is not.
    events::delivered(&mut session(), Sender::Mail, ids[0]).unwrap();
    for id in &ids {
        events::delay(&mut session(), Sender::Mail, *id, 0).unwrap();
    }
    let again = take(Sender::Mail, 0);
    assert_eq!(
        again.iter().map(|delivery| (delivery.event.id, delivery.attempts)).collect::<Vec<_>>(),
        [(ids[1], 2), (ids[2], 2)]
    );
    // Those of the other sender are taken by the servers.
    assert_eq!(db.count("SELECT count(*) FROM event_deliveries WHERE sender = 'webhook'"), 3, "each sender gets all");
    db.run("UPDATE events SET created = created - interval '31 days' WHERE percent < 100");
    assert_eq!(events::forget_old(&mut session()).unwrap(), 2);
    assert_eq!(db.count("SELECT count(*) FROM event_deliveries"), 2);
}

#[test]
fn a_lifted_budget_counts_but_does_not_limit_until_its_time() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let (id, client) = key_with(&user, &server, 10);
    assert_eq!((status(&client, 10), status(&client, 1)), (200, 402));
    let text = textgen(&db, &["limit", "lift", &user.email, "--key", &id, "--for", "1h"]);
    assert!(text.contains("does not limit until"), "{text}");
    soon("the lift to be known", || status(&client, 50) == 200);
    let shown = user.browser.get("/api/keys").expect(200).json();
    let budget = &shown["keys"].as_array().unwrap().iter().find(|key| key["id"] == id.as_str()).unwrap()["budget"];
    assert_eq!((budget["spent_micros"].as_i64(), budget["lifted_until"].is_string()), (Some(60), true));
    textgen(&db, &["limit", "restore", &user.email, "--key", &id]);
    soon("the budget to limit again", || status(&client, 1) == 402);
    let settings = [("DATABASE_URL", db.url())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    refused(run(&["limit", "lift", &user.email, "--for", "1h"], &settings, ""), "There is no budget to lift");
    assert_ne!(run(&["limit", "lift", &user.email], &settings, "").code, 0);
    textgen(&db, &["user", "promote", &user.email]);
    server.wait_until("the promotion to be seen", || user.browser.get("/admin").status == 200);
    let until = timestamp::zulu(OffsetDateTime::now_utc() + Duration::from_secs(3600));
    let body = json!({"user": user.email, "key": id, "until": until});
    let lifted = user.browser.post("/api/admin/limits/lift", &body).expect(200).json();
    assert_eq!(lifted["lifted_until"], until);
    soon("the lift to be known", || status(&client, 1) == 200);
    let past = json!({"user": user.email, "key": id, "until": "2001-01-01T00:00:00Z"});
    user.browser.post("/api/admin/limits/lift", &past).expect(400);
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'lift limit'"), 3);
}

/// What a client saw: when it asked, when it was answered, and how.
type Seen = (OffsetDateTime, OffsetDateTime, u16);

#[test]
fn a_lift_ends_by_itself_and_exactly_in_all_processes() {
    let db = TestDb::new();
    set_price(&db);
    let fleet = Fleet::start(&db.url(), &obedient(), &[]);
    let user = fleet.servers[0].sign_up("ann@example.com");
    let key = user.browser.post("/api/keys", &json!({"name": "k", "budget": {"limit_micros": 1}})).expect(200).json();
    let until = OffsetDateTime::now_utc() + Duration::from_secs(8);
    let id = key["id"].as_str().unwrap();
    textgen(&db, &["limit", "lift", &user.email, "--key", id, "--until", &timestamp::zulu(until)]);
    let secret = key["secret"].as_str().unwrap();
    let clients: Vec<Client> = fleet.inference().iter().map(|address| address.with_secret(secret)).collect();
    let ask = |client: &Client| {
        let asked = OffsetDateTime::now_utc();
        let status = status(client, 3);
        (asked, OffsetDateTime::now_utc(), status)
    };
    let seen: Vec<Seen> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|n| {
                let (client, ask) = (&clients[n % clients.len()], &ask);
                scope.spawn(move || {
                    let mut seen = Vec::new();
                    while OffsetDateTime::now_utc() < until + Duration::from_secs(2) {
                        seen.push(ask(client));
                    }
                    seen
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let answered = seen.iter().filter(|(.., status)| *status == 200).count();
    for (asked, at, status) in &seen {
        match status {
            200 => assert!(*asked < until, "admitted {} after the end", *asked - until),
            402 => assert!(*at >= until, "refused {} before the end", until - *at),
            _ => panic!("{status}"),
        }
    }
    settled(&db);
    let spent = db.count("SELECT (spent_picos / 1000000)::bigint FROM budget_windows");
    assert!(answered > 10 && spent == 3 * i64::try_from(answered).unwrap(), "{answered} {spent}");
    assert!(seen.iter().any(|(.., status)| *status == 402));
}

#[test]
fn the_pages_show_limits_and_an_administrator_changes_them() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let open = |path: &str| user.browser.header("accept", "text/html").get(path).expect(200).text();
    assert!(open("/account").contains("No spending limits."));
    user.browser.form("/account/keys", &[("name", "<b>"), ("limit", "0.00001"), ("window", "day")]).expect(303);
    let refused = user.browser.form("/account/keys", &[("name", "x"), ("limit", "much")]).expect(400).text();
    assert!(refused.contains("is not an amount such as 12.50"), "{refused}");
    textgen(&db, &["limit", "set", &user.email, "--budget", "1"]);
    let keys = user.browser.get("/api/keys").expect(200).json();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["name"] == "<b>").unwrap().clone();
    assert_eq!(json!([key["budget"]["limit_micros"], key["budget"]["window"]]), json!([10, "day"]));
    db.run("UPDATE budget_windows SET spent_picos = 8000000 WHERE budget_id IN (SELECT budget_id FROM api_keys)");
    let page = open("/account");
    for part in ["$0.000008 of $0.00001 a day", "value=\"80\"", "All keys", "$1.00 left · resets"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(page.contains("80 % of the limit of “&#60;b&#62;” spent") && !page.contains("Lift limit"), "{page}");
    textgen(&db, &["user", "promote", &user.email]);
    server.wait_until("the promotion to be seen", || user.browser.get("/admin").status == 200);
    let admin = format!("/admin/users/{}", user.id);
    let send = |path: &str, fields: &[(&str, &str)]| user.browser.form(&format!("{admin}/{path}"), fields);
    let id = key["id"].as_str().unwrap();
    send("limits/lift", &[("key", id), ("hours", "24")]).expect(303);
    assert!(open(&admin).contains("<span class=\"badge good\">not limited</span> until"));
    send("limits/lift", &[("key", id), ("hours", "0")]).expect(303);
    assert!(!open(&admin).contains("not limited"));
    for bad in [&[("hours", "x")][..], &[], &[("hours", "9999")]] {
        assert!([400, 422].contains(&send("limits/lift", bad).status), "{bad:?}");
    }
    let grant =
        [("id", "form-1"), ("action", "grant"), ("amount", "12.50"), ("reason", "Welcome"), ("expires", "2999-01-01")];
    for _ in 0..2 {
        send("credit", &grant).expect(303);
    }
    send("credit", &[("action", "withdraw"), ("amount", "2"), ("reason", "Back")]).expect(303);
    let page = open("/account");
    assert!(page.contains("<strong>$10.50</strong> left") && page.contains("$10.50 expires"), "{page}");
    send("credit", &[("amount", "-1"), ("reason", "")]).expect(400);
    // What is wrong is said beside its field, and what was typed stays.
    let typed = [("action", "withdraw"), ("amount", "2"), ("reason", "<why>"), ("expires", "2001-01-01")];
    let page = send("credit", &typed).expect(400).text();
    for part in [
        r#"value="withdraw" selected"#,
        r#"required value="2" aria-describedby="credit-amount-error">"#,
        r#"value="&#60;why&#62;""#,
        r#"value="2001-01-01" aria-describedby="credit-expires-error" aria-invalid="true" autofocus"#,
        "Expires must be in the future",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = send("credit", &[("amount", "much"), ("reason", "Welcome")]).expect(400).text();
    assert!(page.contains(r#"value="much" aria-describedby="credit-amount-error" aria-invalid="true""#), "{page}");
    assert!(page.contains("is not an amount such as 12.50"), "{page}");
    let page = send("suspend", &[("reason", "Spam")]).expect(400).text();
    assert!(page.contains("You cannot suspend your own account") && page.contains(r#"id="form-error""#), "{page}");
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action IN ('credit', 'lift limit')"), 4);
}
