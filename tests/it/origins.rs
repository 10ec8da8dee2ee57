//! Requests from other sites' pages are refused unless their origin is configured.

use serde_json::json;

use crate::harness::{Client, PASSWORD, Server, TestDb};

/// Headers of a browser's request, and whether it may change anything.
fn cases(host: &str) -> Vec<(Vec<(&'static str, String)>, bool)> {
    let own = format!("http://{host}");
    let evil = || "http://evil.example".to_owned();
    let site = |value: &str| ("Sec-Fetch-Site", value.to_owned());
    vec![
        (vec![], true),
        (vec![site("same-origin")], true),
        (vec![site("none")], true),
        (vec![site("same-origin"), ("Origin", own.clone())], true),
        (vec![("Origin", own.clone())], true),
        (vec![site("cross-site")], false),
        (vec![site("same-site")], false),
        (vec![site("cross-site"), ("Origin", evil())], false),
        (vec![site("same-site"), ("Origin", evil())], false),
        (vec![("Origin", evil())], false),
        (vec![("Origin", "null".to_owned())], false),
        (vec![("Origin", String::new())], false),
        (vec![("Origin", format!("{own}.evil.example"))], false),
        (vec![("Origin", format!("http://evil.example/{host}"))], false),
        (vec![("Origin", format!("http://{host}@evil.example"))], false),
        (vec![("Origin", host.to_owned())], false),
    ]
}

fn with(client: &Client, headers: &[(&str, String)]) -> Client {
    headers.iter().fold(client.clone(), |client, (name, value)| client.header(name, value))
}

#[test]
fn other_sites_cannot_change_anything_with_a_cookie() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    for (headers, allowed) in cases(server.web.socket()) {
        let client = with(&user.browser, &headers);
        let reply = client.post("/api/keys", &json!({"name": "n"}));
        if allowed {
            reply.expect(200);
        } else {
            assert_eq!(reply.status, 403, "{headers:?} {}", reply.text());
            assert_eq!(reply.json(), json!({"detail": "Cross-site request refused"}));
            for path in ["/api/delete-account", "/api/change-password", "/api/sessions/revoke", "/api/logout"] {
                client.post(path, &json!({})).expect(403);
            }
            let refused = client.post("/api/docs/save", &json!({})).expect(403);
            assert_eq!(refused.json(), json!({"error": "Cross-site request refused"}));
            client.form("/playground", &[("title", "t"), ("content", "c")]).expect(403);
        }
        // Reads are allowed; CORS decides whether the page sees the reply.
        client.get("/api/current-user").expect(200);
        // A browser does not send secrets by itself.
        let program = with(&user.program(&server.web), &headers);
        program.post("/api/keys", &json!({"name": "n"})).expect(200);
        let both = client.header("secret", &user.secret);
        both.post("/api/keys", &json!({"name": "n"})).expect(200);
        db.run("DELETE FROM api_keys WHERE name = 'n'");
    }
    user.browser.get("/api/current-user").expect(200);
}

#[test]
fn other_sites_cannot_sign_anyone_in() {
    let db = TestDb::new();
    let server = Server::start(&db);
    server.sign_up("ann@x");
    for (headers, allowed) in cases(server.web.socket()) {
        let client = with(&server.web.anonymous(), &headers);
        for path in ["/api/login", "/api/signup"] {
            let reply = client.form_for_json(path, &[("email", "ann@x"), ("password", PASSWORD)]);
            assert_eq!(reply.status, if allowed { 200 } else { 403 }, "{path} {headers:?}");
            assert_eq!(reply.header("set-cookie").is_some(), allowed);
        }
    }
}

#[test]
fn no_other_origin_may_read_by_default() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    for origin in ["http://evil.example", "null", &server.web.0] {
        for client in [&user.browser, &user.program(&server.inference), &user.program(&server.audio)] {
            let client = client.header("Origin", origin);
            let preflight = client.header("Access-Control-Request-Method", "POST");
            for reply in [client.get("/api/current-user"), preflight.send("OPTIONS", "/api/current-user", None, b"")] {
                let cors = reply.headers.iter().find(|(name, _)| name.starts_with("access-control"));
                assert_eq!(cors, None, "{origin}");
            }
        }
    }
}

#[test]
fn any_origin_may_be_allowed_without_cookies() {
    let db = TestDb::new();
    let settings = [("CORS_ORIGINS", "*, https://app.example")];
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@x");
    for (origin, allowed, credentials) in
        [("https://other.example", "*", None), ("https://app.example", "https://app.example", Some("true"))]
    {
        for address in [&server.web, &server.inference, &server.audio] {
            let client = user.program(address).header("Origin", origin);
            for reply in [
                client.get("/api/current-user").expect(200),
                address.anonymous().header("Origin", origin).get("/api/current-user").expect(401),
                client.get("/v1/nothing").expect(404),
                client.send("OPTIONS", "/api/current-user", None, b"").expect(204),
            ] {
                assert_eq!(reply.header("access-control-allow-origin"), Some(allowed));
                assert_eq!(reply.header("access-control-allow-credentials"), credentials);
            }
            let exposed = client.get("/api/current-user").header("access-control-expose-headers").unwrap().to_owned();
            for name in ["Retry-After", "X-Request-Id", "X-RateLimit-Remaining-Tokens"] {
                assert!(exposed.contains(name), "{exposed}");
            }
        }
    }
    // With a cookie, another origin is another site still.
    for origin in ["https://other.example", "*"] {
        user.browser.header("Origin", origin).post("/api/keys", &json!({"name": "n"})).expect(403);
    }
    user.browser.header("Origin", "https://app.example").post("/api/keys", &json!({"name": "n"})).expect(200);
}

#[test]
fn configured_origins_may_read_and_write() {
    let db = TestDb::new();
    let settings =
        [("CORS_ORIGINS", "https://app.example, http://localhost:3000"), ("PUBLIC_URL", "http://own.example")];
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@x");
    for origin in ["https://app.example", "http://localhost:3000"] {
        for address in [&server.web, &server.inference, &server.audio] {
            let client = user.program(address).header("Origin", origin);
            let reply = client.get("/api/current-user").expect(200);
            assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
            assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
            assert_eq!(reply.header("vary"), Some("Origin"));
            // Errors are readable too.
            let refused = address.anonymous().header("Origin", origin).get("/api/current-user").expect(401);
            assert_eq!(refused.header("access-control-allow-origin"), Some(origin));
            let preflight =
                address.anonymous().header("Origin", origin).header("Access-Control-Request-Method", "POST");
            let reply = preflight.send("OPTIONS", "/api/current-user", None, b"").expect(204);
            assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
            assert!(reply.header("access-control-allow-headers").unwrap().contains("Secret"));
            let asked = "authorization,content-type,x-stainless-os,x-stainless-retry-count";
            let preflight = preflight.header("Access-Control-Request-Headers", asked);
            let reply = preflight.send("OPTIONS", "/api/current-user", None, b"").expect(204);
            assert_eq!(reply.header("access-control-allow-headers"), Some(asked));
            assert!(reply.header("access-control-allow-methods").unwrap().contains("POST"));
        }
        let browser = user.browser.header("Origin", origin).header("Sec-Fetch-Site", "cross-site");
        browser.post("/api/keys", &json!({"name": "n"})).expect(200);
    }
    for origin in ["https://app.example.evil", "http://app.example", "https://evil.example", "https://app.example:444"]
    {
        let browser = user.browser.header("Origin", origin);
        let reply = browser.get("/api/current-user").expect(200);
        assert_eq!(reply.header("access-control-allow-origin"), None, "{origin}");
        assert_eq!(reply.header("vary"), Some("Origin"));
        browser.post("/api/keys", &json!({"name": "n"})).expect(403);
    }
    // Behind a proxy that changes the host, PUBLIC_URL is this site's origin.
    let browser = user.browser.header("Origin", "http://own.example").header("Sec-Fetch-Site", "same-site");
    browser.post("/api/keys", &json!({"name": "n"})).expect(200);
}

#[test]
fn https_makes_cookies_secure_and_sets_hsts() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("PUBLIC_URL", "https://text.example/")]);
    let web = server.web.anonymous();
    let body = json!({"email": "ann@x", "password": PASSWORD});
    let cookies = [
        web.post("/api/signup", &body),
        web.post("/api/login", &body),
        web.form("/api/login", &[("email", "ann@x"), ("password", PASSWORD)]),
        web.send("POST", "/api/logout", None, b""),
        web.get("/logout"),
    ];
    for reply in &cookies {
        let cookie = reply.header("set-cookie").unwrap();
        assert!(cookie.contains("; Secure") && cookie.contains("; HttpOnly"), "{cookie}");
        assert_eq!(reply.header("strict-transport-security"), Some("max-age=31536000"));
    }
    for address in [&server.web, &server.inference, &server.audio] {
        assert!(address.anonymous().get("/liveness_check").header("strict-transport-security").is_some());
    }
    let browser = server.web.with_cookie(&cookies[0].session_token());
    browser.header("Origin", "https://text.example").post("/api/keys", &json!({"name": "n"})).expect(200);
    browser.header("Origin", "https://other.example").post("/api/keys", &json!({"name": "n"})).expect(403);

    // None of this without https.
    let plain = Server::start(&db);
    let reply = plain.web.anonymous().post("/api/login", &body).expect(200);
    assert!(!reply.header("set-cookie").unwrap().contains("Secure"));
    assert_eq!(reply.header("strict-transport-security"), None);
}
