//! What clients of the older system send, and rely on (contract, section 5).

use serde_json::{Value, json};

use crate::documents::{ids, save};
use crate::harness::{PASSWORD, Server, TestDb};

/// The pages of the older system call `fetch("/api/login", {body: formData})`, which accepts anything, and read JSON.
#[test]
fn whoever_does_not_ask_for_a_page_gets_json() {
    const PAGE: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let body = |email: &str, password: &str| {
        let fields = format!("--b\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\n{email}\r\n");
        format!("{fields}--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n{password}\r\n--b--\r\n")
    };
    // Few wrong passwords for each account, as they are throttled.
    let send = |accept: Option<&str>, path: &str, email: &str, password: &str| {
        let client = accept.map_or(web.clone(), |accept| web.header("accept", accept));
        client.send("POST", path, Some("multipart/form-data; boundary=b"), body(email, password).as_bytes())
    };
    let accepted = [Some("*/*"), None, Some("application/json, text/plain, */*"), Some("text/html, application/json")];
    for (n, accept) in accepted.into_iter().enumerate() {
        let email = format!("ann{n}@x");
        for path in ["/api/signup", "/api/login"] {
            let reply = send(accept, path, &email, PASSWORD).expect(200);
            assert_eq!(reply.json()["email"], email, "{accept:?}");
            server.web.with_cookie(&reply.session_token()).get("/api/current-user").expect(200);
            let refused = send(accept, path, &email, "not this one").expect(400).json();
            assert_eq!(refused, json!({"detail": "Invalid credentials"}), "{accept:?}");
        }
        let client = accept.map_or(web.clone(), |accept| web.header("accept", accept));
        let reply = client.send("POST", "/api/logout", None, b"").expect(200);
        assert_eq!(reply.json(), json!({"message": "Logged out successfully"}));
    }
    // A form of a page, whose browser says that it takes one.
    for path in ["/api/signup", "/api/login"] {
        assert_eq!(send(Some(PAGE), path, "ben@x", PASSWORD).expect(303).header("location"), Some("/playground"));
        let refused = send(Some(PAGE), path, "ben@x", "not this one").expect(303);
        assert!(refused.header("location").unwrap().ends_with("?error=Invalid%20credentials"));
    }
}

#[test]
fn an_id_that_an_editor_invents_creates_a_document() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (ann, bob) = (server.sign_up("ann@x").browser, server.sign_up("bob@x").browser);
    for route in ["save", "autosave"] {
        let body = json!({"id": "doc_1795341705000", "title": "New", "content": "text"});
        let reply = ann.post(&format!("/api/docs/{route}"), &body).expect(200).json();
        let id = reply["id"].as_str().unwrap();
        assert!(id.starts_with("doc_") && id.len() > 20 && reply["version"] == 1, "{reply}");
        let document = ann.get(&format!("/api/docs/get?id={id}")).expect(200).json();
        assert_eq!((&document["title"], &document["content"]), (&json!("New"), &json!("text")));
        // The editor goes on with the id of the reply.
        let again = ann.post(&format!("/api/docs/{route}"), &json!({"id": id, "content": "more"})).expect(200).json();
        assert_eq!((&again["id"], &again["version"]), (&json!(id), &json!(2)));
    }
    let defaults = ann.post("/api/docs/save", &json!({"id": "doc_1795341705001"})).expect(200).json();
    let document = ann.get(&format!("/api/docs/get?id={}", defaults["id"].as_str().unwrap())).expect(200).json();
    assert_eq!((&document["title"], &document["content"]), (&json!("Untitled Document"), &json!("")));
    // Other ids are of documents that are not there, and so is one with a version.
    for id in ["doc_179534170500", "doc_17953417050000", "doc_179534170500x", "1795341705000", "doc_١٢٣٤٥٦٧٨٩٠١٢٣"]
    {
        ann.post("/api/docs/save", &json!({"id": id, "content": "text"})).expect(404);
    }
    ann.post("/api/docs/save", &json!({"id": "doc_1795341705000", "content": "x", "version": 1})).expect(404);
    // One that was migrated is saved; deleted, it stays so; and another's is not touched.
    let user = db.connect().query_one("SELECT id FROM users WHERE email = 'ann@x'", &[]).unwrap().get::<_, String>(0);
    db.run(&format!(
        "INSERT INTO documents (id, user_id, title, content) VALUES ('doc_1715000000000', '{user}', 't', 'old')"
    ));
    let reply = ann.post("/api/docs/save", &json!({"id": "doc_1715000000000", "content": "new"})).expect(200).json();
    assert_eq!((&reply["id"], &reply["version"]), (&json!("doc_1715000000000"), &json!(2)));
    let before = db.count("SELECT count(*) FROM documents");
    bob.post("/api/docs/save", &json!({"id": "doc_1715000000000", "content": "mine"})).expect(403);
    ann.post("/api/docs/delete", &json!({"id": "doc_1715000000000"})).expect(200);
    ann.post("/api/docs/autosave", &json!({"id": "doc_1715000000000", "content": "late"})).expect(404);
    assert_eq!(db.count("SELECT count(*) FROM documents"), before - 1);
}

/// The older system's list had no pages, and its clients ask for none.
#[test]
fn a_list_without_a_limit_says_when_it_was_cut() {
    const DOCUMENTS: i64 = 1003;
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    save(&client, &json!({"title": "first"}));
    let whole = client.get("/api/docs/list").expect(200);
    assert_eq!((whole.json().get("next"), whole.header("link")), (None, None), "all of them");
    db.run(&format!(
        "INSERT INTO documents (id, user_id, content)
         SELECT 'doc_' || n, (SELECT id FROM users), '' FROM generate_series(2, {DOCUMENTS}) n"
    ));
    for query in ["", "?content=false", "?limit=600", "?limit=600&content=false"] {
        let (mut path, mut found, mut pages) = (format!("/api/docs/list{query}"), Vec::new(), 0);
        loop {
            let reply = client.get(&path).expect(200);
            let page: Value = reply.json();
            found.extend(ids(&page));
            pages += 1;
            assert_eq!(page["documents"][0].get("content").is_some(), !query.contains("content"), "{path}");
            let Some(link) = reply.header("link") else {
                assert_eq!(page.get("next"), None);
                break;
            };
            assert!(page["next"].is_string());
            path = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        }
        found.sort();
        found.dedup();
        assert_eq!((i64::try_from(found.len()).unwrap(), pages), (DOCUMENTS, 2), "{query}");
    }
}
