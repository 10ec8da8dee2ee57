//! Web-hooks out: the operator's endpoints are called when something has happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::harness::{Client, ReceivedRequest, Server, TestDb, Upstream, User, done, refused, run, soon};
use crate::operator_usage::administrator;

const ALLOW: (&str, &str) = ("WEBHOOK_ALLOW", "127.0.0.0/8");

/// A receiver, and the status that it answers with.
fn receiver() -> (Upstream, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let answered = status.clone();
    (Upstream::start(move |_, wire| wire.json(answered.load(SeqCst), &json!({}))), status)
}

/// Adds an endpoint. Its id and its secret.
fn add(root: &User, body: &Value) -> (String, String) {
    let made = root.browser.post("/api/admin/webhooks", body).expect(200).json();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

/// Checks the signature as Standard Webhooks has it. The body.
#[track_caller]
fn verified(call: &ReceivedRequest, secret: &str) -> Value {
    let header = |name: &str| call.header(name).unwrap_or_else(|| panic!("no {name}")).to_owned();
    let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let signed = format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), call.text());
    let signature = BASE64.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    ring::hmac::verify(&key, signed.as_bytes(), &signature).unwrap();
    let sent: i64 = header("webhook-timestamp").parse().unwrap();
    assert!((time::OffsetDateTime::now_utc().unix_timestamp() - sent).abs() < 300);
    call.json()
}

fn suspend(root: &User, user: &User, suspended: bool) {
    let body = json!({"user": user.email, "suspended": suspended});
    root.browser.post("/api/admin/users/update", &body).expect(200);
}

fn deliveries(root: &User, endpoint: &str) -> Vec<Value> {
    deliveries_of(&root.browser, endpoint)
}

fn deliveries_of(root: &Client, endpoint: &str) -> Vec<Value> {
    let path = format!("/api/admin/webhooks/deliveries?endpoint={endpoint}");
    root.get(&path).expect(200).json()["deliveries"].as_array().unwrap().clone()
}

#[test]
fn endpoints_are_called_with_what_they_want_to_hear_of() {
    let db = TestDb::new();
    // Two processes, and each event is sent once.
    let (server, _other) = (Server::start_with(&db, &[ALLOW]), Server::start_with(&db, &[ALLOW]));
    let (root, ann) = (administrator(&db, &server), server.sign_up("ann@example.com"));
    let ((all, _), (some, _)) = (receiver(), receiver());
    // What came before an endpoint is not sent to it.
    suspend(&root, &ann, true);
    let (all_id, all_secret) = add(&root, &json!({"url": format!("{}/hook?a=b", all.url)}));
    let kinds = json!({"url": some.url, "kinds": ["account.restored", "outbox.stuck"], "description": "pager"});
    let (some_id, some_secret) = add(&root, &kinds);
    suspend(&root, &ann, false);
    suspend(&root, &ann, true);
    soon("two calls", || all.seen().len() == 2 && some.seen().len() == 1);
    let restored = verified(&some.seen()[0], &some_secret);
    assert_eq!((&restored["type"], &restored["data"]["user_id"]), (&json!("account.restored"), &json!(ann.id)));
    assert_eq!(restored["data"]["email"], json!(ann.email));
    let mut heard: Vec<String> =
        all.seen().iter().map(|call| verified(call, &all_secret)["type"].to_string()).collect();
    heard.sort();
    assert_eq!(heard, ["\"account.restored\"", "\"account.suspended\""]);
    assert!(all.seen().iter().all(|call| call.path == "/hook?a=b"));

    // A threshold of a budget, of which mails are sent too.
    db.run(
        "INSERT INTO events (kind, user_id, budget_id, starts, percent, payload, created)
             VALUES ('budget.threshold', 'u', 'b', now(), 80, '{\"spent_micros\": 80}', now());
         INSERT INTO event_deliveries (sender, event_id, next_at)
             SELECT s, max(id), now() FROM events, unnest(ARRAY['mail', 'webhook']) AS s GROUP BY s",
    );
    soon("the threshold", || all.seen().len() == 3);
    let data = verified(&all.seen()[2], &all_secret)["data"].clone();
    assert_eq!((&data["percent"], &data["spent_micros"], &data["user_id"]), (&json!(80), &json!(80), &json!("u")));
    assert_eq!(some.seen().len(), 1);
    // Its mail is another sender's.
    assert_eq!(db.count("SELECT count(*) FROM event_deliveries WHERE sender = 'mail' AND attempts > 0"), 0);

    // A test of one alone.
    root.browser.post("/api/admin/webhooks/test", &json!({"id": some_id})).expect(200);
    soon("the test", || some.seen().len() == 2);
    assert_eq!(verified(&some.seen()[1], &some_secret)["type"], "webhook.test");
    let listed = deliveries(&root, &some_id);
    assert!(
        listed.len() == 2 && listed.iter().all(|one| one["state"] == "delivered" && one["status"] == 200),
        "{listed:?}"
    );
    assert_eq!(all.seen().len(), 3);

    // None is sent to one that is disabled or removed.
    let disabled =
        root.browser.post("/api/admin/webhooks/update", &json!({"id": all_id, "disabled": true})).expect(200);
    assert!(disabled.json()["disabled"].is_string());
    root.browser.post("/api/admin/webhooks/remove", &json!({"id": some_id})).expect(200);
    suspend(&root, &ann, false);
    soon("the event to be taken", || {
        db.count("SELECT count(*) FROM event_deliveries WHERE sender = 'webhook' AND delivered IS NULL") == 0
    });
    assert_eq!(db.count("SELECT count(*) FROM webhook_deliveries WHERE delivered IS NULL"), 0);
    let shown = root.browser.get("/api/admin/webhooks").expect(200);
    assert_eq!(shown.json()["endpoints"].as_array().unwrap().len(), 1);
    assert!(!shown.text().contains("whsec_"));
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action LIKE '% webhook'"), 4);
}

#[test]
fn what_is_not_taken_is_tried_again_and_listed() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[ALLOW]);
    let (root, ann) = (administrator(&db, &server), server.sign_up("ann@example.com"));
    let (hook, status) = receiver();
    status.store(500, SeqCst);
    let (id, secret) = add(&root, &json!({"url": hook.url}));
    suspend(&root, &ann, true);
    soon("a failure", || deliveries(&root, &id).first().is_some_and(|one| one["status"] == 500));
    let one = deliveries(&root, &id)[0].clone();
    assert_eq!(
        json!([one["state"], one["problem"], one["kind"]]),
        json!(["waiting", "status 500", "account.suspended"])
    );
    assert!(one["next_at"].is_string());
    // The next attempt has the same id.
    soon("another attempt", || hook.seen().len() >= 2);
    let ids: Vec<String> = hook.seen().iter().map(|call| call.header("webhook-id").unwrap().to_owned()).collect();
    assert_eq!(ids[0], ids[1]);
    // After the last one, it is given up, until somebody tries it again.
    db.run("UPDATE webhook_deliveries SET attempts = 9, next_at = now()");
    soon("the end", || deliveries(&root, &id)[0]["state"] == "given_up");
    status.store(204, SeqCst);
    let retry = |number: &Value| root.browser.post("/api/admin/webhooks/retry", &json!({"id": number}));
    retry(&one["id"]).expect(200);
    soon("the delivery", || deliveries(&root, &id)[0]["state"] == "delivered");
    retry(&one["id"]).expect(404);
    verified(hook.seen().last().unwrap(), &secret);
    // Gone: it is not called again.
    status.store(410, SeqCst);
    suspend(&root, &ann, false);
    soon("the endpoint to be disabled", || {
        root.browser.get("/api/admin/webhooks").json()["endpoints"][0]["disabled"].is_string()
    });
    // The log says so, and shows no secret.
    assert!(server.log().contains("was answered with status 500") && !server.log().contains("whsec_"));
}

#[test]
fn an_endpoint_on_a_private_network_is_not_called() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let root = administrator(&db, &server);
    let (hook, _) = receiver();
    let command = |args: &[&str]| run(args, &[("DATABASE_URL", &db.url())], "");
    let made = done(command(&["webhook", "add", &hook.url, "--kind", "webhook.test", "--description", "x"]));
    let id = made.lines().find_map(|line| line.strip_prefix("id ")).unwrap();
    assert!(made.contains("secret whsec_"), "{made}");
    done(command(&["webhook", "test", id]));
    soon("the refusal", || {
        deliveries(&root, id)
            .first()
            .is_some_and(|one| one["problem"].as_str().unwrap().contains("not a public address"))
    });
    assert!(hook.seen().is_empty());
    let listed = done(command(&["webhook", "deliveries", id]));
    assert!(listed.contains("webhook.test") && listed.contains("not a public address"), "{listed}");
    assert!(done(command(&["webhook", "list"])).contains(id));
    assert!(done(command(&["webhook", "disable", id])).contains("disabled"));
    assert!(done(command(&["webhook", "enable", id])).contains("enabled"));
    done(command(&["webhook", "remove", id]));
    refused(command(&["webhook", "remove", id]), "no endpoint");
    refused(command(&["webhook", "test", id]), "no such endpoint");
    refused(command(&["webhook", "retry", "1"]), "no delivery");
    refused(command(&["webhook", "add", "ftp://x/"]), "https://");
    refused(command(&["webhook", "add", "https://x/", "--kind", "other"]), "is none of");
    // There is a bound.
    for n in 0..20 {
        add(&root, &json!({"url": format!("https://hooks.example.com/{n}")}));
    }
    root.browser.post("/api/admin/webhooks", &json!({"url": "https://hooks.example.com/more"})).expect(400);
}

#[test]
fn usage_that_is_stuck_is_an_event_once_a_day() {
    let db = TestDb::new();
    db.run(
        "INSERT INTO stripe_outbox (user_id, customer, meter, hour, amount_micros, used_at)
         VALUES ('u', 'c', 'm', now() - interval '5 hours', 5, now() - interval '4 hours')",
    );
    let connect = textgen::db::ConnectConfig::new(&db.url(), "test").unwrap();
    let pool = textgen::db::Database::new(connect, true, 1);
    pool.open();
    let mut session = pool.session().unwrap();
    assert!(textgen::store::webhooks::note_stuck_outbox(&mut session).unwrap());
    assert!(!textgen::store::webhooks::note_stuck_outbox(&mut session).unwrap());
    let payload = "SELECT (payload->>'waiting')::bigint FROM events WHERE kind = 'outbox.stuck'";
    assert_eq!((db.count(payload), db.count("SELECT count(*) FROM event_deliveries")), (1, 1));
}

#[test]
fn the_administrators_page_does_it_all() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[ALLOW]);
    let root = administrator(&db, &server).browser;
    let page = || root.header("accept", "text/html").get("/admin/webhooks").expect(200).text();
    let (hook, status) = receiver();
    assert!(page().contains("None yet"));

    // What is refused comes back as it was typed.
    let fields = [("url", "ftp://x"), ("description", "<pager>"), ("kind_outbox.stuck", "1")];
    let refused = root.form("/admin/webhooks", &fields).expect(400).text();
    for word in
        ["role=\"alert\"", "value=\"ftp://x\"", "&#60;pager&#62;", "name=\"kind_outbox.stuck\" value=\"1\" checked"]
    {
        assert!(refused.contains(word), "no {word} in {refused}");
    }

    let fields = [("url", hook.url.as_str()), ("description", "pager"), ("kind_outbox.stuck", "1")];
    let added = root.form("/admin/webhooks", &fields).expect(200).text();
    let (_, secret) = added.split_once("whsec_").unwrap();
    let secret = format!("whsec_{}", secret.split_once('<').unwrap().0);
    assert!(page().contains("outbox.stuck") && !page().contains("whsec_"));
    let shown = root.get("/api/admin/webhooks").expect(200).json()["endpoints"][0].clone();
    assert_eq!((&shown["kinds"], &shown["description"]), (&json!(["outbox.stuck"]), &json!("pager")));
    let id = shown["id"].as_str().unwrap();

    status.store(500, SeqCst);
    let tested = root.form("/admin/webhooks/test", &[("id", id)]).expect(303);
    assert_eq!(tested.header("location"), Some("/admin/webhooks?done=test"));
    soon("the attempt to fail", || page().contains("status 500"));
    assert!(page().contains("Try now"));
    assert_eq!(verified(&hook.seen()[0], &secret)["type"], "webhook.test");
    status.store(200, SeqCst);
    let delivery = deliveries_of(&root, id)[0]["id"].to_string();
    root.form("/admin/webhooks/retry", &[("id", &delivery)]).expect(303);
    soon("the next attempt", || page().contains("Delivered"));
    root.form("/admin/webhooks/retry", &[("id", &delivery)]).expect(404);

    root.form("/admin/webhooks/update", &[("id", id), ("disabled", "1")]).expect(303);
    assert!(page().contains(">Off<"));
    root.form("/admin/webhooks/update", &[("id", id)]).expect(303);
    assert!(page().contains(">On<"));
    root.form("/admin/webhooks/remove", &[("id", id)]).expect(303);
    assert!(page().contains("None yet"));
    root.form("/admin/webhooks/remove", &[("id", id)]).expect(404);
}
