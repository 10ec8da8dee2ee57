//! What keys are limited to: models, what they may do, and where they may be used.

use serde_json::{Value, json};

use crate::budgets::{chat, obedient, start};
use crate::harness::{Client, Server, TestDb, User, soon, textgen};

/// A new key with these fields: its id and its secret.
fn key(user: &User, fields: &Value) -> (String, String) {
    let mut body = json!({"name": "k"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let key = user.browser.post("/api/keys", &body).expect(200).json();
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

fn update(user: &User, id: &str, fields: &Value) -> Value {
    let mut body = json!({ "id": id });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    user.browser.post("/api/keys/update", &body).expect(200).json()
}

#[test]
fn a_key_may_do_what_it_is_permitted_to() {
    let (_db, server, user) = start(&obedient(), &[]);
    let (id, secret) = key(&user, &json!({"permissions": ["models"]}));
    let web = server.web.with_secret(&secret);
    let refused = |client: &Client| {
        for path in ["/api/keys", "/api/sessions", "/api/usage", "/api/docs/list", "/account"] {
            client.get(path).expect(403);
        }
        client.post("/api/docs/save", &json!({"content": "x"})).expect(403);
        client.post("/api/keys", &json!({"name": "n"})).expect(403);
    };
    refused(&web);
    web.get("/api/current-user").expect(200);
    let inference = server.inference.with_secret(&secret);
    inference.post("/v1/chat/completions", &chat(1)).expect(200);
    assert_eq!(update(&user, &id, &json!({"permissions": ["documents"]}))["permissions"], json!(["documents"]));
    web.post("/api/docs/save", &json!({"content": "x"})).expect(200);
    let error = inference.post("/v1/chat/completions", &chat(1)).expect(403).json()["error"].clone();
    assert_eq!(error["type"], "permission_error");
    let all = json!(["models", "documents", "account"]);
    assert_eq!(update(&user, &id, &json!({"permissions": null}))["permissions"], all);
    inference.post("/v1/chat/completions", &chat(1)).expect(200);
    web.get("/api/keys").expect(200);
    update(&user, &id, &json!({"permissions": []}));
    web.get("/api/current-user").expect(200);
    refused(&web);
}

#[test]
fn a_key_calls_the_models_that_it_may() {
    let upstream = obedient();
    let (_db, server, user) = start(&upstream, &[]);
    let (id, secret) = key(&user, &json!({"models": ["m"]}));
    let client = server.inference.with_secret(&secret);
    client.post("/v1/chat/completions", &chat(1)).expect(200);
    let mut other = chat(1);
    other["model"] = json!("n");
    let error = client.post("/v1/chat/completions", &other).expect(404).json()["error"].clone();
    assert_eq!(json!([error["type"], error["code"]]), json!(["invalid_request_error", "model_not_found"]));
    client.post("/api/v1/generate", &json!({"text": "Hello", "model": "n"})).expect(404);
    client.post("/api/v1/generate-bulk", &json!([{"text": "Hello", "model": "n"}])).expect(404);
    assert_eq!(upstream.seen().len(), 1, "no model is called");
    // The default model is another one.
    client.post("/v1/chat/completions", &json!({"messages": []})).expect(200);
    assert_eq!(upstream.seen()[1].json()["model"], "m");
    assert_eq!(client.get("/v1/models").expect(200).json()["data"], json!([{"id": "m", "object": "model"}]));
    client.get("/v1/models/m").expect(200);
    client.get("/v1/models/n").expect(404);
    update(&user, &id, &json!({"models": ["n"]}));
    client.post("/v1/chat/completions", &other).expect(200);
    update(&user, &id, &json!({"models": null}));
    client.post("/v1/chat/completions", &chat(1)).expect(200);
}

#[test]
fn a_key_works_at_its_addresses() {
    let (_db, server, user) = start(&obedient(), &[("TRUSTED_PROXIES", "127.0.0.1")]);
    let (id, secret) = key(&user, &json!({"addresses": ["10.1.0.0/16", "192.0.2.7"]}));
    let from = |address: &str| server.inference.with_secret(&secret).header("x-forwarded-for", address);
    for (address, status) in [("10.1.2.3", 200), ("192.0.2.7", 200), ("192.0.2.8", 403), ("10.2.0.1", 403)] {
        from(address).post("/v1/chat/completions", &chat(1)).expect(status);
        from(address).get("/api/current-user").expect(status);
    }
    let shown = update(&user, &id, &json!({"addresses": ["10.2.3.4/16"]}));
    assert_eq!(shown["addresses"], json!(["10.2.0.0/16"]));
    from("10.2.0.1").get("/api/current-user").expect(200);
    from("10.1.2.3").get("/api/current-user").expect(403);
}

#[test]
fn a_key_with_limits_makes_nothing_wider() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let keys = user.browser.get("/api/keys").expect(200).json();
    let default = keys["keys"][0]["id"].clone();
    let wider = [
        ("permissions", json!(["documents"])),
        ("models", json!(["m", "n"])),
        ("addresses", json!(["127.0.0.0/8"])),
        ("budget", json!({"limit_micros": 1})),
        ("rate", json!({"concurrent": 1})),
        ("expires", json!("2999-01-01T00:00:01Z")),
    ];
    for limits in [
        json!({"permissions": ["models", "account"]}),
        json!({"models": ["m"]}),
        json!({"addresses": ["127.0.0.1"]}),
        json!({"budget": {"limit_micros": 5}}),
        json!({"rate": {"concurrent": 5}}),
        json!({"expires": "2999-01-01T00:00:00Z"}),
    ] {
        let (id, secret) = key(&user, &limits);
        let client = server.web.with_secret(&secret);
        client.post("/api/keys/rotate", &json!({"id": default})).expect(403);
        client.post("/api/keys/rename", &json!({"id": default, "name": "mine"})).expect(403);
        client.post("/api/keys/revoke", &json!({"id": default})).expect(403);
        let (name, more) = wider.iter().find(|(name, _)| limits.get(*name).is_some()).unwrap();
        for more in [more, &json!(null)] {
            client.post("/api/keys", &json!({"name": "more", *name: more})).expect(403);
            client.post("/api/keys/update", &json!({"id": id, *name: more})).expect(403);
        }
        // What it makes has its limits, and cannot get rid of them.
        let made = client.post("/api/keys", &json!({"name": "same"})).expect(200).json();
        let check = |key: &Value| {
            for name in ["models", "addresses", "budget", "rate", "expires"] {
                assert_eq!(key[name].is_null(), limits.get(name).is_none(), "{name}: {key}");
            }
        };
        check(&made);
        let child = server.web.with_secret(made["secret"].as_str().unwrap());
        child.post("/api/keys/update", &json!({"id": made["id"], *name: null})).expect(403);
        client.post("/api/keys/rename", &json!({"id": made["id"], "name": "other"})).expect(200);
        client.post("/api/keys/revoke", &json!({"id": made["id"]})).expect(200);
        // It may replace itself, by a key with the same limits.
        let rotated = client.post("/api/keys/rotate", &json!({"id": id})).expect(200).json();
        check(&rotated);
        let again = server.web.with_secret(rotated["secret"].as_str().unwrap());
        again.post("/api/keys", &json!({"name": "more", *name: more})).expect(403);
        again.post("/api/keys/revoke", &json!({"id": rotated["id"]})).expect(200);
    }
    assert_eq!(user.browser.get("/api/keys").expect(200).json()["keys"].as_array().unwrap().len(), 1);
}

#[test]
fn keys_that_a_key_makes_spend_its_budget_with_it() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let (id, secret) = key(&user, &json!({"budget": {"limit_micros": 30}}));
    let made = server.web.with_secret(&secret).post("/api/keys", &json!({"name": "child"})).expect(200).json();
    let [parent, child] =
        [&secret, made["secret"].as_str().unwrap()].map(|secret| server.inference.with_secret(secret));
    let used = |client: &Client| {
        client.post("/v1/chat/completions", &chat(20)).expect(200).json()["usage"]["completion_tokens"].clone()
    };
    assert_eq!(json!([used(&parent), used(&child)]), json!([20, 10]));
    for client in [parent, child] {
        client.post("/v1/chat/completions", &chat(1)).expect(402);
    }
    // Without its budget, one of them is without limit; the other one is not.
    user.browser.post("/api/keys/update", &json!({"id": made["id"], "budget": null})).expect(200);
    let kept = update(&user, &id, &json!({}));
    assert_eq!(kept["budget"]["spent_micros"], 30);
    assert_eq!(update(&user, &id, &json!({"budget": null}))["budget"], json!(null));
    assert_eq!(db.count("SELECT count(*) FROM budgets"), 0);
}

#[test]
fn a_restricted_key_sees_what_everybody_sees() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let (_, secret) = key(&user, &json!({"permissions": ["models"], "addresses": ["192.0.2.1"]}));
    let (limited, anonymous) = (server.web.with_secret(&secret), server.web.anonymous());
    for path in ["/", "/docs", "/api/subscription-status"] {
        assert_eq!(limited.get(path).status, anonymous.get(path).status, "{path}");
    }
    assert_eq!(limited.get("/api/subscription-status").expect(200).json()["authenticated"], false);
    limited.get("/api/docs/get?id=doc_none").expect(403);
    limited.get("/account").expect(403);
}

#[test]
fn only_an_administrators_session_makes_a_key_for_administration() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("root@example.com");
    let body = json!({"name": "ops", "permissions": ["admin"]});
    user.browser.post("/api/keys", &body).expect(403);
    let promoted = textgen(&["user", "promote", &user.email]).env("DATABASE_URL", db.url()).output().unwrap();
    assert!(promoted.status.success(), "{promoted:?}");
    soon("the promotion to be seen", || user.browser.get("/admin").status == 200);
    user.program(&server.web).post("/api/keys", &body).expect(403);
    let (id, secret) = key(&user, &json!({"permissions": ["admin"]}));
    server.web.with_secret(&secret).get("/admin").expect(200);
    server.web.with_secret(&secret).get("/account").expect(403);
    let plain = user.program(&server.web);
    plain.get("/admin").expect(403);
    // Nor does another key get its secret, or make it work from elsewhere.
    plain.post("/api/keys/rotate", &json!({"id": id})).expect(403);
    plain.post("/api/keys/update", &json!({"id": id, "addresses": null})).expect(403);
    server.web.with_secret(&secret).get("/admin").expect(200);
}

#[test]
fn limits_that_are_none_are_refused() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    for bad in [
        json!({"models": "m"}),
        json!({"models": [1]}),
        json!({"models": [""]}),
        json!({"models": vec!["m"; 101]}),
        json!({"permissions": ["everything"]}),
        json!({"permissions": "models"}),
        json!({"addresses": ["nowhere"]}),
        json!({"addresses": ["10.0.0.0/33"]}),
        json!({"rate": 5}),
        json!({"rate": {"requests_per_minute": 0}}),
        json!({"rate": {"tokens_per_minute": -1}}),
        json!({"rate": {"concurrent": 1.5}}),
        json!({"rate": {"requests_per_minute": 1_000_000_000_001_i64}}),
        json!({"rate": {"requests_per_hour": 5}}),
    ] {
        let mut body = json!({"name": "k"});
        body.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        user.browser.post("/api/keys", &body).expect(400);
    }
    assert_eq!(db.count("SELECT count(*) FROM api_keys"), 1);
}
