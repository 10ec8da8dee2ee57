//! The pages of documents without scripts: nothing that was typed into a form is lost.

use serde_json::json;

use crate::documents::save;
use crate::harness::{Server, TestDb};

const MIB: usize = 1024 * 1024;

#[test]
fn a_conflict_shows_both_texts_and_how_they_differ() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    let id = save(&client, &json!({"title": "One", "content": "a\nb"}));
    let path = format!("/documents/{id}");
    let form = |content: &str, version: &str| {
        client.form(&path, &[("title", "One"), ("content", content), ("version", version), ("keep_version", "true")])
    };
    let done = form("a\r\nb\r\nc", "1").expect(303);
    assert_eq!(done.header("location"), Some(format!("{path}?done=saved").as_str()));
    // The same again, as by whoever did not get the reply.
    let again = form("a\r\nb\r\nc", "1").expect(303);
    assert_eq!(again.header("location"), Some(format!("{path}?done=saved").as_str()));
    let page = form("a\r\nb\r\n<d>", "1").expect(409).text();
    assert!(page.contains("</span>c</del>") && page.contains("</span>&#60;d&#62;</ins>"), "{page}");
    assert!(page.contains("name=\"version\" value=\"2\"") && page.contains("name=\"keep_version\" value=\"true\""));
    form("a\r\nb\r\n<d>", "2").expect(303);
    // What was overwritten is a version.
    let earlier = client.get(&format!("/api/docs/get?id={id}&version=2")).expect(200).json();
    assert_eq!(earlier["content"], "a\nb\nc");
    assert_eq!(client.get(&format!("/api/docs/get?id={id}")).expect(200).json()["content"], "a\nb\n<d>");
}

#[test]
fn the_text_that_is_not_chosen_in_a_conflict_stays_a_version() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    for theirs in ["theirs", ""] {
        let id = save(&client, &json!({"title": "One", "content": "first"}));
        let path = format!("/documents/{id}");
        let update = json!({"id": id, "title": "Two", "content": theirs, "version": 1});
        client.post("/api/docs/save", &update).expect(200);
        let form = |version: &str| {
            let fields = [("title", "Mine"), ("content", "typed\r\nhere"), ("version", version)];
            client.form(&path, &[&fields[..], &[("keep_version", "true"), ("use_saved", "true")]].concat())
        };
        // It was changed once more meanwhile: both are shown again.
        let page = form("1").expect(409).text();
        assert!(page.contains("typed\nhere</textarea>") && page.contains(r#"name="use_saved" value="true""#), "{page}");
        let done = form("2").expect(303);
        assert_eq!(done.header("location"), Some(format!("{path}?done=kept").as_str()));
        let present = client.get(&format!("/api/docs/get?id={id}")).expect(200).json();
        assert_eq!((&present["title"], &present["content"]), (&json!("Two"), &json!(theirs)));
        let mine = client.get(&format!("/api/docs/get?id={id}&version=3")).expect(200).json();
        assert_eq!((&mine["title"], &mine["content"]), (&json!("Mine"), &json!("typed\nhere")));
    }
}

#[test]
fn a_text_that_cannot_be_saved_is_shown_again() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("DOCUMENT_BYTES_PER_ACCOUNT", "1000")]);
    let client = server.sign_up("ann@x").browser;
    let id = save(&client, &json!({"title": "One", "content": "first"}));
    let path = format!("/documents/{id}");
    let long = format!("<b>{}", "x".repeat(2000));
    let fields = [("title", "One"), ("content", long.as_str()), ("version", "1")];
    let page = client.form(&path, &fields).expect(403).text();
    assert!(page.contains("Not saved") && page.contains(&long.replace("<b>", "&#60;b&#62;")), "{page}");
    assert!(page.contains(&format!("action=\"{path}\"")) && page.contains("name=\"version\" value=\"1\""), "{page}");
    let title = "t".repeat(1001);
    let page =
        client.form(&path, &[("title", title.as_str()), ("content", "kept"), ("version", "1")]).expect(400).text();
    assert!(page.contains("at most 1000 characters") && page.contains("kept</textarea>"), "{page}");
    client.post("/api/docs/delete", &json!({"id": id})).expect(200);
    let page = client.form(&path, &[("title", "One"), ("content", "kept"), ("version", "1")]).expect(404).text();
    assert!(page.contains("Document not found") && page.contains("kept</textarea>"), "{page}");
}

#[test]
fn a_text_is_shown_again_to_whoever_was_logged_out() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    let id = save(&client, &json!({"title": "One", "content": "text"}));
    let path = format!("/documents/{id}");
    let fields = [("title", "One <1>"), ("content", "typed\r\nlater"), ("version", "1")];
    client.get("/logout").expect(303);
    let page = client.form(&path, &fields).expect(401).text();
    for part in
        ["One &#60;1&#62;", "typed\r\nlater</textarea>", "name=\"version\" value=\"1\"", "/login?next=/documents/doc"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    // Other sites' pages, strangers and scripts are not answered with what they sent; a long text is not read.
    client.header("origin", "https://evil.example").form(&path, &fields).expect(403);
    let stranger = server.web.anonymous().form(&path, &fields).expect(401).text();
    assert!(!stranger.contains("typed"), "{stranger}");
    let script = client.form_for_json(&path, &fields).expect(401).text();
    assert!(!script.contains("typed"), "{script}");
    client.form(&path, &[("title", ""), ("content", &"x".repeat(2 * MIB))]).expect(413);
    // Logged in again, the same form is saved.
    let client = server.sign_in("ann@x", crate::harness::PASSWORD);
    client.form(&path, &fields).expect(303);
    assert_eq!(client.get(&format!("/api/docs/get?id={id}")).expect(200).json()["content"], "typed\nlater");
}

#[test]
fn undoing_a_deletion_opens_the_document() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let client = server.sign_up("ann@x").browser;
    let id = save(&client, &json!({"content": "text"}));
    let list = client.form(&format!("/documents/{id}/delete"), &[]).expect(303);
    let page = client.get(list.header("location").unwrap()).expect(200).text();
    assert!(
        page.contains(&format!("/documents/{id}/restore")) && page.contains("name=\"open\" value=\"true\""),
        "{page}"
    );
    let opened = client.form(&format!("/documents/{id}/restore"), &[("open", "true")]).expect(303);
    assert_eq!(opened.header("location"), Some(format!("/documents/{id}?done=restored").as_str()));
    // From the list of deleted ones, several are restored one after the other.
    client.form(&format!("/documents/{id}/delete"), &[]).expect(303);
    let stays = client.form(&format!("/documents/{id}/restore"), &[]).expect(303);
    assert_eq!(stays.header("location"), Some("/documents?done=restored"));
}
