//! How many round trips to the database a request takes.

use serde_json::json;

use crate::documents::save;
use crate::harness::{Proxy, RoundTrip, Server, TestDb};

/// The round trips of requests, without those of the listener, of charges and of background work.
fn of_requests(trips: Vec<RoundTrip>) -> Vec<String> {
    let beside = ["last_used", "last_seen", "DELETE FROM sessions", "event_deliveries", "webhook_deliveries"];
    let own = ["-listen", "-charges"];
    let trips = trips.into_iter().filter(|trip| !own.iter().any(|name| trip.program.ends_with(name)));
    trips.map(|trip| trip.sql).filter(|sql| !beside.iter().any(|text| sql.contains(text))).collect()
}

#[test]
fn reading_a_document_as_a_cached_caller_takes_one_round_trip() {
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    // One connection, so that statements are prepared once.
    let server = Server::spawn(&proxy.url(), &[("POOL_SIZE", "1")]);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({"content": "text"}));
    let path = format!("/api/docs/get?id={id}");
    for client in [&user.browser, &user.program(&server.web)] {
        client.get(&path).expect(200);
        assert!(!proxy.take_round_trips().is_empty());
        for _ in 0..10 {
            client.get(&path).expect(200);
        }
        let trips = of_requests(proxy.take_round_trips());
        assert_eq!(trips.len(), 10, "{trips:?}");
        for sql in &trips {
            assert!(sql.contains("FROM documents") && !sql.contains("prepare"), "{sql}");
        }
        client.post("/api/docs/save", &json!({"id": id, "content": "more"})).expect(200);
        proxy.take_round_trips();
        client.post("/api/docs/save", &json!({"id": id, "content": "and more"})).expect(200);
        assert_eq!(of_requests(proxy.take_round_trips()).len(), 1, "a save takes one round trip");
        let keeping = json!({"id": id, "content": "and the rest", "keep_version": true});
        client.post("/api/docs/save", &keeping).expect(200);
        assert_eq!(of_requests(proxy.take_round_trips()).len(), 1, "and one that keeps a version too");
    }
}

#[test]
fn a_cached_caller_needs_no_round_trip() {
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    let server = Server::spawn(&proxy.url(), &[]);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    let programs = [&server.web, &server.inference, &server.audio].map(|address| user.program(address));
    for client in programs.iter().chain([&user.browser]) {
        client.get("/api/current-user").expect(200);
    }
    assert!(!of_requests(proxy.take_round_trips()).is_empty(), "the first lookup takes one round trip");
    for _ in 0..50 {
        for client in programs.iter().chain([&user.browser]) {
            client.get("/api/current-user").expect(200);
        }
    }
    assert_eq!(of_requests(proxy.take_round_trips()), [""; 0]);
    // Wrong secrets are mostly refused from memory.
    for _ in 0..50 {
        server.web.with_secret("tg_nobody").get("/api/current-user").expect(401);
    }
    let trips = of_requests(proxy.take_round_trips());
    assert!((1..=10).contains(&trips.iter().filter(|sql| !sql.starts_with("prepare")).count()), "{trips:?}");
}
