//! Traces: a collector sees where the time of a request went, model servers are told of the trace, and no request waits
//! for a collector.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Scrape, Server, TestDb, Upstream, at_once, wait_until};

const CHAT: &str = "/v1/chat/completions";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A collector that takes what it gets.
fn collector() -> Upstream {
    Upstream::constant(200, json!({}))
}

fn settings<'a>(collector: &'a Upstream, upstream: &'a Upstream) -> [(&'static str, &'a str); 3] {
    let endpoint = collector.url.strip_suffix("/v1").unwrap_or(&collector.url);
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("INFERENCE_URL", &upstream.url),
    ]
}

/// A span as the collector got it.
#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: i64,
    began: u128,
    ended: u128,
    attributes: BTreeMap<String, Value>,
    events: Vec<String>,
}

fn spans(collector: &Upstream) -> Vec<Span> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut spans = Vec::new();
    for request in collector.seen().iter().filter(|request| request.path == "/v1/traces") {
        for resource in list(&request.json(), "resourceSpans") {
            let service = list(&resource["resource"], "attributes");
            assert!(service.iter().any(|a| a["key"] == "service.name" && a["value"]["stringValue"] == "textgen"));
            for span in list(&resource, "scopeSpans").iter().flat_map(|scope| list(scope, "spans")) {
                let time = |name: &str| text(&span[name]).parse().unwrap();
                spans.push(Span {
                    trace: text(&span["traceId"]),
                    id: text(&span["spanId"]),
                    parent: text(&span["parentSpanId"]),
                    name: text(&span["name"]),
                    kind: span["kind"].as_i64().unwrap(),
                    began: time("startTimeUnixNano"),
                    ended: time("endTimeUnixNano"),
                    attributes: list(&span, "attributes")
                        .into_iter()
                        .map(|a| (text(&a["key"]), a["value"].as_object().unwrap().values().next().unwrap().clone()))
                        .collect(),
                    events: list(&span, "events").iter().map(|event| text(&event["name"])).collect(),
                });
            }
        }
    }
    spans
}

fn chat(stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "7"}], "stream": stream})
}

#[test]
fn a_collector_sees_a_whole_trace_of_a_streamed_chat_and_of_its_charge() {
    let (db, collector, upstream) = (TestDb::new(), collector(), Upstream::counting());
    let server = Server::start_with(&db, &settings(&collector, &upstream));
    let user = server.sign_up("ann@example.com");
    let client =
        user.program(&server.inference).header("traceparent", &traceparent("01")).header("tracestate", "vendor=x");
    client.post(CHAT, &chat(true)).expect(200);
    let of_trace = || spans(&collector).into_iter().filter(|span| span.trace == TRACE).collect::<Vec<_>>();
    server.wait_until("the trace", || of_trace().iter().any(|span| span.parent == PARENT));
    let spans = of_trace();
    let only = |name: &str, kind: i64| {
        let found: Vec<_> = spans.iter().filter(|span| span.name == name && span.kind == kind).collect();
        assert_eq!(found.len(), 1, "{name}: {spans:#?}");
        found[0].clone()
    };
    // 2 is a server, 3 a client, 1 within the process.
    let root = only("POST /v1/chat/completions", 2);
    assert_eq!(root.parent, PARENT);
    assert_eq!(root.attributes["http.response.status_code"], "200");
    assert_eq!(root.attributes["http.route"], "/v1/chat/completions");
    assert_eq!(root.events, ["first byte"]);
    let authentication = only("authenticate", 1);
    assert_eq!(authentication.parent, root.id);
    let lookup = spans.iter().find(|span| span.name == "database" && span.parent == authentication.id).unwrap();
    assert!(lookup.attributes["db.query.text"].as_str().unwrap().contains("SELECT"));
    let call = only("POST /v1/chat/completions", 3);
    assert_eq!((&call.parent, &call.events), (&root.id, &vec!["first piece".to_owned()]));
    assert_eq!(call.attributes["gen_ai.request.model"], "m");
    let charge = only("charge", 1);
    assert_eq!((&charge.parent, &charge.attributes["textgen.model"]), (&root.id, &json!("m")));
    assert!(charge.attributes["textgen.tokens"].as_str().unwrap().parse::<i64>().unwrap() > 0);
    for span in &spans {
        assert!(root.began <= span.began && span.began <= span.ended && span.ended <= root.ended, "{span:?}");
    }

    let sent = upstream.only();
    assert_eq!(sent.header("traceparent"), Some(&*format!("00-{TRACE}-{}-01", call.id)));
    assert_eq!(sent.header("tracestate"), Some("vendor=x"));
    assert!(collector.seen().iter().all(|request| !request.text().contains(&user.secret)), "a secret in a trace");
}

#[test]
fn a_reply_that_waits_for_its_charge_ends_its_trace_after_it() {
    let (db, collector, upstream) = (TestDb::new(), collector(), Upstream::counting());
    let server = Server::start_with(&db, &settings(&collector, &upstream));
    let client = server.sign_up("ann@example.com").program(&server.inference);
    client.post(CHAT, &chat(false)).expect(200);
    client.header("Idempotency-Key", "one").post(CHAT, &chat(false)).expect(200);
    let roots = || spans(&collector).into_iter().filter(|span| span.name.ends_with("completions") && span.kind == 2);
    server.wait_until("both traces", || roots().count() == 2);
    for root in roots() {
        let spans: Vec<_> = spans(&collector).into_iter().filter(|span| span.trace == root.trace).collect();
        let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
        assert_eq!(root.parent, "", "a trace of its own");
        assert_eq!((named("charge").len(), named("charge")[0].parent == root.id), (1, true), "{spans:#?}");
        assert!(named("charge")[0].ended <= root.ended);
    }
}

#[test]
fn what_is_not_sampled_is_not_sent_but_passed_on() {
    let (db, collector, upstream) = (TestDb::new(), collector(), Upstream::counting());
    let server = Server::start_with(&db, &settings(&collector, &upstream));
    let client = server.sign_up("ann@example.com").program(&server.inference);
    client.header("traceparent", &traceparent("00")).post(CHAT, &chat(false)).expect(200);
    let sent = upstream.only().header("traceparent").unwrap().to_owned();
    assert!(sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-00"), "{sent}");
    client.post(CHAT, &chat(false)).expect(200);
    server.wait_until("the other one", || spans(&collector).iter().any(|span| span.name == "charge"));
    assert!(spans(&collector).iter().all(|span| span.trace != TRACE));
}

#[test]
fn without_a_collector_a_trace_is_passed_on_as_it_came() {
    let (db, upstream) = (TestDb::new(), Upstream::counting());
    let server = Server::start_with(&db, &[("INFERENCE_URL", &upstream.url)]);
    let client = server.sign_up("ann@example.com").program(&server.inference);
    let traced = client.header("traceparent", &traceparent("01")).header("tracestate", "a=b,c=d");
    for body in [chat(false), chat(true), json!([{"text": "7"}])] {
        let path = if body.is_array() { "/api/v1/generate-bulk" } else { CHAT };
        traced.post(path, &body).expect(200);
    }
    client.header("traceparent", "00-nonsense-01").post(CHAT, &chat(false)).expect(200);
    client.post(CHAT, &chat(false)).expect(200);
    let seen = upstream.seen();
    let seen: Vec<_> = seen.iter().filter(|request| request.method == "POST").collect();
    let headers = |name: &str| seen.iter().map(|request| request.header(name)).collect::<Vec<_>>();
    let parent = traceparent("01");
    assert_eq!(headers("traceparent"), [Some(&*parent), Some(&*parent), Some(&*parent), None, None]);
    assert_eq!(headers("tracestate"), [Some("a=b,c=d"), Some("a=b,c=d"), Some("a=b,c=d"), None, None]);
}

#[test]
fn a_collector_that_hangs_stops_nothing() {
    let db = TestDb::new();
    let (hangs, upstream) = (Arc::new(AtomicBool::new(true)), Upstream::counting());
    let is_hanging = hangs.clone();
    let collector = Upstream::start(move |_, reply| {
        while is_hanging.load(SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        reply.json(200, &json!({}));
    });
    let server = Server::start_with(&db, &settings(&collector, &upstream));
    let user = server.sign_up("ann@example.com");
    let outcome = |outcome| {
        Scrape::of(server.metrics.as_ref().unwrap()).value("textgen_trace_spans_total", &[("outcome", outcome)])
    };
    // Each request has two spans at least, and 2048 may wait.
    at_once(8, |_| {
        let client = user.program(&server.inference);
        (0..200).for_each(|_| drop(client.get("/api/current-user").expect(200)));
    });
    assert!(outcome("dropped") > 0.0, "{}", outcome("dropped"));
    hangs.store(false, SeqCst);
    wait_until("the collector to have the rest", || outcome("sent") >= 2000.0);
    user.program(&server.inference).get("/api/current-user").expect(200);
    hangs.store(true, SeqCst);
    drop(server);
    hangs.store(false, SeqCst);
}
