//! What accounts are limited to with all of their keys and sessions: models, and where they may be used.

use serde_json::{Value, json};

use crate::budgets::{chat, obedient, start};
use crate::harness::{Client, Server, TestDb, User, done, run, soon};

const CHAT: &str = "/v1/chat/completions";

fn command(db: &TestDb, arguments: &[&str]) -> String {
    done(run(arguments, &[("DATABASE_URL", &db.url())], ""))
}

/// A new key with these fields: its id and its secret.
fn key(user: &User, fields: &Value) -> (String, String) {
    let mut body = json!({"name": "k"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let key = user.browser.post("/api/keys", &body).expect(200).json();
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

/// The browser of a new administrator.
fn administrator(db: &TestDb, server: &Server) -> Client {
    let user = server.sign_up("root@example.com");
    command(db, &["user", "promote", &user.email]);
    soon("the promotion to be seen", || user.browser.get("/admin").status == 200);
    user.browser
}

fn of_model(name: &str) -> Value {
    let mut body = chat(1);
    body["model"] = json!(name);
    body
}

#[test]
fn an_account_calls_the_models_that_it_and_its_key_may() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let admin = administrator(&db, &server);
    let update = |models: Value| {
        admin.post("/api/admin/users/update", &json!({"user": user.email, "models": models})).expect(200).json()
    };
    // Accounts are not limited until someone limits them.
    assert_eq!(db.count("SELECT count(*) FROM users WHERE models IS NULL AND addresses IS NULL"), 2);
    let (id, secret) = key(&user, &json!({"models": ["m", "n"]}));
    let (program, limited) = (user.program(&server.inference), server.inference.with_secret(&secret));
    for client in [&program, &limited] {
        client.post(CHAT, &of_model("n")).expect(200);
    }
    assert_eq!(update(json!(["m", "o"]))["models"], json!(["m", "o"]));
    for client in [&program, &limited] {
        client.post(CHAT, &of_model("m")).expect(200);
        let error = client.post(CHAT, &of_model("n")).expect(404).json()["error"].clone();
        assert_eq!(json!([error["type"], error["code"]]), json!(["invalid_request_error", "model_not_found"]));
        client.post("/api/v1/generate", &json!({"text": "Hello", "model": "n"})).expect(404);
        client.get("/v1/models/n").expect(404);
        assert_eq!(client.get("/v1/models").expect(200).json()["data"], json!([{"id": "m", "object": "model"}]));
        // The default model is another one.
        client.post(CHAT, &json!({"messages": []})).expect(200);
        assert_eq!(upstream.seen().last().unwrap().json()["model"], "m");
    }
    // Without a model that both may call, there is none.
    user.browser.post("/api/keys/update", &json!({"id": id, "models": ["n"]})).expect(200);
    limited.post(CHAT, &of_model("m")).expect(404);
    limited.post(CHAT, &of_model("n")).expect(404);
    assert_eq!(limited.get("/v1/models").expect(200).json()["data"], json!([]));
    update(json!([]));
    program.post(CHAT, &of_model("m")).expect(404);
    assert_eq!(update(json!(null))["models"], json!(null));
    program.post(CHAT, &of_model("n")).expect(200);
    // It is not a part of the user object.
    assert_eq!(program.get("/api/current-user").expect(200).json().get("models"), None);
}

#[test]
fn an_account_works_at_its_addresses_and_at_those_of_its_key() {
    let (db, server, user) = start(&obedient(), &[("TRUSTED_PROXIES", "127.0.0.1")]);
    let admin = administrator(&db, &server);
    let (_, secret) = key(&user, &json!({"addresses": ["10.1.0.0/16", "192.0.2.7"]}));
    let body = json!({"user": user.email, "addresses": ["10.2.3.4/8"]});
    let shown = admin.post("/api/admin/users/update", &body).expect(200).json();
    assert_eq!(shown["addresses"], json!(["10.0.0.0/8"]));
    let from = |client: &Client, address: &str| client.header("x-forwarded-for", address);
    for (address, by_account, by_key) in
        [("10.1.2.3", 200, 200), ("10.2.0.1", 200, 403), ("192.0.2.7", 403, 403), ("192.0.2.8", 403, 403)]
    {
        let program = || from(&user.program(&server.inference), address);
        let limited = || from(&server.inference.with_secret(&secret), address);
        program().get("/api/current-user").expect(by_account);
        program().post(CHAT, &chat(1)).expect(by_account);
        limited().get("/api/current-user").expect(by_key);
        limited().post(CHAT, &chat(1)).expect(by_key);
        from(&user.browser, address).get("/api/keys").expect(by_account);
        from(&user.browser, address).get("/account").expect(by_account);
        // Whoever is not permitted is treated as everybody, or cannot sign in.
        let anonymous = from(&server.web.anonymous(), address);
        anonymous.get("/").expect(200);
        let log_in = json!({"email": user.email, "password": crate::harness::PASSWORD});
        anonymous.post("/api/login", &log_in).expect(by_account);
        let status = from(&user.browser, address).get("/api/subscription-status").expect(200).json();
        assert_eq!(status["authenticated"], json!(by_account == 200));
    }
    let error = from(&user.program(&server.inference), "192.0.2.8").post(CHAT, &chat(1)).expect(403).json();
    assert_eq!(error["error"]["type"], "permission_error");
    let body = json!({"user": user.email, "addresses": null});
    admin.post("/api/admin/users/update", &body).expect(200);
    from(&user.program(&server.inference), "192.0.2.8").post(CHAT, &chat(1)).expect(200);
}

#[test]
fn limits_of_accounts_are_known_to_other_processes_and_shown() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let other = Server::start_with(&db, &[("INFERENCE_URL", upstream.url.as_str())]);
    other.wait_until_listening();
    let programs = [user.program(&server.inference), user.program(&other.inference)];
    let all = |path: &str, status: u16| programs.iter().all(|program| program.get(path).status == status);
    assert!(all("/v1/models/n", 200));
    let words = command(&db, &["limit", "set", &user.email, "--models", "m,o", "--addresses", "127.0.0.1,::1/64"]);
    assert!(words.contains("models m, o; addresses 127.0.0.1/32, ::/64"), "{words}");
    soon("the limit of models to be known", || all("/v1/models/n", 404));
    assert!(all("/v1/models/m", 200));
    let table = command(&db, &["limit", "show", &user.email]);
    assert!(table.contains("m,o") && table.contains("127.0.0.1/32,::/64"), "{table}");
    let page = user.browser.get("/account").expect(200).text();
    assert!(page.contains("Models: m, o") && !page.contains("scope-form"), "{page}");
    command(&db, &["limit", "set", &user.email, "--addresses", "192.0.2.1"]);
    soon("the limit of addresses to be known", || all("/api/current-user", 403));
    command(&db, &["limit", "remove", &user.email, "--addresses"]);
    soon("the limit of addresses to be gone", || all("/api/current-user", 200));
    assert!(all("/v1/models/n", 404), "the other limit stays");
    command(&db, &["limit", "remove", &user.email]);
    soon("the limit of models to be gone", || all("/v1/models/n", 200));
    // Also a change in SQL.
    db.run("UPDATE users SET models = '{m}'");
    soon("the limit of models to be known", || all("/v1/models/n", 404));
}

#[test]
fn administrators_limit_accounts_on_a_page() {
    let (db, server, user) = start(&obedient(), &[]);
    let admin = administrator(&db, &server);
    let page = format!("/admin/users/{}", user.id);
    let program = user.program(&server.inference);
    let send = |models: &str, addresses: &str| {
        admin.form(&format!("{page}/scope"), &[("models", models), ("addresses", addresses)])
    };
    send("m , <o>", "").expect(303);
    program.get("/v1/models/m").expect(200);
    program.get("/v1/models/n").expect(404);
    let shown = admin.get(&page).expect(200).text();
    assert!(shown.contains("Models: m, &#60;o&#62;") && shown.contains("Addresses: all"), "{shown}");
    let refused = send("m", "nowhere").expect(400).text();
    let field = refused.split(r#"id="scope-addresses""#).nth(1).unwrap().split("</div>").next().unwrap();
    assert!(
        field.contains(r#"value="nowhere" aria-describedby="scope-addresses-error" aria-invalid="true""#),
        "{field}"
    );
    assert!(field.contains("addresses must be a list"), "{field}");
    assert!(admin.get(&page).expect(200).text().contains("Models: m, &#60;o&#62;"), "neither was changed");
    user.browser.form(&format!("{page}/scope"), &[("models", "")]).expect(403);
    program.get("/v1/models/n").expect(404);
    send("", "192.0.2.1").expect(303);
    program.get("/v1/models/n").expect(403);
    send("", "").expect(303);
    program.get("/v1/models/n").expect(200);
    // A list that permits nothing stays when it is not edited.
    db.run("UPDATE users SET models = '{}' WHERE email = 'ann@example.com'");
    send("", "").expect(303);
    program.get("/v1/models/m").expect(404);
}

#[test]
fn limits_of_accounts_that_are_none_are_refused() {
    let (db, server, user) = start(&obedient(), &[]);
    let admin = administrator(&db, &server);
    let with = |body: &Value, more: &Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for bad in [
        json!({"models": "m"}),
        json!({"models": [1]}),
        json!({"models": [""]}),
        json!({"models": vec!["m"; 101]}),
        json!({"addresses": ["nowhere"]}),
        json!({"addresses": ["10.0.0.0/33"]}),
        json!({"permissions": ["models"]}),
        json!({"expires": "2999-01-01T00:00:00Z"}),
    ] {
        admin.post("/api/admin/users/update", &with(&json!({"user": user.email}), &bad)).expect(400);
        admin.post("/api/admin/users", &with(&json!({"email": "bob@example.com"}), &bad)).expect(400);
    }
    let fields = json!({"email": "bob@example.com", "models": ["m"], "addresses": ["127.0.0.1"]});
    let made = admin.post("/api/admin/users", &fields).expect(200).json();
    assert_eq!(json!([made["models"], made["addresses"]]), json!([["m"], ["127.0.0.1/32"]]));
    let bob = server.inference.with_secret(made["secret"].as_str().unwrap());
    bob.post(CHAT, &of_model("m")).expect(200);
    bob.post(CHAT, &of_model("n")).expect(404);
}
