//! Headers of every reply, and requests without a handler.

use serde_json::json;

use crate::harness::{Client, Reply, Server, TestDb};

fn everywhere(server: &Server) -> [Client; 3] {
    [server.web.anonymous(), server.inference.anonymous(), server.audio.anonymous()]
}

#[track_caller]
fn assert_safe(reply: &Reply) {
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(reply.header("referrer-policy"), Some("same-origin"));
    let policy = reply.header("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()));
    assert!(reply.header("date").is_some());
    assert_eq!(reply.headers.iter().filter(|(name, _)| name == "cache-control").count(), 1);
}

#[test]
fn every_reply_has_security_headers() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    for client in everywhere(&server) {
        for reply in [
            client.get("/liveness_check").expect(200),
            client.get("/readyz").expect(200),
            client.get("/api/current-user").expect(401),
            client.get("/nothing").expect(404),
            client.send("DELETE", "/liveness_check", None, b"").expect(405),
            client.send("OPTIONS", "/liveness_check", None, b"").expect(204),
            client.send("HEAD", "/liveness_check", None, b"").expect(200),
        ] {
            assert_safe(&reply);
            assert_eq!(reply.header("cache-control"), Some("no-store"));
        }
    }
    for path in ["/", "/login", "/signup", "/account", "/playground"] {
        assert_safe(&user.browser.get(path).expect(200));
    }
    let home = user.browser.get("/").text();
    let style = home.split('"').find(|text| text.starts_with("/assets/style.")).expect("a stylesheet");
    assert_safe(&user.browser.get(style).expect(200));
    assert_safe(&server.web.anonymous().post("/api/login", &json!({})).expect(422));
}

#[test]
fn every_request_has_an_id() {
    let db = TestDb::new();
    let server = Server::start(&db);
    for client in everywhere(&server) {
        let id = |client: &Client| client.get("/liveness_check").header("x-request-id").unwrap().to_owned();
        assert_ne!(id(&client), id(&client));
        let given = |id: &str| client.header("X-Request-Id", id);
        for good in ["a", "8f14e45f-ceea.467_A", &"x".repeat(64)] {
            assert_eq!(id(&given(good)), good);
        }
        for bad in ["", "a b", "<script>", "a\"b", "é", &"x".repeat(65)] {
            assert_ne!(id(&given(bad)), bad);
        }
    }
}

#[test]
fn unknown_paths_are_404_and_wrong_methods_405() {
    let db = TestDb::new();
    let server = Server::start(&db);
    for client in everywhere(&server) {
        for path in ["/nothing", "/api/current-users/", "/API/current-user", "/%61pi/current-user", "/a/../readyz"] {
            let reply = client.send("GET", path, None, b"");
            assert!(reply.status == 404, "{path} {}", reply.status);
            assert_eq!(reply.json(), json!({"detail": "Not Found"}));
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
            let reply = client.send(method, "/api/current-user", None, b"").expect(405);
            assert_eq!(reply.json(), json!({"detail": "Method Not Allowed"}));
            assert_eq!(reply.header("allow"), Some("GET, HEAD, OPTIONS"));
        }
        let reply = client.send("OPTIONS", "/api/current-user", None, b"").expect(204);
        assert_eq!(reply.header("allow"), Some("GET, HEAD, OPTIONS"));
        assert!(reply.body.is_empty());
        client.send("OPTIONS", "/nothing", None, b"").expect(404);
    }
    let web = server.web.anonymous();
    for path in ["/api/signup", "/api/login", "/api/logout", "/api/get-user", "/api/delete-account", "/api/keys/rotate"]
    {
        assert_eq!(web.get(path).expect(405).header("allow"), Some("POST, OPTIONS"), "{path}");
    }
    assert_eq!(
        web.send("DELETE", "/api/keys", None, b"").expect(405).header("allow"),
        Some("GET, POST, HEAD, OPTIONS")
    );
    // Account routes exist on the web server only.
    for client in [server.inference.anonymous(), server.audio.anonymous()] {
        for path in ["/api/signup", "/api/login", "/api/get-user", "/api/keys", "/api/docs/save"] {
            client.post(path, &json!({})).expect(404);
        }
    }
}

#[test]
fn head_answers_like_get_without_a_body() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    for path in
        ["/", "/login", "/account", "/api/current-user", "/api/keys", "/readyz", "/nothing", "/assets/style.css"]
    {
        let (get, head) = (user.browser.get(path), user.browser.send("HEAD", path, None, b""));
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.body.is_empty());
        for name in ["content-type", "content-length"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
    }
    assert_eq!(server.web.anonymous().send("HEAD", "/api/current-user", None, b"").status, 401);
}

#[test]
fn a_401_names_the_expected_credential() {
    let db = TestDb::new();
    let server = Server::start(&db);
    for client in everywhere(&server) {
        let reply = client.get("/api/current-user").expect(401);
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    let reply = server.web.anonymous().get("/api/docs/list").expect(401);
    assert_eq!(reply.json(), json!({"error": "Authentication required"}));
}
