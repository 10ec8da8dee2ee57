//! No request scans a large table.

use serde_json::json;

use crate::harness::{PASSWORD, Server, TestDb, textgen};

/// Enough rows that the planner prefers an index wherever there is one.
const MANY: &str = "
    INSERT INTO users (id, email, password_hash, secret, created)
    SELECT 'user' || n, 'user' || n || '@example.com', 'none', 'tg_xxxxx…', now() - n * interval '1 second'
    FROM generate_series(1, 20000) n;
    INSERT INTO api_keys (id, user_id, name, prefix, digest, is_default)
    SELECT 'key' || n, 'user' || (n % 20000 + 1), 'default', 'tg_xxxxx…', sha256(n::text::bytea), n <= 20000
    FROM generate_series(1, 30000) n;
    INSERT INTO sessions (id, user_id, digest, expires)
    SELECT 'ses' || n, 'user' || (n % 20000 + 1), sha256(('s' || n)::bytea), now() + interval '30 days'
    FROM generate_series(1, 30000) n;
    INSERT INTO documents (id, user_id, title, content, created)
    SELECT 'doc' || n, 'user' || (n % 20000 + 1), 'title', 'content', now() - n * interval '1 second'
    FROM generate_series(1, 60000) n;
    INSERT INTO usage_daily
    SELECT 'user' || (n % 20000 + 1), (now() AT TIME ZONE 'UTC')::date - n % 60, 'web', '/r', 'm', '', 1, 0, 0, 0, 0, 0, 1, 2
    FROM generate_series(1, 60000) n;
    INSERT INTO deleted_documents (id, title, content, user_id, created, updated, is_public, version, deleted)
    SELECT 'del' || n, 'title', 'content', 'user' || (n % 20000 + 1), now(), now(), false, 1, now() - n % 20 * interval '1 day'
    FROM generate_series(1, 30000) n;
    INSERT INTO document_versions (document_id, version, user_id, title, content, updated, kept, bytes)
    SELECT 'doc' || n, 0, 'user' || (n % 20000 + 1), 'title', 'content', now(), now() - n % 20 * interval '1 day', 12
    FROM generate_series(1, 60000) n;
    INSERT INTO usage_events (created, id, user_id, server, route, model, prompt_tokens, completion_tokens,
        embedding_tokens, audio_millis, characters, requests, cost_micros, latency_micros)
    SELECT now(), 'made' || n, 'user' || (n % 20000 + 1), 'inference', '/r', 'm', 1, 0, 0, 0, 0, 1, 0, 5
    FROM generate_series(1, 60000) n;
    INSERT INTO kept_replies (created, user_id, key, charge_id, fingerprint, status, headers, body, bytes)
    SELECT now(), 'user' || (n % 20000 + 1), 'k' || n, 'made' || n, '', 200, '', '', 0 FROM generate_series(1, 30000) n;
    INSERT INTO mails (id, kind, user_id, recipient, expires, created, sent)
    SELECT 'mail' || n, 'verify', 'user' || (n % 20000 + 1), 'user' || (n % 20000 + 1) || '@example.com', now(),
        now() - n % 30 * interval '1 day', now()
    FROM generate_series(1, 60000) n;
    INSERT INTO account_links (digest, user_id, purpose, email, expires)
    SELECT sha256(('l' || n)::bytea), 'user' || (n % 20000 + 1), 'verify', '', now() + n % 60 * interval '1 minute'
    FROM generate_series(1, 60000) n;
    ANALYZE;";

#[test]
fn every_route_finds_its_rows_by_an_index() {
    let db = TestDb::new();
    db.run(MANY);
    db.run("SELECT pg_stat_reset()");
    let folder = std::env::temp_dir().join(format!("textgen-mails-{}", textgen::usage::new_id()));
    let server = Server::start_demo(&db, &[("MAIL_FOLDER", folder.to_str().unwrap())]);
    visit_every_route(&server);
    visit_every_page(&db, &server);
    // Mails are sent, and old ones forgotten.
    server.wait_until("all mails to be sent", || {
        db.count("SELECT count(*) FROM mails WHERE sent IS NULL AND put_aside IS NULL AND expires > now()") == 0
    });
    assert_eq!(server.stop(), 0);
    std::fs::remove_dir_all(folder).unwrap();
    let user = textgen(&["user", "rotate-secret", "user77"]).env("DATABASE_URL", db.url()).output().unwrap();
    assert!(user.status.success(), "{user:?}");
    let stripe = crate::harness::stripe::Stripe::start();
    stripe.meter("usage", std::time::Duration::ZERO);
    db.run(&format!("UPDATE users SET stripe_id = '{}' WHERE id IN ('user77', 'user78')", stripe.customer("77")));
    for user in ["user77", "user78"] {
        crate::usage_reported::subscribed(&db, user);
    }
    for args in [&["billing", "send"][..], &["billing", "send", "--until", "now"], &["billing", "check"]] {
        let billing = textgen(args)
            .envs(stripe.settings())
            .env("STRIPE_METER_EVENT", "usage")
            .env("DATABASE_URL", db.url())
            .output()
            .unwrap();
        assert!(billing.status.success(), "{billing:?}");
    }
    // Backends report their statistics when they exit, and the server's have exited.
    let mut client = db.connect();
    let scanned = client
        .query(
            // The partitions of a table together, without those that were empty: reading these costs nothing.
            "WITH tables AS (
                SELECT regexp_replace(s.relname, '(_[0-9]+)+$', '') AS name, seq_scan, seq_tup_read, idx_scan
                FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
                WHERE c.relkind = 'r' AND c.reltuples > 0)
             SELECT name, sum(seq_scan)::bigint, sum(seq_tup_read)::bigint, sum(idx_scan)::bigint FROM tables
             WHERE name IN ('users', 'api_keys', 'sessions', 'documents', 'deleted_documents', 'document_totals', 'kept_replies',
                 'usage_events', 'usage_daily', 'document_versions', 'document_version_bytes', 'mails', 'account_links')
             GROUP BY name",
            &[],
        )
        .unwrap();
    assert_eq!(scanned.len(), 13);
    for row in scanned {
        let (table, scans, rows, by_index): (String, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
        assert!(by_index > 0, "{table} was not used: are the statistics missing?");
        assert_eq!((scans, rows), (0, 0), "{table} was scanned");
    }
}

fn visit_every_route(server: &Server) {
    let user = server.sign_up("ann@example.com");
    let (browser, program) = (&user.browser, user.program(&server.web));
    server.sign_in("ann@example.com", PASSWORD).get("/api/current-user").expect(200);
    for path in
        ["/api/current-user", "/api/keys", "/api/sessions", "/api/subscription-status", "/account", "/playground"]
    {
        browser.get(path).expect(200);
    }
    for address in [&server.web, &server.inference, &server.audio] {
        user.program(address).get("/api/current-user").expect(200);
        address.with_secret("tg_unknown").get("/api/current-user").expect(401);
    }
    program.post("/api/get-user", &json!({})).expect(200);
    let id = program.post("/api/docs/save", &json!({"title": "a", "content": "b"})).expect(200).json()["id"].clone();
    program.post("/api/docs/save", &json!({"id": id, "content": "c", "version": 1})).expect(200);
    program.post("/api/docs/autosave", &json!({"id": id, "content": "c", "version": 1})).expect(409);
    let keeping = json!({"id": id, "content": "d", "keep_version": true});
    program.post("/api/docs/save", &keeping).expect(200);
    program.get(&format!("/api/docs/versions?id={}", id.as_str().unwrap())).expect(200);
    program.post("/api/docs/revert", &json!({"id": id, "version": 2})).expect(200);
    program.post("/api/docs/publish", &json!({"id": id})).expect(200);
    program.get(&format!("/api/docs/get?id={}", id.as_str().unwrap())).expect(200);
    program.get("/api/docs/get?id=doc_unknown").expect(404);
    program.get("/api/docs/usage").expect(200);
    program.post("/api/docs/save", &json!({"title": "second"})).expect(200);
    let page = program.get("/api/docs/list?limit=1").expect(200).json();
    let next = page["next"].as_str().unwrap();
    program.get(&format!("/api/docs/list?limit=1&after={next}&content=false")).expect(200);
    program.post("/api/docs/delete", &json!({"id": id})).expect(200);
    let key = program.post("/api/keys", &json!({"name": "laptop"})).expect(200).json();
    let key = program.post("/api/keys/rotate", &json!({"id": key["id"], "grace_seconds": 60})).expect(200).json();
    program.post("/api/keys/revoke", &json!({"id": key["id"]})).expect(200);
    let new_password = json!({"current_password": PASSWORD, "new_password": "another password"});
    let renewed = browser.post("/api/change-password", &new_password).expect(200).session_token();
    let browser = server.web.with_cookie(&renewed);
    browser.post("/api/sessions/revoke", &json!({"others": true})).expect(200);
    server.web.anonymous().post("/api/login", &json!({"email": "user5@example.com", "password": PASSWORD})).expect(400);
    server.web.anonymous().post("/api/forgot-password", &json!({"email": "ann@example.com"})).expect(200);
    server.web.anonymous().post("/api/reset-password", &json!({"token": "x", "password": "x"})).expect(400);
    browser.post("/api/verify-email", &json!({})).expect(200);
    program.post("/api/delete-account", &json!({"password": "another password"})).expect(200);
}

fn visit_every_page(db: &TestDb, server: &Server) {
    let user = server.sign_up("root@example.com");
    let promoted = textgen(&["user", "promote", &user.email]).env("DATABASE_URL", db.url()).output().unwrap();
    assert!(promoted.status.success(), "{promoted:?}");
    let page = |path: &str| user.browser.header("accept", "text/html").get(path);
    crate::harness::soon("the promotion to be seen", || page("/admin").status == 200);
    let place = user.browser.form("/documents", &[]).expect(303).header("location").unwrap().to_owned();
    let chat = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let program = user.program(&server.inference);
    let repeated = program.header("idempotency-key", "k");
    for client in [&program, &repeated, &repeated] {
        client.post("/v1/chat/completions", &chat).expect(200);
    }
    user.browser.form(&format!("{place}/delete"), &[]).expect(303);
    user.browser.form(&format!("{place}/restore"), &[]).expect(303);
    for path in ["/documents", "/documents?q=nothing", "/documents/deleted", &place, "/usage", "/admin/audit"] {
        page(path).expect(200);
    }
    for query in ["", "user1", "@example", "tg_xxxxx", "user77", "nobody"] {
        page(&format!("/admin/users?q={query}")).expect(200);
    }
    // The second page of the longest lists.
    for after in ["user100@example.com%1Fuser100", "%40example.com%1Fuser100", "tg_xxxxx%E2%80%A6%1Fuser100"] {
        page(&format!("/admin/users?q=user&after={after}")).expect(200);
    }
    page("/admin/users/user77").expect(200);
    // 30 days of a thousand charges of 2 micro-dollars, and those above: computed in the background, by index too.
    crate::harness::soon("the totals", || page("/admin/usage").expect(200).text().contains("$0.06"));
    user.browser.form("/admin/users/user77/suspend", &[("reason", "none")]).expect(303);
    user.browser.form("/admin/users/user77/restore", &[]).expect(303);
}
