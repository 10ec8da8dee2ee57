//! The operator's API of the catalogue: models, providers and prices, changed one by one.

use serde_json::{Value, json};

use crate::harness::{Client, PASSWORD, Server, TestDb, Upstream, at_once, done, run, soon, wait_until};

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const MODELS: &str = "/api/admin/models";
const PROVIDERS: &str = "/api/admin/providers";

pub(crate) fn start(db: &TestDb) -> (Server, Client) {
    let server = Server::start_with(db, &[("ENCRYPTION_KEY", KEY)]);
    let root = server.sign_up("root@example.com").browser;
    db.run("UPDATE users SET is_admin = true WHERE email = 'root@example.com'");
    soon("the promotion to be seen", || root.get("/admin").status == 200);
    (server, root)
}

fn provider(name: &str, upstream: &Upstream) -> Value {
    json!({"name": name, "base_url": format!("{}/v1", upstream.url), "protocols": ["chat"]})
}

fn model(name: &str, provider: &str) -> Value {
    json!({"name": name, "price": {"request": "0.000007"}, "route": [{"provider": provider}]})
}

fn listed(client: &Client, path: &str) -> Vec<Value> {
    let list = if path == MODELS { "models" } else { "providers" };
    client.get(path).expect(200).json()[list].as_array().unwrap().clone()
}

fn names(client: &Client, path: &str) -> Vec<String> {
    listed(client, path).iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

fn answers() -> Upstream {
    Upstream::start(|_, wire| {
        let usage = json!({"prompt_tokens": 5, "completion_tokens": 3});
        wire.json(200, &json!({"choices": [{"message": {"content": "Hi"}}], "usage": usage}));
    })
}

#[test]
fn only_administrators_and_their_keys_for_that_see_and_change_the_catalogue() {
    let db = TestDb::new();
    let (server, root) = start(&db);
    let ann = server.sign_up("ann@example.com");
    let key = |permissions: Value| {
        let made = root.post("/api/keys", &json!({"name": "k", "permissions": permissions})).expect(200).json();
        server.web.with_secret(made["secret"].as_str().unwrap())
    };
    let plain = key(json!(["models", "documents", "account"]));
    for path in [MODELS, PROVIDERS] {
        for (client, status) in
            [(&server.web.anonymous(), 401), (&ann.browser, 403), (&ann.program(&server.web), 403), (&plain, 403)]
        {
            client.get(path).expect(status);
            client.post(path, &json!({"name": "x", "base_url": "http://127.0.0.1:1/v1"})).expect(status);
        }
    }
    let body = json!({"name": "x", "base_url": "http://127.0.0.1:1/v1"});
    let ops = key(json!(["admin"]));
    assert_eq!(ops.post(PROVIDERS, &body).expect(200).json()["outcome"], "created");
    assert_eq!(root.post(PROVIDERS, &body).expect(200).json()["outcome"], "unchanged");
    assert_eq!((names(&ops, PROVIDERS), names(&root, MODELS).len()), (vec!["x".to_owned()], 0));
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE actor = 'root@example.com'"), 1, "what changes nothing");
}

#[test]
fn a_model_is_added_changed_and_removed_while_others_stay_and_every_process_sees_it() {
    let (upstream, db) = (answers(), TestDb::new());
    let (server, root) = start(&db);
    let other = Server::start(&db);
    other.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    let program = user.program(&other.inference);
    let seen = || {
        let list = program.get("/v1/models");
        let names = |list: Value| list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
        if list.status == 200 { names(list.json()) } else { Vec::<Value>::new() }
    };
    root.post(PROVIDERS, &provider("p", &upstream)).expect(200);
    for name in ["b", "a"] {
        let made = root.post(MODELS, &model(name, "p")).expect(200).json();
        assert_eq!(made["outcome"], "created");
    }
    wait_until("another process to see them", || seen() == [json!("b"), json!("a")]);
    // A price alone: everything else stays, and so does what was charged.
    let ask = |name: &str| program.post("/v1/chat/completions", &json!({"model": name, "messages": []}));
    ask("b").expect(200);
    let change = json!({"name": "b", "price": {"request": "0.5"}, "aliases": ["best"], "max_output_tokens": 9});
    let changed = root.post(MODELS, &change).expect(200).json();
    assert_eq!((&changed["outcome"], &changed["model"]["price"]), (&json!("changed"), &json!({"request": "0.5"})));
    let route = json!([{"provider": "p", "model": "b", "weight": 1, "priority": 0}]);
    assert_eq!((&changed["model"]["route"], names(&root, MODELS)), (&route, vec!["b".to_owned(), "a".to_owned()]));
    wait_until("the new name", || ask("best").status == 200);
    let spent = "SELECT sum(cost_micros)::bigint FROM usage_events WHERE model = 'b'";
    wait_until("the charges", || db.count("SELECT count(*) FROM usage_events WHERE model = 'b'") >= 2);
    assert_eq!(db.count(spent), 500_007);
    // A price from a later day on.
    let later = json!({"name": "b", "price": {"request": "2"}, "price_from": "2999-01-01T00:00:00Z"});
    let shown = root.post(MODELS, &later).expect(200).json()["model"].clone();
    let upcoming = json!([{"from": "2999-01-01T00:00:00Z", "price": {"request": "2"}}]);
    assert_eq!((&shown["price"], &shown["upcoming_prices"]), (&json!({"request": "0.5"}), &upcoming));
    // Null is the default again; what is not there stays.
    let cleared = root.post(MODELS, &json!({"name": "b", "max_output_tokens": null})).expect(200).json();
    assert_eq!(
        (&cleared["model"]["max_output_tokens"], &cleared["model"]["aliases"]),
        (&json!(null), &json!(["best"]))
    );
    let in_use = root.post(PROVIDERS, &json!({"name": "p", "remove": true})).expect(400).text();
    assert!(in_use.contains("has a route to it"), "{in_use}");
    for name in ["b", "a"] {
        let removed = root.post(MODELS, &json!({"name": name, "remove": true})).expect(200).json();
        assert_eq!(removed, json!({"outcome": "removed", "model": null}));
        root.post(MODELS, &json!({"name": name, "remove": true})).expect(404);
    }
    root.post(PROVIDERS, &json!({"name": "p", "remove": true})).expect(200);
    wait_until("another process to see that", || ask("b").status == 503);
    let entries = "SELECT count(*) FROM audit WHERE user_id = '' AND address <> '' AND action = ";
    for (action, count) in [("create model", 2), ("change model", 3), ("remove model", 2), ("remove provider", 1)] {
        assert_eq!(db.count(&format!("{entries}'{action}'")), count, "{action}");
    }
}

#[test]
fn changes_of_several_entries_at_once_all_stay() {
    let (upstream, db) = (answers(), TestDb::new());
    let (_server, root) = start(&db);
    root.post(PROVIDERS, &provider("p", &upstream)).expect(200);
    let file = format!("[[provider]]\nname = \"p\"\nbase_url = \"{}/v1\"\nprotocols = [\"chat\"]\n", upstream.url);
    at_once(12, |n| {
        root.post(MODELS, &model(&format!("m{n}"), "p")).expect(200);
        root.post(MODELS, &json!({"name": format!("m{n}"), "max_output_tokens": n + 1})).expect(200);
        root.post(PROVIDERS, &provider(&format!("p{n}"), &upstream)).expect(200);
    });
    let models = listed(&root, MODELS);
    assert_eq!((models.len(), listed(&root, PROVIDERS).len()), (12, 13));
    for model in models {
        let n: i64 = model["name"].as_str().unwrap()[1..].parse().unwrap();
        assert_eq!(model["max_output_tokens"], n + 1);
    }
    assert_eq!(db.count("SELECT count(DISTINCT position) FROM models"), 12);
    // Of two that want one name, one gets it.
    let statuses = at_once(2, |n| root.post(MODELS, &json!({"name": format!("m{n}"), "aliases": ["best"]})).status);
    assert!(statuses.contains(&200) && statuses.contains(&400), "{statuses:?}");
    // The file replaces all of it, and is recorded too.
    done(run(&["models", "apply", "-"], &[("DATABASE_URL", &db.url())], &file));
    assert_eq!((names(&root, MODELS).len(), names(&root, PROVIDERS)), (0, vec!["p".to_owned()]));
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'apply' AND actor = 'command line'"), 1);
}

#[test]
fn secrets_are_never_shown_and_never_sent_elsewhere() {
    let db = TestDb::new();
    let (server, root) = start(&db);
    let far = json!({"name": "far", "base_url": "https://far.example.com/v1", "api_key": "sk-hunter2"});
    let mut replies = vec![root.post(PROVIDERS, &far).expect(200).text()];
    assert_eq!(root.post(PROVIDERS, &far).expect(200).json()["outcome"], "unchanged");
    let change = |fields: Value| {
        let mut body = json!({"name": "far"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        root.post(PROVIDERS, &body)
    };
    // The key stays, but not for another address.
    assert_eq!(change(json!({"max_concurrent": 3})).expect(200).json()["provider"]["api_key"], "sealed");
    for elsewhere in [
        json!({"base_url": "https://evil.example.com/v1"}),
        json!({"base_url": "https://evil.example.com/v1", "api_key": "sealed"}),
    ] {
        let refused = change(elsewhere).expect(400).text();
        assert!(refused.contains("api_key: base_url is another one"), "{refused}");
        replies.push(refused);
    }
    let sealed = "SELECT count(*) FROM providers WHERE base_url LIKE '%far.example%' AND api_key_sealed IS NOT NULL";
    assert_eq!(db.count(sealed), 1);
    for own in ["DATABASE_URL", "ENCRYPTION_KEY", "STRIPE_SECRET_KEY"] {
        let refused = change(json!({"api_key": format!("env:{own}")})).expect(400).text();
        assert!(refused.contains("is a secret of textgen itself"), "{refused}");
        change(json!({"headers": {"X-Key": format!("env:{own}")}})).expect(400);
    }
    for wrong in [json!({"api_key": ["sk-hunter2"]}), json!({"api_key": "sk hunter2"}), json!({"headers": "hunter2"})] {
        replies.push(change(wrong).expect(400).text());
    }
    replies.push(root.get(PROVIDERS).expect(200).text());
    replies.push(root.header("accept", "text/html").get("/admin/audit").expect(200).text());
    replies.push(server.log());
    assert!(replies.iter().all(|reply| !reply.contains("hunter2")), "{replies:?}");
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE detail LIKE '%hunter2%'"), 0);
    // A server without the variable says so.
    assert_eq!(
        change(json!({"api_key": "env:NOT_THERE_KEY"})).expect(200).json()["provider"]["api_key"],
        "env:NOT_THERE_KEY"
    );
    wait_until("the server to notice", || {
        let problem = listed(&root, PROVIDERS)[0]["problem"].to_string();
        problem.contains("NOT_THERE_KEY is not set")
    });
    assert_eq!(change(json!({"api_key": null})).expect(200).json()["provider"]["api_key"], json!(null));
    // A key cannot be kept where there is no key to seal it with.
    let bare = Server::start(&db);
    let refused = bare.sign_in("root@example.com", PASSWORD).post(PROVIDERS, &far).expect(400).text();
    assert!(refused.contains("api_key: ENCRYPTION_KEY is not set"), "{refused}");
}

#[test]
fn a_mistake_changes_nothing_and_is_named() {
    let (upstream, db) = (answers(), TestDb::new());
    let (_server, root) = start(&db);
    root.post(PROVIDERS, &provider("p", &upstream)).expect(200);
    root.post(MODELS, &model("m", "p")).expect(200);
    root.post(MODELS, &json!({"name": "n", "aliases": ["o"], "route": [{"provider": "p"}]})).expect(200);
    let state = || (root.get(MODELS).text(), root.get(PROVIDERS).text(), db.count("SELECT count(*) FROM prices"));
    let before = state();
    for (fields, words) in [
        (json!({"name": null}), "name: expected a text"),
        (json!({"name": ""}), "name: a name has 1 to 200 bytes"),
        (json!({"name": "default"}), "name: \\\"default\\\" is the name of the price"),
        (json!({"name": "o"}), "name: \\\"o\\\" is already a name of the model \\\"n\\\""),
        (json!({"aliases": ["n"]}), "aliases: \\\"n\\\" is already a name"),
        (json!({"aliases": "n"}), "aliases: expected a list"),
        (json!({"max_output_tokens": 0}), "max_output_tokens: expected at least 1"),
        (json!({"max_output_tokens": "5"}), "max_output_tokens: expected a whole number"),
        (json!({"price": {"input": 0.15}}), "price.input: expected a text"),
        (json!({"price": {"input": "1,5"}}), "price: input: "),
        (json!({"price": {"inputs": "1"}}), "price: \\\"inputs\\\" is unknown"),
        (json!({"price_from": "2999-01-01T00:00:00Z"}), "price_from: there is no price"),
        (json!({"price": {}, "price_from": "tomorrow"}), "price_from: expected a time"),
        (json!({"route": []}), "route: there must be 1 to 100"),
        (json!({"route": null}), "route: there must be 1 to 100"),
        (json!({"route": [{"provider": "q"}]}), "route 1: provider: there is no provider \\\"q\\\""),
        (json!({"route": [{"provider": "p", "weight": "1"}]}), "route[0].weight: expected a whole number"),
        (json!({"route": [{"provider": "p", "weight": 0}]}), "route 1: weight: expected 1 to"),
        (json!({"maxtokens": 5}), "unknown field `maxtokens`"),
        (json!({"remove": 1}), "remove: expected true or false"),
        (json!({"remove": true, "aliases": []}), "remove: expected no other field"),
    ] {
        let mut body = json!({"name": "m"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        if body["name"] == "o" || body["name"] == "" || body["name"] == "default" {
            body["route"] = json!([{"provider": "p"}]);
        }
        let refused = root.post(MODELS, &body).expect(400).text();
        assert!(refused.contains(words), "{body}: {refused}");
    }
    for (fields, words) in [
        (json!({"name": "new"}), "provider \\\"new\\\": base_url: "),
        (json!({"base_url": "ftp://x"}), "base_url: "),
        (json!({"base_url": 5}), "base_url: expected a text"),
        (json!({"protocols": ["chats"]}), "protocols: \\\"chats\\\" is unknown"),
        (json!({"protocols": []}), "protocols: there must be at least one"),
        (json!({"api_key": "sealed"}), "api_key: it says \\\"sealed\\\", but no key is stored"),
        (json!({"api_key": "env:9"}), "api_key: env: must be followed"),
        (json!({"headers": {"Host": "x"}}), "headers: \\\"Host\\\" is no header"),
        (json!({"idle_timeout_ms": 0}), "idle_timeout_ms: expected 1 to"),
        (json!({"max_concurrent": 1.5}), "max_concurrent: expected a whole number"),
        (json!({"ca_file": ""}), "ca_file: expected the path"),
    ] {
        let mut body = json!({"name": "p"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let refused = root.post(PROVIDERS, &body).expect(400).text();
        assert!(refused.contains(words), "{body}: {refused}");
    }
    for body in ["", "[]", "{", "name=m&remove=true"] {
        root.send("POST", MODELS, Some("application/json"), body.as_bytes()).expect(400);
    }
    assert_eq!(state(), before);
}

#[test]
fn lists_have_pages() {
    let (upstream, db) = (answers(), TestDb::new());
    let (_server, root) = start(&db);
    root.post(PROVIDERS, &provider("p", &upstream)).expect(200);
    let all = ["e", "d", "c", "b_x", "a"];
    for name in all {
        root.post(MODELS, &model(name, "p")).expect(200);
    }
    let (mut found, mut at) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page = root.get(&format!("{MODELS}{at}")).expect(200).json();
        found.extend(page["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        at = format!("?limit=2&after={next}");
    }
    assert_eq!(found, all);
    for path in [MODELS, PROVIDERS] {
        for query in ["limit=0", "limit=101", "limit=x", "after=x"] {
            root.get(&format!("{path}?{query}")).expect(400);
        }
    }
}
