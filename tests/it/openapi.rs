//! The servers' replies are validated against the OpenAPI description.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use textgen::api::operations;
use textgen::operation::Handler;

use crate::harness::stripe::Stripe;
use crate::harness::{Authenticator, Client, PASSWORD, Reply, Server, TestDb, User, done, run};
use crate::recordings::multipart;

/// A body or query that makes an operation succeed, where the description's example is not enough.
fn sample(path: &str, user: &User, ids: &BTreeMap<&str, String>) -> (String, Value) {
    let id = |name: &str| json!({"id": ids[name]});
    match path {
        "/api/signup" | "/api/login" => (String::new(), json!({"email": user.email, "password": PASSWORD})),
        "/api/change-password" => {
            let body = json!({"current_password": PASSWORD, "new_password": "another password", "revoke_keys": false});
            (String::new(), body)
        }
        "/api/keys" | "/api/keys/update" => {
            let budget = json!({"limit_micros": 5, "window": "day", "timezone": "UTC"});
            let mut body = json!({"name": "laptop", "expires": "2999-01-01T00:00:00Z", "budget": budget,
                "rate": {"requests_per_minute": 600, "concurrent": 5}, "models": ["m"], "permissions": ["models"], "addresses": ["10.0.0.0/8"]});
            if path == "/api/keys/update" {
                body["id"] = json!(ids["key"]);
            }
            (String::new(), body)
        }
        "/api/keys/rename" => (String::new(), json!({"id": ids["key"], "name": "desk"})),
        "/api/keys/rotate" => (String::new(), json!({"id": ids["key"], "grace_seconds": 60})),
        "/api/keys/revoke" => (String::new(), id("other key")),
        "/api/sessions/revoke" => (String::new(), json!({"others": true})),
        "/api/docs/list" => ("?limit=2&content=false".to_owned(), Value::Null),
        "/api/docs/get" | "/api/docs/versions" => (format!("?id={}", ids["document"]), Value::Null),
        "/api/docs/save" | "/api/docs/autosave" => (String::new(), json!({"title": "T", "content": null})),
        "/api/docs/publish" | "/api/docs/delete" => (String::new(), id("document")),
        "/api/docs/revert" => (String::new(), json!({"id": ids["document"], "version": 1})),
        "/v1/chat/completions" | "/v1/messages/count_tokens" => {
            (String::new(), json!({"messages": [{"role": "user", "content": "Hello"}]}))
        }
        "/v1/completions" | "/v1/engines/{name}/completions" => (String::new(), json!({"prompt": "Hello"})),
        "/v1/messages" => (String::new(), json!({"max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]})),
        "/v1/images/generations" => (String::new(), json!({"prompt": "a cat"})),
        "/v1/rerank" => (String::new(), json!({"query": "Hello", "documents": ["Hello"]})),
        "/v1/embeddings" | "/v1/responses" | "/v1/moderations" => (String::new(), json!({"input": "Hello"})),
        "/v1/audio/speech" => (String::new(), json!({"input": "Hello", "response_format": "wav"})),
        "/api/v1/generate-bulk" => (String::new(), json!([{"text": "Hello"}])),
        "/api/docs/restore" => (String::new(), id("deleted")),
        "/api/forgot-password" => (String::new(), json!({"email": user.email})),
        "/api/reset-password" => {
            (String::new(), json!({"token": user.id, "password": "another password", "revoke_keys": true}))
        }
        "/api/confirm-email" => (String::new(), json!({"token": user.id})),
        "/api/change-email" => (String::new(), json!({"email": format!("new.{}", user.email), "password": PASSWORD})),
        "/api/set-password" => (String::new(), json!({"secret": user.secret, "password": "another password"})),
        "/api/admin/limits/lift" => {
            let body = json!({"user": user.id, "key": ids["budget key"], "until": "2999-01-01T00:00:00Z"});
            (String::new(), body)
        }
        "/api/admin/users" => {
            let email = format!("new.{}", user.email);
            let body = json!({"email": email, "name": "N", "password": PASSWORD, "budget": {"limit_micros": 5},
                "rate": {"concurrent": 5}, "models": ["m"], "addresses": ["127.0.0.0/8"]});
            (String::new(), body)
        }
        "/api/admin/users/update" => {
            let body = json!({"user": user.email, "budget": {"limit_micros": 5}, "rate": {"concurrent": 5},
                "models": ["m"], "addresses": ["127.0.0.0/8"], "suspended": false, "admin": true, "reason": "R"});
            (String::new(), body)
        }
        "/api/admin/users/link" => (String::new(), json!({"user": "somebody@example.com"})),
        "/api/admin/users/keys" => {
            let body = json!({"user": user.email, "name": "N", "expires": "2999-01-01T00:00:00Z",
                "budget": {"limit_micros": 5}, "rate": {"concurrent": 5}, "models": ["m"], "permissions": ["models"],
                "addresses": ["10.0.0.0/8"]});
            (String::new(), body)
        }
        "/api/admin/webhooks" => {
            let kinds = ["account.suspended"];
            (String::new(), json!({"url": "https://hooks.example.com/a", "kinds": kinds, "description": "D"}))
        }
        "/api/admin/log" => (String::new(), json!({"level": "info"})),
        "/api/admin/credits" => {
            let expires = "2999-01-01T00:00:00Z";
            let body =
                json!({"user": user.email, "amount_micros": 5, "reason": "R", "id": user.id, "expires": expires});
            (String::new(), body)
        }
        "/api/totp/confirm" => {
            let begun = user.browser.post("/api/totp/enable", &json!({})).expect(200).json();
            let app = Authenticator::new(begun["secret"].as_str().unwrap());
            (String::new(), json!({"totp": app.code(0)}))
        }
        "/api/totp/recovery-codes" | "/api/totp/disable" => {
            (String::new(), json!({"totp": Authenticator::set_up(&user.browser).1[0]}))
        }
        path if path.starts_with("/api/v1/") => (String::new(), json!({"text": "Hello"})),
        _ => (String::new(), json!({})),
    }
}

/// A second of silence.
fn recording() -> Vec<u8> {
    textgen::wav::file(16_000, 16, &vec![0; 32_000])
}

/// Uploads a file in this field.
fn upload(client: &Client, path: &str, field: &str, file: &[u8]) -> Reply {
    let fields: [(&str, &[u8]); 2] = [("prompt", b"a hat"), (&format!("{field}*"), file)];
    client.send("POST", path, Some("multipart/form-data; boundary=bnd"), &multipart(&fields))
}

fn prepare(user: &User) -> BTreeMap<&'static str, String> {
    let text = |value: &Value| value["id"].as_str().unwrap().to_owned();
    let save = || text(&user.browser.post("/api/docs/save", &json!({"title": "T"})).expect(200).json());
    let key = |name: &str| text(&user.browser.post("/api/keys", &json!({"name": name})).expect(200).json());
    let deleted = save();
    user.browser.post("/api/docs/delete", &json!({"id": deleted})).expect(200);
    let budget = json!({"name": "three", "budget": {"limit_micros": 5}});
    let budget_key = text(&user.browser.post("/api/keys", &budget).expect(200).json());
    BTreeMap::from([
        ("document", save()),
        ("deleted", deleted),
        ("key", key("one")),
        ("other key", key("two")),
        ("budget key", budget_key),
    ])
}

fn send(client: &Client, method: &str, path: &str, body: &Value) -> Reply {
    match method {
        "get" => client.get(path),
        _ if path.contains("file-extraction") => upload(client, path, "audio_file", &recording()),
        _ if path.contains("transcriptions") || path.contains("translations") => {
            upload(client, path, "file", &recording())
        }
        _ if path.contains("images/edits") => upload(client, path, "image", b"\x89PNG\r\n\x1a\n"),
        _ => client.post(path, body),
    }
}

/// Each operation gets its own user, as some destroy what others need.
fn person(server: &Server, count: usize) -> (User, BTreeMap<&'static str, String>) {
    let user = server.sign_up(&format!("person{count}@example.com"));
    let ids = prepare(&user);
    (user, ids)
}

#[test]
fn every_operation_answers_as_described() {
    let db = TestDb::new();
    let stripe = Stripe::start();
    let folder = std::env::temp_dir().join(format!("textgen-mails-{}", textgen::usage::new_id()));
    let settings = [&stripe.settings()[..], &[("MAIL_FOLDER", folder.to_str().unwrap())]].concat();
    let server = Server::start_demo(&db, &settings);
    let document = server.web.anonymous().get("/openapi.json").expect(200).json();
    assert_eq!(document["openapi"], "3.1.0");
    server.sign_up("somebody@example.com");
    let mut called = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for name in operation["x-servers"].as_array().unwrap() {
                called += 1;
                let (user, ids) = person(&server, called);
                let (address, client) = match name.as_str().unwrap() {
                    "web" => (&server.web, user.browser.clone()),
                    "inference" => (&server.inference, user.program(&server.inference)),
                    _ => (&server.audio, user.program(&server.audio)),
                };
                let (query, body) = sample(path, &user, &ids);
                if path == "/api/stripe/webhook" {
                    let event = json!({"id": "evt_1", "type": "payout.paid"});
                    check_reply(&document, operation, &stripe.deliver(&address.anonymous(), &event).expect(200), path);
                    check_refusals(&document, operation, &address.anonymous(), method, path, path);
                    continue;
                }
                if path == "/api/validation-token" {
                    db.run(&format!("UPDATE users SET is_subscribed = true WHERE id = '{}'", user.id));
                    db.run(&format!(
                        "INSERT INTO stripe_subscriptions (id, user_id, item_id, plan, state, instances,
                            cancel_at_period_end, fetch_number)
                         VALUES ('sub_1', '{}', 'si_1', 'monthly', 'active', 0, false, 1)",
                        user.id
                    ));
                }
                if ["/api/reset-password", "/api/confirm-email"].contains(&path.as_str()) {
                    db.run(&format!(
                        "INSERT INTO account_links (digest, user_id, purpose, email, expires)
                         VALUES (sha256('{0}'), '{0}', '{1}', 'other.{2}', now() + interval '1 hour')",
                        user.id,
                        if path.contains("reset") { "password" } else { "email" },
                        user.email
                    ));
                }
                if path == "/api/set-password" {
                    db.run(&format!("UPDATE users SET password_hash = NULL WHERE id = '{}'", user.id));
                }
                if path.starts_with("/api/admin/") {
                    done(run(&["user", "promote", &user.email], &[("DATABASE_URL", &db.url())], ""));
                    server.wait_until("the promotion to be seen", || client.get("/admin").status == 200);
                }
                if path == "/api/v1/audio-extraction" {
                    // Needs a recording at a public address, which tests do not have: only its errors are tested.
                    check_refusals(&document, operation, &address.anonymous(), method, path, path);
                    check_reply(&document, operation, &send(&client, method, path, &json!({})), path);
                    continue;
                }
                if method == "post" && path.starts_with("/api/admin/webhooks/") {
                    // They need an endpoint, and have a test of their own.
                    check_refusals(&document, operation, &address.anonymous(), method, path, path);
                    check_reply(&document, operation, &send(&client, method, path, &json!({})), path);
                    continue;
                }
                if method == "post" && ["/api/admin/providers", "/api/admin/models"].contains(&path.as_str()) {
                    // A catalogue would take the place of the demo's models, so it has a test of its own.
                    check_refusals(&document, operation, &address.anonymous(), method, path, path);
                    check_reply(&document, operation, &send(&client, method, path, &json!({})), path);
                    continue;
                }
                check_request(&document, operation, &body, path);
                let at = format!("{}{query}", path.replace("{name}", "demo"));
                let reply = send(&client, method, &at, &body);
                let what = format!("{method} {path} on {}", name.as_str().unwrap());
                assert_eq!(reply.status, 200, "{what}: {}", reply.text());
                check_reply(&document, operation, &reply, &what);
                check_refusals(&document, operation, &address.anonymous(), method, path, &what);
            }
        }
    }
    assert!(called > 30, "only {called} calls");
    drop(server);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_catalogue_is_changed_and_shown_as_described() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let root = server.sign_up("root@example.com").browser;
    db.run("UPDATE users SET is_admin = true");
    server.wait_until("the promotion to be seen", || root.get("/admin").status == 200);
    let document = textgen::openapi::document(operations());
    let provider = json!({"name": "p", "base_url": "http://127.0.0.1:1/v1", "api_key": "env:P_KEY", "protocols": ["chat"],
        "headers": {"X-Team": "blue"}, "ca_file": "/etc/ca.pem", "connect_timeout_ms": 5, "first_byte_timeout_ms": 5,
        "idle_timeout_ms": 5, "total_timeout_ms": 5, "max_concurrent": 5});
    let model = json!({"name": "m", "aliases": ["n"], "max_output_tokens": 5, "price": {"input": "0.15"},
        "price_from": "2999-01-01T00:00:00Z",
        "route": [{"provider": "p", "model": "there", "weight": 2, "priority": 1}]});
    for (path, body) in [("/api/admin/providers", provider), ("/api/admin/models", model)] {
        let operation = |method: &str| &document["paths"][path][method];
        check_request(&document, operation("post"), &body, path);
        check_reply(&document, operation("post"), &root.post(path, &body).expect(200), path);
        check_reply(&document, operation("get"), &root.get(path).expect(200), path);
    }
    for path in ["/api/admin/models", "/api/admin/providers"] {
        let name = if path.ends_with("models") { "m" } else { "p" };
        let body = json!({"name": name, "remove": true});
        for status in [200, 404] {
            check_reply(&document, &document["paths"][path]["post"], &root.post(path, &body).expect(status), path);
        }
    }
}

#[test]
fn the_document_and_the_list_of_operations_agree() {
    let document = textgen::openapi::document(operations());
    let mut described = 0;
    for operation in operations() {
        let name = format!("{} {}", operation.method, operation.path);
        let entry = &document["paths"][operation.template()][operation.method.as_str().to_lowercase()];
        assert_eq!(entry.is_object(), operation.description.is_some(), "{name}");
        let Some(description) = &operation.description else { continue };
        described += 1;
        let servers: Vec<&str> = operation.servers.iter().map(|role| role.name()).collect();
        assert_eq!(entry["x-servers"], json!(servers), "{name}");
        assert_eq!(entry.get("requestBody").is_some(), description.body.is_some(), "{name}");
        let security = entry["security"].as_array().unwrap();
        let (is_public, is_optional) = (security.is_empty(), security.contains(&json!({})));
        match operation.handler {
            Handler::Public(_) => assert!(is_public, "{name}"),
            Handler::Optional(_) => assert!(is_optional, "{name}"),
            Handler::Authenticated(_) => {
                assert!(!is_public && !is_optional, "{name}");
                assert!(entry["responses"].get("401").is_some(), "{name}");
            }
        }
        assert!(!entry["responses"]["200"]["content"].as_object().unwrap().is_empty(), "{name}");
        let parameters = entry["parameters"].as_array().into_iter().flatten();
        let in_path = parameters.filter(|parameter| parameter["in"] == "path").count();
        assert_eq!(in_path, operation.path.matches('{').count(), "{name}");
    }
    let paths = document["paths"].as_object().unwrap();
    let entries: usize = paths.values().map(|methods| methods.as_object().unwrap().len()).sum();
    assert_eq!(entries, described, "an entry is not an operation");
    let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for entry in paths.values().flat_map(|methods| methods.as_object().unwrap().values()) {
        assert!(tags.contains(&&entry["tags"][0]), "{entry}");
    }
}

/// What a client can meet, beside what all operations have.
#[test]
fn a_conflict_and_a_page_are_described_where_they_are_sent() {
    let document = textgen::openapi::document(operations());
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("KEYS_PER_ACCOUNT", "1")]);
    let user = server.sign_up("ann@example.com");
    let id = user.browser.get("/api/keys").expect(200).json()["keys"][0]["id"].clone();
    let rotation = json!({"id": id, "grace_seconds": 60});
    for (path, body) in [("/api/keys/rotate", rotation), ("/api/keys", json!({"name": "another"}))] {
        let refused = user.browser.post(path, &body).expect(409).json();
        let operation = &document["paths"][path]["post"];
        let schema = &operation["responses"]["409"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path}: {operation}");
        check(&document, schema, &refused, path);
    }
    // Who has guessed too often is shown the form again.
    let wrong = [("email", "ann@example.com"), ("password", "a wrong one")];
    let guess = || server.web.anonymous().form("/api/login", &wrong);
    let page = std::iter::repeat_with(guess).take(50).find(|reply| reply.status != 303).expect("a refusal");
    assert!(page.header("content-type").unwrap().starts_with("text/html"), "{}", page.status);
    for path in ["/api/login", "/api/signup"] {
        let content = &document["paths"][path]["post"]["responses"][page.status.to_string()]["content"];
        assert!(content.get("text/html").is_some(), "{path}: {} {content}", page.status);
    }
}

#[test]
fn errors_are_as_described() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let document = textgen::openapi::document(operations());
    let operation = |path: &str| &document["paths"][path]["post"];

    let conflict = |reply: &Reply, path: &str| {
        assert_eq!(reply.status, 409, "{path}: {}", reply.text());
        check_reply(&document, operation(path), reply, path);
    };
    let saved = user.browser.post("/api/docs/save", &json!({"title": "T"})).expect(200).json();
    let save = json!({"id": saved["id"], "title": "U", "version": 99});
    conflict(&user.browser.post("/api/docs/save", &save), "/api/docs/save");
    db.run(
        "INSERT INTO api_keys (id, user_id, name, prefix, digest)
         SELECT 'key_' || n, (SELECT id FROM users), 'n', '', sha256(n::text::bytea) FROM generate_series(1, 99) n",
    );
    conflict(&user.browser.post("/api/keys", &json!({"name": "n"})), "/api/keys");
    let rotate = json!({"id": "key_1", "grace_seconds": 60});
    conflict(&user.browser.post("/api/keys/rotate", &rotate), "/api/keys/rotate");

    let invalid = user.browser.post("/api/keys", &json!({})).expect(422);
    check_reply(&document, operation("/api/keys"), &invalid, "/api/keys");
    // A browser that guesses gets the form again, as a page.
    let guess = || server.web.anonymous().form("/api/login", &[("email", "ann@example.com"), ("password", "a guess")]);
    let refused = (0..100).map(|_| guess()).find(|reply| reply.status == 429).unwrap();
    assert!(refused.header("content-type").unwrap().starts_with("text/html"));
    check_reply(&document, operation("/api/login"), &refused, "/api/login");
    check_reply(&document, operation("/api/logout"), &server.web.anonymous().post("/api/logout", &json!({})), "logout");
}

/// Checks that what the tests send successfully is what the document says can be sent.
fn check_request(document: &Value, operation: &Value, body: &Value, what: &str) {
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    if schema.is_object() {
        check(document, schema, body, what);
    }
}

/// Calls without a credential or with a malformed body are refused with a described error.
fn check_refusals(document: &Value, operation: &Value, anonymous: &Client, method: &str, path: &str, what: &str) {
    let reply = send(anonymous, method, &path.replace("{name}", "demo"), &json!({}));
    let open = operation["security"].as_array().unwrap().is_empty();
    let optional = operation["security"][0] == json!({});
    if !open && !optional {
        assert_eq!(reply.status, 401, "{what} without a credential: {}", reply.text());
    }
    check_reply(document, operation, &reply, what);
}

fn check_reply(document: &Value, operation: &Value, reply: &Reply, what: &str) {
    let response = &operation["responses"][reply.status.to_string()];
    assert!(response.is_object(), "{what} answers {}, which is not described: {}", reply.status, reply.text());
    let Some(content) = response["content"].as_object() else { return };
    let media_type = reply.header("content-type").unwrap().split(';').next().unwrap();
    let schema = content.get(media_type).unwrap_or_else(|| panic!("{what} answers {media_type}"));
    if media_type == "application/json" {
        check(document, &schema["schema"], &reply.json(), what);
    }
}

/// Validates a value against a schema, in the subset of JSON Schema that the description uses. Objects may have no
/// properties that the schema does not name.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).expect(reference);
        return check(document, schema, value, place);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        assert!(choices.iter().any(|choice| may_fit(choice, value)), "{place} is {value}");
        return;
    }
    match &schema["type"] {
        Value::String(kind) => assert!(is_of(value, kind), "{place} is no {kind}: {value}"),
        Value::Array(kinds) => {
            assert!(kinds.iter().any(|kind| is_of(value, kind.as_str().unwrap())), "{place} is {value}");
        }
        _ => {}
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().unwrap()).is_some(), "{place} has no {required}: {value}");
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, field) in fields {
            if place.contains("/openapi.json on ") {
                continue; // It describes others, not itself.
            }
            let property = properties.get(name).unwrap_or_else(|| panic!("{place}.{name} is not described"));
            check(document, property, field, &format!("{place}.{name}"));
        }
    }
    for item in value.as_array().into_iter().flatten().take(3) {
        check(document, &schema["items"], item, &format!("{place}[]"));
    }
}

/// Whether the value is of the type that the schema says.
fn may_fit(schema: &Value, value: &Value) -> bool {
    let nested = schema["anyOf"].as_array().is_some_and(|choices| choices.iter().any(|choice| may_fit(choice, value)));
    nested || schema.get("$ref").is_some() || schema["type"].as_str().is_some_and(|kind| is_of(value, kind))
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    }
}
