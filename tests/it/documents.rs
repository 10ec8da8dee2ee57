//! Documents: what each route answers to whom.

use serde_json::{Value, json};

use crate::harness::{Client, Reply, Server, TestDb};

/// A running server and the document that its first user saved.
pub fn save(client: &Client, body: &Value) -> String {
    let reply = client.post("/api/docs/save", body).expect(200).json();
    reply["id"].as_str().unwrap().to_owned()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[track_caller]
fn expect_error(reply: Reply, status: u16, text: &str) {
    assert_eq!(reply.clone().expect(status).json(), json!({"error": text}));
}

const DOCUMENT_KEYS: [&str; 8] =
    ["id", "title", "content", "user_id", "created_at", "updated_at", "is_public", "version"];

#[test]
fn a_saved_document_is_what_was_sent() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let client = &user.browser;

    let reply = client.post("/api/docs/save", &json!({"title": "One", "content": "text"})).expect(200).json();
    assert_eq!(keys(&reply), ["id", "success", "message", "version"]);
    assert_eq!((&reply["success"], &reply["version"]), (&json!(true), &json!(1)));
    assert_eq!(reply["message"], "Document saved successfully");
    let id = reply["id"].as_str().unwrap();
    assert!(id.starts_with("doc_") && id.len() >= 20, "{id}");

    let document = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
    assert_eq!(keys(&document), DOCUMENT_KEYS);
    assert_eq!((&document["title"], &document["content"]), (&json!("One"), &json!("text")));
    assert_eq!((&document["user_id"], &document["is_public"]), (&json!(user.id), &json!(false)));
    for key in ["created_at", "updated_at"] {
        let time = document[key].as_str().unwrap();
        assert!(time.len() >= 19 && time.as_bytes()[10] == b'T' && !time.contains(['Z', '+']), "{time}");
    }

    // The same by the secret, under either header.
    let program = user.program(&server.web);
    assert_eq!(program.get(&format!("/api/docs/get?id={id}")).expect(200).json(), document);
    let bearer = server.web.anonymous().header("Authorization", &format!("Bearer {}", user.secret));
    assert_eq!(bearer.get(&format!("/api/docs/get?id={id}")).expect(200).json(), document);
}

#[test]
fn a_save_changes_only_the_given_fields() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;
    let read = |id: &str| {
        let document = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
        (document["title"].clone(), document["content"].clone(), document["version"].clone())
    };

    let id = save(&client, &json!({}));
    assert_eq!(read(&id), (json!("Untitled Document"), json!(""), json!(1)));
    save(&client, &json!({"id": id, "content": "text"}));
    assert_eq!(read(&id), (json!("Untitled Document"), json!("text"), json!(2)));
    save(&client, &json!({"id": id, "title": "One"}));
    assert_eq!(read(&id), (json!("One"), json!("text"), json!(3)));
    // `null` is valid content; as a title it counts as absent.
    save(&client, &json!({"id": id, "title": null, "content": null}));
    assert_eq!(read(&id), (json!("One"), Value::Null, json!(4)));
    let reply = client.post("/api/docs/autosave", &json!({"id": id, "title": "", "content": "again"})).expect(200);
    assert_eq!(reply.json(), json!({"id": id, "success": true, "message": "Document autosaved", "version": 5}),);
    assert_eq!(read(&id), (json!(""), json!("again"), json!(5)));

    // An empty or null id counts as absent.
    for none in [json!(""), Value::Null] {
        assert_ne!(save(&client, &json!({"id": none, "content": "other"})), id);
    }
    let reply = client.post("/api/docs/autosave", &json!({"content": null})).expect(200).json();
    assert_eq!(read(reply["id"].as_str().unwrap()), (json!("Untitled Document"), Value::Null, json!(1)));
}

#[test]
fn a_document_is_private_until_published() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let owner = server.sign_up("ann@example.com").browser;
    let stranger = server.sign_up("bob@example.com").browser;
    let nobody = server.web.anonymous();
    let id = save(&owner, &json!({"content": "mine"}));
    let path = format!("/api/docs/get?id={id}");
    let publish = |client: &Client, body: &Value| client.post("/api/docs/publish", body);

    for client in [&stranger, &nobody] {
        expect_error(client.get(&path), 404, "Document not found");
    }
    // With an invalid credential the reply is 401, not 404.
    expect_error(server.web.with_secret("tg_nobody").get(&path), 401, "Authentication required");
    expect_error(publish(&stranger, &json!({"id": id})), 404, "Document not found");
    expect_error(publish(&nobody, &json!({"id": id})), 401, "Authentication required");

    publish(&owner, &json!({"id": id, "is_public": null})).expect(400);
    expect_error(stranger.get(&path), 404, "Document not found");
    let reply = publish(&owner, &json!({"id": id})).expect(200).json();
    assert_eq!(reply, json!({"id": id, "success": true, "is_public": true, "version": 1}));
    for client in [&owner, &stranger, &nobody, &server.web.with_secret("tg_nobody")] {
        let document = client.get(&path).expect(200).json();
        assert_eq!((&document["content"], &document["is_public"]), (&json!("mine"), &json!(true)));
    }
    // Other users may only read.
    expect_error(stranger.post("/api/docs/save", &json!({"id": id, "content": "x"})), 403, "Permission denied");
    expect_error(stranger.post("/api/docs/delete", &json!({"id": id})), 404, "Document not found");
    assert_eq!(stranger.get("/api/docs/list").expect(200).json(), json!({"documents": []}));

    publish(&owner, &json!({"id": id, "is_public": false})).expect(200);
    expect_error(nobody.get(&path), 404, "Document not found");
    assert_eq!(owner.get(&path).expect(200).json()["content"], "mine");
}

#[test]
fn a_missing_document_cannot_be_changed() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let owner = server.sign_up("ann@example.com").browser;
    let stranger = server.sign_up("bob@example.com").browser;
    let id = save(&owner, &json!({"content": "mine"}));
    for route in ["save", "autosave"] {
        let path = format!("/api/docs/{route}");
        expect_error(owner.post(&path, &json!({"id": "doc_1", "content": "x"})), 404, "Document not found");
        expect_error(stranger.post(&path, &json!({"id": id, "content": "x"})), 403, "Permission denied");
        let nobody = server.web.anonymous();
        expect_error(nobody.post(&path, &json!({"content": "x"})), 401, "Authentication required");
    }
    for missing in ["", "?id=", "?ID=doc_1"] {
        expect_error(owner.get(&format!("/api/docs/get{missing}")), 400, "Document ID is required");
    }
    let long = "x".repeat(4000);
    for bad in ["doc_1", "1", "%00", "%ff", "%F0%9F%98%80", "'%20OR%20''='", "doc_%25", &long] {
        expect_error(owner.get(&format!("/api/docs/get?id={bad}")), 404, "Document not found");
    }
    for body in [json!({}), json!({"id": ""}), json!({"id": null})] {
        for route in ["delete", "publish"] {
            expect_error(owner.post(&format!("/api/docs/{route}"), &body), 400, "Document ID is required");
        }
    }
    assert_eq!(db.count("SELECT count(*) FROM documents"), 1, "saving to an unknown id creates no document");

    let deleted = owner.post("/api/docs/delete", &json!({"id": id})).expect(200).json();
    assert_eq!(deleted, json!({"id": id, "success": true, "message": "Document deleted"}));
    expect_error(owner.post("/api/docs/delete", &json!({"id": id})), 404, "Document not found");
    expect_error(owner.post("/api/docs/save", &json!({"id": id})), 404, "Document not found");
    expect_error(owner.get(&format!("/api/docs/get?id={id}")), 404, "Document not found");
    assert_eq!(db.count("SELECT count(*) FROM documents"), 0);
}

#[test]
fn a_stale_version_is_refused_with_the_current_document() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;
    let id = save(&client, &json!({"content": "first"}));
    let second = json!({"id": id, "content": "second", "version": 1});
    assert_eq!(client.post("/api/docs/save", &second).expect(200).json()["version"], 2);
    let before = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();

    for (route, version) in [("save", 1), ("autosave", 1), ("save", 0), ("save", 3), ("save", -1)] {
        let stale = json!({"id": id, "title": "lost", "content": "lost", "version": version});
        let reply = client.post(&format!("/api/docs/{route}"), &stale).expect(409).json();
        assert_eq!(keys(&reply), ["error", "document"]);
        assert!(reply["error"].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(reply["document"], before);
    }
    let third = json!({"id": id, "content": "third", "version": 2});
    assert_eq!(client.post("/api/docs/autosave", &third).expect(200).json()["version"], 3);
    // Without a version there is no check.
    save(&client, &json!({"id": id, "content": "fourth"}));
    let now = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
    assert_eq!((&now["content"], &now["version"], &now["title"]), (&json!("fourth"), &json!(4), &before["title"]));
}

#[test]
fn ids_cannot_be_guessed() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;
    let mut ids: Vec<String> = (0..50).map(|_| save(&client, &json!({}))).collect();
    for id in &ids {
        let random = id.strip_prefix("doc_").unwrap();
        // 62^22 is more than 2^128.
        assert!(random.len() >= 22 && random.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
    }
    // Random ids rarely share their first six characters; times and counters would.
    for id in &mut ids {
        id.truncate(10);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 50);
}

#[test]
fn the_list_is_paged_newest_first() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;
    save(&server.sign_up("bob@example.com").browser, &json!({"title": "not hers"}));
    let mut made: Vec<String> = (0..23).map(|n| save(&client, &json!({"content": format!("text {n}")}))).collect();
    made.reverse();

    let all = client.get("/api/docs/list").expect(200).json();
    assert_eq!(keys(&all), ["documents"], "the whole document is returned");
    assert_eq!(keys(&all["documents"][0]), DOCUMENT_KEYS);
    assert_eq!(ids(&all), made);

    // Documents created meanwhile are newer, and do not change the pages that follow.
    let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = client.get(&format!("/api/docs/list?limit=5&content=false&after={after}")).expect(200).json();
        assert!(ids(&page).len() <= 5);
        assert!(page["documents"].as_array().unwrap().iter().all(|d| d.get("content").is_none() && d["title"] != ""));
        seen.extend(ids(&page));
        pages += 1;
        save(&client, &json!({"title": "late"}));
        match page.get("next") {
            Some(next) => after = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!((seen, pages), (made.clone(), 5));

    // A document deleted meanwhile, even the last one of a page, does not hide others.
    let page = client.get("/api/docs/list?limit=8").expect(200).json();
    let (edge, next) = (ids(&page)[7].clone(), page["next"].as_str().unwrap().to_owned());
    client.post("/api/docs/delete", &json!({"id": edge})).expect(200);
    let rest = client.get(&format!("/api/docs/list?after={next}")).expect(200).json();
    assert_eq!(ids(&rest), made[3..]);
    assert!(rest["documents"][0]["content"].is_string());
}

pub fn ids(page: &Value) -> Vec<String> {
    page["documents"].as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn documents_created_at_the_same_moment_are_listed_once_each() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    db.run(&format!(
        "INSERT INTO documents (id, user_id, created) SELECT 'doc_' || n, '{}', '2026-01-02' FROM generate_series(1, 50) n",
        user.id
    ));
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = user.browser.get(&format!("/api/docs/list?limit=7&after={after}")).expect(200).json();
        seen.extend(ids(&page));
        match page.get("next") {
            Some(next) => after = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 50);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 50);
}

#[test]
fn invalid_list_parameters_are_refused() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;
    for bad in [
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=many",
        "after=x",
        "after=1_%00",
        "after=99999999999999999999_a",
        "after=-300000000000000000_a",
        "after=300000000000000000_a",
    ] {
        let reply = client.get(&format!("/api/docs/list?{bad}")).expect(400).json();
        assert_eq!(keys(&reply), ["error"], "{bad}");
    }
    expect_error(server.web.anonymous().get("/api/docs/list"), 401, "Authentication required");
    assert_eq!(client.get("/api/docs/list?limit=&after=").expect(400).json()["error"], "limit must be from 1 to 1000");
    let wrong = client.post("/api/docs/list", &json!({})).expect(405);
    assert!(wrong.header("Allow").unwrap().contains("GET"));
}
