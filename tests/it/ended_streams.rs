//! Streams that run end at the next piece when the caller may not have more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::budgets::{chat, set_price};
use crate::harness::{Client, Server, TestDb, Upstream, User, done, final_charges, run, soon};

const CHAT: &str = "/v1/chat/completions";

/// Two processes on one database, and a model server that makes as many pieces as it is told.
struct Stage {
    db: TestDb,
    server: Server,
    other: Server,
    user: User,
    wanted: Arc<AtomicUsize>,
    made: Arc<AtomicUsize>,
}

impl Stage {
    fn new() -> Stage {
        let db = TestDb::new();
        set_price(&db);
        let (wanted, made) = (Arc::new(AtomicUsize::new(3)), Arc::new(AtomicUsize::new(0)));
        let upstream = Upstream::start({
            let (wanted, made) = (Arc::clone(&wanted), Arc::clone(&made));
            move |_, wire| {
                wire.start("text/event-stream");
                let began = Instant::now();
                while began.elapsed() < Duration::from_secs(30) {
                    if made.load(SeqCst) < wanted.load(SeqCst) {
                        made.fetch_add(1, SeqCst);
                        if !wire.word("word ") {
                            return;
                        }
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let settings = [("INFERENCE_URL", upstream.url.as_str())];
        let server = Server::start_with(&db, &settings);
        let other = Server::start_with(&db, &settings);
        server.wait_until_listening();
        other.wait_until_listening();
        let user = other.sign_up("ann@example.com");
        Stage { db, server, other, user, wanted, made }
    }

    /// Streams three pieces, does `end`, lets the model server go on, and returns what the client got.
    fn stream(&self, client: &Client, end: impl FnOnce()) -> String {
        let mut request = chat(1000);
        request["stream"] = json!(true);
        thread::scope(|scope| {
            let reply = scope.spawn(|| client.post(CHAT, &request).expect(200).text());
            soon("three pieces", || self.made.load(SeqCst) == 3);
            end();
            soon("the end of the stream", || {
                self.wanted.fetch_add(1, SeqCst);
                reply.is_finished()
            });
            reply.join().unwrap()
        })
    }

    fn assert_charged_once(self, text: &str) {
        let charges = final_charges(&self.db, self.server);
        let made = charges[0]["completion_tokens"].as_i64().unwrap();
        let sent = i64::try_from(text.matches("word ").count()).unwrap();
        assert_eq!(charges.len(), 1);
        // The piece that was not sent was made. The model server says nothing of tokens, so they are estimated.
        assert!((sent..=2 * (sent + 2)).contains(&made), "{made} {sent}");
    }
}

fn error(text: &str) -> Value {
    let last = text.trim_end().rsplit("data: ").next().unwrap();
    serde_json::from_str::<Value>(last).unwrap_or_else(|_| panic!("{text}"))["error"].clone()
}

#[test]
fn a_suspended_account_gets_no_further_piece() {
    let stage = Stage::new();
    let client = stage.user.program(&stage.server.inference);
    let text = stage.stream(&client, || {
        done(run(&["user", "suspend", "ann@example.com"], &[("DATABASE_URL", &stage.db.url())], ""));
        soon("the suspension to be known", || client.get("/v1/models").status == 401);
    });
    assert_eq!(text.matches("word ").count(), 3, "{text}");
    assert_eq!(error(&text)["code"], "invalid_api_key", "{text}");
    stage.assert_charged_once(&text);
}

#[test]
fn a_revoked_key_gets_no_further_piece_but_other_changes_end_nothing() {
    let stage = Stage::new();
    let key = stage.user.browser.post("/api/keys", &json!({"name": "k"})).expect(200).json();
    let client = stage.server.inference.with_secret(key["secret"].as_str().unwrap());
    let text = stage.stream(&client, || {
        // Something else of the account changes.
        let second = stage.user.browser.post("/api/keys", &json!({"name": "second"})).expect(200).json();
        stage.user.browser.post("/api/keys/revoke", &json!({"id": second["id"]})).expect(200);
        stage.user.browser.post("/api/keys/update", &json!({"id": key["id"], "models": ["m"]})).expect(200);
        stage.wanted.store(6, SeqCst);
        soon("more pieces", || stage.made.load(SeqCst) == 6);
        stage.user.browser.post("/api/keys/revoke", &json!({"id": key["id"]})).expect(200);
        soon("the revocation to be known", || client.get("/v1/models").status == 401);
    });
    assert_eq!(text.matches("word ").count(), 6, "{text}");
    stage.assert_charged_once(&text);
}

#[test]
fn a_stream_ends_when_its_key_may_not_call_the_model_any_more() {
    let stage = Stage::new();
    let key = stage.user.browser.post("/api/keys", &json!({"name": "k"})).expect(200).json();
    let client = stage.server.inference.with_secret(key["secret"].as_str().unwrap());
    let text = stage.stream(&client, || {
        stage.user.browser.post("/api/keys/update", &json!({"id": key["id"], "models": ["n"]})).expect(200);
        soon("the limit to be known", || client.get("/v1/models/m").status == 404);
    });
    assert_eq!(text.matches("word ").count(), 3, "{text}");
    assert_eq!(error(&text)["code"], "model_not_found", "{text}");
    stage.assert_charged_once(&text);
}

#[test]
fn a_stream_ends_when_its_account_may_not_call_the_model_any_more() {
    let stage = Stage::new();
    let client = stage.user.program(&stage.server.inference);
    let limit = |option: &str, list: &str| {
        let command = ["limit", "set", "ann@example.com", option, list];
        done(run(&command, &[("DATABASE_URL", &stage.db.url())], ""));
    };
    let text = stage.stream(&client, || {
        // As long as this one is among them, it goes on.
        limit("--models", "n,m");
        soon("the limit to be known", || client.get("/v1/models/o").status == 404);
        stage.wanted.store(6, SeqCst);
        soon("more pieces", || stage.made.load(SeqCst) == 6);
        limit("--models", "n");
        soon("the limit to be known", || client.get("/v1/models/m").status == 404);
    });
    assert_eq!(text.matches("word ").count(), 6, "{text}");
    assert_eq!(error(&text)["code"], "model_not_found", "{text}");
    stage.assert_charged_once(&text);
}

#[test]
fn a_stream_ends_when_its_account_may_not_be_used_from_its_address_any_more() {
    let stage = Stage::new();
    let client = stage.user.program(&stage.server.inference);
    let text = stage.stream(&client, || {
        let command = ["limit", "set", "ann@example.com", "--addresses", "192.0.2.1"];
        done(run(&command, &[("DATABASE_URL", &stage.db.url())], ""));
        soon("the limit to be known", || client.get("/v1/models").status == 403);
    });
    assert_eq!(text.matches("word ").count(), 3, "{text}");
    assert_eq!(error(&text)["code"], "permission_denied", "{text}");
    stage.assert_charged_once(&text);
}

#[test]
fn a_budget_that_is_lowered_below_what_a_stream_has_made_ends_it() {
    let stage = Stage::new();
    let body = json!({"name": "k", "budget": {"limit_micros": 2000}});
    let key = stage.user.browser.post("/api/keys", &body).expect(200).json();
    let client = stage.server.inference.with_secret(key["secret"].as_str().unwrap());
    let text = stage.stream(&client, || {
        stage.wanted.store(60, SeqCst);
        soon("more pieces", || stage.made.load(SeqCst) == 60);
        let lower = |limit: i64| json!({"id": key["id"], "budget": {"limit_micros": limit}});
        // Enough for what was made, and some more.
        stage.user.browser.post("/api/keys/update", &lower(250)).expect(200);
        thread::sleep(Duration::from_millis(300));
        stage.wanted.store(70, SeqCst);
        soon("more pieces", || stage.made.load(SeqCst) == 70);
        stage.user.browser.post("/api/keys/update", &lower(40)).expect(200);
    });
    let pieces = text.matches("word ").count();
    // On a busy machine some of what was made is still on its way.
    assert!((41..110).contains(&pieces), "{pieces}");
    assert_eq!(error(&text)["code"], "insufficient_quota", "{text}");
    let charges = final_charges(&stage.db, stage.server);
    let made = charges.iter().map(|charge| charge["completion_tokens"].as_i64().unwrap()).max().unwrap();
    assert!(made >= i64::try_from(pieces).unwrap(), "{made} {pieces}");
}

#[test]
fn a_budget_that_is_lowered_to_nothing_ends_a_stream() {
    let stage = Stage::new();
    let body = json!({"name": "k", "budget": {"limit_micros": 2000}});
    let key = stage.user.browser.post("/api/keys", &body).expect(200).json();
    let client = stage.server.inference.with_secret(key["secret"].as_str().unwrap());
    let text = stage.stream(&client, || {
        let lower = |limit: i64| json!({"id": key["id"], "budget": {"limit_micros": limit}});
        // As long as something is left, it goes on.
        stage.user.browser.post("/api/keys/update", &lower(1500)).expect(200);
        stage.wanted.store(6, SeqCst);
        soon("more pieces", || stage.made.load(SeqCst) == 6);
        stage.user.browser.post("/api/keys/update", &lower(0)).expect(200);
    });
    let pieces = text.matches("word ").count();
    assert!((6..40).contains(&pieces), "{text}");
    assert_eq!(error(&text)["code"], "insufficient_quota", "{text}");
    stage.assert_charged_once(&text);
}
