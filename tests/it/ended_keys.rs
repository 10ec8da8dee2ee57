//! What is left of keys that have ended and were deleted: what they spent still counts, and what only they had goes with them.

use serde_json::{Value, json};

use crate::budgets::{chat, key_with, obedient, settled, start};
use crate::harness::{Server, TestDb, charges};

/// Budgets and rate limits of keys that ended long ago.
const LIMITS: &str = "
    INSERT INTO users (id, email, budget_id, rate_id) VALUES ('u', 'ann@example.com', 'b_account', 'r_account');
    INSERT INTO budgets (id, user_id, limit_picos, period, leased_picos)
    SELECT 'b_' || b.id, 'u', 100, 'total', leased
    FROM (VALUES ('alone', 0), ('shared', 0), ('leased', 7), ('forgotten', 0), ('noted', 0), ('account', 0), ('working', 0))
        AS b (id, leased);
    INSERT INTO budget_windows (budget_id, starts, spent_picos) SELECT id, '1970-01-01Z', 9 FROM budgets;
    INSERT INTO rate_limits (id, user_id, requests_per_minute)
    SELECT 'r_' || r, 'u', 5 FROM unnest(ARRAY['alone', 'shared', 'held', 'idle', 'cooling', 'account', 'working']) r;
    INSERT INTO api_keys (id, user_id, name, digest, prefix, budget_id, rate_id, revoked)
    SELECT n || k.state, 'u', 'k', sha256((n || k.state)::bytea), 'tg_', 'b_' || k.budget, 'r_' || k.rate,
        CASE WHEN k.state = 'old' THEN now() - interval '31 days' END
    FROM (VALUES (1, 'old', 'alone', 'alone'), (2, 'old', 'alone', 'alone'), (3, 'old', 'shared', 'shared'),
        (4, 'new', 'shared', 'shared'), (5, 'old', 'leased', 'held'), (6, 'old', 'forgotten', 'idle'),
        (7, 'old', 'noted', 'cooling'), (8, 'new', 'working', 'working')) AS k (n, state, budget, rate);
    INSERT INTO lease_holders (id) VALUES ('h');
    INSERT INTO leases VALUES ('b_leased', 'h', 10, 1, 2, now()), ('b_forgotten', 'h', 10, 8, 2, now());
    INSERT INTO unsettled (holder_id, budget_ids, created, costs) VALUES ('h', '{b_noted}', ARRAY[now()], '{3}');
    INSERT INTO rate_shares VALUES ('r_held', 1, 'h', 3, 2, 0, now()), ('r_idle', 1, 'h', 3, 3, 0, now());
    INSERT INTO rate_cooling VALUES ('r_cooling', 1, 2, now() + interval '1 hour');";

#[test]
fn limits_go_with_their_last_key_once_nothing_is_held_of_them() {
    let db = TestDb::new();
    db.run(LIMITS);
    let left = |table: &str| -> Vec<String> {
        let sql = format!("SELECT substr(id, 3) FROM {table} ORDER BY id");
        db.connect().query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let purge = |budgets: &[&str], rates: &[&str]| {
        let server = Server::start(&db);
        server.wait_until("limits to be deleted", || left("budgets") == budgets && left("rate_limits") == rates);
        assert_eq!(db.count("SELECT count(*) FROM api_keys"), 2);
        assert_eq!(db.count("SELECT count(*) FROM budget_windows"), i64::try_from(budgets.len()).unwrap());
    };
    // A process that has a lease may still ask for more, though nothing is outstanding.
    purge(
        &["account", "forgotten", "leased", "noted", "shared", "working"],
        &["account", "cooling", "held", "shared", "working"],
    );
    db.run(
        "DELETE FROM leases; UPDATE budgets SET leased_picos = 0; DELETE FROM unsettled;
         UPDATE rate_shares SET returned = granted; UPDATE rate_cooling SET ready = now()",
    );
    purge(&["account", "shared", "working"], &["account", "shared", "working"]);
}

#[test]
fn whoever_rotates_a_key_often_gets_no_fresh_budget() {
    let upstream = obedient();
    // So 20 ended keys are kept.
    let (db, server, user) = start(&upstream, &[("KEYS_PER_ACCOUNT", "2")]);
    let (first, client) = key_with(&user, &server, 30);
    client.post("/v1/chat/completions", &chat(10)).expect(200);
    settled(&db);
    let mut key = json!({"id": first});
    for _ in 0..25 {
        key = user.browser.post("/api/keys/rotate", &json!({"id": key["id"]})).expect(200).json();
    }
    assert_eq!(db.count(&format!("SELECT count(*) FROM api_keys WHERE id = '{first}'")), 0);
    assert_eq!(charges(&db).len(), 1);
    let spent = |window: &str| -> Value {
        let body = json!({"id": key["id"], "budget": {"limit_micros": 30, "window": window}});
        user.browser.post("/api/keys/update", &body).expect(200).json()["budget"]["spent_micros"].clone()
    };
    for window in ["month", "day", "week", "total"] {
        assert_eq!(spent(window), 10, "{window}");
    }
    // Keys that were charged nothing leave nothing.
    assert_eq!(db.count("SELECT count(*) FROM budget_keys"), 1);
    // What no key is known for any more was counted in a window that lies in the new one.
    assert_eq!(spent("day"), 10);
    db.run("DELETE FROM budget_keys");
    assert_eq!(spent("month"), 10);
    let client = server.inference.with_secret(key["secret"].as_str().unwrap());
    let reply = client.post("/v1/chat/completions", &chat(100)).expect(200).json();
    assert_eq!(reply["usage"]["completion_tokens"], 20);
    client.post("/v1/chat/completions", &chat(1)).expect(402);
    // A budget that is gone is not remembered.
    user.browser.post("/api/keys/update", &json!({"id": key["id"], "budget": null})).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM budgets"), 0);
}
