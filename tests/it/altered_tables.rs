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

/// In a transaction nothing can be run once more: the client is told to come back, once for each connection at most.
#[test]
fn changes_in_a_transaction_are_told_to_come_back_when_the_type_of_a_column_changes() {
    const CONNECTIONS: usize = 3;
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", &CONNECTIONS.to_string())]);
    let user = server.sign_up("ann@example.com");
    let id = user.browser.get("/api/keys").expect(200).json()["keys"][0]["id"].clone();
    let rename = |n: usize| user.browser.post("/api/keys/update", &json!({"id": id, "name": format!("name {n}")}));
    for kind in ["text", "varchar", "text"] {
        for n in 0..10 {
            rename(n).expect(200);
        }
        db.run(&format!("ALTER TABLE api_keys ALTER COLUMN name TYPE {kind}, ALTER COLUMN prefix TYPE {kind}"));
        let refused: Vec<_> = (0..40).map(rename).filter(|reply| reply.status != 200).collect();
        println!("{} refused", refused.len());
        // Of the statements of the transaction, each may be a plan that is too old.
        assert!(refused.len() <= 3 * CONNECTIONS, "{}", refused.len());
        for reply in refused {
            assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{}", reply.text());
        }
        rename(40).expect(200);
    }
}
