//! Budgets of accounts and of keys, as their owners and operators see them.

use serde_json::{Value, json};

use crate::harness::{Client, Server, TestDb, Upstream, User, charges, done, final_charges, refused, run, soon};

/// Starts a server whose models cost a micro-dollar for each token that they make, and nothing else.
pub fn start(upstream: &Upstream, settings: &[(&str, &str)]) -> (TestDb, Server, User) {
    let db = TestDb::new();
    set_price(&db);
    let settings = [&[("INFERENCE_URL", upstream.url.as_str())], settings].concat();
    let server = Server::start_with(&db, &settings);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

/// A model `m` that costs a micro-dollar for each token that it makes, and nothing else.
pub fn set_price(db: &TestDb) {
    let price = ["price", "set", "m", "--prompt", "0", "--completion", "1"];
    done(run(&price, &[("DATABASE_URL", &db.url())], ""));
}

/// A model server that makes as many tokens as it may, and reports them.
pub fn obedient() -> Upstream {
    Upstream::start(|seen, wire| {
        let request = seen.json();
        let made = request["max_tokens"].as_i64().unwrap_or(1);
        if request["stream"] != true {
            let choice =
                json!({"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length"});
            let usage = json!({"prompt_tokens": 1, "completion_tokens": made, "total_tokens": made + 1});
            return wire.json(200, &json!({"choices": [choice], "usage": usage}));
        }
        wire.start("text/event-stream");
        for _ in 0..made {
            wire.word("x");
        }
        wire.finish(1, made);
    })
}

/// A chat that costs so many micro-dollars at most.
pub fn chat(max_tokens: i64) -> Value {
    json!({"model": "m", "max_tokens": max_tokens, "messages": [{"role": "user", "content": "Hello"}]})
}

/// A new key with this budget in total, and its id.
pub fn key_with(user: &User, server: &Server, limit_micros: i64) -> (String, Client) {
    let budget = json!({"limit_micros": limit_micros});
    let key = user.browser.post("/api/keys", &json!({"name": "k", "budget": budget})).expect(200).json();
    let client = server.inference.with_secret(key["secret"].as_str().unwrap());
    (key["id"].as_str().unwrap().to_owned(), client)
}

/// Waits until all that was charged is settled.
pub fn settled(db: &TestDb) {
    soon("charges to be settled", || db.count("SELECT count(*) FROM unsettled") == 0);
}

fn budget_of(user: &User, id: &str) -> Value {
    let keys = user.browser.get("/api/keys").expect(200).json();
    keys["keys"].as_array().unwrap().iter().find(|key| key["id"] == id).unwrap()["budget"].clone()
}

#[test]
fn a_key_spends_its_budget_to_the_last_token_and_no_further() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let (id, client) = key_with(&user, &server, 25);
    let made = |reply: Value| reply["usage"]["completion_tokens"].as_i64().unwrap();
    assert_eq!(made(client.post("/v1/chat/completions", &chat(10)).expect(200).json()), 10);
    assert_eq!(made(client.post("/v1/chat/completions", &chat(10)).expect(200).json()), 10);
    assert_eq!(made(client.post("/v1/chat/completions", &chat(10)).expect(200).json()), 5, "what is left");
    let reply = client.post("/v1/chat/completions", &chat(10)).expect(402);
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    let error = reply.json()["error"].clone();
    assert_eq!(json!([error["type"], error["code"]]), json!(["insufficient_quota", "insufficient_quota"]));
    assert_eq!(upstream.seen().len(), 3, "a request that is refused calls no model");
    let budget = budget_of(&user, &id);
    let expected = json!({"limit_micros": 25, "window": "total", "timezone": "UTC", "spent_micros": 25,
        "remaining_micros": 0, "resets": null});
    assert_eq!(budget, expected);
    // Another key of the account has no limit, and a limit that is raised is one at once.
    let program = user.program(&server.inference);
    assert_eq!(made(program.post("/v1/chat/completions", &chat(40)).expect(200).json()), 40);
    user.browser.post("/api/keys/update", &json!({"id": id, "budget": {"limit_micros": 27}})).expect(200);
    assert_eq!(made(client.post("/v1/chat/completions", &chat(10)).expect(200).json()), 2);
    client.post("/v1/chat/completions", &chat(10)).expect(402);
    user.browser.post("/api/keys/update", &json!({"id": id, "budget": null})).expect(200);
    assert_eq!(made(client.post("/v1/chat/completions", &chat(10)).expect(200).json()), 10);
    assert_eq!(final_charges(&db, server).len(), 6);
}

#[test]
fn a_request_that_is_refused_or_fails_gives_back_what_was_set_aside() {
    let upstream = Upstream::start(|seen, wire| match seen.json()["max_tokens"].as_i64() {
        Some(50) => wire.json(400, &json!({"error": {"message": "no"}})),
        _ => wire.json(200, &json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}})),
    });
    let (db, server, user) = start(&upstream, &[]);
    let (id, client) = key_with(&user, &server, 50);
    for _ in 0..10 {
        client.post("/v1/chat/completions", &chat(50)).expect(400);
    }
    assert_eq!(budget_of(&user, &id)["spent_micros"], 0);
    // What was not used of one that is charged is free again.
    for _ in 0..16 {
        client.post("/v1/chat/completions", &chat(40)).expect(200);
    }
    assert_eq!(budget_of(&user, &id)["remaining_micros"], 2);
    assert_eq!(final_charges(&db, server).len(), 16);
}

#[test]
fn a_stream_ends_where_the_budget_does_though_the_model_goes_on() {
    let upstream = Upstream::start(|_, wire| {
        wire.start("text/event-stream");
        while wire.word("word ") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    let (db, server, user) = start(&upstream, &[]);
    let (id, client) = key_with(&user, &server, 12);
    let mut request = chat(100);
    request["stream"] = json!(true);
    let reply = client.post("/v1/chat/completions", &request).expect(200).text();
    assert_eq!(reply.matches("word ").count(), 12, "{reply}");
    assert!(reply.contains(r#""finish_reason":"length""#) && reply.ends_with("data: [DONE]\n\n"), "{reply}");
    assert_eq!(upstream.only().json()["max_tokens"], 12);
    assert_eq!(budget_of(&user, &id)["spent_micros"], 12);
    client.post("/v1/chat/completions", &request).expect(402);
    assert_eq!(final_charges(&db, server).len(), 1);
}

#[test]
fn what_a_disobedient_model_makes_is_not_charged_beyond_the_budget() {
    let upstream =
        Upstream::constant(200, json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 90}}));
    let (db, server, user) = start(&upstream, &[]);
    let (_, client) = key_with(&user, &server, 30);
    client.post("/v1/chat/completions", &chat(20)).expect(200);
    let charges = final_charges(&db, server);
    let cost = charges[0]["cost_micros"].as_i64().unwrap();
    assert!((20..=30).contains(&cost) && charges[0]["completion_tokens"] == cost, "{charges:?}");
}

#[test]
fn the_account_and_the_key_both_limit_a_request() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let settings = [("DATABASE_URL", db.url())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let limit = |args: &[&str]| run(&[&["limit"], args].concat(), &settings, "");
    let text =
        done(limit(&["set", "ann@example.com", "--budget", "0.00003", "--window", "day", "--timezone", "Asia/Tokyo"]));
    assert!(text.contains("US$ 0.00003, day, Asia/Tokyo"), "{text}");
    let (first, second) = (key_with(&user, &server, 20).1, user.program(&server.inference));
    soon("the account's budget to hold", || {
        let made = second.post("/v1/chat/completions", &chat(1));
        made.status == 200 && db.count("SELECT count(*) FROM leases") > 0
    });
    let before = i64::try_from(charges(&db).len()).unwrap();
    let made = |client: &Client, most| client.post("/v1/chat/completions", &chat(most)).expect(200).json();
    assert_eq!(made(&first, 25)["usage"]["completion_tokens"], 20, "the key's");
    assert_eq!(made(&second, 25)["usage"]["completion_tokens"], 10 - before, "the account's");
    first.post("/v1/chat/completions", &chat(1)).expect(402);
    let shown = done(limit(&["show", "ann@example.com"]));
    assert!(shown.contains("day Asia/Tokyo") && shown.contains(" 0.00003 ") && shown.contains("total UTC"), "{shown}");
    refused(limit(&["set", "ann@example.com", "--budget", "1", "--timezone", "Mars/Base"]), "IANA time zone");
    refused(limit(&["set", "nobody@example.com", "--budget", "1"]), "no such account");
    for bad in ["-1", "1e3", "0.0000001", "", "5 US$", "99999999999999999999"] {
        let outcome = limit(&["set", "ann@example.com", &format!("--budget={bad}")]);
        assert!(outcome.code == 2 && outcome.err.contains("US dollars such as 12.50"), "{bad}: {outcome:?}");
    }
    done(limit(&["remove", "ann@example.com"]));
    soon("the account's budget to end", || second.post("/v1/chat/completions", &chat(1)).status == 200);
}

#[test]
fn what_was_spent_in_the_window_before_the_budget_was_made_counts() {
    let upstream = obedient();
    let (_db, server, user) = start(&upstream, &[]);
    let key = user.browser.post("/api/keys", &json!({"name": "k"})).expect(200).json();
    let client = server.inference.with_secret(key["secret"].as_str().unwrap());
    client.post("/v1/chat/completions", &chat(10)).expect(200);
    user.program(&server.inference).post("/v1/chat/completions", &chat(100)).expect(200);
    for (window, resets) in [("day", true), ("week", true), ("month", true), ("total", false)] {
        let budget = json!({"limit_micros": 30, "window": window, "timezone": "America/New_York"});
        let shown =
            user.browser.post("/api/keys/update", &json!({"id": key["id"], "budget": budget})).expect(200).json();
        assert_eq!((&shown["budget"]["spent_micros"], &shown["budget"]["window"]), (&json!(10), &json!(window)));
        assert_eq!(shown["budget"]["resets"].is_string(), resets, "{shown}");
    }
    let reply = client.post("/v1/chat/completions", &chat(100)).expect(200).json();
    assert_eq!(reply["usage"]["completion_tokens"], 20);
}

#[test]
fn a_key_does_not_escape_its_budget() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let (id, client) = key_with(&user, &server, 30);
    client.post("/v1/chat/completions", &chat(10)).expect(200);
    let secret = {
        let rotated =
            user.browser.post("/api/keys/rotate", &json!({"id": id, "grace_seconds": 3600})).expect(200).json();
        assert_eq!(rotated["budget"]["spent_micros"], 10);
        rotated["secret"].as_str().unwrap().to_owned()
    };
    // The old one and the new one share it.
    let new = server.inference.with_secret(&secret);
    client.post("/v1/chat/completions", &chat(10)).expect(200);
    let reply = new.post("/v1/chat/completions", &chat(100)).expect(200).json();
    assert_eq!(reply["usage"]["completion_tokens"], 10);
    client.post("/v1/chat/completions", &chat(10)).expect(402);
    let web = server.web.with_secret(&secret);
    web.post("/api/keys", &json!({"name": "more", "budget": {"limit_micros": 5}})).expect(403);
    web.post("/api/keys/update", &json!({"id": id, "budget": null})).expect(403);
    assert_eq!(db.count("SELECT sum(cost_micros)::bigint FROM usage_events"), 30);
}

#[test]
fn a_change_of_the_limit_alone_keeps_the_windows() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let (id, _) = key_with(&user, &server, 30);
    let set = |budget: Value| {
        let body = json!({"id": id, "budget": budget});
        let shown = user.browser.post("/api/keys/update", &body).expect(200).json();
        json!([shown["budget"]["limit_micros"], shown["budget"]["window"], shown["budget"]["timezone"]])
    };
    let japan = json!({"limit_micros": 5, "window": "week", "timezone": "Japan"});
    assert_eq!(set(japan), json!([5, "week", "Japan"]));
    assert_eq!(set(json!({"limit_micros": 6})), json!([6, "week", "Japan"]));
    assert_eq!(set(json!({"limit_micros": 6, "window": "day"})), json!([6, "day", "Japan"]));
    assert_eq!(set(json!({"limit_micros": 7, "timezone": "Cuba"})), json!([7, "day", "Cuba"]));
    let settings = [("DATABASE_URL", db.url())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let limit = |args: &[&str]| done(run(&[&["limit", "set", "ann@example.com"], args].concat(), &settings, ""));
    assert!(limit(&["--budget", "0.00003"]).contains("US$ 0.00003, month, UTC"));
    limit(&["--budget", "0.00003", "--window", "day", "--timezone", "Asia/Tokyo"]);
    assert!(limit(&["--budget", "0.00004"]).contains("US$ 0.00004, day, Asia/Tokyo"));
}

#[test]
fn budgets_that_are_none_are_refused() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let id = user.browser.post("/api/keys", &json!({"name": "k"})).expect(200).json()["id"].clone();
    for bad in [
        json!(5),
        json!([]),
        json!({}),
        json!({"limit_micros": -1}),
        json!({"limit_micros": 1.5}),
        json!({"limit_micros": 1_000_000_000_000_001_i64}),
        json!({"limit_micros": 1, "window": "year"}),
        json!({"limit_micros": 1, "timezone": "Mars/Base"}),
        json!({"limit_micros": 1, "timezone": "X+3"}),
        json!({"limit_micros": 1, "timezone": ""}),
        json!({"limit_micros": 1, "timezone": "localtime"}),
        json!({"limit_micros": 1, "timezone": "UTC\0"}),
        json!({"limit_micros": 1, "period": "day"}),
    ] {
        user.browser.post("/api/keys", &json!({"name": "n", "budget": bad})).expect(400);
        user.browser.post("/api/keys/update", &json!({"id": id, "budget": bad})).expect(400);
    }
    user.browser.post("/api/keys/update", &json!({"id": "key_nonsense", "budget": null})).expect(404);
    let form = [("name", "form"), ("budget", r#"{"limit_micros":7}"#)];
    let made = user.browser.form_for_json("/api/keys", &form).expect(200).json();
    assert_eq!(made["budget"]["remaining_micros"], 7);
    assert_eq!(db.count("SELECT count(*) FROM budgets"), 1);
    let renamed = user.browser.post("/api/keys/update", &json!({"id": made["id"], "name": "other"})).expect(200).json();
    assert_eq!(json!([renamed["name"], renamed["budget"]["limit_micros"]]), json!(["other", 7]));
    user.browser.post("/api/delete-account", &json!({"password": crate::harness::PASSWORD})).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM budgets"), 0);
}

#[test]
fn a_repeated_request_is_not_paid_again() {
    let upstream = obedient();
    let (_db, server, user) = start(&upstream, &[]);
    let (id, client) = key_with(&user, &server, 15);
    let once = client.header("idempotency-key", "k1");
    once.post("/v1/chat/completions", &chat(10)).expect(200);
    for _ in 0..3 {
        let again = once.post("/v1/chat/completions", &chat(10)).expect(200);
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    assert_eq!(budget_of(&user, &id)["remaining_micros"], 5);
    client.post("/v1/chat/completions", &chat(5)).expect(200);
    client.post("/v1/chat/completions", &chat(5)).expect(402);
    once.post("/v1/chat/completions", &chat(10)).expect(200);
}
