//! Many clients, one document.

use std::sync::Barrier;
use std::thread;

use serde_json::{Value, json};

use crate::documents::save;
use crate::harness::{Client, Reply, Server, TestDb};

const CLIENTS: usize = 64;

/// The replies to clients that start together.
fn at_once(client: &Client, body: impl Fn(usize) -> Value + Sync) -> Vec<Reply> {
    let start = Barrier::new(CLIENTS);
    let one = |n: usize| {
        let (start, body) = (&start, &body);
        move || {
            // Each with its own connections.
            let client = client.header("X-Client", &n.to_string());
            start.wait();
            client.post("/api/docs/save", &body(n))
        }
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(one(n))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn of_concurrent_saves_with_a_version_one_succeeds() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", "16")]);
    let client = server.sign_up("ann@example.com").browser;
    let id = save(&client, &json!({"content": "start"}));
    for version in 1..=5 {
        let replies =
            at_once(&client, |n| json!({"id": id, "content": format!("{version} by {n}"), "version": version}));
        let document = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
        let winners: Vec<usize> = (0..CLIENTS).filter(|n| replies[*n].status == 200).collect();
        assert_eq!(winners.len(), 1, "version {version}");
        assert_eq!(document["content"], format!("{version} by {}", winners[0]));
        assert_eq!(document["version"], version + 1);
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            assert_eq!(
                reply.clone().expect(409).json()["document"],
                document,
                "the refused save is shown the current document"
            );
        }
    }
}

#[test]
fn concurrent_saves_without_a_version_all_succeed() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", "16")]);
    let client = server.sign_up("ann@example.com").browser;
    let id = save(&client, &json!({"content": "start"}));
    let replies = at_once(&client, |n| json!({"id": id, "content": format!("by {n}")}));
    let mut versions: Vec<i64> =
        replies.iter().map(|reply| reply.clone().expect(200).json()["version"].as_i64().unwrap()).collect();
    let last = versions.iter().position(|v| *v == 65).unwrap();
    versions.sort_unstable();
    assert_eq!(versions, (2..=65).collect::<Vec<_>>(), "each save has its own version");
    let document = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
    assert_eq!(document["content"], format!("by {last}"), "the last save is stored");
}

#[test]
fn edits_retried_after_a_conflict_are_never_lost() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", "16")]);
    let client = server.sign_up("ann@example.com").browser;
    let id = save(&client, &json!({"content": ""}));
    let append = |n: usize| {
        let client = client.header("X-Client", &n.to_string());
        let mut document = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
        loop {
            let content = format!("{}{n} ", document["content"].as_str().unwrap());
            let body = json!({"id": id, "content": content, "version": document["version"]});
            let reply = client.post("/api/docs/save", &body);
            if reply.status == 200 {
                return;
            }
            document = reply.expect(409).json()["document"].clone();
        }
    };
    thread::scope(|scope| (0..16).for_each(|n| drop(scope.spawn(move || append(n)))));
    let document = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
    let mut edits: Vec<usize> =
        document["content"].as_str().unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect();
    edits.sort_unstable();
    assert_eq!(edits, (0..16).collect::<Vec<_>>());
    assert_eq!(document["version"], 17);
}

#[test]
fn new_documents_never_collide() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", "16")]);
    let client = server.sign_up("ann@example.com").browser;
    let replies = at_once(&client, |n| json!({"content": format!("by {n}")}));
    for reply in replies {
        reply.expect(200);
    }
    assert_eq!(db.count("SELECT count(DISTINCT content) FROM documents"), 64);
}

#[test]
fn a_document_deleted_during_saves_stays_deleted() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", "16")]);
    let client = server.sign_up("ann@example.com").browser;
    let id = save(&client, &json!({"content": "start"}));
    let replies = thread::scope(|scope| {
        let saving = scope.spawn(|| at_once(&client, |n| json!({"id": id, "content": format!("by {n}")})));
        client.post("/api/docs/delete", &json!({"id": id})).expect(200);
        saving.join().unwrap()
    });
    for reply in replies {
        assert!(matches!(reply.status, 200 | 404), "{} {}", reply.status, reply.text());
    }
    assert_eq!(db.count("SELECT count(*) FROM documents"), 0);
}
