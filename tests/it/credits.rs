//! Credit: given, spent in advance, and expired.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::budgets::{chat, key_with, obedient, set_price, start};
use crate::budgets_at_once::{Fleet, LIMIT, PROCESSES, Received, assert_all_is_spent, charged, spend, spent};
use crate::harness::{Client, Reply, Server, Signal, TestDb, Upstream, User, at_once, done, refused, run, soon};

const PREPAID: &[(&str, &str)] = &[("BILLING", "prepaid")];

/// Micro-dollars as the command line takes them.
pub fn dollars(micros: i64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// Runs `textgen credit`.
fn credit(db: &TestDb, args: &[&str]) -> String {
    done(run(&[&["credit"], args].concat(), &[("DATABASE_URL", &db.url())], ""))
}

fn promote(db: &TestDb, server: &Server, user: &User) {
    done(run(&["user", "promote", &user.email], &[("DATABASE_URL", &db.url())], ""));
    server.wait_until("the promotion to be seen", || user.browser.get("/admin").status == 200);
}

fn balance(user: &User) -> Value {
    user.browser.get("/api/credits").expect(200).json()["balance_micros"].clone()
}

/// How many tokens a chat got; 0 if the balance refused it.
fn made(client: &Client, most: i64) -> i64 {
    let reply = client.post("/v1/chat/completions", &chat(most));
    if reply.status == 402 {
        return 0;
    }
    reply.expect(200).json()["usage"]["completion_tokens"].as_i64().unwrap()
}

#[test]
fn credit_is_given_once_for_each_id() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (admin, user) = (server.sign_up("root@example.com"), server.sign_up("ann@example.com"));
    let empty = json!({"balance_micros": 0, "expiring": [], "entries": []});
    assert_eq!(user.browser.get("/api/credits").expect(200).json(), empty);
    let grant = |amount: i64, id: &str| json!({"user": "Ann@Example.com", "amount_micros": amount, "reason": "Welcome", "id": id});
    let give = |body: &Value| admin.browser.post("/api/admin/credits", body);
    give(&grant(5, "a")).expect(403);
    promote(&db, &server, &admin);
    let replies = at_once(8, |_| give(&grant(1_250_000, "welcome-1")).expect(200).json());
    assert_eq!(replies.iter().filter(|reply| reply["is_new"] == true).count(), 1, "{replies:?}");
    for reply in &replies {
        assert_eq!(json!([reply["balance_micros"], reply["entry"]]), json!([1_250_000, replies[0]["entry"]]));
    }
    give(&grant(1_250_001, "welcome-1")).expect(409);
    let mut other = grant(1_250_000, "welcome-1");
    other["user"] = json!(admin.id);
    give(&other).expect(409);
    let expires = "2999-01-01T00:00:00Z";
    let mut expiring = grant(20_000, "spring");
    expiring["expires"] = json!(expires);
    give(&expiring).expect(200);
    let taken = give(&json!({"user": user.id, "amount_micros": -9_000_000, "reason": "all"})).expect(200).json();
    assert_eq!(json!([taken["entry"]["amount_micros"], taken["balance_micros"]]), json!([-1_270_000, 0]));
    give(&grant(30_000, "late")).expect(200);
    let shown = user.browser.get("/api/credits?limit=3").expect(200).json();
    assert_eq!(shown["expiring"], json!([{"amount_micros": 30_000, "expires": null}]));
    let next = user.browser.get(&format!("/api/credits?after={}", shown["next"].as_str().unwrap())).expect(200).json();
    let entries = [shown["entries"].as_array().unwrap(), next["entries"].as_array().unwrap()].map(Vec::clone).concat();
    let ids: Vec<&str> = entries.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!([ids[0], ids[2], ids[3]], ["late", "spring", "welcome-1"]);
    assert_eq!(entries.iter().map(|entry| entry["amount_micros"].as_i64().unwrap()).sum::<i64>(), 30_000);
    let fresh = user.browser.post("/api/get-user", &json!({})).expect(200).json();
    assert_eq!(fresh["free_credits"], 3, "whole cents");
    for bad in [
        json!({"user": "ann@example.com", "reason": ""}),
        grant(0, "b"),
        grant(1_000_000_000_000_001, "b"),
        grant(1_000_000_000_000_000, "b"),
        grant(1, "expiry:1:b"),
        grant(1, "two words"),
        json!({"user": user.id, "amount_micros": 1, "reason": "", "expires": "2001-01-01T00:00:00Z"}),
        json!({"user": user.id, "amount_micros": 1, "reason": "", "expires": "soon"}),
        json!({"user": user.id, "amount_micros": 1, "reason": "x".repeat(301)}),
    ] {
        give(&bad).expect(400);
    }
    give(&json!({"user": "bob@example.com", "amount_micros": 1, "reason": ""})).expect(404);
    assert_eq!(balance(&user), 30_000);
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'credit'"), 4);
    user.browser.post("/api/delete-account", &json!({"password": crate::harness::PASSWORD})).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM credit_entries"), 4, "the books stay");
}

#[test]
fn prepaid_work_uses_credit_up_and_needs_it() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, PREPAID);
    let program = user.program(&server.inference);
    let reply = program.post("/v1/chat/completions", &chat(1)).expect(402);
    assert_eq!(
        (reply.header("x-should-retry"), &reply.json()["error"]["code"]),
        (Some("false"), &json!("insufficient_quota"))
    );
    assert_eq!(upstream.seen().len(), 0);
    let text = credit(&db, &["grant", "ann@example.com", "0.000025", "--reason", "Welcome", "--id", "w"]);
    assert!(text.contains("US$ 0.000025 (w): Welcome"), "{text}");
    let again = credit(&db, &["grant", "ann@example.com", "0.000025", "--reason", "Welcome", "--id", "w"]);
    assert!(again.contains("made before"), "{again}");
    soon("the credit to be known", || made(&program, 10) == 10);
    let (_, key) = key_with(&user, &server, 12);
    assert_eq!(
        (made(&key, 20), made(&program, 20), made(&program, 1)),
        (12, 3, 0),
        "the key's budget, then the balance"
    );
    assert_eq!(balance(&user), 0);
    let granted = Instant::now();
    credit(&db, &["grant", &user.id, &dollars(40)]);
    soon("more", || made(&program, 10) > 0);
    assert!(granted.elapsed() < Duration::from_secs(5));
    soon("what is not used to be free", || {
        credit(&db, &["withdraw", "ann@example.com", &dollars(1000)]);
        balance(&user) == 0
    });
    assert_eq!(made(&program, 5), 0);
    let shown = credit(&db, &["show", "ann@example.com"]);
    assert!(
        shown.contains(": US$ 0.00 left") && shown.contains(" -0.00003 ") && shown.contains("w Welcome"),
        "{shown}"
    );
    let bad = run(&["credit", "grant", "nobody@example.com", "1"], &[("DATABASE_URL", &db.url())], "");
    refused(bad, "no such account");
    // Such as micro-dollars, which it took once.
    for amount in ["0", "5000000", "0.0000001", "-1", "1e3", "five"] {
        let bad = run(&["credit", "grant", "ann@example.com", amount], &[("DATABASE_URL", &db.url())], "");
        assert_eq!((bad.code, bad.out.as_str()), (2, ""), "{bad:?}");
    }
    assert_eq!(charged(&db), 35);
}

#[test]
fn accounts_with_a_subscription_need_no_credit_where_that_is_so() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[("BILLING", "subscription")]);
    let program = user.program(&server.inference);
    program.post("/v1/chat/completions", &chat(1)).expect(402);
    db.run("UPDATE users SET is_subscribed = true");
    soon("the subscription to be known", || made(&program, 1) == 1);
    credit(&db, &["grant", "ann@example.com", "0.000025"]);
    assert_eq!((made(&program, 10), balance(&user)), (10, json!(25)));
}

/// A model server that makes as many tokens as it is told while it works.
fn told() -> (Upstream, Sender<i64>) {
    let (tell, told): (Sender<i64>, Receiver<i64>) = channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |_, wire| {
        let made = told.lock().unwrap().recv_timeout(Duration::from_secs(60)).unwrap_or(0);
        let usage = json!({"prompt_tokens": 1, "completion_tokens": made, "total_tokens": made + 1});
        wire.json(
            200,
            &json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}], "usage": usage}),
        );
    });
    (upstream, tell)
}

fn expires_in(time: Duration) -> String {
    textgen::store::timestamp::zulu(OffsetDateTime::now_utc() + time)
}

/// Lets credit expire in a second, when what a test does before is done, however long that took.
fn expire_soon(db: &TestDb) {
    db.run("UPDATE credit_entries SET expires = now() + interval '1 second' WHERE expires IS NOT NULL");
    db.run("UPDATE budgets SET changes_at = now() + interval '1 second' WHERE changes_at IS NOT NULL");
}

#[test]
fn credit_that_expires_is_gone_but_for_what_running_requests_have_set_aside() {
    let (upstream, tell) = told();
    let (db, server, user) = start(&upstream, PREPAID);
    credit(&db, &["grant", "ann@example.com", &dollars(10), "--id", "lasting"]);
    let expires = expires_in(Duration::from_secs(3600));
    credit(&db, &["grant", "ann@example.com", &dollars(40), "--id", "spring", "--expires", &expires]);
    let program = user.program(&server.inference);
    tell.send(1).unwrap();
    soon("the credit to be known", || made(&program, 1) == 1);
    let shown = user.browser.get("/api/credits").expect(200).json();
    assert_eq!(
        shown["expiring"],
        json!([{"amount_micros": 39, "expires": expires}, {"amount_micros": 10, "expires": null}])
    );
    thread::scope(|scope| {
        let running = scope.spawn(|| made(&program, 30));
        soon("the request to be at the model server", || upstream.seen().len() == 2);
        expire_soon(&db);
        soon("the credit to expire", || balance(&user) == 10);
        // 49 are left and 30 set aside: 19 are gone, and nothing is free for others.
        soon("the expiry to be recorded", || {
            db.count("SELECT count(*) FROM credit_entries WHERE kind = 'expiry'") == 1
        });
        assert_eq!(made(&program, 10), 0);
        assert_eq!(upstream.seen().len(), 2);
        tell.send(5).unwrap();
        assert_eq!(running.join().unwrap(), 5);
    });
    // 5 of the 20 that were still set aside were used, and 10 of the 30 are those that do not expire.
    tell.send(10).unwrap();
    soon("what is left to be free", || made(&program, 30) == 10);
    assert_eq!((made(&program, 1), balance(&user)), (0, json!(0)));
    let expired = "SELECT sum(amount_picos / 1000000)::bigint FROM credit_entries WHERE expired_id = 'spring'";
    assert_eq!((db.count(expired), charged(&db)), (-34, 16));
    let left = "SELECT (b.limit_picos - b.leased_picos)::bigint FROM budgets b";
    assert_eq!(db.count(left), 16_000_000);
}

#[test]
fn credit_expires_once_though_many_processes_look() {
    let db = TestDb::new();
    set_price(&db);
    let fleet = Fleet::start(&db.url(), &obedient(), PREPAID);
    let user = fleet.servers[0].sign_up("ann@example.com");
    promote(&db, &fleet.servers[0], &user);
    let expires = expires_in(Duration::from_secs(3600));
    at_once(20, |n| {
        let body =
            json!({"user": user.id, "amount_micros": 7, "reason": "", "id": format!("gift-{n}"), "expires": expires});
        user.browser.post("/api/admin/credits", &body).expect(200)
    });
    let clients: Vec<Client> = fleet.inference().iter().map(|address| user.program(address)).collect();
    for client in &clients {
        soon("the credit to be known", || made(client, 1) == 1);
    }
    let spent = charged(&db);
    expire_soon(&db);
    soon("all of it to expire", || {
        let sum = "SELECT coalesce(sum(amount_picos / 1000000), 0)::bigint FROM credit_entries";
        db.count(sum) == spent
    });
    assert_eq!(balance(&user), 0);
    assert!(clients.iter().all(|client| made(client, 1) == 0));
    assert_eq!(charged(&db), spent);
}

fn prepaid_fleet() -> (TestDb, Fleet, User) {
    let db = TestDb::new();
    set_price(&db);
    let fleet = Fleet::start(&db.url(), &obedient(), PREPAID);
    let user = fleet.servers[0].sign_up("ann@example.com");
    (db, fleet, user)
}

fn secret(user: &User) -> String {
    let key = user.browser.post("/api/keys", &json!({"name": "k"})).expect(200).json();
    key["secret"].as_str().unwrap().to_owned()
}

#[test]
fn one_balance_is_spent_to_the_last_micro_dollar_by_four_processes() {
    let (db, fleet, user) = prepaid_fleet();
    let half = dollars(LIMIT / 2);
    for id in ["one", "two"] {
        credit(&db, &["grant", &user.id, &half, "--id", id, "--expires", "2999-01-01T00:00:00Z"]);
    }
    let received = Received::default();
    let secrets = [secret(&user)];
    wait_until_known(&fleet, &secrets[0]);
    spend(&fleet.inference(), &secrets, &received);
    assert_all_is_spent(&db, &received);
    assert_eq!((balance(&user), PROCESSES), (json!(0), fleet.servers.len()));
}

/// Every process knows that there is credit: a request without it would end the test.
fn wait_until_known(fleet: &Fleet, secret: &str) {
    for address in fleet.inference() {
        let client = address.with_secret(secret);
        soon("the credit to be known", || client.get("/api/current-user").expect(200).json()["free_credits"] != 0);
    }
}

#[test]
fn a_balance_survives_killed_processes() {
    let (db, mut fleet, user) = prepaid_fleet();
    credit(&db, &["grant", &user.id, &dollars(LIMIT - 100)]);
    let (addresses, received, secrets) = (fleet.inference(), Received::default(), [secret(&user)]);
    wait_until_known(&fleet, &secrets[0]);
    thread::scope(|scope| {
        scope.spawn(|| spend(&addresses, &secrets, &received));
        for (requests, server) in [(200, 3), (500, 2)] {
            soon("some requests", || received.all() > requests);
            fleet.servers[server].signal(Signal::KILL);
        }
        let more = ["credit", "grant", &user.id, "0.0001", "--id", "more"];
        soon("more credit", || run(&more, &[("DATABASE_URL", &db.url())], "").code == 0);
    });
    fleet.servers.truncate(2);
    let killed = Instant::now();
    soon("all of the credit to be spent", || {
        spend(&fleet.inference(), &secrets, &received);
        charged(&db) == LIMIT
    });
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
    assert_eq!((spent(&db), balance(&user)), (LIMIT, json!(0)));
}
