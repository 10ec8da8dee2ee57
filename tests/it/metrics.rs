//! What Prometheus reads: that it is well-formed, agrees with what was done, and shows nothing that a stranger chooses.

#![allow(clippy::float_cmp)] // Counts are whole numbers.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use textgen::telemetry::METRICS;

use crate::harness::{Address, Process, Proxy, Raw, Scrape, Server, TestDb, Upstream, at_once, run, wait_until};

const CHAT: &str = "/v1/chat/completions";
const CHATS: [(&str, &str); 2] = [("server", "inference"), ("operation", "POST /v1/chat/completions")];

fn scrape(server: &Server) -> Scrape {
    Scrape::of(server.metrics.as_ref().expect("no metrics"))
}

fn chat(model: &str, tokens: usize, stream: bool) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": tokens.to_string()}], "stream": stream})
}

fn requests(scrape: &Scrape, status: &str) -> f64 {
    scrape.sum("textgen_http_requests_total", &[CHATS[0], CHATS[1], ("status", status)])
}

/// Everything declared is there, as it is declared, and nothing else.
#[track_caller]
fn assert_as_declared(scrape: &Scrape) {
    let found: Vec<_> = scrape.families.iter().map(|(name, kind, help)| (&**name, kind.clone(), &**help)).collect();
    let declared: Vec<_> = METRICS.iter().map(|metric| (metric.name, metric.kind.to_string(), metric.help)).collect();
    assert_eq!(found, declared);
    for (name, labels) in scrape.samples.keys() {
        let of = |metric: &&&textgen::telemetry::Metric| name.starts_with(metric.name);
        let metric = METRICS.iter().filter(of).max_by_key(|metric| metric.name.len()).unwrap();
        let own: BTreeSet<&str> = labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
        assert_eq!(own, metric.labels.iter().copied().collect(), "{name}");
    }
}

#[test]
fn figures_under_load_are_well_formed_and_agree_with_the_ledger() {
    let db = TestDb::new();
    let upstream = Upstream::counting();
    let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url)]);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    let load = || {
        at_once(40, |n| {
            client.post(CHAT, &chat("m", n + 1, false)).expect(200);
            Raw::post(&server.inference, &user.secret, CHAT, &chat("n", n + 1, true)).rest().find("[DONE]").unwrap();
        });
    };
    thread::scope(|scope| {
        let (loading, mut last) = (scope.spawn(load), 0.0);
        while !loading.is_finished() {
            let scrape = scrape(&server);
            assert_as_declared(&scrape);
            let seen = requests(&scrape, "2xx");
            assert!(seen >= last, "a counter went from {last} to {seen}");
            last = seen;
        }
    });
    client.post(CHAT, &chat("no such model", 1, false)).expect(404);
    server.inference.anonymous().post(CHAT, &chat("m", 1, false)).expect(401);
    // A stream is counted once all of it was sent.
    server.wait_until("all requests to be counted", || requests(&scrape(&server), "2xx") == 80.0);
    let scrape = scrape(&server);
    assert_eq!((requests(&scrape, "4xx"), requests(&scrape, "5xx"), requests(&scrape, "left")), (2.0, 0.0, 0.0));
    assert_eq!(scrape.sum("textgen_http_request_duration_seconds_count", &CHATS), 82.0);
    assert_eq!(scrape.value("textgen_http_first_byte_seconds_count", &CHATS), 40.0);
    let (first, whole) = (
        scrape.value("textgen_http_first_byte_seconds_sum", &CHATS),
        scrape.sum("textgen_http_request_duration_seconds_sum", &CHATS),
    );
    assert!(first > 0.0 && first < whole, "{first} {whole}");

    assert_eq!(scrape.value("textgen_charges_total", &[("outcome", "committed")]), 80.0);
    assert_eq!(scrape.value("textgen_charge_batch_size_sum", &[]), 80.0);
    let commits = scrape.value("textgen_charge_batch_size_count", &[]);
    assert!(commits <= 80.0 && commits == scrape.value("textgen_charge_commit_seconds_count", &[]), "{commits}");
    for model in ["m", "n"] {
        for unit in ["prompt_tokens", "completion_tokens", "requests"] {
            #[allow(clippy::cast_precision_loss)]
            let ledger =
                db.count(&format!("SELECT sum({unit})::bigint FROM usage_events WHERE model = '{model}'")) as f64;
            let shown = scrape.value("textgen_charged_units_total", &[("model", model), ("unit", unit)]);
            assert!(ledger > 0.0 && shown == ledger, "{model} {unit}: {shown}, and {ledger} in the ledger");
        }
        let cost = "SELECT sum(cost_micros::numeric * 1000000 + cost_picos)::bigint FROM usage_events WHERE model =";
        #[allow(clippy::cast_precision_loss)]
        let dollars = db.count(&format!("{cost} '{model}'")) as f64 / 1e12;
        let shown = scrape.value("textgen_charged_dollars_total", &[("model", model)]);
        assert!(dollars > 0.0 && (shown - dollars).abs() < 1e-12, "{model}: {shown}, and {dollars} in the ledger");
    }
    let provider = ("provider", upstream.url.as_str());
    for model in [("model", "m"), ("model", "n")] {
        let calls = |outcome| scrape.value("textgen_upstream_calls_total", &[provider, model, ("outcome", outcome)]);
        assert_eq!(["answered", "too_many", "error", "failed", "left"].map(calls), [40.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(scrape.value("textgen_upstream_call_duration_seconds_count", &[provider, model]), 40.0);
    }
    let streamed = scrape.labels("textgen_upstream_first_piece_seconds_count");
    assert_eq!(streamed.iter().map(|labels| &*labels["model"]).collect::<Vec<_>>(), ["n"], "only that was streamed");
    assert_eq!(scrape.sum("textgen_upstream_first_piece_seconds_count", &[]), 40.0);
    for (model, output) in [("m", 2.0), ("n", 9.0)] {
        let tokens = |direction| {
            scrape.value("textgen_upstream_tokens_total", &[provider, ("model", model), ("direction", direction)])
        };
        // Prompts of 1 to 40 tokens.
        assert_eq!((tokens("input"), tokens("output")), (820.0, 40.0 * output), "{model}");
    }
    let between = scrape.labels("textgen_upstream_between_tokens_seconds_count");
    assert_eq!(between.iter().map(|labels| &*labels["model"]).collect::<Vec<_>>(), ["n"], "only that was streamed");
    assert_eq!(scrape.value("textgen_upstream_in_flight", &[provider]), 0.0);
    assert_eq!(scrape.value("textgen_upstream_up", &[provider]), 1.0);
    assert!(scrape.labels("textgen_billing_outbox_rows").is_empty(), "nothing is reported to Stripe");
    for gauge in ["textgen_charges_waiting", "textgen_journal_charges", "textgen_journal_oldest_seconds"] {
        assert_eq!(scrape.value(gauge, &[]), 0.0, "{gauge}");
    }
    for is_so in ["textgen_database_reachable", "textgen_database_ready", "textgen_charges_database_available"] {
        assert_eq!(scrape.value(is_so, &[]), 1.0, "{is_so}");
    }
    assert!(scrape.value("textgen_caller_cache_lookups_total", &[("result", "hit")]) > 0.0);
    assert!(scrape.value("textgen_database_connections_max", &[]) == 4.0);
}

#[test]
fn strangers_add_no_series_and_see_no_secret() {
    let db = TestDb::new();
    let upstream = Upstream::counting();
    let settings = [
        ("INFERENCE_URL", &*upstream.url),
        ("INFERENCE_API_KEY", "sk-upstream-secret"),
        ("ENCRYPTION_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ];
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    let strange = |n: usize| {
        let name = format!("stranger-{n}");
        client.post(CHAT, &chat(&name, 7, false)).expect(404);
        client.post("/v1/embeddings", &json!({"model": name, "input": "x"}));
        server.inference.with_secret(&name).post(CHAT, &chat("m", 7, false)).expect(401);
        server.inference.with_secret(&name).get("/api/current-user").expect(401);
        for address in [&server.web, &server.inference, &server.audio] {
            address.anonymous().get(&format!("/{name}")).expect(404);
            address.anonymous().header("Host", &name).get(&format!("/v1/models/{name}?{name}"));
            address.anonymous().send(&name.to_uppercase(), &format!("/api/{name}"), None, b"");
        }
        client.post("/v1/chat/completions?x=1", &chat("m", 1, n == 0)).expect(200);
        server.web.anonymous().post("/api/login", &json!({"email": format!("{name}@example.com"), "password": name}));
    };
    strange(0);
    strange(1);
    let series = |scrape: &Scrape| scrape.samples.keys().cloned().collect::<BTreeSet<_>>();
    let before = series(&scrape(&server));
    (2..12).for_each(strange);
    let after = scrape(&server);
    assert_eq!(series(&after).difference(&before).collect::<Vec<_>>(), Vec::<&(String, _)>::new());
    assert!(after.sum("textgen_http_requests_total", &[("operation", "other")]) >= 36.0);
    let text = after.text.to_lowercase();
    for secret in
        ["stranger", "ann@example.com", &user.id, &user.secret, &user.token, "sk-upstream-secret", "mdeymzq1njc4"]
    {
        assert!(!text.contains(&secret.to_lowercase()), "{secret}");
    }
}

#[test]
fn metrics_are_at_their_own_address_only() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[]);
    let user = server.sign_up("ann@example.com");
    for address in [&server.web, &server.inference, &server.audio] {
        address.anonymous().get("/metrics").expect(404);
        user.program(address).get("/metrics").expect(404);
    }
    let metrics = server.metrics.as_ref().unwrap();
    assert!(metrics.0.starts_with("http://127.0.0.1:"), "{metrics:?}");
    for path in ["/", "/api/current-user", "/readyz", "/metrics/", "/v1/models"] {
        user.program(metrics).get(path).expect(404);
    }
    let client = metrics.anonymous();
    assert_eq!(client.send("POST", "/metrics", None, b"x").expect(405).header("allow"), Some("GET, HEAD"));
    assert_eq!(client.send("HEAD", "/metrics", None, b"").expect(200).body.len(), 0);
    client.get("/metrics?name[]=x").expect(200);
    // Scrapes are no requests to a server.
    assert_eq!(scrape(&server).sum("textgen_http_requests_total", &[("operation", "GET /metrics")]), 0.0);
}

#[test]
fn an_address_that_was_set_must_be_free_and_the_usual_one_need_not() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let settings = |metrics| {
        let db = ("DATABASE_URL", "postgresql://127.0.0.1:1/none");
        [db, ("WEB_ADDR", "127.0.0.1:0"), ("METRICS_ADDR", metrics), ("JOURNAL_DIR", "/tmp/textgen-journal-none")]
    };
    let refused = run(&["serve", "web"], &settings(&address), "");
    let why = format!("textgen: METRICS_ADDR: cannot listen on {address}: Address already in use");
    assert!(refused.code == 1 && refused.err.starts_with(&why), "{refused:?}");
    assert_eq!(refused.err.lines().count(), 1, "{refused:?}");

    // Perhaps another process of this machine has it, else this one.
    let _usual = TcpListener::bind("127.0.0.1:9464");
    let process = Process::start(&["serve", "web"], &settings(""));
    let metrics = process.address("metrics");
    assert_ne!(metrics.socket(), "127.0.0.1:9464");
    assert!(
        process.err().contains(&format!("so metrics are at {}; METRICS_ADDR sets", metrics.socket())),
        "{}",
        process.err()
    );
    Scrape::of(&metrics);

    let without = Process::start(&["serve", "web"], &settings("none"));
    let web = without.address("web");
    web.anonymous().get("/liveness_check").expect(200);
    wait_until("the database to be missed", || without.err().contains("not ready"));
    assert!(!without.out().contains("metrics") && !without.err().contains("metrics"), "{}", without.err());
}

#[test]
fn an_outage_is_seen_and_does_not_hold_up_scrapes() {
    let db = TestDb::new();
    let proxy = Proxy::to(&db);
    let upstream = Upstream::counting();
    let server = Server::spawn(&proxy.url(), &[("INFERENCE_URL", &upstream.url)]);
    server.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    client.post(CHAT, &chat("m", 5, false)).expect(200);
    assert_eq!(scrape(&server).value("textgen_revocations_listening", &[]), 1.0);
    proxy.cut();
    server.wait_until("the journal to take charges", || {
        client.post(CHAT, &chat("m", 5, false));
        scrape(&server).value("textgen_charges_total", &[("outcome", "journaled")]) >= 2.0
    });
    server.wait_until("the outage to be noticed", || {
        let scrape = scrape(&server);
        let is_zero = |name| scrape.value(name, &[]) == 0.0;
        is_zero("textgen_revocations_listening") && is_zero("textgen_charges_database_available")
    });
    let during = scrape(&server);
    let journaled = during.value("textgen_charges_total", &[("outcome", "journaled")]);
    assert_eq!(during.value("textgen_journal_charges", &[]), journaled);
    assert!(
        during.value("textgen_journal_bytes", &[]) > 100.0 && during.value("textgen_journal_oldest_seconds", &[]) > 0.0
    );
    let prompt = [("model", "m"), ("unit", "prompt_tokens")];
    let charged = during.value("textgen_charged_units_total", &prompt);
    assert_eq!(charged, 5.0 * (journaled + during.value("textgen_charges_total", &[("outcome", "committed")])));
    proxy.restore();
    server.wait_until("the replay", || {
        let scrape = scrape(&server);
        let replayed =
            ["replayed", "duplicate"].map(|outcome| scrape.value("textgen_charges_total", &[("outcome", outcome)]));
        replayed.iter().sum::<f64>() == journaled && scrape.value("textgen_journal_charges", &[]) == 0.0
    });
    let after = scrape(&server);
    assert_eq!(
        (after.value("textgen_journal_bytes", &[]), after.value("textgen_journal_oldest_seconds", &[])),
        (0.0, 0.0)
    );
}

#[test]
fn failures_of_providers_are_counted_by_kind() {
    let db = TestDb::new();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |seen, wire| match seen.json()["model"].as_str().unwrap() {
        "rate" => wire.json(429, &json!({"error": {"message": "slow down"}})),
        "fault" => wire.json(500, &json!({})),
        "refuse" => wire.json(400, &json!({"error": {"message": "no"}})),
        "die" => wire.die(),
        "close" => {
            wire.start("text/event-stream");
            wire.word("half");
            wire.die();
        }
        _ => {
            wire.start("text/event-stream");
            wire.word("one");
            wait.lock().unwrap().recv().unwrap();
            wire.finish(1, 1);
        }
    });
    let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url)]);
    let user = server.sign_up("ann@example.com");
    let provider = ("provider", upstream.url.as_str());
    let mut running = Raw::post(&server.inference, &user.secret, CHAT, &chat("m", 1, true));
    running.until("one");
    assert_eq!(scrape(&server).value("textgen_upstream_in_flight", &[provider]), 1.0);
    assert_eq!(scrape(&server).value("textgen_upstream_up", &[provider]), 1.0);
    go.send(()).unwrap();
    running.rest();
    let client = user.program(&server.inference);
    // It is asked after a failure too, as there is no other.
    for (model, outcome, status) in
        [("refuse", "answered", 400), ("fault", "error", 502), ("rate", "too_many", 429), ("die", "failed", 502)]
    {
        client.post(CHAT, &chat(model, 1, false)).expect(status);
        let seen = scrape(&server);
        let of_model = [provider, ("model", model)];
        let calls = [of_model[0], of_model[1], ("outcome", outcome)];
        assert_eq!(seen.sum("textgen_upstream_calls_total", &calls), 1.0, "{model}");
        assert_eq!(seen.sum("textgen_upstream_calls_total", &of_model), 1.0, "{model}");
    }
    assert_eq!(scrape(&server).value("textgen_upstream_up", &[provider]), 0.0, "it is left out for a while");
    Raw::post(&server.inference, &user.secret, CHAT, &chat("close", 1, true)).rest();
    let broken = [provider, ("model", "close")];
    server.wait_until("the end of all calls", || {
        let seen = scrape(&server);
        seen.sum("textgen_upstream_broken_replies_total", &broken) == 1.0
            && seen.value("textgen_upstream_in_flight", &[provider]) == 0.0
    });
}

#[test]
fn refusals_of_limits_are_counted_by_kind() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("INFERENCE_URL", &Upstream::counting().url)]);
    let user = server.sign_up("ann@example.com");
    server.wait_until_listening();
    let key = |limits: Value| {
        let mut fields = json!({"name": "limited"});
        fields.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
        let reply = user.browser.post("/api/keys", &fields).expect(200).json();
        server.inference.with_secret(reply["secret"].as_str().unwrap())
    };
    let refused = |kind| scrape(&server).value("textgen_limit_refused_total", &[("kind", kind)]);
    let poor = key(json!({"budget": {"limit_micros": 0}}));
    poor.post(CHAT, &chat("m", 1, false)).expect(402);
    assert_eq!((refused("budget"), refused("requests")), (1.0, 0.0));
    let slow = key(json!({"rate": {"requests_per_minute": 1}}));
    slow.post(CHAT, &chat("m", 1, false)).expect(200);
    slow.post(CHAT, &chat("m", 1, false)).expect(429);
    assert_eq!((refused("budget"), refused("requests"), refused("tokens")), (1.0, 1.0, 0.0));
    let rich = key(json!({"budget": {"limit_micros": 1_000_000_000}}));
    rich.post(CHAT, &chat("m", 1, false)).expect(200);
    assert!(scrape(&server).value("textgen_budget_leases", &[]) >= 1.0);
}

/// What Prometheus' own tool says of the text and of the alerts, where it is installed (Debian's package `prometheus`).
#[test]
fn promtool_finds_no_fault() {
    let promtool = |args: &[&str], input: &str| {
        let mut command = Command::new("promtool");
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().ok()?;
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Some((output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
    };
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/alerts.yml");
    let Some((is_good, said)) = promtool(&["check", "rules", rules], "") else {
        return println!("there is no promtool: the alerts were not checked by it");
    };
    assert!(is_good, "{said}");
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let user = server.sign_up("ann@example.com");
    user.program(&server.inference).post(CHAT, &chat("demo", 1, false)).expect(200);
    let (is_good, said) = promtool(&["check", "metrics"], &scrape(&server).text).unwrap();
    assert!(is_good, "{said}");
}

#[test]
fn refusals_that_no_operation_sees_and_the_delay_of_notifications_are_shown() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let refused = |status| scrape(&server).sum("textgen_http_refused_total", &[("status", status)]);
    assert_eq!(refused("400"), 0.0);
    for garbage in ["garbage\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"] {
        let mut socket = std::net::TcpStream::connect(server.web.socket()).unwrap();
        socket.write_all(garbage.as_bytes()).unwrap();
        let mut reply = String::new();
        std::io::Read::read_to_string(&mut socket, &mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
    }
    server.wait_until("both to be counted", || refused("400") == 2.0);

    // It has none before the first was sent.
    let lag = || scrape(&server).sum("textgen_revocation_lag_seconds", &[]);
    server.wait_until("the first notification", || lag() > 0.0 && lag() < 5.0);
}
