//! What operators see and do of all accounts: what they spent, what was done to them, and who may do it; by API, pages and
//! commands.

use serde_json::{Value, json};

use crate::harness::{
    Client, Cluster, Outcome, Scrape, Server, Signal, TestDb, Upstream, User, done, refused, run, soon,
};

fn command(db: &TestDb, args: &[&str]) -> Outcome {
    run(args, &[("DATABASE_URL", &db.url())], "")
}

/// An administrator.
pub fn administrator(db: &TestDb, server: &Server) -> User {
    let root = server.sign_up("root@example.com");
    done(command(db, &["user", "promote", &root.email]));
    soon("the promotion to be seen", || root.browser.get("/api/admin/status").status == 200);
    root
}

fn open(client: &Client, path: &str) -> crate::harness::Reply {
    client.header("accept", "text/html").get(path)
}

/// Three accounts that spent something on two days, with keys and models.
fn spent(db: &TestDb, users: &[&User]) {
    for (n, user) in (1_i64..).zip(users) {
        for (day, model, key, micros) in
            [("2026-03-01", "small", "", 1_000_000), ("2026-03-02", "large", "key_x", 2_000_000)]
        {
            let micros = micros * n;
            db.run(&format!(
                "INSERT INTO usage_daily SELECT '{}', '{day}', 'inference', '/v1/chat/completions', '{model}', '{key}', 1, 1, 1, 0,
                 0, 0, 1, {micros}",
                user.id
            ));
        }
    }
    // What the servers' background tasks do.
    soon("the totals", || {
        let _ = db.connect().execute("SELECT textgen_total_days()", &[]);
        db.count("SELECT count(*) FROM usage_days WHERE day IN ('2026-03-01', '2026-03-02')") == 2
    });
}

const DAYS: &str = "from=2026-03-01&to=2026-03-31";

#[test]
fn spending_is_added_up_by_account_key_model_and_day() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let root = administrator(&db, &server);
    let users = ["ann@example.com", "bob@example.com", "cid@example.com"].map(|email| server.sign_up(email));
    spent(&db, &users.each_ref());
    let usage = |more: &str| root.browser.get(&format!("/api/admin/usage?{DAYS}{more}")).expect(200).json();

    let by_user = usage("&by=user");
    let listed: Vec<(&str, i64)> = by_user["usage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sum| (sum["user"].as_str().unwrap(), sum["cost_micros"].as_i64().unwrap()))
        .collect();
    assert_eq!(
        listed,
        [("cid@example.com", 9_000_000), ("bob@example.com", 6_000_000), ("ann@example.com", 3_000_000)]
    );
    assert_eq!((&by_user["cost_micros"], &by_user["next"]), (&json!(18_000_000), &json!(null)));
    assert!(by_user["as_of"].is_string());
    let by_model = usage("&by=model");
    let expected = json!([{"model": "large", "charges": 3, "cost_micros": 12_000_000},
        {"model": "small", "charges": 3, "cost_micros": 6_000_000}]);
    assert_eq!(by_model["usage"], expected);
    let by_key = usage("&by=key");
    let first = &by_key["usage"][0];
    assert_eq!(
        json!([first["user"], first["key"], first["cost_micros"]]),
        json!(["cid@example.com", "key_x", 6_000_000])
    );
    assert_eq!(by_key["usage"].as_array().unwrap().len(), 6);
    assert_eq!(usage("")["usage"][1], json!({"day": "2026-03-02", "charges": 3, "cost_micros": 12_000_000}));
    let one_day = root.browser.get("/api/admin/usage?from=2026-03-01&to=2026-03-01&by=user&limit=2").expect(200).json();
    assert_eq!(one_day["usage"][0]["cost_micros"], 3_000_000);
    let after = one_day["next"].as_str().unwrap();
    let rest = root
        .browser
        .get(&format!("/api/admin/usage?from=2026-03-01&to=2026-03-01&by=user&limit=2&after={after}"))
        .expect(200)
        .json();
    assert_eq!((rest["usage"].as_array().unwrap().len(), &rest["next"]), (1, &json!(null)));

    // Of one account.
    let of_bob = usage("&by=model&user=bob@example.com");
    assert_eq!(of_bob["usage"][0], json!({"model": "large", "charges": 1, "cost_micros": 4_000_000}));
    assert_eq!(usage("&by=route&user=bob@example.com")["usage"][0]["cost_micros"], 6_000_000);
    for (query, status) in
        [("&by=route", 400), ("&by=user&user=bob@example.com", 400), ("&by=x", 400), ("&user=no@example.com", 404)]
    {
        root.browser.get(&format!("/api/admin/usage?{DAYS}{query}")).expect(status);
    }
    users[0].browser.get("/api/admin/usage").expect(403);

    // The same as pages, as a file, and as commands.
    let page = open(&root.browser, &format!("/admin/usage?{DAYS}&by=user")).expect(200).text();
    let (cid, ann) = (page.find("cid@example.com").unwrap(), page.find("ann@example.com").unwrap());
    assert!(cid < ann && page.contains("$9.00") && page.contains("2026-03-01 to 2026-03-31"), "{page}");
    for by in ["day", "key", "model"] {
        open(&root.browser, &format!("/admin/usage?{DAYS}&by={by}")).expect(200);
    }
    open(&root.browser, &format!("/admin/usage?{DAYS}&by=route&user=bob@example.com")).expect(200);
    let csv = root.browser.get(&format!("/admin/usage.csv?{DAYS}&by=user")).expect(200);
    assert_eq!(csv.header("Content-Type"), Some("text/csv; charset=utf-8"));
    let line = format!("{},cid@example.com,2,9.000000000000\r\n", users[2].id);
    assert!(csv.text().starts_with(&format!("user_id,email,charges,cost_usd\r\n{line}")), "{}", csv.text());
    let args = ["usage", "--from", "2026-03-01", "--to", "2026-03-31", "--by", "user"];
    let said = done(command(&db, &args));
    assert!(
        said.lines().nth(1).unwrap().starts_with("cid@example.com") && said.contains("in all US$ 18.000000"),
        "{said}"
    );
    assert_eq!(done(command(&db, &[&args[..], &["--csv"]].concat())), csv.text());
    refused(command(&db, &["usage", "--from", "2026-03-02", "--to", "2026-03-01"]), "must not be after");
}

#[test]
fn the_audit_log_is_listed_with_filters() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let root = administrator(&db, &server);
    let ann = server.sign_up("ann@example.com");
    let update = |body: &Value| root.browser.post("/api/admin/users/update", body).expect(200);
    for suspended in [true, false] {
        update(&json!({"user": ann.email, "suspended": suspended, "reason": "spam"}));
    }
    let entries = |query: &str| root.browser.get(&format!("/api/admin/audit?{query}")).expect(200).json();
    let actions = |query: &str| {
        let found = entries(query)["entries"].as_array().unwrap().clone();
        found.iter().map(|entry| entry["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(actions(""), ["restore", "suspend", "promote"]);
    assert_eq!(actions("actor=root@example.com"), ["restore", "suspend"]);
    assert_eq!(actions("actor=command+line"), ["promote"]);
    assert_eq!(actions("action=suspend"), ["suspend"]);
    assert_eq!(actions(&format!("user_id={}&action=restore&actor=root@example.com", ann.id)), ["restore"]);
    assert_eq!(actions("action=suspend&actor=command+line"), [""; 0]);
    let first = entries("limit=2");
    assert_eq!(first["entries"][1]["detail"], "spam");
    assert_eq!(actions(&format!("limit=2&after={}", first["next"].as_str().unwrap())), ["promote"]);
    root.browser.get("/api/admin/audit?after=x").expect(400);
    let page = open(&root.browser, "/admin/audit?actor=command+line").expect(200).text();
    assert!(page.contains("promote") && !page.contains("spam"), "{page}");
    let said = done(command(&db, &["audit", "list", "--user", "ann@example.com", "--action", "suspend"]));
    assert!(said.lines().count() == 2 && said.contains("root@example.com") && said.contains("spam"), "{said}");
}

#[test]
fn administrators_are_made_and_unmade_but_for_the_last_one() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let root = administrator(&db, &server);
    let ann = server.sign_up("ann@example.com");
    let update = |by: &User, body: &Value| by.browser.post("/api/admin/users/update", body);
    update(&root, &json!({"user": root.email, "admin": false})).expect(400);
    refused(command(&db, &["user", "demote", &root.email]), "last administrator");
    update(&ann, &json!({"user": ann.email, "admin": true})).expect(403);
    assert_eq!(update(&root, &json!({"user": ann.email, "admin": true})).expect(200).json()["is_admin"], true);
    soon("the promotion", || ann.browser.get("/api/admin/users").status == 200);
    let listed = root.browser.get("/api/admin/users?status=admin").expect(200).json();
    assert_eq!(listed["users"].as_array().unwrap().len(), 2);
    root.browser.get("/api/admin/users?status=x").expect(400);
    assert!(open(&root.browser, "/admin/users?status=suspended").expect(200).text().contains("No accounts found"));
    // By the page.
    ann.browser.form(&format!("/admin/users/{}/demote", root.id), &[]).expect(303);
    soon("the demotion", || root.browser.get("/api/admin/users").status == 403);
    ann.browser.form(&format!("/admin/users/{}/demote", ann.id), &[]).expect(400);
    ann.browser.form(&format!("/admin/users/{}/promote", root.id), &[]).expect(303);
    // Of two that demote each other at once, one stays.
    soon("the promotion", || root.browser.get("/api/admin/users").status == 200);
    std::thread::scope(|scope| {
        for (by, of) in [(&root, &ann), (&ann, &root)] {
            scope.spawn(move || update(by, &json!({"user": of.email, "admin": false})).status);
        }
    });
    assert_eq!(db.count("SELECT count(*) FROM users WHERE is_admin"), 1);
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'demote'"), 2);
    // One that is suspended is none.
    db.run("UPDATE users SET is_admin = true, suspended = CASE WHEN email = 'ann@example.com' THEN now() END");
    refused(command(&db, &["user", "demote", &root.email]), "last administrator");
}

#[test]
fn models_and_providers_are_set_shown_and_removed_one_by_one() {
    let db = TestDb::new();
    let set = |args: &[&str]| command(&db, args);
    let provider = ["provider", "set", "local", "base_url = \"http://127.0.0.1:1/v1\"", "api_key = \"env:LOCAL_KEY\""];
    assert_eq!(done(set(&provider)), "created provider local\n");
    let fields =
        ["model", "set", "m", "route = [{provider = \"local\"}]", "price = {input = \"0.15\", output = \"0.6\"}"];
    assert_eq!(done(set(&fields)), "created model m\n");
    assert_eq!(done(set(&["models", "set", "m", "aliases = [\"best\"]"])), "changed model m\n");
    let shown = done(set(&["model", "show", "best"]));
    assert!(shown.contains("0.15") && shown.contains("best") && !shown.contains("[[provider]]"), "{shown}");
    assert!(done(set(&["providers", "show", "local"])).contains("env:LOCAL_KEY"));
    assert!(done(set(&["price", "list"])).contains(" 0.15 "));
    refused(set(&["provider", "remove", "local"]), "has a route to it");
    refused(set(&["provider", "set", "local", "api_key = \"sk-secret\""]), "env:NAME");
    refused(set(&["model", "set", "m", "max_output_tokens = \"x\""]), "max_output_tokens");
    refused(set(&["model", "set", "m", "nonsense"]), "lines as in the catalogue file");
    refused(set(&["model", "show", "other"]), "no such model");
    assert_eq!(done(set(&["model", "remove", "m"])), "removed model m\n");
    assert_eq!(done(set(&["provider", "remove", "local"])), "removed provider local\n");
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE actor = 'command line'"), 5);
}

#[test]
fn the_overview_works_while_postgresql_is_stopped() {
    let cluster = Cluster::start();
    let db = TestDb::existing(&cluster.url());
    let dead = Upstream::constant(500, json!({"error": {"message": "out of order"}}));
    let server = Server::start_with(&db, &[("INFERENCE_URL", &format!("{},http://127.0.0.1:1", dead.url))]);
    let root = administrator(&db, &server);
    server.wait_until_listening();
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}]});
    root.program(&server.inference).post("/v1/chat/completions", &chat);
    // All that was announced of the account was heard, so that it stays in the cache.
    let heard = || Scrape::of(server.metrics.as_ref().unwrap()).value("textgen_revocations_received_total", &[]);
    let before = heard();
    db.run("UPDATE users SET name = 'Root'");
    server.wait_until("the change to be heard of", || heard() > before);
    let page = open(&root.browser, "/admin").expect(200).text();
    assert!(page.contains("Newest accounts") && page.contains("last error") && page.contains("status 500"), "{page}");
    assert!(page.contains("<span class=\"badge\">Not configured</span>"), "{page}");

    cluster.stop();
    server.wait_until("the outage to be seen", || server.web.anonymous().get("/readyz").status == 503);
    let page = open(&root.browser, "/admin").expect(200).text();
    assert!(page.contains("The database can’t be reached") && !page.contains("Newest accounts"), "{page}");
    assert!(page.contains("Model servers") && page.contains("status 500"), "{page}");
    let status = root.browser.get("/api/admin/status").expect(200).json();
    let part = |name: &str| {
        let parts = status["parts"].as_array().unwrap();
        parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("{status}")).clone()
    };
    assert_eq!((&part("Database")["state"], &part("Speech models")["state"]), (&json!("down"), &json!("unset")));
    let provider = &status["providers"].as_array().unwrap().iter().find(|one| one["name"] == json!(dead.url)).unwrap();
    assert!(provider["last_error"].as_str().unwrap().contains("status 500") && provider["last_error_at"].is_string());
    // Whoever is not remembered is not let in, and other pages need the database.
    assert_eq!(open(&server.web.with_cookie("ts_unknown"), "/admin").status, 503);
    assert_eq!(open(&root.browser, "/admin/users").status, 503);

    cluster.launch();
    soon("the whole page", || open(&root.browser, "/admin").text().contains("Newest accounts"));
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("LOG_LEVEL", "warn")]);
    let root = administrator(&db, &server);
    server.signal(Signal::HUP);
    server.wait_until("debug", || server.log().contains("the log level is DEBUG now, it was WARN"));
    server.web.anonymous().get("/loud");
    server.wait_until("the request", || server.log().contains("/loud"));
    server.signal(Signal::HUP);
    server.wait_until("the usual level", || server.log().contains("the log level is WARN now, it was DEBUG"));
    let set = |level: &str| root.browser.post("/api/admin/log", &json!({"level": level}));
    assert_eq!(set("info").expect(200).json(), json!({"level": "info"}));
    server.web.anonymous().get("/louder");
    server.wait_until("the request", || server.log().contains("/louder"));
    set("noisy").expect(400);
    assert_eq!(set("error").expect(200).json(), json!({"level": "error"}));
    server.web.anonymous().get("/silent");
    set("info").expect(200);
    server.wait_until("the last change", || server.log().contains("it was ERROR"));
    assert!(!server.log().contains("/silent"));
}
