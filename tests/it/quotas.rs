//! Quotas: of documents, sessions and keys of an account. They hold exactly, whoever asks at once, and the totals that the
//! database keeps are the truth.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};

use crate::documents::save;
use crate::harness::{Client, PASSWORD, Random, Reply, Server, TestDb, User, at_once, retry_while_unavailable, soon};

pub const FULL: &str = "Document storage is full: delete some documents first";
pub const TOO_MANY: &str = "Too many documents: delete some first";

/// The accounts whose totals are not what their documents take, and what is set aside for others.
const WRONG_TOTALS: &str = "
    SELECT count(*) FROM users u LEFT JOIN document_totals t ON t.user_id = u.id
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(documents), 0)::bigint AS documents, coalesce(sum(bytes), 0)::bigint AS bytes,
            coalesce(min(least(documents, bytes)), 0) AS least
        FROM document_rooms r WHERE r.user_id = u.id) AS r
    WHERE r.least < 0
    OR (t.documents - r.documents, t.bytes - r.bytes, t.deleted, t.deleted_bytes) IS DISTINCT FROM (
        (SELECT count(*) FROM documents d WHERE d.user_id = u.id),
        (SELECT coalesce(sum(octet_length(title) + octet_length(coalesce(content, ''))), 0)::bigint
         FROM documents d WHERE d.user_id = u.id),
        (SELECT count(*) FROM deleted_documents d WHERE d.user_id = u.id),
        (SELECT coalesce(sum(octet_length(title) + octet_length(coalesce(content, ''))), 0)::bigint
         FROM deleted_documents d WHERE d.user_id = u.id))";

/// Every account has totals, and they are what its documents take.
#[track_caller]
pub fn assert_totals_are_right(db: &TestDb) {
    assert_eq!(db.count(WRONG_TOTALS), 0);
    assert_eq!(db.count("SELECT count(*) FROM document_totals"), db.count("SELECT count(*) FROM users"));
}

#[track_caller]
pub fn assert_refused(reply: Reply, error: &str, limit: i64) {
    assert_eq!(reply.expect(403).json(), json!({"error": error, "limit": limit}));
}

fn usage(client: &Client) -> Value {
    client.get("/api/docs/usage").expect(200).json()
}

#[test]
fn of_concurrent_saves_as_many_succeed_as_there_is_room_for() {
    let db = TestDb::new();
    let settings = [("DOCUMENTS_PER_ACCOUNT", "7"), ("POOL_SIZE", "8")];
    let servers = [Server::start_with(&db, &settings), Server::start_with(&db, &settings)];
    let ann = servers[0].sign_up("ann@x");
    let bob = servers[0].sign_up("bob@x");
    // From the first document on, through two processes.
    let replies = at_once(20, |n| {
        ann.program(&servers[n % 2].web).post("/api/docs/save", &json!({"title": n.to_string(), "content": "text"}))
    });
    let (made, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 200);
    assert_eq!(made.len(), 7);
    for reply in refused {
        assert_refused(reply, TOO_MANY, 7);
    }
    assert_eq!(db.count("SELECT count(*) FROM documents"), 7);
    // Others have their own, and those that there are can be saved.
    let of_bob = save(&bob.browser, &json!({"content": "text"}));
    let ids: Vec<String> = made.iter().map(|reply| reply.json()["id"].as_str().unwrap().to_owned()).collect();
    ann.browser.post("/api/docs/save", &json!({"id": ids[0], "content": "a longer text"})).expect(200);
    // A document of another, or none, is not a matter of room.
    ann.browser.post("/api/docs/save", &json!({"id": of_bob, "content": "x"})).expect(403);
    ann.browser.post("/api/docs/save", &json!({"id": "doc_none", "content": "x"})).expect(404);
    // What is deleted makes room for one, and is restored when there is some.
    ann.browser.post("/api/docs/delete", &json!({"id": ids[0]})).expect(200);
    let outcomes = at_once(20, |n| {
        ann.program(&servers[n % 2].web).post("/api/docs/autosave", &json!({"content": "text"})).status
    });
    assert_eq!(outcomes.iter().filter(|status| **status == 200).count(), 1, "{outcomes:?}");
    assert_refused(ann.browser.post("/api/docs/restore", &json!({"id": ids[0]})), TOO_MANY, 7);
    ann.browser.post("/api/docs/delete", &json!({"id": ids[1]})).expect(200);
    ann.browser.post("/api/docs/restore", &json!({"id": ids[0]})).expect(200);
    assert_eq!(usage(&ann.browser)["documents"], 7);
    assert_totals_are_right(&db);
}

#[test]
fn bytes_are_counted_exactly() {
    let db = TestDb::new();
    let settings = [("DOCUMENT_BYTES_PER_ACCOUNT", "1000"), ("DOCUMENTS_PER_ACCOUNT", "0")];
    let server = Server::start_with(&db, &settings);
    let client = server.sign_up("ann@x").browser;
    // 100 bytes each: a title of 10, and a text of 45 letters that take two.
    let body = json!({"title": "0123456789", "content": "é".repeat(45)});
    let replies = at_once(20, |_| client.post("/api/docs/save", &body));
    let (made, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 200);
    assert_eq!(made.len(), 10);
    for reply in refused {
        assert_refused(reply, FULL, 1000);
    }
    let expected = json!({"documents": 10, "bytes": 1000, "max_documents": null, "max_bytes": 1000});
    assert_eq!(usage(&client), expected);
    let id = made[0].json()["id"].clone();
    let save_as = |content: usize, title: &str| {
        client.post("/api/docs/save", &json!({"id": id, "title": title, "content": "x".repeat(content)}))
    };
    // As long as before, or shorter.
    save_as(90, "9876543210").expect(200);
    assert_refused(save_as(91, "9876543210"), FULL, 1000);
    assert_refused(client.post("/api/docs/save", &json!({"id": id, "title": "98765432101"})), FULL, 1000);
    save_as(0, "").expect(200);
    assert_eq!(usage(&client)["bytes"], 900);
    // Of those that would grow it to the limit at once, each may.
    let version =
        client.get(&format!("/api/docs/get?id={}", id.as_str().unwrap())).expect(200).json()["version"].clone();
    let lengths: Vec<u16> = at_once(20, |n| save_as(if n < 10 { 100 } else { 101 }, "").status);
    assert_eq!(lengths.iter().filter(|status| **status == 200).count(), 10, "{lengths:?}");
    // A save with another version is a conflict, whether or not there is room.
    let stale = json!({"id": id, "content": "x".repeat(500), "version": version});
    client.post("/api/docs/save", &stale).expect(409);
    // One is full: `POST /documents` needs room for a title.
    let page = client.form("/documents", &[]).expect(403);
    assert!(page.text().contains(FULL), "{}", page.text());
    client.form("/playground", &[("title", "t"), ("content", "c")]).expect(403);
    assert_totals_are_right(&db);
}

#[test]
fn whoever_has_more_than_the_quota_keeps_it_and_may_only_delete() {
    let db = TestDb::new();
    let settings = [("DOCUMENTS_PER_ACCOUNT", "3"), ("DOCUMENT_BYTES_PER_ACCOUNT", "100")];
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@x");
    db.run(&format!(
        "INSERT INTO documents (id, user_id, title, content)
         SELECT 'doc_' || n, '{}', '', repeat('x', 50) FROM generate_series(1, 6) n",
        user.id
    ));
    let client = &user.browser;
    let expected = json!({"documents": 6, "bytes": 300, "max_documents": 3, "max_bytes": 100});
    assert_eq!(usage(client), expected);
    assert_refused(client.post("/api/docs/save", &json!({"content": ""})), TOO_MANY, 3);
    assert_refused(client.post("/api/docs/save", &json!({"id": "doc_1", "content": "x".repeat(51)})), FULL, 100);
    client.post("/api/docs/save", &json!({"id": "doc_1", "content": "y".repeat(50)})).expect(200);
    client.post("/api/docs/save", &json!({"id": "doc_1", "content": "y".repeat(40)})).expect(200);
    client.post("/api/docs/publish", &json!({"id": "doc_1"})).expect(200);
    assert!(client.get("/api/docs/get?id=doc_2").expect(200).json()["content"].as_str().unwrap().len() == 50);
    for n in 2..=5 {
        client.post("/api/docs/delete", &json!({"id": format!("doc_{n}")})).expect(200);
    }
    assert_eq!(usage(client)["bytes"], 90);
    // Of the deleted ones, the newest that fit can be restored.
    let kept = db.connect().query("SELECT id::text FROM deleted_documents ORDER BY deleted", &[]).unwrap();
    assert_eq!(kept.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["doc_4", "doc_5"]);
    client.post("/api/docs/restore", &json!({"id": "doc_2"})).expect(404);
    assert_refused(client.post("/api/docs/restore", &json!({"id": "doc_5"})), FULL, 100);
    client.post("/api/docs/save", &json!({"content": ""})).expect(403);
    client.post("/api/docs/save", &json!({"title": "T", "content": ""})).expect(200);
    assert_totals_are_right(&db);
}

#[test]
fn of_deleted_documents_the_oldest_make_room() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("DOCUMENTS_PER_ACCOUNT", "4"), ("POOL_SIZE", "8")]);
    let client = server.sign_up("ann@x").browser;
    for round in 0..3 {
        let ids: Vec<_> = (0..4).map(|n| save(&client, &json!({"title": format!("{round}.{n}")}))).collect();
        let statuses = at_once(4, |n| client.post("/api/docs/delete", &json!({"id": ids[n]})).status);
        assert_eq!(statuses, [200; 4]);
        assert_eq!(db.count("SELECT count(*) FROM deleted_documents"), 4);
        assert_eq!(db.count(&format!("SELECT count(*) FROM deleted_documents WHERE title LIKE '{round}.%'")), 4);
    }
    assert_totals_are_right(&db);
}

#[test]
fn pages_show_how_much_is_used() {
    let db = TestDb::new();
    let settings = [("DOCUMENTS_PER_ACCOUNT", "1200"), ("KEYS_PER_ACCOUNT", "5"), ("SESSIONS_PER_ACCOUNT", "9")];
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@x");
    server.sign_in("ann@x", PASSWORD);
    save(&user.browser, &json!({"title": "", "content": "x".repeat(1536)}));
    let expected = json!({"documents": 1, "bytes": 1536, "max_documents": 1200, "max_bytes": 1 << 30});
    assert_eq!(usage(&user.browser), expected);
    server.web.anonymous().get("/api/docs/usage").expect(401);
    let page = user.browser.get("/documents").expect(200).text();
    assert!(page.contains("1 of 1,200 documents, 1.5 KiB of 1 GiB"), "{page}");
    let page = user.browser.get("/account").expect(200).text();
    for text in ["1 of 1,200, 1.5 KiB of 1 GiB", "1 of 5 keys are active", "2 of 9 sessions are active"] {
        assert!(page.contains(text), "{text}: {page}");
    }
}

#[test]
fn the_session_that_was_used_least_recently_ends_for_a_new_one() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("SESSIONS_PER_ACCOUNT", "5"), ("POOL_SIZE", "8")]);
    let first = server.sign_up("ann@x").browser;
    let other = server.sign_up("bob@x").browser;
    let second = server.sign_in("ann@x", PASSWORD);
    // The first is old, but in use.
    db.run("UPDATE sessions SET created = created - interval '1 day', last_seen = last_seen + interval '1 hour'
            WHERE user_id = (SELECT id FROM users WHERE email = 'ann@x') AND created = (SELECT min(created) FROM sessions)");
    db.run(
        "UPDATE sessions SET last_seen = last_seen - interval '1 hour'
         WHERE created = (SELECT max(created) FROM sessions)",
    );
    let third = server.sign_in("ann@x", PASSWORD);
    let more: Vec<_> = (0..2).map(|_| server.sign_in("ann@x", PASSWORD)).collect();
    for client in [&first, &second, &third, &more[0], &more[1]] {
        client.get("/api/current-user").expect(200);
    }
    let sixth = server.sign_in("ann@x", PASSWORD);
    second.get("/api/current-user").expect(401);
    for client in [&first, &third, &more[0], &more[1], &sixth] {
        client.get("/api/current-user").expect(200);
    }
    // Whoever logs in at once.
    let tokens = at_once(20, |_| {
        let body = json!({"email": "ann@x", "password": PASSWORD});
        let reply = retry_while_unavailable(|| server.web.anonymous().post("/api/login", &body));
        reply.expect(200).session_token()
    });
    let of_ann = "SELECT count(*) FROM sessions s JOIN users u ON u.id = s.user_id WHERE u.email = 'ann@x'";
    assert_eq!(db.count(of_ann), 5);
    let work = |token: &&String| server.web.with_cookie(token).get("/api/current-user").status == 200;
    // The first stays, as its last use is an hour ahead.
    soon("four of them to work", || tokens.iter().filter(work).count() == 4);
    first.get("/api/current-user").expect(200);
    other.get("/api/current-user").expect(200);
}

#[test]
fn keys_are_as_many_as_the_setting_says_and_ended_ones_do_not_pile_up() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("KEYS_PER_ACCOUNT", "3"), ("POOL_SIZE", "8")]);
    let user = server.sign_up("ann@x");
    let replies = at_once(20, |_| user.browser.post("/api/keys", &json!({"name": "n"})));
    let (made, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 200);
    assert_eq!(made.len(), 2, "beside the default key");
    for reply in refused {
        assert_eq!(reply.expect(409).json(), json!({"detail": "Too many keys: revoke one first", "limit": 3}));
    }
    let mut id = made[0].json()["id"].clone();
    for _ in 0..40 {
        id = user.browser.post("/api/keys/rotate", &json!({"id": id})).expect(200).json()["id"].clone();
    }
    let ended = db.count("SELECT count(*) FROM api_keys WHERE revoked IS NOT NULL");
    assert!((30..=31).contains(&ended), "{ended}");
    for _ in 0..5 {
        user.browser.post("/api/keys/revoke", &json!({"id": id})).expect(200);
        id = user.browser.post("/api/keys", &json!({"name": "n"})).expect(200).json()["id"].clone();
    }
    let ended = db.count("SELECT count(*) FROM api_keys WHERE revoked IS NOT NULL");
    assert!((30..=31).contains(&ended), "{ended}");
    assert_eq!(db.count("SELECT count(*) FROM api_keys WHERE revoked IS NULL"), 3);
}

const ACCOUNTS: usize = 4;

/// Several processes save, delete and restore, one of them as an older version does; accounts are deleted meanwhile.
#[test]
fn totals_are_right_after_a_storm() {
    let db = TestDb::new();
    let settings = [("POOL_SIZE", "8"), ("DOCUMENTS_PER_ACCOUNT", "12"), ("DOCUMENT_BYTES_PER_ACCOUNT", "3000")];
    let servers = [(); 3].map(|()| Server::start_with(&db, &settings));
    let users: Vec<_> = (0..ACCOUNTS).map(|n| servers[0].sign_up(&format!("u{n}@x"))).collect();
    let (done, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    at_once(13, |thread| {
        if thread == 12 {
            return write_by_hand(&db, &users);
        }
        let mut writer = Writer { number: thread, random: Random(thread as u64), mine: Vec::new() };
        for n in 0..40 {
            let reply = writer.write(n, &servers[thread % servers.len()], &users);
            done.fetch_add(usize::from(reply.status == 200), SeqCst);
            refused.fetch_add(usize::from(reply.status == 403 && reply.json()["limit"].is_i64()), SeqCst);
            if thread == 0 && n % 10 == 5 {
                leave(&servers, &format!("leaver{n}@x"));
            }
        }
    });
    assert!(done.into_inner() > 50 && refused.into_inner() > 0, "the storm was none");
    assert_totals_are_right(&db);
    assert_eq!(db.count("SELECT count(*) FROM users WHERE email LIKE 'leaver%'"), 0);
    // What is purged, and what is emptied.
    db.run("UPDATE deleted_documents SET deleted = deleted - interval '31 days'");
    let purger = Server::start_with(&db, &settings);
    purger.wait_until("the purge", || db.count("SELECT count(*) FROM deleted_documents") == 0);
    assert_totals_are_right(&db);
    db.run("TRUNCATE documents, deleted_documents");
    assert_totals_are_right(&db);
}

/// Writes as by a program that knows nothing of totals.
fn write_by_hand(db: &TestDb, users: &[User]) {
    let (mut client, mut random) = (db.connect(), Random(99));
    for n in 0..40 {
        let user = &users[random.place(ACCOUNTS)].id;
        let sql = match n % 4 {
            0 => format!(
                "INSERT INTO documents (id, user_id, content)
                 SELECT 'doc_{n}.' || g, '{user}', repeat('é', g) FROM generate_series(1, 3) g"
            ),
            1 => format!(
                "UPDATE documents SET content = content || 'more'
                 WHERE id = (SELECT id FROM documents WHERE user_id = '{user}' LIMIT 1)"
            ),
            2 => format!("UPDATE documents SET user_id = '{user}' WHERE id = 'doc_{}.1'", n - 2),
            _ => format!("DELETE FROM documents WHERE id = 'doc_{}.2'", n - 3),
        };
        client.batch_execute(&sql).unwrap();
    }
}

/// A client of several accounts.
struct Writer {
    number: usize,
    random: Random,
    /// The documents that it has made, in any account.
    mine: Vec<String>,
}

impl Writer {
    /// Does something with one of its documents, in the name of any account.
    fn write(&mut self, n: usize, server: &Server, users: &[User]) -> Reply {
        let client = users[self.random.place(ACCOUNTS)].program(&server.web);
        let text = "é".repeat(self.random.place(200));
        let id = self.mine.get(self.random.place(self.mine.len().max(1))).cloned().unwrap_or_default();
        let (path, body) = match self.random.below(6) {
            0 | 1 => ("save", json!({"title": format!("{}.{n}", self.number), "content": text})),
            2 => ("save", json!({"id": id, "content": text})),
            3 => ("autosave", json!({"id": id, "title": text})),
            4 => ("delete", json!({"id": id})),
            _ => ("restore", json!({"id": id})),
        };
        let reply = client.post(&format!("/api/docs/{path}"), &body);
        // Those of other accounts are 403 or 404, and an empty id is 400 or a new document.
        assert!([200, 400, 403, 404].contains(&reply.status), "{path} {}: {}", reply.status, reply.text());
        if reply.status == 200 && path == "save" {
            self.mine.push(reply.json()["id"].as_str().unwrap().to_owned());
        }
        reply
    }
}

/// An account with documents is deleted while they are written.
fn leave(servers: &[Server], email: &str) {
    let leaver = servers[0].sign_up(email);
    let ids: Vec<_> = (0..3).map(|_| save(&leaver.browser, &json!({"content": "bye"}))).collect();
    leaver.browser.post("/api/docs/delete", &json!({"id": ids[0]})).expect(200);
    at_once(4, |client| {
        if client == 0 {
            leaver.browser.post("/api/delete-account", &json!({"password": PASSWORD})).expect(200);
            return;
        }
        let late = leaver.program(&servers[client % servers.len()].web);
        let one = late.post("/api/docs/save", &json!({"id": ids[1], "content": "x".repeat(client)}));
        assert!([200, 401, 404].contains(&one.status), "{} {}", one.status, one.text());
        let new = late.post("/api/docs/save", &json!({"content": "x"}));
        assert!([200, 401].contains(&new.status), "{} {}", new.status, new.text());
        let back = late.post("/api/docs/restore", &json!({"id": ids[0]}));
        assert!([200, 401, 404].contains(&back.status), "{} {}", back.status, back.text());
    });
}
