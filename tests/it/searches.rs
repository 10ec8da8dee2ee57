//! The search of documents: what it finds, and that it holds up nobody else, however much there is to search.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use serde_json::json;

use crate::documents::save;
use crate::harness::{Client, End, Server, TestDb, User};

/// As in `store::documents`.
const SEARCHED_CHARACTERS: usize = 65_536;

fn search(client: &Client, query: &str) -> String {
    let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
    client.header("accept", "text/html").get(&format!("/documents?q={query}")).expect(200).text()
}

/// Documents that were saved a minute apart, the first one long ago, all with this content (an expression of SQL).
fn insert(db: &TestDb, user: &User, count: usize, content: &str) {
    db.run(&format!(
        "INSERT INTO documents (id, user_id, title, content, created)
         SELECT 'doc_' || n, '{}', 'Number ' || n || '.', {content}, timestamptz '2020-01-01' + n * interval '1 minute'
         FROM generate_series(1, {count}) n",
        user.id
    ));
}

#[test]
fn titles_and_the_beginning_of_texts_are_searched() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let padding = |n: usize| "é ".repeat(n / 2);
    let near = save(
        &user.browser,
        &json!({"title": "near", "content": padding(SEARCHED_CHARACTERS - 6) + "Émile" + &padding(1000)}),
    );
    let far = save(
        &user.browser,
        &json!({"title": "An EMILE elsewhere", "content": padding(SEARCHED_CHARACTERS) + "Émile" + &padding(1000)}),
    );
    let long = "w".repeat(200);
    let wordy = save(&user.browser, &json!({"title": "w", "content": long}));
    let cut = search(&user.browser, &(long + "x"));
    assert!(cut.contains(&format!("/documents/{wordy}\"")), "no more than 200 characters are searched for: {cut}");
    let empty = save(&user.browser, &json!({"title": "nothing in it", "content": null}));
    for (query, found) in [
        ("éMILE", vec![&near]),
        ("emile", vec![&far]),
        ("nothing in", vec![&empty]),
        ("", vec![&near, &far, &empty]),
        ("neither", vec![]),
    ] {
        let page = search(&user.browser, query);
        for id in [&near, &far, &empty] {
            assert_eq!(page.contains(&format!("/documents/{id}\"")), found.contains(&id), "{query}: {page}");
        }
        let is_shown = page.contains("é Émileé ") || page.contains("é Émile");
        assert_eq!(is_shown, query == "éMILE", "the excerpt is where the match is: {page}");
    }
}

#[test]
fn one_match_among_thousands_is_found_and_pages_go_on_behind_the_last_one() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    insert(&db, &user, 3000, "'A short text of no interest, the ' || n || 'th'");
    let page = search(&user.browser, "number 1.");
    assert!(page.contains("/documents/doc_1\"") && page.matches("<li>").count() == 1, "{page}");
    let (mut path, mut seen) = ("/documents?q=THE+1".to_owned(), 0);
    loop {
        let page = user.browser.header("accept", "text/html").get(&path).expect(200).text();
        seen += page.matches("<li>").count();
        let Some((before, _)) = page.split_once("\">Older documents") else { break };
        path = before.rsplit("href=\"").next().unwrap().replace("&#38;", "&");
    }
    assert_eq!(seen, 1 + 10 + 100 + 1000, "all numbers that begin with 1");
}

#[test]
fn searches_of_long_documents_hold_up_nobody() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (user, other) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    insert(&db, &user, 131, "repeat('Lorem ipsum dolor sit amet, consectetur adipisici elit. ', 140000)");
    let document = save(&other.browser, &json!({"content": "needle"}));
    let is_over = AtomicBool::new(false);
    let statuses = thread::scope(|scope| {
        let searching = || {
            let mut statuses = Vec::new();
            while !is_over.load(SeqCst) {
                statuses.push(user.browser.header("accept", "text/html").get("/documents?q=zebra").status);
            }
            statuses
        };
        let threads: Vec<_> = (0..24).map(|_| scope.spawn(searching)).collect();
        let end = End(&is_over);
        for _ in 0..5 {
            server.sign_in("bob@example.com", crate::harness::PASSWORD).get("/api/current-user").expect(200);
            server.web.anonymous().get("/readyz").expect(200);
            assert!(search(&other.browser, "NEEDLE").contains(&document), "others may search");
            other.browser.post("/api/docs/save", &json!({"id": document, "content": "needle"})).expect(200);
        }
        drop(end);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(statuses.contains(&200), "its own searches go on too");
    let other = statuses.iter().find(|status| ![200, 429, 503].contains(*status));
    assert_eq!(other, None, "it is told to try again");
}

#[test]
fn the_process_is_ready_while_requests_use_all_connections() {
    const CONNECTIONS: i64 = 3;
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", &CONNECTIONS.to_string())]);
    let users: Vec<_> = (0..6).map(|n| server.sign_up(&format!("user{n}@example.com"))).collect();
    let mut locked = db.connect();
    let mut lock = locked.transaction().unwrap();
    lock.batch_execute("LOCK TABLE documents").unwrap();
    thread::scope(|scope| {
        for user in &users {
            scope.spawn(|| user.browser.post("/api/docs/save", &json!({"content": "text"})));
        }
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%documents%'";
        server.wait_until("all connections to wait", || db.count(waiting) == CONNECTIONS);
        for _ in 0..3 {
            server.web.anonymous().get("/readyz").expect(200);
        }
        assert_eq!(db.count(waiting), CONNECTIONS, "they still wait");
        lock.rollback().unwrap();
    });
}
