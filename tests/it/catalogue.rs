//! `textgen models`: the catalogue's file, and what is stored of it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Outcome, Server, TestDb, done, refused, run};

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER_KEY: &str = "YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODk=";

/// One provider with a sealed key, one with a key in the environment, and two models.
const FILE: &str = r#"
    [[provider]]
    name = "far"
    base_url = "https://far.example.com/v1"
    api_key = "sk-hunter2"
    headers = { "X-Team" = "env:TEAM", "X-Tier" = "gold" }
    total_timeout_ms = 30000

    [[provider]]
    name = "local"
    base_url = "http://127.0.0.1:8000/v1"
    api_key = "env:LOCAL_API_KEY"
    protocols = ["chat", "embeddings"]
    max_concurrent = 8

    [[model]]
    name = "vendor/gpt-x"
    aliases = ["best", "Best"]
    max_output_tokens = 4096
    price = { input = "0.15", cached_input = "0.075", output = "0.60", character = "0.000015" }

    [[model.route]]
    provider = "local"
    model = "qwen2.5-7b"
    weight = 3

    [[model.route]]
    provider = "far"
    priority = 1

    [[model]]
    name = "another"

    [[model.route]]
    provider = "far"
    "#;

fn models(db: &TestDb, args: &[&str], key: &str, stdin: &str) -> Outcome {
    let args: Vec<&str> = ["models"].iter().chain(args).copied().collect();
    run(&args, &[("DATABASE_URL", &db.url()), ("ENCRYPTION_KEY", key)], stdin)
}

fn apply(db: &TestDb, text: &str) -> Outcome {
    models(db, &["apply", "-"], KEY, text)
}

/// Everything in the catalogue's tables, and when each row was written.
fn state(db: &TestDb) -> Vec<String> {
    let sql =
        "SELECT xmin::text || providers::text FROM providers UNION ALL SELECT xmin::text || models::text FROM models
        UNION ALL SELECT xmin::text || model_names::text FROM model_names
        UNION ALL SELECT xmin::text || model_routes::text FROM model_routes
        UNION ALL SELECT xmin::text || prices::text FROM prices ORDER BY 1";
    db.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn what_is_exported_can_be_applied_and_changes_nothing() {
    let db = TestDb::empty();
    assert_eq!(done(models(&db, &["export"], KEY, "")), "", "there is no catalogue yet");
    assert_eq!(done(apply(&db, FILE)), "2 models of 2 providers, 1 new prices\n");
    let (exported, before) = (done(models(&db, &["export"], KEY, "")), state(&db));
    assert!(exported.contains("api_key = \"sealed\"") && exported.contains("env:LOCAL_API_KEY"), "{exported}");
    // The export says it all, the key aside, for which nothing is needed to keep it.
    assert_eq!(done(models(&db, &["apply", "-"], "", &exported)), "2 models of 2 providers, nothing changed\n");
    // The file with the key in it is the same catalogue.
    assert_eq!(done(apply(&db, FILE)), "2 models of 2 providers, nothing changed\n");
    assert_eq!(state(&db), before);
    assert_eq!(done(models(&db, &["export"], KEY, "")), exported);
    let listed = done(models(&db, &["list"], KEY, ""));
    assert!(listed.contains("vendor/gpt-x") && listed.contains("best, Best"), "{listed}");
    assert!(listed.contains("local/qwen2.5-7b, far/vendor/gpt-x"), "{listed}");
    let providers = done(run(&["provider", "list"], &[("DATABASE_URL", &db.url())], ""));
    assert!(providers.contains("https://far.example.com/v1") && providers.contains("sealed"), "{providers}");
}

#[test]
fn a_file_with_a_mistake_changes_nothing() {
    let db = TestDb::empty();
    done(apply(&db, FILE));
    let before = state(&db);
    for (from, to, words) in [
        (
            "provider = \"local\"",
            "provider = \"locl\"",
            "model \"vendor/gpt-x\": route 1: provider: there is no provider \"locl\"",
        ),
        ("name = \"another\"", "name = \"best\"", "name: \"best\" is already a name of the model \"vendor/gpt-x\""),
        ("\"0.15\"", "\"0.1234567\"", "price: input: 0.1234567 has more than 6 digits"),
        ("weight = 3", "weight = 0", "route 1: weight: expected 1 to"),
        ("http://127.0.0.1", "127.0.0.1", "provider \"local\": base_url: "),
        ("max_concurrent", "max_concurent", "line 14: unknown field `max_concurent`"),
        ("sk-hunter2\"", "sk-hunter2", "line 5: "),
        ("name = \"far\"", "name = \"far\"\nname = \"far\"", "line 4: duplicate key"),
    ] {
        let outcome = apply(&db, &FILE.replacen(from, to, 1));
        assert!(!outcome.err.contains("hunter2"), "{}", outcome.err);
        refused(outcome, words);
    }
    refused(models(&db, &["apply", "/nowhere/x.toml"], KEY, ""), "/nowhere/x.toml: ");
    assert_eq!(state(&db), before);
}

#[test]
fn a_key_is_sealed_and_belongs_to_its_provider() {
    let db = TestDb::empty();
    refused(models(&db, &["apply", "-"], "", FILE), "ENCRYPTION_KEY is not set");
    let outcome = models(&db, &["apply", "-"], "c2hvcnQ=", FILE);
    assert!(outcome.code == 2 && outcome.err.contains("ENCRYPTION_KEY: expected 32 bytes"), "{outcome:?}");
    refused(
        apply(&db, &FILE.replace("sk-hunter2", "sealed")),
        "provider \"far\": api_key: it says \"sealed\", but no key",
    );
    done(apply(&db, FILE));
    let sealed = || db.connect().query_one("SELECT api_key_sealed FROM providers WHERE name = 'far'", &[]).unwrap();
    let first: Vec<u8> = sealed().get(0);
    let dump = Command::new("pg_dump").arg(db.url()).stderr(Stdio::inherit()).output().unwrap();
    let dump = String::from_utf8_lossy(&dump.stdout);
    assert!(dump.contains("https://far.example.com/v1") && !dump.contains("hunter2"));
    assert!(!first.windows(7).any(|bytes| bytes == b"hunter2"));
    // A provider of another name cannot have it.
    let renamed = FILE.replace("\"far\"", "\"evil\"").replace("sk-hunter2", "sealed");
    refused(apply(&db, &renamed), "provider \"evil\": api_key: ");
    // A new key, or the same one under another ENCRYPTION_KEY, is sealed anew.
    done(apply(&db, &FILE.replace("hunter2", "hunter3")));
    let second: Vec<u8> = sealed().get(0);
    assert_eq!(done(models(&db, &["apply", "-"], OTHER_KEY, FILE)), "2 models of 2 providers, 0 new prices\n");
    let third: Vec<u8> = sealed().get(0);
    assert!(first != second && second != third && first != third);
}

#[test]
fn a_price_is_changed_from_now_on_or_later_but_never_backwards() {
    let db = TestDb::empty();
    let rows = "SELECT count(*) FROM prices WHERE model = 'vendor/gpt-x'";
    done(apply(&db, FILE));
    assert_eq!(db.count(rows), 1);
    let dearer = FILE.replace("\"0.15\"", "\"0.20\"");
    let at = |time: &str| dearer.replace("max_output_tokens", &format!("price_from = {time}\n    max_output_tokens"));
    // Known now, due later; to say so twice changes nothing.
    assert!(done(apply(&db, &at("2999-01-01T00:00:00Z"))).contains("1 new prices"));
    assert!(done(apply(&db, &at("2999-01-01T00:00:00Z"))).contains("nothing changed"));
    assert_eq!(db.count(&format!("{rows} AND valid_from = '2999-01-01' AND prompt_per_million = 200000")), 1);
    let exported = done(models(&db, &["export"], KEY, ""));
    assert!(exported.contains("input = \"0.15\""), "the price of today: {exported}");
    // A time that has passed means now.
    assert!(done(apply(&db, &at("2001-01-01T00:00:00Z"))).contains("1 new prices"));
    let of_now = format!("{rows} AND valid_from BETWEEN now() - interval '1 minute' AND now()");
    assert_eq!(db.count(&format!("{of_now} AND prompt_per_million = 200000")), 1);
    assert!(done(apply(&db, &dearer)).contains("nothing changed"));
    // What is not written costs what it falls back to, or nothing.
    let (fallback, none) = ("cache_write_per_million = 200000", "per_image = 0 AND cached_input_per_million = 75000");
    assert_eq!(db.count(&format!("{of_now} AND prompt_per_million = 200000 AND {fallback} AND {none}")), 1);
    // A model that leaves the catalogue keeps its prices.
    done(apply(&db, ""));
    assert_eq!((db.count("SELECT count(*) FROM models"), db.count(rows)), (0, 3));
}

#[test]
fn every_change_is_announced_once() {
    let db = TestDb::empty();
    done(apply(&db, ""));
    let mut listener = db.connect();
    listener.batch_execute("LISTEN textgen_catalogue").unwrap();
    let mut heard = || {
        use postgres::fallible_iterator::FallibleIterator;
        // Notifications arrive before the reply to a later statement.
        listener.simple_query("").unwrap();
        listener.notifications().iter().count().unwrap()
    };
    assert_eq!(heard(), 0);
    done(apply(&db, FILE));
    assert_eq!(heard(), 1);
    done(apply(&db, FILE));
    assert_eq!(heard(), 0, "nothing changed");
    done(run(&["price", "set", "another", "--prompt", "0.000007"], &[("DATABASE_URL", &db.url())], ""));
    assert_eq!(heard(), 1);
    db.run("UPDATE model_routes SET weight = 2");
    assert_eq!(heard(), 1);
}

#[test]
fn two_at_once_leave_one_of_the_two() {
    let db = TestDb::empty();
    done(apply(&db, ""));
    let other = FILE.replace("vendor/gpt-x", "vendor/gpt-y").replace("\"another\"", "\"yet another\"");
    std::thread::scope(|scope| {
        for text in [FILE, &other, FILE, &other] {
            scope.spawn(|| done(apply(&db, text)));
        }
    });
    assert_eq!(db.count("SELECT count(*) FROM models"), 2);
    let mixed = "SELECT count(*) FROM models a, models b WHERE a.name LIKE '%gpt-x' AND b.name = 'yet another'";
    assert_eq!(db.count(mixed), 0);
}

#[test]
fn a_changed_price_is_heard_of_by_every_server() {
    let db = TestDb::new();
    let servers = [Server::start_demo(&db, &[]), Server::start_demo(&db, &[])];
    let user = servers[0].sign_up("ann@example.com");
    let programs = servers.each_ref().map(|server| user.program(&server.inference));
    for server in &servers {
        server.wait_until("the listener", || server.web.anonymous().get("/readyz").json()["listening"] == json!(true));
    }
    let last_cost = "SELECT cost_micros FROM usage_events ORDER BY created DESC LIMIT 1";
    let charged = |server: usize| {
        programs[server].post("/v1/embeddings", &json!({"input": "a"})).expect(200);
        db.count(last_cost)
    };
    let mut delays: Vec<Duration> = (1..=9_i64)
        .map(|round| {
            let price = format!("0.00{round}");
            let set = ["price", "set", "default", "--request", &price, "--embedding", "0"];
            done(run(&set, &[("DATABASE_URL", &db.url())], ""));
            let server = &servers[usize::try_from(round % 2).unwrap()];
            let began = Instant::now();
            server.wait_until("the price", || charged(usize::try_from(round % 2).unwrap()) == round * 1000);
            began.elapsed()
        })
        .collect();
    delays.sort();
    println!("a price applied after {delays:?}");
    // Prices are read every two seconds in any case, so half of these would take longer without the notification.
    assert!(delays[delays.len() / 2] < Duration::from_millis(750), "{delays:?}");
}
