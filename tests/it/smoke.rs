//! The harness itself, and one user on all servers.

use serde_json::json;

use crate::harness::{Server, TestDb};

#[test]
fn one_account_on_three_servers() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    for client in [user.program(&server.web), user.program(&server.inference), user.program(&server.audio)] {
        let seen = client.get("/api/current-user").expect(200).json();
        assert_eq!(seen["id"], json!(user.id));
    }
    user.browser.get("/api/current-user").expect(200);
    server.web.anonymous().get("/api/current-user").expect(401);
    assert_eq!(server.stop(), 0);
}
