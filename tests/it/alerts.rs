//! Prometheus itself scrapes servers, each of which has a fault, and each alert of docs/alerts.yml fires on its own.
//! `make test-alerts` installs Prometheus and runs this.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Address, End, Proxy, Server, TestDb, Upstream, User};
use crate::usage_reported::{Case, METER};

const CHAT: &str = "/v1/chat/completions";
const RULES: &str = "docs/alerts.yml";

/// The rules with times for a test: what lasts minutes or hours there lasts seconds here.
fn rules() -> String {
    let rules = fs::read_to_string(RULES).unwrap();
    let lines = rules.lines().map(|line| match line.trim_start().strip_prefix("for: ") {
        Some(_) => line.split("for: ").next().unwrap().to_owned() + "for: 1s",
        None => line.replace("[5m]", "[20s]").replace("> 600", "> 2"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The names of all alerts.
fn alerts() -> BTreeSet<String> {
    let rules = fs::read_to_string(RULES).unwrap();
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned)).collect()
}

/// Prometheus, scraping each second.
struct Prometheus {
    process: Child,
    address: Address,
    folder: PathBuf,
}

impl Prometheus {
    fn scraping(targets: &[&str]) -> Prometheus {
        let folder = std::env::temp_dir().join(format!("textgen-prometheus-{}", textgen::usage::new_id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("rules.yml"), rules()).unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nscrape_configs:\n\
             - {{job_name: textgen, static_configs: [{{targets: {}}}]}}\n",
            json!(targets)
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stderr(fs::File::create(folder.join("log")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .expect("prometheus is missing: use make test-alerts");
        Prometheus { process, address: Address(format!("http://127.0.0.1:{port}")), folder }
    }

    /// Which alerts fire, each with where it does; nothing before Prometheus answers.
    fn firing(&self) -> BTreeSet<(String, String)> {
        let reply = self.address.anonymous().try_send("GET", "/api/v1/alerts", None, b"");
        let Ok(reply) = reply else { return BTreeSet::new() };
        let reply: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let alerts = reply["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing").map(|alert| &alert["labels"]);
        firing.map(|labels| (text(&labels["alertname"]), text(&labels["instance"]))).collect()
    }

    /// Whether a figure was scraped from there.
    fn has_scraped(&self, target: &str) -> bool {
        let path = format!("/api/v1/query?query=textgen_build_info%7Binstance%3D%22{target}%22%7D");
        let reply = self.address.anonymous().try_send("GET", &path, None, b"");
        reply.is_ok_and(|reply| {
            let found: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            found["data"]["result"].as_array().is_some_and(|found| found.len() == 1)
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn metrics(server: &Server) -> &str {
    server.metrics.as_ref().unwrap().socket()
}

fn chat(tokens: usize) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": tokens.to_string()}]})
}

/// One that never answers.
fn hanging() -> Upstream {
    Upstream::start(|_, _| thread::sleep(Duration::from_secs(600)))
}

/// A key with a rate limit, of which a process can use its own part while the database is away.
fn limited(server: &Server, user: &User) -> String {
    let fields = json!({"name": "limited", "rate": {"requests_per_minute": 60}});
    let key = user.program(&server.web).post("/api/keys", &fields).expect(200).json();
    key["secret"].as_str().unwrap().to_owned()
}

/// Goes on with something until the test ends, on a thread of its own.
fn keep<'s>(scope: &'s thread::Scope<'s, '_>, is_over: &'s AtomicBool, work: impl Fn() + Send + 's) {
    scope.spawn(move || {
        while !is_over.load(SeqCst) {
            work();
            thread::sleep(Duration::from_millis(20));
        }
    });
}

/// Asks Prometheus what the dashboard does. Panels of traces are empty here, as there is no collector.
fn each_panel_has_data(prometheus: &Prometheus) {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string("docs/grafana.json").unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(queries.len() > 50);
    for query in queries {
        let query = query.replace("$__rate_interval", "1m").replace("$job", "textgen").replace("$instance", ".*");
        let reply =
            prometheus.address.anonymous().form("/api/v1/query", &[("query", query.as_str())]).expect(200).json();
        let found = reply["data"]["result"].as_array().unwrap();
        let may_be_empty = ["textgen_trace_spans", "first_piece", "first_byte", "between_tokens", "http_refused"];
        assert!(!found.is_empty() || may_be_empty.iter().any(|name| query.contains(name)), "no data: {query}");
    }
}

#[test]
#[ignore = "make test-alerts runs it"]
fn the_rules_are_correct() {
    let output = Command::new("promtool").args(["check", "rules", RULES]).output().expect("promtool is missing");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("{} rules found", alerts().len())));
}

#[test]
#[ignore = "make test-alerts runs it"]
#[allow(clippy::too_many_lines)] // A list of faults.
fn each_alert_fires_on_its_fault_and_none_without() {
    let counting = Upstream::counting();
    let upstream = [("INFERENCE_URL", counting.url.as_str())];
    let dbs: BTreeMap<&str, TestDb> =
        ["healthy", "ended", "outage", "failing", "full", "pool", "memory", "slow", "aside", "mailing"]
            .map(|name| (name, TestDb::new()))
            .into();
    let start = |name: &str, settings: &[(&str, &str)]| Server::start_with(&dbs[name], settings);

    let healthy = start("healthy", &upstream);
    let ended = start("ended", &[]);
    let lost = Proxy::to(&dbs["outage"]);
    let outage = Server::spawn(&lost.url(), &[upstream[0], ("JOURNAL_MAX_BYTES", "1048576")]);
    outage.wait_until_listening();
    let absent = Server::spawn("postgresql://127.0.0.1:1/none", &[]);
    let failing = start("failing", &[("INFERENCE_URL", "http://127.0.0.1:1"), ("INFERENCE_MODEL", "m")]);
    let (never, full) = (hanging(), "1");
    let full = start("full", &[("INFERENCE_URL", &never.url), ("MAX_MODEL_CALLS", full)]);
    let pool = start("pool", &[("POOL_SIZE", "1")]);
    let memory = start("memory", &[("MEMORY_BUDGET", "67108864")]);
    let slowed = Proxy::to(&dbs["slow"]);
    let slow = Server::spawn(&slowed.url(), &upstream);
    slow.wait_until_listening();
    let aside = start("aside", &upstream);
    let case = Case::new();
    let billing = Server::start_with(&case.db, &case.settings());
    let mailing = start(
        "mailing",
        &[
            ("SMTP_URL", "smtp://127.0.0.1:1"),
            ("MAIL_FROM", "no-reply@text.example"),
            ("PUBLIC_URL", "http://text.example"),
        ],
    );

    let servers =
        [&healthy, &ended, &outage, &absent, &failing, &full, &pool, &memory, &slow, &aside, &billing, &mailing];
    let prometheus = Prometheus::scraping(&servers.map(metrics));
    healthy.wait_until("all to be scraped", || servers.iter().all(|server| prometheus.has_scraped(metrics(server))));
    let places = servers.map(|server| metrics(server).to_owned());

    let is_over = AtomicBool::new(false);
    let user = |server: &Server| server.sign_up("ann@example.com");
    let (healthy_user, failing_user, full_user) = (user(&healthy), user(&failing), user(&full));
    let (pool_user, slow_user, outage_user) = (user(&pool), user(&slow), user(&outage));
    let memory_users: Vec<User> = (0..6).map(|n| memory.sign_up(&format!("user{n}@example.com"))).collect();
    let outage_secrets = [limited(&outage, &outage_user), outage_user.secret.clone()];
    thread::scope(|scope| {
        let _end = End(&is_over);
        keep(scope, &is_over, || drop(healthy_user.program(&healthy.inference).post(CHAT, &chat(3)).expect(200)));

        keep(scope, &is_over, || drop(failing_user.program(&failing.inference).post(CHAT, &chat(3)).expect(502)));

        for _ in 0..3 {
            keep(scope, &is_over, || {
                let mut socket = std::net::TcpStream::connect(full.inference.socket()).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let body = chat(3).to_string();
                let head = format!(
                    "POST {CHAT} HTTP/1.1\r\nHost: x\r\nsecret: {}\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\n\r\n{body}",
                    full_user.secret,
                    body.len()
                );
                std::io::Write::write_all(&mut socket, head.as_bytes()).unwrap();
                // A refusal, or nothing until this client gives up.
                let _ = std::io::Read::read(&mut socket, &mut [0; 64]);
            });
        }

        let mut lock = dbs["pool"].connect();
        lock.batch_execute("BEGIN; LOCK TABLE documents IN ACCESS EXCLUSIVE MODE").unwrap();
        for _ in 0..3 {
            keep(scope, &is_over, || drop(pool_user.program(&pool.web).get("/api/docs/list")));
        }

        for memory_user in &memory_users {
            let memory = &memory;
            keep(scope, &is_over, move || {
                let text = json!({"title": "t", "content": "\\\"".repeat(3_500_000)});
                memory_user.program(&memory.web).post("/api/docs/save", &text);
            });
        }

        slow_user.program(&slow.inference).post(CHAT, &chat(3)).expect(200);
        slowed.slow(Duration::from_millis(700));
        keep(scope, &is_over, || drop(slow_user.program(&slow.inference).post(CHAT, &chat(3))));

        dbs["aside"].run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION refuse()",
        );
        user(&aside).program(&aside.inference).post(CHAT, &chat(3));

        case.db.run(&format!(
            "INSERT INTO stripe_outbox (user_id, customer, meter, hour, amount_micros, used_at, next_at, put_aside)
             SELECT 'a', '{}', '{METER}', now() - interval '5 hours', 7, now() - interval '4 hours',
                 now() + interval '1 day', CASE WHEN aside THEN now() END
             FROM (VALUES (true), (false)) AS rows (aside)",
            case.customer
        ));

        user(&mailing);
        dbs["mailing"].run(
            "INSERT INTO mails (id, kind, recipient, created, expires)
             SELECT n::varchar, 'reset', 'ann@example.com', now() - interval '1 hour',
                 now() + CASE WHEN n = 0 THEN interval '1 day' ELSE interval '-1 minute' END
             FROM generate_series(0, 9) AS n",
        );

        for secret in &outage_secrets {
            outage.inference.with_secret(secret).post(CHAT, &chat(3)).expect(200);
        }
        lost.cut();
        for secret in [0, 1, 1, 1].map(|n| &outage_secrets[n]) {
            let outage = &outage;
            keep(scope, &is_over, move || {
                for _ in 0..20 {
                    outage.inference.with_secret(secret).post(CHAT, &chat(3));
                }
            });
        }
        let ended_place = metrics(&ended).to_owned();
        drop(ended);

        let everywhere = String::new();
        let expected: BTreeSet<(String, String)> = [
            ("TextgenDown", &ended_place),
            ("TextgenNotReady", &places[3]),
            ("TextgenDatabaseUnavailable", &places[2]),
            ("TextgenNotListening", &places[2]),
            ("TextgenJournalOld", &places[2]),
            ("TextgenJournalFull", &places[2]),
            ("TextgenLimitsUnknown", &places[2]),
            ("TextgenErrors", &places[4]),
            ("TextgenProviderDown", &places[4]),
            ("TextgenProviderFails", &places[4]),
            ("TextgenRefusesWaiting", &places[5]),
            ("TextgenPoolExhausted", &places[6]),
            ("TextgenMemoryShort", &places[7]),
            ("TextgenCommitsSlow", &places[8]),
            ("TextgenRevocationsLate", &places[8]),
            ("TextgenChargesAside", &places[9]),
            ("TextgenMailLate", &everywhere),
            ("TextgenMailRefused", &everywhere),
            ("TextgenBillingLate", &everywhere),
            ("TextgenBillingAside", &everywhere),
        ]
        .map(|(alert, place)| (alert.to_owned(), place.clone()))
        .into();
        let named: BTreeSet<String> = expected.iter().map(|(alert, _)| alert.clone()).collect();
        assert_eq!(named, alerts(), "each alert has a fault here");
        let mut seen = BTreeSet::new();
        healthy.wait_until_within(Duration::from_secs(300), "each alert to fire", || {
            let firing = prometheus.firing();
            for (alert, place) in &firing {
                assert_ne!(place, &places[0], "{alert} fires without a fault");
                let of_journal = place == &places[3] && alert.starts_with("TextgenJournal");
                assert!(!of_journal, "{alert} fires where there is no journal yet");
            }
            seen.extend(firing);
            thread::sleep(Duration::from_millis(500));
            println!("not yet: {:?}", expected.difference(&seen).collect::<Vec<_>>());
            expected.is_subset(&seen)
        });
        drop(lock);
        each_panel_has_data(&prometheus);
    });
}
