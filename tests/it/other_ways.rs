//! Clients that write a path or a credential in another way than the documentation.

use serde_json::json;

use crate::harness::{PASSWORD, Server, TestDb};

#[test]
fn a_secret_counts_in_each_of_its_headers() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let secret = server.sign_up("ann@x").secret;
    for address in [&server.inference, &server.audio] {
        for (name, value) in [
            ("secret", secret.clone()),
            ("Authorization", format!("Bearer {secret}")),
            ("Authorization", format!("Secret {secret}")),
            ("Authorization", secret.clone()),
        ] {
            address.anonymous().header(name, &value).get("/api/current-user").expect(200);
        }
        for value in ["Bearer", "Bearer ", "x", ""] {
            address.anonymous().header("Authorization", value).get("/api/current-user").expect(401);
        }
    }
}

#[test]
fn a_path_finds_its_route_however_it_is_written() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let program = server.sign_up("ann@x").program(&server.inference);
    let chat = json!({"model": "demo", "messages": [{"role": "user", "content": "hello"}]});
    for path in [
        "/v1/chat/completions",
        "/v1/chat/completions/",
        "//v1//chat/completions",
        "/openai/v1/chat/completions",
        "/openai/deployments/demo/chat/completions?api-version=2024-10-21",
    ] {
        let reply = program.post(path, &chat).expect(200).json();
        assert_eq!(reply["object"], "chat.completion", "{path}");
    }
    program.get("/api/current-user/").expect(200);
    program.get("/v1/models/").expect(200);
    assert_eq!(program.get("/v1/chat/completions/").expect(405).header("allow"), Some("POST, OPTIONS"));
    // Pages have one address each.
    server.web.anonymous().get("/login/").expect(404);
}

#[test]
fn one_base_address_serves_all_clients() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let user = server.sign_up("ann@x");
    let chat = json!({"model": "demo", "messages": [{"role": "user", "content": "hello"}]});
    for address in [&server.web, &server.inference, &server.audio] {
        let program = user.program(address);
        program.post("/v1/chat/completions", &chat).expect(200);
        program.post("/v1/responses", &json!({"model": "demo", "input": "hello"})).expect(200);
        program.post("/v1/embeddings", &json!({"model": "demo", "input": "hello"})).expect(200);
        program.post("/v1/audio/speech", &json!({"model": "demo", "input": "hello", "voice": "af"})).expect(200);
        program.get("/v1/models").expect(200);
        let refused = address.anonymous().post("/v1/chat/completions", &chat).expect(401);
        assert!(refused.json()["error"]["message"].is_string());
    }
    // A browser's cookie counts on the web server only.
    let login = server.web.anonymous().post("/api/login", &json!({"email": "ann@x", "password": PASSWORD}));
    let token = login.session_token();
    for (address, status) in [(&server.web, 200), (&server.inference, 401), (&server.audio, 401)] {
        let reply = address.with_cookie(&token).post("/v1/embeddings", &json!({"model": "demo", "input": "hello"}));
        assert_eq!(reply.status, status);
    }
    let servers = "SELECT count(DISTINCT server) FROM usage_events WHERE route = '/v1/chat/completions'";
    assert_eq!(db.count(servers), 3, "a charge says which server it was made by");
}

#[test]
fn a_deployment_names_the_model_where_the_body_does_not() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let program = server.sign_up("ann@x").program(&server.inference);
    let messages = json!([{"role": "user", "content": "hello"}]);
    let path = |name: &str, rest: &str| format!("/openai/deployments/{name}/{rest}?api-version=2024-10-21");
    program.post(&path("demo", "chat/completions"), &json!({"messages": messages})).expect(200);
    program.post(&path("demo", "audio/speech"), &json!({"input": "hello", "voice": "af"})).expect(200);
    for rest in ["chat/completions", "embeddings"] {
        let body = json!({"messages": messages, "input": "hello"});
        let reply = program.post(&path("no%2Fsuch", rest), &body).expect(404);
        assert_eq!(reply.json()["error"]["message"], "The model \"no/such\" does not exist", "{rest}");
    }
    // Clients that send both mean what the body says.
    program.post(&path("no-such", "chat/completions"), &json!({"model": "demo", "messages": messages})).expect(200);
}

#[test]
fn a_404_says_which_address_was_meant() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let program = server.sign_up("ann@x").program(&server.inference);
    let message = |path: &str| {
        let reply = program.post(path, &json!({})).expect(404);
        reply.json()["error"]["message"].as_str().unwrap_or_else(|| panic!("{path}: {}", reply.text())).to_owned()
    };
    for path in ["/chat/completions", "/embeddings/"] {
        assert!(message(path).ends_with("ends with /v1"), "{path}");
    }
    for path in ["/v1/batches", "/v1/files", "/v1/files/file-1/content", "/openai/v1/uploads"] {
        assert_eq!(message(path), "Files and batches are not offered here");
    }
    assert_eq!(message("/v1/filesystem"), "Not Found");
    for address in [&server.web, &server.inference, &server.audio] {
        let reply = address.anonymous().get("/v1/nothing").expect(404);
        assert_eq!(reply.json()["error"]["message"], "Not Found");
    }
}
