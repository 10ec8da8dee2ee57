//! The pages for administrators.

use crate::harness::{Client, Server, TestDb, User, textgen};

fn open(client: &Client, path: &str) -> crate::harness::Reply {
    client.header("accept", "text/html").get(path)
}

fn operator(db: &TestDb, command: &str, user: &User) {
    let done = textgen(&["user", command, &user.email]).env("DATABASE_URL", db.url()).status().unwrap();
    assert!(done.success());
}

#[test]
fn total_usage_appears_seconds_after_a_charge() {
    let db = TestDb::new();
    // Charges from before the totals existed are included.
    db.run(
        "INSERT INTO usage_daily SELECT 'user' || n, (now() AT TIME ZONE 'UTC')::date - 9 - n / 3, 'web', '/r', 'm', '', 1,
            0, 0, 0, 0, 0, 1, 2000000 FROM generate_series(0, 5) n",
    );
    let server = Server::start_demo(&db, &[]);
    let admin = server.sign_up("root@example.com");
    operator(&db, "promote", &admin);
    server.wait_until("the promotion to be seen", || open(&admin.browser, "/admin").status == 200);
    let page = || open(&admin.browser, "/admin/usage").expect(200).text();
    server.wait_until("the totals of days past", || page().contains("$12.00. As of 20"));
    assert_eq!(page().matches("<td class=\"num\">3</td><td class=\"num\">$6.00</td>").count(), 2, "{}", page());
    let chat = serde_json::json!({"messages": [{"role": "user", "content": "Hello"}]});
    admin.program(&server.inference).post("/v1/chat/completions", &chat).expect(200);
    server.wait_until("today's", || page().contains("<td class=\"num\">1</td>"));
    assert_eq!(page().matches("<tr><th scope=\"row\">").count(), 3, "days without charges are not listed");
    // The page reads the totals alone.
    let mut client = db.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_daily, usage_events IN ACCESS EXCLUSIVE MODE").unwrap();
    assert!(page().contains("<td class=\"num\">1</td>"));
    drop(lock);
    assert!(!page().contains("estimated"));
    db.run("UPDATE usage_daily SET estimated = 1 WHERE user_id = 'user0'; DELETE FROM usage_days");
    // Totals are computed soon after a charge.
    admin.program(&server.inference).post("/v1/chat/completions", &chat).expect(200);
    server.wait_until("the number of estimates", || {
        page().matches("1 estimated").count() == 1 && page().contains("1 of the charges estimated")
    });
}

#[test]
fn admin_pages_open_only_to_an_administrators_session() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (admin, other) = (server.sign_up("root@example.com"), server.sign_up("bob@example.com"));
    operator(&db, "promote", &admin);
    server.wait_until("the promotion to be seen", || open(&admin.browser, "/admin").status == 200);
    for path in ["/admin", "/admin/users", "/admin/audit", "/admin/webhooks", &format!("/admin/users/{}", admin.id)] {
        open(&admin.browser, path).expect(200);
        open(&other.browser, path).expect(403);
        // Keys do not open these pages: a leaked one must not give access, even an administrator's.
        open(&admin.program(&server.web), path).expect(403);
    }
    other.browser.form(&format!("/admin/users/{}/suspend", admin.id), &[("reason", "x")]).expect(403);
    admin.program(&server.web).form(&format!("/admin/users/{}/suspend", other.id), &[]).expect(403);
    other.browser.get("/api/current-user").expect(200);
}

#[test]
fn the_document_count_of_an_account_is_capped() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let admin = server.sign_up("root@example.com");
    operator(&db, "promote", &admin);
    server.wait_until("the promotion to be seen", || open(&admin.browser, "/admin").status == 200);
    let insert = |from: u32, to: u32| {
        let documents = format!("SELECT 'd' || n, '{}', 'title' FROM generate_series({from}, {to}) n", admin.id);
        db.run(&format!("INSERT INTO documents (id, user_id, title) {documents}"));
        open(&admin.browser, &format!("/admin/users/{}", admin.id)).expect(200).text()
    };
    assert!(insert(1, 1000).contains("<dt>Documents</dt><dd>1000</dd>"));
    assert!(insert(1001, 1002).contains("<dt>Documents</dt><dd>more than 1000</dd>"));
}

#[test]
fn admin_actions_take_effect_at_once_and_are_audited() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (admin, other) = (server.sign_up("root@example.com"), server.sign_up("bob@example.com"));
    operator(&db, "promote", &admin);
    server.wait_until("the promotion to be seen", || open(&admin.browser, "/admin").status == 200);
    let account = format!("/admin/users/{}", other.id);

    admin.browser.form(&format!("{account}/suspend"), &[("reason", "<i>spam</i>")]).expect(303);
    other.browser.get("/api/current-user").expect(401);
    other.program(&server.inference).get("/api/current-user").expect(401);
    let page = open(&admin.browser, &account).expect(200).text();
    assert!(page.contains("suspended") && page.contains("&#60;i&#62;spam&#60;/i&#62;"));
    admin.browser.form(&format!("{account}/restore"), &[]).expect(303);
    other.browser.get("/api/current-user").expect(200);

    let key = other.browser.get("/api/keys").json()["keys"][0]["id"].as_str().unwrap().to_owned();
    admin.browser.form(&format!("{account}/keys"), &[("id", &key)]).expect(303);
    other.program(&server.inference).get("/api/current-user").expect(401);
    admin.browser.form(&format!("{account}/keys"), &[("id", &key)]).expect(404);
    admin.browser.form(&format!("{account}/sessions"), &[]).expect(303);
    other.browser.get("/api/current-user").expect(401);

    admin.browser.form(&format!("/admin/users/{}/suspend", admin.id), &[]).expect(400);
    operator(&db, "suspend", &other);
    let actions = db.connect().query("SELECT actor || ' ' || action FROM audit ORDER BY id", &[]).unwrap();
    let actions: Vec<String> = actions.iter().map(|row| row.get(0)).collect();
    let expected = [
        "command line promote",
        "root@example.com suspend",
        "root@example.com restore",
        "root@example.com revoke key",
        "root@example.com end sessions",
        "command line suspend",
    ];
    assert_eq!(actions, expected, "a refused action is not in the audit log");
    let page = open(&admin.browser, "/admin/audit").expect(200).text();
    assert!(page.contains("end sessions") && page.contains("command line"));
}

#[test]
fn accounts_are_found_by_prefix() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let admin = server.sign_up("root@example.com");
    operator(&db, "promote", &admin);
    db.run(
        "INSERT INTO users (id, email, name) SELECT 'user' || n, 'person' || n || '@mail' || n % 2 || '.example', \
         'Name' || n FROM generate_series(1, 120) n",
    );
    server.wait_until("the promotion to be seen", || open(&admin.browser, "/admin").status == 200);
    let count = |query: &str| {
        let mut ids = Vec::new();
        let mut next = Some(format!("/admin/users?q={query}"));
        while let Some(path) = next {
            let page = open(&admin.browser, &path).expect(200).text();
            ids.extend(
                page.split("<td><a href=\"/admin/users/")
                    .skip(1)
                    .map(|rest| rest.split('"').next().unwrap().to_owned()),
            );
            next = page.contains("Next page").then(|| {
                let before = page.split("\">Next page").next().unwrap();
                before.rsplit("href=\"").next().unwrap().replace("&#38;", "&")
            });
        }
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "{query} lists somebody twice");
        all
    };
    let prefix: String = admin.secret.chars().take(8).collect();
    for (query, expected) in [
        ("", 121),
        ("PERSON", 120),
        ("person11", 11),
        ("%40mail1", 60),
        ("name12", 2),
        ("user7", 1),
        (prefix.as_str(), 1),
        ("erson", 0),
        ("%25", 0),
    ] {
        assert_eq!(count(query), expected, "{query}");
    }
}
