//! Malformed bodies: each is refused with a message, none causes a server error, and none changes anything.

use serde_json::json;

use crate::harness::{Client, PASSWORD, Reply, Server, TestDb};

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const MULTIPART: &str = "multipart/form-data; boundary=b";

fn send(client: &Client, path: &str, media_type: &str, body: &[u8]) -> Reply {
    client.header("accept", JSON).send("POST", path, Some(media_type).filter(|t| !t.is_empty()), body)
}

#[test]
fn malformed_bodies_are_400() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let bodies: [(&str, &[u8]); 24] = [
        (JSON, b"{"),
        (JSON, b"[]"),
        (JSON, b"\"text\""),
        (JSON, b"null"),
        (JSON, b"{\"email\":\"a@x\",\"password\":\"long enough\"} more"),
        (JSON, b"{\"email\":\"a@x\",\"password\":\"\xff\xfe234567\"}"),
        (JSON, b"{\"email\":\"a@x\",\"password\":\"1234567\\u0000\"}"),
        (JSON, b"{\"email\":\"a\\u0000@x\",\"password\":\"long enough\"}"),
        (JSON, b"{\"email\":\"a@x\",\"password\":\"1234567\\ud800\"}"),
        (JSON, b"\xef\xbb\xbf{}"),
        (JSON, b"{'email':'a@x'}"),
        (JSON, b"email=a@x&password=long+enough"),
        (FORM, b"email=a@x&password=1234567%00"),
        (FORM, b"email=a@x&password=1234567%ff"),
        (FORM, b"email=a@x&password=1234567\xff"),
        (FORM, b"email%ff=a@x&password=long+enough"),
        ("", b"email=a@x&password=1234567%c0%80"),
        (MULTIPART, b""), // no fields at all: 422
        (MULTIPART, b"email=a@x"),
        (MULTIPART, b"--b\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\na@x"),
        (MULTIPART, b"--b\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\na\x00@x\r\n--b--\r\n"),
        ("multipart/form-data", b"--b\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\na@x\r\n--b--\r\n"),
        ("text/plain", b"email=a@x&password=long+enough"),
        ("application/xml", b"<email>a@x</email>"),
    ];
    for path in ["/api/signup", "/api/login"] {
        for (media_type, body) in bodies {
            let reply = send(&web, path, media_type, body);
            let expected = if body.is_empty() { 422 } else { 400 };
            assert_eq!(
                reply.status,
                expected,
                "{path} {media_type} {:?} {}",
                String::from_utf8_lossy(body),
                reply.text()
            );
            let json = reply.json();
            assert!(json["detail"].is_string() || expected == 422, "{json}");
            assert_eq!(json.as_object().unwrap().len(), 1);
        }
    }
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
}

#[test]
fn the_last_value_of_a_repeated_name_wins() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let part = |value: &str| format!("--b\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\n{value}\r\n");
    let password = "--b\r\nContent-Disposition: form-data; name=password\r\n\r\nlong enough\r\n--b--\r\n";
    let multipart = part("first@x") + &part("multipart@x") + password;
    for (media_type, body, email) in [
        (FORM, "email=first@x&password=long+enough&email=form@x", "form@x"),
        (JSON, r#"{"email":"first@x","password":"long enough","email":"json@x"}"#, "json@x"),
        (MULTIPART, &multipart, "multipart@x"),
    ] {
        let reply = send(&web, "/api/signup", media_type, body.as_bytes()).expect(200);
        assert_eq!(reply.json()["email"], email);
        server.sign_in(email, "long enough");
    }
    // Unknown fields are ignored.
    let body =
        json!({"email": "more@x", "password": PASSWORD, "id": "mine", "is_subscribed": true, "free_credits": 99});
    let user = web.post("/api/signup", &body).expect(200).json();
    assert_ne!(user["id"], "mine");
    assert_eq!(json!([user["is_subscribed"], user["free_credits"]]), json!([false, 0]));
}

#[test]
fn oversized_bodies_are_413() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let huge = "a".repeat(2 << 20);
    let json = json!({"email": huge, "password": huge, "name": huge, "id": huge}).to_string();
    for (media_type, body) in [(JSON, json.as_str()), (FORM, &format!("email={huge}")), (MULTIPART, &huge)] {
        for path in ["/api/signup", "/api/login", "/api/keys", "/api/keys/rotate", "/api/change-password"] {
            let reply = send(&user.browser, path, media_type, body.as_bytes()).expect(413);
            assert!(reply.json()["detail"].as_str().unwrap().contains("1048576"), "{}", reply.text());
        }
    }
    // Just below the limit, long values get the error for their field.
    let large = "a".repeat(500_000);
    let web = server.web.anonymous();
    web.post("/api/login", &json!({"email": large, "password": large})).expect(400);
    web.post("/api/login", &json!({"email": "ann@x", "password": large})).expect(400);
    web.post("/api/signup", &json!({"email": large, "password": PASSWORD})).expect(400);
    web.post("/api/signup", &json!({"email": "new@x", "password": large})).expect(400);
    user.browser.post("/api/keys", &json!({"name": large})).expect(400);
    user.browser.post("/api/keys/rotate", &json!({"id": large})).expect(404);
    user.browser.post("/api/sessions/revoke", &json!({"id": large})).expect(404);
    web.header("User-Agent", &"u".repeat(5000))
        .post("/api/login", &json!({"email": "ann@x", "password": PASSWORD}))
        .expect(200);
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
    assert_eq!(db.count("SELECT max(length(user_agent))::bigint FROM sessions"), 200);
}

#[test]
fn body_errors_are_not_reported_without_a_credential() {
    let db = TestDb::new();
    let server = Server::start(&db);
    for path in ["/api/change-password", "/api/delete-account", "/api/keys", "/api/keys/rotate", "/api/sessions/revoke"]
    {
        let reply = send(&server.web.anonymous(), path, JSON, b"{").expect(401);
        assert_eq!(reply.json(), json!({"detail": "Not authenticated"}));
    }
}

#[test]
fn odd_input_to_account_routes_is_never_a_server_error() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    db.run("UPDATE sessions SET created = now() - interval '1 hour'");
    let paths = [
        "/api/signup",
        "/api/login",
        "/api/change-password",
        "/api/delete-account",
        "/api/keys",
        "/api/keys/rotate",
        "/api/keys/revoke",
        "/api/sessions/revoke",
        "/api/get-user",
        "/api/get-user/stripe-usage",
    ];
    let names =
        ["email", "password", "current_password", "new_password", "id", "others", "name", "expires", "grace_seconds"];
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(18_446_744_073_709_551_615_u64),
        json!(""),
        json!("\u{202e}\u{1f600}\u{feff}"),
        json!("' OR 1=1; --"),
        json!("%s%n\\"),
        json!([[[]]]),
        json!({"$ne": ""}),
        json!("9999-12-31T23:59:59Z"),
        json!("-9999-01-01T00:00:00Z"),
    ];
    for path in paths {
        for value in &values {
            let body = names.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
            let reply = user.browser.post(path, &serde_json::Value::Object(body));
            assert!(reply.status < 500, "{path} {value} {} {}", reply.text(), server.log());
        }
    }
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
}
