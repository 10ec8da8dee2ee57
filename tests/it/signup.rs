//! Signing up: bodies, replies to scripts and to forms, addresses, passwords.

use serde_json::{Value, json};

use crate::harness::{PASSWORD, Reply, Server, TestDb};

/// The keys of a user object, in order.
const USER_KEYS: [&str; 13] = [
    "id",
    "email",
    "name",
    "profile_url",
    "photo_url",
    "is_subscribed",
    "stripe_id",
    "secret",
    "free_credits",
    "charges_monthly",
    "num_self_hosted_instances",
    "created",
    "updated",
];

const COOKIE_ATTRIBUTES: &str = "; HttpOnly; SameSite=Lax; Path=/; Max-Age=2592000";

fn assert_is_user(user: &Value, email: &str) {
    let keys: Vec<&str> = user.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, USER_KEYS);
    let id = user["id"].as_str().unwrap();
    assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
    assert_eq!(user["email"], email);
    assert_eq!(
        json!([user["name"], user["profile_url"], user["photo_url"], user["stripe_id"]]),
        json!([null, null, null, null])
    );
    assert_eq!(user["is_subscribed"], false);
    assert_eq!(json!([user["free_credits"], user["charges_monthly"]]), json!([0, 0]));
    for key in ["created", "updated"] {
        let time = user[key].as_str().unwrap();
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert!(["0000-00-00T00:00:00", "0000-00-00T00:00:00.000000"].contains(&shape.as_str()), "{time}");
    }
}

fn missing(fields: &[&str]) -> Value {
    let issue = |name: &&str| json!({"type": "missing", "loc": ["body", name], "msg": "Field required", "input": null});
    json!({"detail": fields.iter().map(issue).collect::<Vec<_>>()})
}

fn multipart(fields: &[(&str, &str)]) -> (String, Vec<u8>) {
    let mut body = String::new();
    for (name, value) in fields {
        body += &format!("--b0undary\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    ("multipart/form-data; boundary=b0undary".to_owned(), (body + "--b0undary--\r\n").into_bytes())
}

fn assert_signed_in_as_script(reply: &Reply, email: &str) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_is_user(&reply.json(), email);
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.starts_with("session_secret=ts_") && cookie.ends_with(COOKIE_ATTRIBUTES), "{cookie}");
}

#[test]
fn every_body_format_creates_an_account() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let fields = |email| [("email", email), ("password", PASSWORD)];
    assert_signed_in_as_script(&web.post("/api/signup", &json!({"email": "json@x", "password": PASSWORD})), "json@x");
    assert_signed_in_as_script(&web.form_for_json("/api/signup", &fields("form@x")), "form@x");
    let (media_type, body) = multipart(&fields("multipart@x"));
    let script = web.header("X-Requested-With", "XMLHttpRequest");
    assert_signed_in_as_script(&script.send("POST", "/api/signup", Some(&media_type), &body), "multipart@x");
    // JSON is answered with JSON, whatever the client accepts.
    let body = json!({"email": "plain@x", "password": PASSWORD}).to_string();
    let reply = web.send("POST", "/api/signup", Some("application/json; charset=utf-8"), body.as_bytes());
    assert_signed_in_as_script(&reply, "plain@x");
    assert_eq!(db.count("SELECT count(*) FROM users"), 4);
    for email in ["json@x", "form@x", "multipart@x", "plain@x"] {
        server.sign_in(email, PASSWORD).get("/api/current-user").expect(200);
    }
}

#[test]
fn a_form_is_redirected() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let fields = [("email", "ann@x"), ("password", PASSWORD)];
    let reply = web.form("/api/signup", &fields).expect(303);
    assert_eq!(reply.header("location"), Some("/playground"));
    assert!(reply.header("set-cookie").unwrap().ends_with(COOKIE_ATTRIBUTES));
    server.web.with_cookie(&reply.session_token()).get("/playground").expect(200);

    let (media_type, body) = multipart(&[("email", "bob@x"), ("password", PASSWORD), ("next", "/account")]);
    let reply = web.header("accept", "text/html").send("POST", "/api/signup", Some(&media_type), &body).expect(303);
    assert_eq!(reply.header("location"), Some("/account"));

    // A known e-mail address with the right password is a login.
    let reply = web.form("/api/signup", &fields).expect(303);
    assert_eq!(reply.header("location"), Some("/playground"));
    server.web.with_cookie(&reply.session_token()).get("/playground").expect(200);
    let reply = web.form("/api/signup", &[("email", "ann@x"), ("password", "another one")]).expect(303);
    assert_eq!(reply.header("location"), Some("/signup?error=Invalid%20credentials"));
    // No session, but the address that was entered.
    assert!(reply.header("set-cookie").unwrap().starts_with("entered_email=ann%40x; "));
    web.form("/api/signup", &[("email", "ann@x")]).expect(422);
    let by_script = web.form_for_json("/api/signup", &[("email", "ann@x")]).expect(422);
    assert_eq!(by_script.json(), missing(&["password"]));
    assert_eq!(db.count("SELECT count(*) FROM users"), 2);
}

#[test]
fn signing_up_with_a_known_address_is_a_login() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let web = server.web.anonymous();
    let again = web.post("/api/signup", &json!({"email": "ann@example.com", "password": PASSWORD})).expect(200);
    assert_eq!(again.json()["id"], json!(user.id));
    assert_ne!(again.session_token(), user.token);
    // The secret is not shown again.
    let shown = again.json()["secret"].as_str().unwrap().to_owned();
    assert_eq!(shown, format!("{}…", &user.secret[..8]));
    let wrong = web.post("/api/signup", &json!({"email": "ann@example.com", "password": "a wrong one"})).expect(400);
    assert_eq!(wrong.json(), json!({"detail": "Invalid credentials"}));
    assert_eq!(wrong.header("set-cookie"), None);
    // Errors do not reveal whether an account exists.
    for email in ["ann@example.com", "nobody@example.com"] {
        let short = web.post("/api/signup", &json!({"email": email, "password": "short"})).expect(400);
        assert_eq!(short.json(), json!({"detail": "The password must have at least 8 characters"}));
    }
}

#[test]
fn missing_and_mistyped_fields_are_reported() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    for path in ["/api/signup", "/api/login"] {
        let post = |body: Value| web.post(path, &body).expect(422).json();
        assert_eq!(post(json!({})), missing(&["email", "password"]));
        assert_eq!(post(json!({"email": "a@x"})), missing(&["password"]));
        assert_eq!(web.form_for_json(path, &[]).expect(422).json(), missing(&["email", "password"]));
        assert_eq!(web.form_for_json(path, &[("password", PASSWORD)]).expect(422).json(), missing(&["email"]));
        for wrong in [json!(1), json!(null), json!(true), json!(["a@x"]), json!({"a": "x"})] {
            let detail = post(json!({"email": "a@x", "password": wrong}))["detail"].clone();
            assert_eq!(detail[0]["type"], "string_type", "{detail}");
            assert_eq!(detail[0]["loc"], json!(["body", "password"]));
            assert_eq!(
                post(json!({"email": wrong, "password": PASSWORD}))["detail"][0]["loc"],
                json!(["body", "email"])
            );
        }
    }
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
}

#[test]
fn email_addresses_are_normalized() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let sign_up = |email: &str| web.post("/api/signup", &json!({"email": email, "password": PASSWORD}));
    let id = sign_up("  Ann@Example.COM ").expect(200).json()["id"].clone();
    for email in ["ann@example.com", "ANN@EXAMPLE.COM", "\tann@example.com\r\n", "\u{a0}Ann@example.com"] {
        assert_eq!(sign_up(email).expect(200).json()["id"], id, "{email:?}");
        let login = web.post("/api/login", &json!({"email": email, "password": PASSWORD})).expect(200);
        assert_eq!(login.json()["email"], "ann@example.com");
    }
    assert_eq!(sign_up("Jörg@Exämple.de").expect(200).json()["email"], "jörg@exämple.de");
    assert_eq!(sign_up("JÖRG@EXÄMPLE.DE").expect(200).json()["email"], "jörg@exämple.de");
    assert_eq!(db.count("SELECT count(*) FROM users"), 2);
    let long = format!("{}@x", "a".repeat(300));
    for email in ["", " ", "zzz", "@", "a@", "@x", "a b@x", "a@x y", "a@b@c", "a@x,b@x", "<a@x>", "a@x\nb@x", &long] {
        let reply = sign_up(email).expect(400);
        assert_eq!(reply.json(), json!({"detail": "Enter a valid e-mail address"}), "{email:?}");
    }
    let reply = web.form("/api/signup", &[("email", "zzz"), ("password", PASSWORD)]).expect(303);
    assert_eq!(reply.header("location"), Some("/signup?error=Enter%20a%20valid%20e%2Dmail%20address"));
    assert_eq!(db.count("SELECT count(*) FROM users"), 2);
}

#[test]
fn a_password_has_8_to_1024_characters_and_all_of_them_count() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let sign_up =
        |email: &str, password: &str| web.post("/api/signup", &json!({"email": email, "password": password})).status;
    let log_in =
        |email: &str, password: &str| web.post("/api/login", &json!({"email": email, "password": password})).status;
    for bad in ["", "1234567", "ééééééé", &"a".repeat(1025)] {
        assert_eq!(sign_up("ann@x", bad), 400, "{bad}");
    }
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
    assert_eq!(sign_up("eight@x", "éüöäßçñø"), 200);
    let longest = "éüöäßçñø".repeat(128);
    assert_eq!(sign_up("longest@x", &longest), 200);
    assert_eq!(log_in("longest@x", &longest), 200);
    assert_eq!(log_in("longest@x", &longest[..2046]), 400);
    let stem = "Kx7mPq2vWz9R".repeat(6);
    assert_eq!(sign_up("stem@x", &format!("{stem}A")), 200);
    assert_eq!(log_in("stem@x", &format!("{stem}B")), 400);
    assert_eq!(log_in("stem@x", &stem), 400);
    assert_eq!(log_in("stem@x", &format!("{stem}A")), 200);
    // Spaces and case matter in a password.
    assert_eq!(sign_up("blank@x", "  Pass word "), 200);
    assert_eq!(log_in("blank@x", "Pass word"), 400);
    assert_eq!(log_in("blank@x", "  pass word "), 400);
    assert_eq!(log_in("blank@x", "  Pass word "), 200);
}

#[test]
fn a_mismatched_confirmation_creates_no_account() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let fields = |confirm| [("email", "ann@x"), ("password", PASSWORD), ("password_confirm", confirm)];
    let reply = web.form("/api/signup", &fields("correct horse batterie")).expect(303);
    assert!(reply.header("location").unwrap().starts_with("/signup?error="), "{:?}", reply.headers);
    web.form_for_json("/api/signup", &fields("")).expect(400);
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
    let reply = web.form("/api/signup", &fields(PASSWORD)).expect(303);
    assert_eq!(reply.header("location"), Some("/playground"));
}

#[test]
fn an_account_without_a_password_cannot_be_taken_over() {
    let db = TestDb::new();
    let server = Server::start(&db);
    db.run("INSERT INTO users (id, email) VALUES ('firebase-uid', 'old@x')");
    let web = server.web.anonymous();
    for path in ["/api/signup", "/api/login"] {
        for password in [PASSWORD, "", "no account has this password"] {
            let reply = web.post(path, &json!({"email": "old@x", "password": password}));
            let refused = [400, 429].contains(&reply.status);
            assert!(refused && reply.header("set-cookie").is_none(), "{path} {}", reply.text());
        }
    }
    assert_eq!(db.count("SELECT count(*) FROM users WHERE password_hash IS NULL"), 1);
    assert_eq!(db.count("SELECT count(*) FROM sessions"), 0);
}
