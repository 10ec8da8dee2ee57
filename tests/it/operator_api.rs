//! The operator's API of accounts.

use serde_json::{Value, json};

use crate::budgets::{chat, obedient, start};
use crate::harness::{Client, Server, TestDb, User, done, run, soon};

fn administrator(db: &TestDb, server: &Server) -> Client {
    let root = server.sign_up("root@example.com");
    done(run(&["user", "promote", &root.email], &[("DATABASE_URL", &db.url())], ""));
    soon("the promotion to be seen", || root.browser.get("/admin").status == 200);
    let key = json!({"name": "ops", "permissions": ["admin"]});
    let key = root.browser.post("/api/keys", &key).expect(200).json();
    server.web.with_secret(key["secret"].as_str().unwrap())
}

fn only(admin: &Client, user: &User) -> Value {
    let listed = admin.get(&format!("/api/admin/users?user={}", user.email)).expect(200).json();
    assert_eq!(listed["users"].as_array().unwrap().len(), 1);
    listed["users"][0].clone()
}

#[test]
fn accounts_are_limited_suspended_and_restored() {
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[]);
    let admin = administrator(&db, &server);
    user.browser.get("/api/admin/users").expect(403);
    let update = |body: &Value| admin.post("/api/admin/users/update", body);
    let limits = json!({"user": user.email, "budget": {"limit_micros": 30, "window": "day"},
        "rate": {"requests_per_minute": 3, "concurrent": 9}});
    let shown = update(&limits).expect(200).json();
    assert_eq!((&shown["budget"]["limit_micros"], &shown["budget"]["window"]), (&json!(30), &json!("day")));
    let rate = json!({"requests_per_minute": 3, "tokens_per_minute": null, "concurrent": 9});
    assert_eq!(shown["rate"], rate);
    let program = user.program(&server.inference);
    for status in [200, 200, 402] {
        program.post("/v1/chat/completions", &chat(15)).expect(status);
    }
    update(&json!({"user": shown["id"], "budget": {"limit_micros": 300}})).expect(200);
    for status in [200, 429] {
        program.post("/v1/chat/completions", &chat(15)).expect(status);
    }
    let seen = only(&admin, &user);
    assert_eq!(
        json!([seen["budget"]["spent_micros"], seen["budget"]["window"], seen["rate"]]),
        json!([45, "day", rate])
    );
    let cleared = update(&json!({"user": user.email, "budget": null, "rate": null})).expect(200).json();
    assert_eq!(json!([cleared["budget"], cleared["rate"]]), json!([null, null]));
    program.post("/v1/chat/completions", &chat(15)).expect(200);
    let suspended = update(&json!({"user": user.email, "suspended": true, "reason": "spam"})).expect(200).json();
    assert!(suspended["suspended"].is_string());
    program.get("/api/current-user").expect(401);
    assert_eq!(update(&json!({"user": user.email, "suspended": false})).expect(200).json()["suspended"], json!(null));
    program.get("/api/current-user").expect(200);
    update(&json!({"user": "root@example.com", "suspended": true})).expect(400);
    update(&json!({"user": "nobody@example.com", "suspended": true})).expect(404);
    for bad in [
        json!({"permissions": ["models"]}),
        json!({"rate": {"concurrent": 0}}),
        json!({"budget": {"limit_micros": -1}}),
    ] {
        let mut body = json!({"user": user.email});
        body.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        update(&body).expect(400);
    }
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action IN ('limit', 'suspend', 'restore')"), 5);
}

#[test]
fn accounts_and_keys_are_provisioned() {
    let upstream = obedient();
    let (db, server, _) = start(&upstream, &[]);
    let admin = administrator(&db, &server);
    let body = json!({"email": " Bob@Example.com ", "name": "Bob", "rate": {"requests_per_minute": 2}});
    let made = admin.post("/api/admin/users", &body).expect(200).json();
    assert_eq!(json!([made["email"], made["name"]]), json!(["bob@example.com", "Bob"]));
    let bob = server.inference.with_secret(made["secret"].as_str().unwrap());
    for status in [200, 200, 429] {
        bob.post("/v1/chat/completions", &chat(1)).expect(status);
    }
    admin.post("/api/admin/users", &body).expect(409);
    admin.post("/api/admin/users", &json!({"email": "nonsense"})).expect(400);
    let fields = json!({"user": "bob@example.com", "name": "ci", "expires": "2999-01-01T00:00:00Z",
        "budget": {"limit_micros": 5}, "rate": {"concurrent": 1}, "models": ["m"], "permissions": ["models"],
        "addresses": ["127.0.0.1"]});
    let key = admin.post("/api/admin/users/keys", &fields).expect(200).json();
    assert_eq!(json!([key["budget"]["limit_micros"], key["rate"]["concurrent"], key["models"]]), json!([5, 1, ["m"]]));
    let web = server.web.with_secret(key["secret"].as_str().unwrap());
    assert_eq!(web.get("/api/current-user").expect(200).json()["email"], "bob@example.com");
    web.get("/api/keys").expect(403);
    let escalated = json!({"user": "bob@example.com", "name": "more", "permissions": ["admin"]});
    admin.post("/api/admin/users/keys", &escalated).expect(403);
    // Pages of the list.
    let first = admin.get("/api/admin/users?limit=2").expect(200).json();
    assert_eq!(first["users"][0]["email"], "bob@example.com");
    let rest =
        admin.get(&format!("/api/admin/users?limit=2&after={}", first["next"].as_str().unwrap())).expect(200).json();
    assert_eq!((rest["users"].as_array().unwrap().len(), &rest["next"]), (1, &json!(null)));
    admin.get("/api/admin/users?limit=0").expect(400);
}

#[test]
fn an_administrator_makes_a_link_for_somebody_who_cannot_get_in() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let admin = administrator(&db, &server);
    let ann = server.sign_up("ann@example.com");
    ann.browser.post("/api/admin/users/link", &json!({"user": "ann@example.com"})).expect(403);
    admin.post("/api/admin/users/link", &json!({"user": "nobody@example.com"})).expect(404);
    let made = admin.post("/api/admin/users/link", &json!({"user": "ann@example.com"})).expect(200).json();
    let path = made["link"].as_str().unwrap().strip_prefix(&server.web.0).unwrap();
    assert!(server.web.anonymous().get(path).expect(200).text().contains("For ann@example.com"));
    // On the page it is shown once.
    let page = format!("/admin/users/{}", ann.id);
    let shown = admin.form(&format!("{page}/link"), &[]).expect(200).text();
    let token = shown.split("/reset-password?token=").nth(1).unwrap().split('<').next().unwrap().to_owned();
    assert!(!admin.get(&page).expect(200).text().contains("token="));
    let body = json!({"token": token, "password": "another good password"});
    server.web.anonymous().post("/api/reset-password", &body).expect(200);
    server.sign_in("ann@example.com", "another good password");
    assert_eq!(server.web.anonymous().get(path).status, 400, "the other link has ended");
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'create link'"), 2);
    // Nobody takes the place of another administrator.
    db.run("UPDATE users SET is_admin = true");
    admin.post("/api/admin/users/link", &json!({"user": "ann@example.com"})).expect(403);
    admin.form(&format!("{page}/link"), &[]).expect(403);
    assert!(!server.log().contains(&token));
}
