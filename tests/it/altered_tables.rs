//! Tables that are altered while servers run: what they have prepared is prepared anew.

use std::thread;

use serde_json::json;

use crate::documents::save;
use crate::harness::{Server, TestDb};

#[test]
fn reads_go_on_when_the_type_of_a_column_changes() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({"content": "text"}));
    let read_all = || {
        // At once, so that each connection of the pool prepares the statement.
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let document = user.browser.get(&format!("/api/docs/get?id={id}")).expect(200).json();
                        assert_eq!(document["content"], "text");
                    }
                });
            }
        });
    };
    for column in ["content", "title", "content"] {
        read_all();
        db.run(&format!("ALTER TABLE documents ALTER COLUMN {column} TYPE varchar"));
        read_all();
        db.run(&format!("ALTER TABLE documents ALTER COLUMN {column} TYPE text"));
    }
    read_all();
    assert!(!server.log().contains("cached plan"), "{}", server.log());
}
