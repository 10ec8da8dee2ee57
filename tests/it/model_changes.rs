//! Models that come and go while requests are made, and keys that may call some of them.

use std::thread;

use serde_json::{Value, json};

use crate::harness::{Client, Server, TestDb, Upstream, User, final_charges, only_charge, wait_until};
use crate::models::{apply, model, provider};
use crate::recordings::{heard, multipart, wav};

const CHAT: &str = "/v1/chat/completions";
const BOUNDARY: Option<&str> = Some("multipart/form-data; boundary=bnd");

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
}

fn answers() -> Upstream {
    Upstream::start(|seen, wire| match seen.path.as_str() {
        "/v1/audio/transcriptions" | "/v1/audio/translations" => wire.json(200, &heard()),
        "/v1/audio/speech" => wire.reply(200, "audio/wav", wav()),
        "/v1/embeddings" => {
            wire.json(200, &json!({"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 5}}));
        }
        _ => {
            let usage = json!({"prompt_tokens": 5, "completion_tokens": 3});
            wire.json(200, &json!({"choices": [{"message": {"content": "Hi"}}], "usage": usage}));
        }
    })
}

const ALL: &str = "[\"chat\", \"embeddings\", \"audio\"]";

fn start(files: &[String]) -> (TestDb, Server, User) {
    let db = TestDb::new();
    apply(&db, &files.join("\n"));
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

#[test]
fn a_repetition_gets_its_reply_though_its_model_was_removed() {
    let upstream = answers();
    let p = provider("p", &upstream, ALL);
    let (db, server, user) = start(&[p.clone(), model("old", "", 7, &[("p", "old", 0)])]);
    let with_key = |client: Client, key: &str| client.header("idempotency-key", key);
    let (inference, audio) = (user.program(&server.inference), user.program(&server.audio));
    let upload = multipart(&[("model", b"old"), ("file*", &wav())]);
    let send = || {
        vec![
            with_key(inference.clone(), "1").post(CHAT, &chat("old")),
            with_key(inference.clone(), "2").post("/v1/embeddings", &json!({"model": "old", "input": "a"})),
            with_key(inference.clone(), "3").post("/api/v1/generate", &json!({"model": "old", "text": "a"})),
            with_key(inference.clone(), "4").post("/api/v1/generate-bulk", &json!([{"model": "old", "text": "a"}])),
            with_key(inference.clone(), "5").post("/api/v1/summarization", &json!({"text": "a"})),
            with_key(inference.clone(), "6").post("/api/v1/feature-extraction", &json!({"text": "a"})),
            with_key(audio.clone(), "7").post("/v1/audio/speech", &json!({"model": "old", "input": "a"})),
            with_key(audio.clone(), "8").post("/api/v1/generate_speech", &json!({"text": "a"})),
            with_key(audio.clone(), "9").send("POST", "/v1/audio/transcriptions", BOUNDARY, &upload),
        ]
    };
    let first: Vec<String> = send().into_iter().map(|reply| reply.expect(200).text()).collect();
    // The model goes; then there is none at all for these protocols.
    let others = [model("new", "", 7, &[("p", "new", 0)]), model("old", "", 7, &[("q", "old", 0)])];
    for (other, status) in others.iter().zip([404, 404]) {
        let q = provider("q", &upstream, "[\"messages\"]");
        apply(&db, &[p.clone(), q, other.clone()].join("\n"));
        wait_until("the change", || inference.post(CHAT, &chat("old")).status == status);
        for (reply, first) in send().into_iter().zip(&first) {
            let reply = reply.expect(200);
            assert_eq!((reply.header("idempotent-replayed"), &reply.text()), (Some("true"), first));
        }
        // A key that was not used is free after the refusal.
        with_key(inference.clone(), "free").post(CHAT, &chat("old")).expect(404);
        assert_eq!(db.count("SELECT count(*) FROM idempotency_claims WHERE key = 'free'"), 0);
    }
    with_key(inference.clone(), "1").post(CHAT, &chat("new")).expect(422);
    // Nor does it matter that nothing is served any more.
    apply(&db, "");
    wait_until("the change", || inference.post(CHAT, &chat("old")).status == 503);
    assert_eq!(send().into_iter().map(|reply| reply.expect(200).text()).collect::<Vec<_>>(), first);
    // What waited for the changes had no key.
    assert_eq!(db.count("SELECT count(*) FROM kept_replies"), i64::try_from(first.len()).unwrap());
    assert_eq!(upstream.seen().len(), final_charges(&db, server).len());
}

#[test]
fn a_repetition_gets_its_reply_though_the_key_may_not_call_the_model_any_more() {
    let upstream = answers();
    let models = ["a", "b"].map(|name| model(name, "", 7, &[("p", name, 0)]));
    let (db, server, user) = start(&[vec![provider("p", &upstream, ALL)], models.to_vec()].concat());
    let key = user.browser.post("/api/keys", &json!({"name": "k", "models": ["a"]})).expect(200).json();
    let client = server.inference.with_secret(key["secret"].as_str().unwrap());
    let once = client.header("idempotency-key", "1");
    once.post(CHAT, &chat("a")).expect(200);
    user.browser.post("/api/keys/update", &json!({"id": key["id"], "models": ["b"]})).expect(200);
    wait_until("the change", || client.post(CHAT, &chat("a")).status == 404);
    assert_eq!(once.post(CHAT, &chat("a")).expect(200).header("idempotent-replayed"), Some("true"));
    upstream.only();
    only_charge(&db, &server);
}

/// Prices that cannot be read yet keep a new model from being called, rather than having it called at another price.
#[test]
fn a_new_model_is_never_called_at_another_price() {
    let upstream = answers();
    let (db, server, user) = start(&[provider("p", &upstream, ALL), model("old", "", 7, &[("p", "old", 0)])]);
    server.wait_until_listening();
    let client = user.program(&server.inference);
    client.post(CHAT, &chat("old")).expect(200);
    let (mut changing, mut locking) = (db.connect(), db.connect());
    let mut change = changing.transaction().unwrap();
    change
        .batch_execute(
            "INSERT INTO prices (model, per_request) VALUES ('new', 900);
            INSERT INTO models (name, position) VALUES ('new', 1);
            INSERT INTO model_names (name, model, position, is_alias) VALUES ('new', 'new', 1, false);
            INSERT INTO model_routes (model, position, provider, upstream_model, weight, priority)
            VALUES ('new', 1, 'p', 'new', 1, 0)",
        )
        .unwrap();
    thread::scope(|scope| {
        // It waits for the change, and goes before all who read the prices after it.
        let locked = scope.spawn(move || {
            let mut lock = locking.transaction().unwrap();
            lock.batch_execute("LOCK TABLE prices IN ACCESS EXCLUSIVE MODE").unwrap();
            thread::sleep(std::time::Duration::from_millis(500));
            lock.rollback().unwrap();
        });
        let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'prices'::regclass AND NOT granted";
        wait_until("the lock", || db.count(waits) > 0);
        change.commit().unwrap();
        wait_until("the new model", || client.post(CHAT, &chat("new")).status == 200);
        locked.join().unwrap();
    });
    let charges = final_charges(&db, server);
    let of_new: Vec<_> = charges.iter().filter(|charge| charge["model"] == "new").collect();
    assert_eq!((of_new.len(), &of_new[0]["cost_micros"]), (1, &json!(900)), "{charges:?}");
}

#[test]
fn a_key_that_may_not_call_the_default_model_gets_the_first_that_it_may() {
    let upstream = answers();
    let names = ["one", "two", "three"];
    let models = names.map(|name| model(name, "", 7, &[("p", name, 0)]));
    let (db, server, user) = start(&[vec![provider("p", &upstream, ALL)], models.to_vec()].concat());
    let key = user.browser.post("/api/keys", &json!({"name": "k", "models": ["three", "two"]})).expect(200).json();
    let secret = key["secret"].as_str().unwrap();
    let (inference, audio) = (server.inference.with_secret(secret), server.audio.with_secret(secret));
    inference.post(CHAT, &json!({"messages": []})).expect(200);
    inference.post("/v1/engines/davinci/completions", &json!({"prompt": "a"})).expect(200);
    inference.post("/api/v1/generate", &json!({"text": "a"})).expect(200);
    inference.post("/api/v1/summarization", &json!({"text": "a"})).expect(200);
    inference.post("/api/v1/feature-extraction", &json!({"text": "a"})).expect(200);
    audio.post("/api/v1/generate_speech", &json!({"text": "a"})).expect(200);
    audio.send("POST", "/v1/audio/transcriptions", BOUNDARY, &multipart(&[("file*", &wav())])).expect(200);
    let none = user.browser.post("/api/keys", &json!({"name": "k", "models": ["gone"]})).expect(200).json();
    let none = server.inference.with_secret(none["secret"].as_str().unwrap());
    none.post(CHAT, &json!({"messages": []})).expect(404);
    let charged = final_charges(&db, server);
    assert_eq!(charged.len(), 7);
    assert!(charged.iter().all(|charge| charge["model"] == "two"), "{charged:?}");
}
