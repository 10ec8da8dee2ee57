//! Earlier versions of documents: when they are kept, how they are shown, and how to go back.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::documents::save;
use crate::harness::{Client, PASSWORD, Random, Server, TestDb, User, at_once};
use crate::quotas::{FULL, assert_refused, assert_totals_are_right};

const MIB: usize = 1024 * 1024;

/// What the versions of an account take is what was counted.
const WRONG_SUMS: &str = "
    SELECT count(*) FROM users u WHERE
        (SELECT coalesce(sum(bytes), 0) FROM document_version_bytes b WHERE b.user_id = u.id) <>
        (SELECT coalesce(sum(octet_length(title) + octet_length(coalesce(content, ''))), 0)
         FROM document_versions v WHERE v.user_id = u.id)";

#[track_caller]
fn assert_versions_are_counted(db: &TestDb) {
    assert_eq!(db.count(WRONG_SUMS), 0);
    assert_eq!(
        db.count(
            "SELECT count(*) FROM document_versions v WHERE NOT EXISTS (
        SELECT FROM documents d WHERE d.id = v.document_id AND d.version > v.version UNION ALL
        SELECT FROM deleted_documents d WHERE d.id = v.document_id AND d.version > v.version)"
        ),
        0
    );
}

/// As if time had passed since a version was kept.
fn pass(db: &TestDb, time: &str) {
    db.run(&format!(
        "UPDATE documents SET created = created - interval '{time}', kept = kept - interval '{time}';
         UPDATE document_versions SET kept = kept - interval '{time}'"
    ));
}

fn versions(client: &Client, id: &str) -> Vec<Value> {
    let list = client.get(&format!("/api/docs/versions?id={id}")).expect(200).json();
    list["versions"].as_array().unwrap().clone()
}

fn numbers(client: &Client, id: &str) -> Vec<i64> {
    versions(client, id).iter().map(|version| version["version"].as_i64().unwrap()).collect()
}

fn at(client: &Client, id: &str, version: i64) -> Value {
    client.get(&format!("/api/docs/get?id={id}&version={version}")).expect(200).json()
}

fn write(client: &Client, id: &str, content: &str) -> i64 {
    let reply = client.post("/api/docs/autosave", &json!({"id": id, "content": content})).expect(200).json();
    reply["version"].as_i64().unwrap()
}

/// Writes, and keeps what was there before.
fn replace(client: &Client, id: &str, content: &str) -> i64 {
    let body = json!({"id": id, "content": content, "keep_version": true});
    client.post("/api/docs/save", &body).expect(200).json()["version"].as_i64().unwrap()
}

fn revert(client: &Client, id: &str, version: i64) -> Value {
    client.post("/api/docs/revert", &json!({"id": id, "version": version})).expect(200).json()
}

#[test]
fn saves_keep_a_version_every_ten_minutes() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    let id = save(&client, &json!({"title": "One", "content": "first"}));
    for n in 2..=5 {
        assert_eq!(write(&client, &id, &format!("first {n}")), n);
    }
    assert_eq!(numbers(&client, &id), [0; 0], "an editor saves with each pause");
    pass(&db, "9 minutes");
    write(&client, &id, "second");
    assert_eq!(numbers(&client, &id), [0; 0]);
    pass(&db, "2 minutes");
    for n in 0..3 {
        client
            .post("/api/docs/autosave", &json!({"id": id, "title": "Two", "content": format!("third {n}")}))
            .expect(200);
    }
    assert_eq!(numbers(&client, &id), [6]);
    pass(&db, "11 minutes");
    // A save that changes nothing leaves nothing to come back to.
    write(&client, &id, "third 2");
    assert_eq!(numbers(&client, &id), [6]);
    // And one of the title alone does.
    client.post("/api/docs/save", &json!({"id": id, "title": "Three"})).expect(200);
    let list = versions(&client, &id);
    let keys: Vec<_> = list[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["version", "title", "updated_at", "bytes"]);
    assert_eq!((&list[0]["title"], &list[0]["bytes"]), (&json!("Two"), &json!(10)));
    assert_eq!((&list[1]["title"], &list[1]["bytes"]), (&json!("One"), &json!(9)));

    let now = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
    let earlier = at(&client, &id, 6);
    assert_eq!(
        (&earlier["content"], &earlier["title"], &earlier["version"]),
        (&json!("second"), &json!("One"), &json!(6))
    );
    assert_eq!(earlier["updated_at"], list[1]["updated_at"]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&earlier), keys(&now));
    assert_eq!(at(&client, &id, now["version"].as_i64().unwrap()), now, "the present version is one too");
    assert_versions_are_counted(&db);
    assert_totals_are_right(&db);
}

#[test]
fn a_text_that_is_taken_away_is_kept_at_once() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    let text = "x".repeat(300);
    let id = save(&client, &json!({"content": text}));
    write(&client, &id, &"x".repeat(200));
    assert_eq!(numbers(&client, &id), [0; 0]);
    write(&client, &id, &text);
    write(&client, &id, "");
    assert_eq!(numbers(&client, &id), [3]);
    assert_eq!(at(&client, &id, 3)["content"], text);
    // Empty texts and small ones are not kept for that, and others if they are asked for.
    for content in ["short", "", "shorter"] {
        write(&client, &id, content);
    }
    assert_eq!(numbers(&client, &id), [3]);
    replace(&client, &id, "asked");
    assert_eq!(numbers(&client, &id), [7, 3]);
    client.post("/api/docs/save", &json!({"id": id, "title": "t", "keep_version": true})).expect(200);
    assert_eq!(numbers(&client, &id), [7, 3], "for a few bytes no text is written anew");
    assert_versions_are_counted(&db);
}

#[test]
fn a_document_goes_back_to_a_version() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    let id = save(&client, &json!({"title": "One", "content": "first"}));
    client
        .post("/api/docs/save", &json!({"id": id, "title": "Two", "content": "second", "keep_version": true}))
        .expect(200);
    let reply = revert(&client, &id, 1);
    assert_eq!(reply, json!({"id": id, "success": true, "message": "Document reverted", "version": 3}));
    let now = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
    assert_eq!((&now["title"], &now["content"], &now["version"]), (&json!("One"), &json!("first"), &json!(3)));
    assert_eq!(numbers(&client, &id), [2, 1], "what it replaced can be restored too");
    assert_eq!(at(&client, &id, 2)["content"], "second");
    assert_eq!(revert(&client, &id, 3)["version"], 3, "it is that already");
    // An editor that has not seen it is in conflict.
    client.post("/api/docs/autosave", &json!({"id": id, "content": "late", "version": 2})).expect(409);
    for (body, status, error) in [
        (json!({"id": id, "version": 9}), 404, "Version not found"),
        (json!({"id": "doc_none", "version": 1}), 404, "Version not found"),
        (json!({"id": id}), 400, "version is required"),
        (json!({"version": 1}), 400, "Document ID is required"),
    ] {
        let reply = client.post("/api/docs/revert", &body).expect(status).json();
        assert_eq!(reply, json!({"error": error}), "{body}");
    }
    assert_versions_are_counted(&db);
    assert_totals_are_right(&db);
}

#[test]
fn versions_are_their_owners_alone() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (ann, bob) = (server.sign_up("ann@x"), server.sign_up("bob@x"));
    let id = save(&ann.browser, &json!({"content": "secret draft"}));
    replace(&ann.browser, &id, "published");
    ann.browser.post("/api/docs/publish", &json!({"id": id})).expect(200);
    let anonymous = server.web.anonymous();
    anonymous.get(&format!("/api/docs/get?id={id}")).expect(200);
    let paths = [
        format!("/api/docs/get?id={id}&version=1"),
        format!("/api/docs/get?id={id}&version=2"),
        format!("/api/docs/versions?id={id}"),
    ];
    for path in &paths {
        let expected = if path.contains("versions") { 401 } else { 404 };
        anonymous.get(path).expect(expected);
        bob.browser.get(path).expect(404);
        ann.program(&server.web).get(path).expect(200);
    }
    bob.browser.post("/api/docs/revert", &json!({"id": id, "version": 1})).expect(404);
    for page in ["versions", "versions/1", "text", "text?version=1"] {
        bob.browser.get(&format!("/documents/{id}/{page}")).expect(404);
        ann.browser.get(&format!("/documents/{id}/{page}")).expect(200);
    }
    bob.browser.form(&format!("/documents/{id}/versions/1"), &[]).expect(404);
    ann.browser.get(&format!("/api/docs/get?id={id}&version=one")).expect(400);
    ann.browser.get("/api/docs/versions").expect(400);
    ann.browser.get(&format!("/api/docs/get?id={id}&version=7")).expect(404);
    assert_eq!(at(&ann.browser, &id, 2)["content"], "published");
}

#[test]
fn versions_stay_with_a_document_and_end_with_it() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (ann, bob) = (server.sign_up("ann@x"), server.sign_up("bob@x"));
    let ids: Vec<_> = [&ann, &ann, &bob].iter().map(|user| save(&user.browser, &json!({"content": "first"}))).collect();
    for (id, user) in ids.iter().zip([&ann, &ann, &bob]) {
        replace(&user.browser, id, "second");
    }
    let kept = |id: &str| db.count(&format!("SELECT count(*) FROM document_versions WHERE document_id = '{id}'"));
    for id in &ids[..2] {
        ann.browser.post("/api/docs/delete", &json!({"id": id})).expect(200);
        assert_eq!(kept(id), 1);
        ann.browser.get(&format!("/api/docs/versions?id={id}")).expect(404);
    }
    ann.browser.post("/api/docs/restore", &json!({"id": ids[0]})).expect(200);
    assert_eq!(at(&ann.browser, &ids[0], 1)["content"], "first");
    assert_eq!(revert(&ann.browser, &ids[0], 1)["version"], 3);
    assert_versions_are_counted(&db);
    // One is purged.
    db.run("UPDATE deleted_documents SET deleted = deleted - interval '31 days'");
    let purger = Server::start(&db);
    purger.wait_until("the purge", || db.count("SELECT count(*) FROM deleted_documents") == 0);
    assert_eq!((kept(&ids[0]), kept(&ids[1])), (2, 0));
    assert_versions_are_counted(&db);
    // The account is deleted, and nothing of it is left.
    ann.browser.post("/api/delete-account", &json!({"password": PASSWORD})).expect(200);
    assert_eq!((kept(&ids[0]), kept(&ids[2])), (0, 1));
    let left = format!("SELECT count(*) FROM document_version_bytes WHERE user_id = '{}'", ann.id);
    assert_eq!(db.count(&left), 0);
    db.run("TRUNCATE documents");
    assert_eq!(kept(&ids[2]), 0);
    assert_versions_are_counted(&db);
}

#[test]
fn a_document_has_fifty_versions_of_thirty_days() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    let id = save(&client, &json!({"content": "text 1"}));
    for n in 2..=61 {
        replace(&client, &id, &format!("text {n}"));
    }
    assert_eq!(numbers(&client, &id), (11..=60).rev().collect::<Vec<_>>());
    // The oldest can be restored, whatever makes room for the present one.
    revert(&client, &id, 11);
    assert_eq!(client.get(&format!("/api/docs/get?id={id}")).expect(200).json()["content"], "text 11");
    assert_eq!(numbers(&client, &id), (12..=61).rev().collect::<Vec<_>>());
    assert_versions_are_counted(&db);
    // Many small additions to what was counted have become few.
    assert!(db.count("SELECT count(*) FROM document_version_bytes") <= 110);
    db.run("UPDATE document_versions SET kept = kept - interval '31 days' WHERE version < 60");
    let purger = Server::start(&db);
    purger.wait_until("the purge", || db.count("SELECT count(*) FROM document_versions") == 2);
    assert_eq!(numbers(&client, &id), [61, 60]);
    assert_versions_are_counted(&db);
}

#[test]
fn the_versions_of_an_account_take_as_much_as_its_documents_may() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("DOCUMENT_BYTES_PER_ACCOUNT", "10000")]);
    let (ann, bob) = (server.sign_up("ann@x"), server.sign_up("bob@x"));
    let id = |user: &User| save(&user.browser, &json!({"title": "", "content": "x".repeat(3000)}));
    let (first, second, other) = (id(&ann), id(&ann), id(&bob));
    replace(&bob.browser, &other, "bob");
    for letter in ["a", "b"] {
        for id in [&first, &second] {
            replace(&ann.browser, id, &letter.repeat(3000));
        }
    }
    // Of four, the oldest made room.
    assert_eq!(numbers(&ann.browser, &first), [2]);
    assert_eq!(numbers(&ann.browser, &second), [2, 1]);
    assert_eq!(numbers(&bob.browser, &other), [1]);
    assert_versions_are_counted(&db);
    // Whoever has used the quota goes back to what is not longer, and to nothing else.
    write(&ann.browser, &first, &"c".repeat(6500));
    write(&ann.browser, &second, "");
    write(&ann.browser, &first, &"c".repeat(9000));
    let refused = ann.browser.post("/api/docs/revert", &json!({"id": second, "version": 2}));
    assert_refused(refused, FULL, 10_000);
    assert_eq!(ann.browser.get(&format!("/api/docs/get?id={second}")).expect(200).json()["content"], "");
    assert_versions_are_counted(&db);
    assert_totals_are_right(&db);
}

/// Each of them has two whole texts written anew, for a request of a few bytes.
#[test]
fn an_account_goes_back_to_so_much_text_a_minute() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    let text = |letter: &str| letter.repeat(8 * MIB);
    let id = save(&client, &json!({"content": text("a")}));
    replace(&client, &id, &text("b"));
    let mut version = 2;
    for n in 0..2 {
        version = revert(&client, &id, n + 1)["version"].as_i64().unwrap();
    }
    assert_eq!(version, 4);
    let refused = client.post("/api/docs/revert", &json!({"id": id, "version": 3})).expect(429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    db.run("UPDATE document_totals SET restored_at = restored_at - interval '1 minute'");
    assert_eq!(revert(&client, &id, 3)["version"], 5);
    // Large ones are read, compared and downloaded.
    assert_eq!(at(&client, &id, 1)["content"].as_str().unwrap().len(), 8 * MIB);
    let page = client.get(&format!("/documents/{id}/versions/2")).expect(200).text();
    assert!(page.len() > 8 * MIB && page.contains("<del") && page.contains("<ins"), "{}", page.len());
    assert_eq!(client.get(&format!("/documents/{id}/text?version=2")).expect(200).text(), text("b"));
}

/// Whatever is saved and restored at once: each version is the text that was saved as it.
#[test]
fn versions_are_what_was_saved_whoever_writes_at_once() {
    let db = TestDb::new();
    let settings = [("POOL_SIZE", "8"), ("DOCUMENT_BYTES_PER_ACCOUNT", "20000")];
    let servers = [Server::start_with(&db, &settings), Server::start_with(&db, &settings)];
    let user = servers[0].sign_up("ann@x");
    let ids: Vec<String> = (0..3).map(|_| save(&user.browser, &json!({"content": "first"}))).collect();
    let saved = Mutex::new(BTreeMap::new());
    for id in &ids {
        saved.lock().insert((id.clone(), 1), "first".to_owned());
    }
    at_once(9, |n| {
        let (client, mut random) = (user.program(&servers[n % 2].web), Random(n as u64));
        for step in 0..30 {
            let id = &ids[random.place(ids.len())];
            match n % 3 {
                // Two that save, with and without a look at what is there.
                0 | 1 => {
                    let content = format!("{n}.{step} {}", "x".repeat(random.place(300)));
                    let mut body = json!({"id": id, "content": content, "keep_version": random.below(2) == 0});
                    if n % 3 == 1 {
                        body["version"] =
                            client.get(&format!("/api/docs/get?id={id}")).expect(200).json()["version"].clone();
                    }
                    let reply = client.post("/api/docs/save", &body);
                    assert!([200, 409].contains(&reply.status), "{}", reply.text());
                    if reply.status == 200 {
                        let version = reply.json()["version"].as_i64().unwrap();
                        assert_eq!(
                            saved.lock().insert((id.clone(), version), content),
                            None,
                            "two saves of one version"
                        );
                    }
                }
                // And one that goes back.
                _ => {
                    let all = numbers(&client, id);
                    let Some(version) = all.get(random.place(all.len().max(1))) else { continue };
                    let earlier = client.get(&format!("/api/docs/get?id={id}&version={version}"));
                    let reply = client.post("/api/docs/revert", &json!({"id": id, "version": version}));
                    assert!([200, 404].contains(&reply.status), "{}", reply.text());
                    if reply.status == 200 && earlier.status == 200 {
                        let content = earlier.json()["content"].as_str().unwrap().to_owned();
                        let version = reply.json()["version"].as_i64().unwrap();
                        assert_eq!(saved.lock().insert((id.clone(), version), content), None);
                    }
                }
            }
        }
    });
    let saved = saved.into_inner();
    let mut client = db.connect();
    let all = "SELECT document_id, version, content, bytes FROM document_versions
        UNION ALL SELECT id, version, content, 0 FROM documents";
    let rows = client.query(all, &[]).unwrap();
    assert!(rows.len() > 20, "{}", rows.len());
    for row in &rows {
        let (id, version, content): (String, i64, String) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(saved.get(&(id, version)), Some(&content), "version {version}");
    }
    assert_eq!(
        db.count("SELECT count(*) FROM (SELECT FROM document_versions GROUP BY document_id HAVING count(*) > 50) x"),
        0
    );
    assert!(db.count("SELECT sum(bytes)::bigint FROM document_versions") <= 20_000 + 9 * 320);
    assert_versions_are_counted(&db);
    assert_totals_are_right(&db);
}

#[test]
fn pages_show_versions_and_how_they_differ() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    let id = save(&client, &json!({"title": "Übung <1>", "content": "one\ntwo\nthree"}));
    assert!(client.get(&format!("/documents/{id}/versions")).expect(200).text().contains("No earlier versions yet"));
    replace(&client, &id, "one\n<b>2</b>\nthree");
    let list = client.get(&format!("/documents/{id}/versions")).expect(200).text();
    assert!(list.contains(&format!("/documents/{id}/versions/1")) && list.contains("Current version"));
    let page = client.get(&format!("/documents/{id}/versions/1")).expect(200).text();
    assert!(page.contains("</span>two</del>") && page.contains("</span>&#60;b&#62;2&#60;/b&#62;</ins>"), "{page}");
    assert!(page.contains(">one</p>"));
    let part = client
        .form(&format!("/documents/{id}/difference"), &[("content", "one\n<b>2</b>\nthree\nfour")])
        .expect(200)
        .text();
    assert!(
        part.starts_with("<div class=\"difference\"") && part.contains("</span>four</ins>") && !part.contains("<del"),
        "{part}"
    );
    let same =
        client.form(&format!("/documents/{id}/difference"), &[("content", "one\n<b>2</b>\nthree")]).expect(200).text();
    assert!(same.contains("The text is the same"), "{same}");

    let opened = client.form(&format!("/documents/{id}/versions/1"), &[]).expect(303);
    assert_eq!(opened.header("location"), Some(format!("/documents/{id}?done=reverted").as_str()));
    let file = client.get(&format!("/documents/{id}/text")).expect(200);
    assert_eq!(
        (file.text().as_str(), file.header("content-type")),
        ("one\ntwo\nthree", Some("text/plain; charset=utf-8"))
    );
    assert_eq!(
        file.header("content-disposition"),
        Some("attachment; filename=\"_bung  1.txt\"; filename*=UTF-8''%C3%9Cbung%20%201.txt")
    );
    let present = client.get(&format!("/documents/{id}/versions/3")).expect(303);
    assert_eq!(present.header("location"), Some(format!("/documents/{id}").as_str()));
    for path in ["versions/9", "versions/x", "text?version=9", "text?version=x"] {
        client.get(&format!("/documents/{id}/{path}")).expect(404);
    }
}
