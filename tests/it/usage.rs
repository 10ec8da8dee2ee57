//! Users' views of their usage, and the price list.

use serde_json::json;
use textgen::units::Unit;

use crate::harness::{Server, TestDb, textgen};

fn insert_days(db: &TestDb, user: &str) {
    db.run(&format!(
        "INSERT INTO usage_daily SELECT '{user}', day::date, 'inference', route, model, key, 2, 10, 20, 0, 0, 0, 2, cost
         FROM (VALUES ('2026-01-30', '/v1/completions', 'a', '', 5),
                      ('2026-01-31', '/v1/completions', 'b', 'key_1', 7),
                      ('2026-01-31', '/v1/embeddings', 'a', 'key_1', 11),
                      ('2026-02-01', '/v1/completions', 'a', 'key_2', 13)) AS t (day, route, model, key, cost)"
    ));
}

#[test]
fn usage_is_reported_by_day_model_key_and_route() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let other = server.sign_up("bob@example.com");
    insert_days(&db, &user.id);
    let get = |query: &str| user.browser.get(&format!("/api/usage?from=2026-01-01&to=2026-01-31{query}"));
    let costs = |by: &str| {
        let reply = get(&format!("&by={by}")).expect(200).json();
        assert_eq!(reply["cost_micros"], 23);
        let groups = reply["usage"].as_array().unwrap().iter();
        groups.map(|group| json!([group[by], group["cost_micros"]])).collect::<Vec<_>>()
    };
    assert_eq!(json!(costs("day")), json!([["2026-01-30", 5], ["2026-01-31", 18]]));
    assert_eq!(json!(costs("model")), json!([["a", 16], ["b", 7]]));
    assert_eq!(json!(costs("key")), json!([[null, 5], ["key_1", 18]]));
    assert_eq!(json!(costs("route")), json!([["/v1/completions", 12], ["/v1/embeddings", 11]]));
    let reply = get("").expect(200).json();
    assert_eq!(
        (&reply["by"], &reply["from"], &reply["to"]),
        (&json!("day"), &json!("2026-01-01"), &json!("2026-01-31"))
    );
    let mut expected = json!({"day": "2026-01-31", "charges": 4, "cost_micros": 18, "estimated": 0});
    for unit in Unit::ALL {
        let amount = match unit {
            Unit::Requests => 4,
            Unit::PromptTokens => 20,
            Unit::CompletionTokens => 40,
            _ => 0,
        };
        expected[unit.column()] = json!(amount);
    }
    assert_eq!(reply["usage"][1], expected);
    let reply = user.program(&server.web).get("/api/usage?from=2026-02-01&to=2026-02-01").expect(200).json();
    assert_eq!(reply["cost_micros"], 13);
    let nothing = other.browser.get("/api/usage?from=2026-01-01&to=2026-12-31").expect(200).json();
    assert_eq!((&nothing["usage"], &nothing["cost_micros"]), (&json!([]), &json!(0)));
    user.browser.get("/api/usage").expect(200);
    server.web.anonymous().get("/api/usage").expect(401);
}

#[test]
fn a_spreadsheet_runs_nothing_of_a_file_of_usage() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    insert_days(&db, &user.id);
    db.run("UPDATE usage_daily SET model = CASE model WHEN 'a' THEN ' =1+1' ELSE ';=1' END");
    let csv = user.browser.get("/usage.csv?from=2026-01-01&to=2026-02-01").expect(200).text();
    let column = csv.lines().next().unwrap().split(',').position(|name| name == "model").unwrap();
    let mut models: Vec<&str> = csv.lines().skip(1).map(|line| line.split(',').nth(column).unwrap()).collect();
    models.sort_unstable();
    assert_eq!(models, ["' =1+1", "' =1+1", "' =1+1", "';=1"]);
}

#[test]
fn invalid_parameters_are_400() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    for query in [
        "from=2026-13-01",
        "from=yesterday",
        "to=2026-02-30",
        "to=99999-01-01",
        "from=0000-01-01&to=0000-01-02",
        "from=2026-02-02&to=2026-02-01",
        "from=1990-01-01&to=2026-01-01",
        "by=user",
        "from=2026-01-01'--",
    ] {
        let reply = user.browser.get(&format!("/api/usage?{query}")).expect(400).json();
        assert!(reply["detail"].is_string(), "{query}");
    }
}

#[test]
fn the_operator_sets_and_lists_prices() {
    let db = TestDb::new();
    let run = |args: &[&str]| {
        let output = textgen(args).env("DATABASE_URL", db.url()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let (code, text) = run(&["price", "list"]);
    assert!(code == Some(0) && text.contains("default") && text.contains(" 15 "), "{text}");
    let (code, text) = run(&["price", "set", "big", "--prompt", "3", "--completion", "15.5"]);
    assert!(code == Some(0) && text.contains("big") && text.contains(" 15.5 "), "{text}");
    assert_eq!(run(&["price", "set", "big", "--request", "0.000007"]).0, Some(0));
    let newest = "SELECT * FROM prices WHERE model = 'big' ORDER BY valid_from DESC LIMIT 1";
    let row = db.connect().query_one(newest, &[]).unwrap();
    let column = |name: &str| row.get::<_, i64>(name);
    assert_eq!(
        (column("prompt_per_million"), column("completion_per_million"), column("per_request")),
        (3_000_000, 15_500_000, 7)
    );
    assert_eq!(column("characters_per_million"), 15_000_000, "units without a price get the default price");
    assert_eq!(column("cached_input_per_million"), 3_000_000, "cached input costs the same as other input by default");
    let (code, text) = run(&["price", "set", "big", "--request", "0.09", "--from", "2100-01-01T00:00:00Z"]);
    assert!(code == Some(0) && text.contains("2100-01-01"), "{text}");
    let (_, text) = run(&["price", "list"]);
    assert_eq!(text.lines().filter(|line| line.starts_with("big ")).count(), 2, "now and then: {text}");
    let past = ["price", "set", "big", "--request", "9", "--from", "2020-01-01T00:00:00Z"];
    let (code, text) = run(&past);
    assert!(code == Some(1) && text.contains("must not be in the past"), "{text}");
    for wrong in [
        &["price", "set", "big"][..],
        &["price", "set", "big", "--prompt", "-1"],
        &["price", "set"],
        &["price", "set", "big", "--prompt", "150000"],
    ] {
        let (code, text) = run(wrong);
        assert!(code != Some(0), "{wrong:?}: {text}");
    }
}
