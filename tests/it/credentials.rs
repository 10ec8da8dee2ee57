//! Which credentials are accepted where.

use serde_json::json;

use crate::harness::{Server, TestDb};

const NOBODY: &str = "tg_0123456789012345678901234567890123456789012";

#[test]
fn a_secret_authenticates_on_every_server_in_any_header() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let secret = &user.secret;
    for address in [&server.web, &server.inference, &server.audio] {
        let status = |name: &str, value: &str| {
            let reply = address.anonymous().header(name, value).get("/api/current-user");
            if reply.status == 401 {
                assert_eq!(reply.json(), json!({"detail": "Not authenticated"}));
            }
            reply.status
        };
        for value in [secret.clone(), format!("  {secret} ")] {
            assert_eq!(status("secret", &value), 200, "{value}");
        }
        for scheme in ["Bearer", "bearer", "Basic", "Token", "Secret"] {
            assert_eq!(status("Authorization", &format!("{scheme} {secret}")), 200, "{scheme}");
        }
        for value in ["", " ", NOBODY, &secret[..45], &format!("{secret}x"), &secret.to_lowercase(), &"x".repeat(9000)]
        {
            assert_eq!(status("secret", value), 401, "{value}");
            assert_eq!(status("Authorization", &format!("Bearer {value}")), 401, "{value}");
        }
        for value in ["Bearer", "Bearer ", &format!("Bearer {secret} more"), &format!("{secret} Bearer")] {
            assert_eq!(status("Authorization", value), 401, "{value}");
        }
        // The old system accepted these.
        assert_eq!(status("X-Rapid-API-Key", secret), 401);
        // A wrong one next to a valid one is ignored.
        let both = address.with_secret(NOBODY).header("Authorization", &format!("Bearer {secret}"));
        both.get("/api/current-user").expect(200);
        // Credentials in the URL are ignored.
        address.anonymous().get(&format!("/api/current-user?secret={secret}")).expect(401);
    }
}

#[test]
fn a_cookie_authenticates_on_the_web_server_only() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    user.browser.get("/api/current-user").expect(200);
    for address in [&server.inference, &server.audio] {
        address.with_cookie(&user.token).get("/api/current-user").expect(401);
    }
    let with = |line: String| server.web.anonymous().header("Cookie", &line).get("/api/current-user").status;
    assert_eq!(with(format!("a=b; session_secret={}; c=d", user.token)), 200);
    assert_eq!(with(format!("session_secret=\"{}\"", user.token)), 200);
    assert_eq!(with(format!("session_secret=; session_secret={}", user.token)), 200);
    for line in
        [format!("session_secret={}x", user.token), format!("Session_Secret={}", user.token), "session_secret".into()]
    {
        assert_eq!(with(line.clone()), 401, "{line}");
    }
}

#[test]
fn secrets_and_session_tokens_are_not_interchangeable() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    assert_ne!(user.token, user.secret);
    assert!(user.token.starts_with("ts_") && user.secret.starts_with("tg_"));
    // Also if the caller is cached under the right kind.
    user.browser.get("/api/current-user").expect(200);
    user.program(&server.web).get("/api/current-user").expect(200);
    server.web.with_cookie(&user.secret).get("/api/current-user").expect(401);
    for address in [&server.web, &server.inference, &server.audio] {
        address.with_secret(&user.token).get("/api/current-user").expect(401);
        let bearer = address.anonymous().header("Authorization", &format!("Bearer {}", user.token));
        bearer.get("/api/current-user").expect(401);
    }
    // Neither are digests, ids and prefixes accepted.
    let shown = user.browser.get("/api/current-user").expect(200).json()["secret"].as_str().unwrap().to_owned();
    server.web.with_secret(&shown).get("/api/current-user").expect(401);
    server.web.with_secret(&user.id).get("/api/current-user").expect(401);
    for column in ["encode(digest, 'hex')", "encode(digest, 'base64')", "id"] {
        for table in ["api_keys", "sessions"] {
            let kept: String = db.connect().query_one(&format!("SELECT {column} FROM {table}"), &[]).unwrap().get(0);
            server.web.with_secret(&kept).get("/api/current-user").expect(401);
            server.web.with_cookie(&kept).get("/api/current-user").expect(401);
        }
    }
}

#[test]
fn a_secret_of_the_old_system_still_works() {
    let db = TestDb::empty();
    let old = "Ab3dE5gH7jKl9NoPqRsTuVwXyZ012345";
    db.run(&format!(
        "CREATE TABLE users (id varchar PRIMARY KEY, email varchar UNIQUE NOT NULL, password_hash varchar,
            created timestamp, updated timestamp, name varchar, profile_url varchar, photo_url varchar,
            is_subscribed boolean DEFAULT false, stripe_id varchar, secret varchar NOT NULL,
            free_credits integer DEFAULT 0, charges_monthly integer DEFAULT 0,
            num_self_hosted_instances integer DEFAULT 0, cookie_user integer, access_token varchar);
         INSERT INTO users (id, email, secret) VALUES ('firebase-uid', 'Old@X', '{old}')"
    ));
    let server = Server::start(&db);
    for address in [&server.web, &server.inference, &server.audio] {
        let seen = address.with_secret(old).get("/api/current-user").expect(200).json();
        assert_eq!(json!([seen["id"], seen["email"]]), json!(["firebase-uid", "old@x"]));
        assert!(!seen.to_string().contains(old));
    }
    server.web.with_cookie(old).get("/api/current-user").expect(401);
    for path in ["/api/login", "/api/signup"] {
        let reply = server.web.anonymous().post(path, &json!({"email": "old@x", "password": "any password"}));
        assert_eq!(reply.expect(400).header("set-cookie"), None);
    }
}
