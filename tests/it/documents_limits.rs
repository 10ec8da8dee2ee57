//! What a document may contain: any valid text up to 8 MiB.

use serde_json::{Value, json};

use crate::documents::{ids, save};
use crate::harness::{Client, Reply, Server, TestDb, User};

const MIB: usize = 1024 * 1024;
const LARGEST: usize = 8 * MIB;

fn content(client: &Client, id: &str) -> String {
    let document = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
    document["content"].as_str().unwrap().to_owned()
}

fn send(client: &Client, body: &[u8]) -> Reply {
    client.send("POST", "/api/docs/save", Some("application/json"), body)
}

/// As Python's `json.dumps` writes it.
fn ascii(text: &str) -> String {
    text.encode_utf16().fold(String::new(), |escaped, unit| escaped + &format!("\\u{unit:04x}"))
}

#[test]
fn eight_mebibytes_fit_and_one_more_byte_does_not() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;

    let largest = "😀é\u{1}\"\\\n\u{2028}\u{10ffff}abcdefg".repeat(LARGEST / 24);
    let largest = largest.clone() + &"x".repeat(LARGEST - largest.len());
    assert_eq!(largest.len(), LARGEST);
    let id = save(&client, &json!({"content": largest}));
    assert!(content(&client, &id) == largest);

    let more = largest.clone() + "x";
    let reply = client.post("/api/docs/save", &json!({"id": id, "content": more})).expect(413).json();
    assert!(reply["error"].as_str().unwrap().contains("8388608"), "{reply}");
    client.post("/api/docs/autosave", &json!({"content": more})).expect(413);
    assert_eq!(db.count("SELECT count(*) FROM documents"), 1);
    assert_eq!(db.count("SELECT max(version) FROM documents"), 1);
}

#[test]
fn escaped_text_may_be_six_times_as_long() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;
    for piece in ["😀", "é", "\u{1}"] {
        let text = piece.repeat(LARGEST / piece.len());
        let body = format!(r#"{{"content":"{}"}}"#, ascii(piece).repeat(LARGEST / piece.len()));
        let reply = send(&client, body.as_bytes()).expect(200).json();
        assert!(content(&client, reply["id"].as_str().unwrap()) == text, "{piece:?}");
    }
}

#[test]
fn an_oversized_body_is_refused() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;
    let body = format!(r#"{{"content":"{}"}}"#, "x".repeat(50 * MIB));
    // The server may reply and close before it has read everything; the client may then not see the reply.
    if let Ok(reply) = client.try_send("POST", "/api/docs/save", Some("application/json"), body.as_bytes()) {
        assert!(reply.expect(413).json()["error"].is_string());
    }
    assert_eq!(db.count("SELECT count(*) FROM documents"), 0);
    client.get("/api/docs/list").expect(200);
}

#[test]
fn invalid_text_is_refused() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;
    let id = save(&client, &json!({"content": "kept"}));
    let deep = "[".repeat(100_000);
    let bodies: [&[u8]; 17] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\"text\"",
        b"{\"content\":\"a\"} x",
        b"{\"content\":\"\xff\"}",
        b"{\"content\":\"\xed\xa0\x80\"}",
        b"{\"content\":\"a\\u0000b\"}",
        b"{\"content\":\"a\x00b\"}",
        b"{\"title\":\"\\u0000\"}",
        b"{\"id\":\"doc_\\u0000\"}",
        b"{\"content\":\"\\ud800\"}",
        b"{\"content\":\"\\udc00\\ud800\"}",
        b"{\"content\":\"line\nbreak\"}",
        b"content=text",
        deep.as_bytes(),
    ];
    for body in bodies {
        for route in ["save", "autosave"] {
            let reply = client.send("POST", &format!("/api/docs/{route}"), Some("application/json"), body);
            let text = String::from_utf8_lossy(&body[..body.len().min(30)]).into_owned();
            assert_eq!(reply.status, 400, "{text}: {}", reply.text());
            assert!(reply.json()["error"].as_str().is_some_and(|e| e.len() > 5), "{text}: {}", reply.text());
        }
    }
    for body in [
        json!({"content": 1}),
        json!({"content": ["x"]}),
        json!({"content": {"x": 1}}),
        json!({"content": true}),
        json!({"title": 5}),
        json!({"id": 5}),
        json!({"id": {"$ne": ""}}),
        json!({"id": id, "content": "lost", "version": "one"}),
        json!({"id": id, "content": "lost", "version": 1.5}),
        json!({"id": id, "content": "lost", "version": 1e30}),
    ] {
        let reply = client.post("/api/docs/save", &body);
        assert_eq!(reply.status, 422, "{body}: {}", reply.text());
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        let name = ["content", "title", "id", "version"].into_iter().find(|name| error.contains(name));
        assert!(name.is_some(), "{body}: {error} does not say which field");
    }
    assert_eq!(content(&client, &id), "kept");
    assert_eq!(db.count("SELECT count(*) FROM documents"), 1);
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn any_valid_text_is_returned_unchanged() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").browser;
    for text in [
        "",
        " \t\r\n ",
        "e\u{301} is not é",
        "👩‍👩‍👧‍👦 مرحبا",
        "\u{feff}\u{fffe}\u{ffff}\u{fffd}\u{7f}\u{80}\u{1}\u{1f}",
        "'; DROP TABLE documents; -- \\ % _ $1 {} <script>",
    ] {
        let id = save(&client, &json!({"title": text, "content": text}));
        let document = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
        assert_eq!((&document["title"], &document["content"]), (&json!(text), &json!(text)));
    }
    let long = "é".repeat(1000);
    save(&client, &json!({"title": long}));
    let reply = client.post("/api/docs/save", &json!({"title": long + "é"})).expect(400).json();
    assert!(reply["error"].as_str().unwrap().contains("1000"));
}

#[test]
fn a_list_of_large_documents_is_cut_into_smaller_pages() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    db.run(&format!(
        "INSERT INTO documents (id, user_id, content, created)
         SELECT 'doc_' || n, '{}', repeat('x', {}), timestamptz '2026-01-01' + n * interval '1 minute'
         FROM generate_series(1, 7) n",
        user.id,
        6 * MIB
    ));
    let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let reply = user.browser.get(&format!("/api/docs/list?after={after}")).expect(200);
        assert!(reply.body.len() < 25 * MIB, "{}", reply.body.len());
        let page: Value = reply.json();
        seen.extend(ids(&page));
        pages += 1;
        match page.get("next") {
            Some(next) => after = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["doc_7", "doc_6", "doc_5", "doc_4", "doc_3", "doc_2", "doc_1"]);
    assert!(pages > 1);
    let bare = user.browser.get("/api/docs/list?content=false").expect(200).json();
    assert_eq!(ids(&bare).len(), 7, "a list without contents is not cut");
}

/// Each restoration writes the whole text anew, for a request of a few bytes.
#[test]
fn an_account_restores_so_much_text_a_minute() {
    const ALLOWED: usize = 32 * MIB / LARGEST;
    let db = TestDb::new();
    let servers = [(); 2].map(|()| Server::start(&db));
    let (hog, other) = (servers[0].sign_up("hog@example.com"), servers[0].sign_up("ann@example.com"));
    for (id, user, bytes, number) in
        [("doc", &hog, LARGEST, ALLOWED + 1), ("small", &hog, 7, 1), ("other", &other, LARGEST, 1)]
    {
        db.run(&format!(
            "INSERT INTO deleted_documents (id, user_id, title, content, created, updated, is_public, version)
             SELECT '{id}_' || n, '{}', '', repeat('x', {bytes}), now(), now(), false, 1 FROM generate_series(1, {number}) n",
            user.id,
        ));
    }
    let change = |user: &User, n: usize, what: &str, id: &str| {
        user.program(&servers[n % 2].web).post(&format!("/api/docs/{what}"), &json!({"id": id}))
    };
    for n in 1..=ALLOWED {
        change(&hog, n, "restore", &format!("doc_{n}")).expect(200);
    }
    // What is deleted was written by a save or a restoration, so that is not refused; only to restore it again.
    change(&hog, 0, "delete", "doc_1").expect(200);
    for (n, id) in ["doc_1", "doc_5", "doc_1"].into_iter().enumerate() {
        let refused = change(&hog, n, "restore", id).expect(429);
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=15).contains(&wait), "{wait}");
    }
    assert_eq!(db.count("SELECT count(*) FROM deleted_documents"), 4);
    change(&other, 0, "restore", "other_1").expect(200);
    // A quarter of the allowance is there again after a quarter of a minute.
    db.run("UPDATE document_totals SET restored_at = restored_at - interval '15 seconds'");
    change(&hog, 0, "restore", "doc_5").expect(200);
    change(&hog, 1, "restore", "doc_1").expect(429);
    db.run("UPDATE document_totals SET restored_at = restored_at - interval '1 minute'");
    change(&hog, 0, "restore", "small_1").expect(200);
    change(&hog, 1, "restore", "doc_1").expect(200);
    assert_eq!(content(&hog.browser, "doc_1").len(), LARGEST);
    change(&hog, 1, "restore", "doc_9").expect(404);
}
