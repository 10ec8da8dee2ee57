//! The models of the servers that the settings name, where no catalogue is stored: those that they list.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Server, TestDb, Upstream, User, done, final_charges, run};

const CHAT: &str = "/v1/chat/completions";

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
}

fn answer() -> Value {
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 3});
    json!({"choices": [{"message": {"content": "Hi"}}], "usage": usage})
}

fn answers() -> Upstream {
    Upstream::constant(200, answer())
}

fn start(urls: &[&str], settings: &[(&str, &str)]) -> (TestDb, Server, User, Client) {
    let db = TestDb::new();
    let url = urls.join(",");
    let settings: Vec<_> = [("INFERENCE_URL", url.as_str())].into_iter().chain(settings.iter().copied()).collect();
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@example.com");
    let client = user.program(&server.inference);
    (db, server, user, client)
}

fn ids(client: &Client) -> Vec<String> {
    let list = client.get("/v1/models").expect(200).json();
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

/// The models that a server was asked for.
fn asked(upstream: &Upstream) -> Vec<Value> {
    upstream.seen().iter().map(|seen| seen.json()["model"].clone()).collect()
}

fn charged(charges: &[Value]) -> Vec<&str> {
    charges.iter().map(|charge| charge["model"].as_str().unwrap()).collect()
}

#[test]
fn two_servers_with_different_models_each_get_theirs() {
    let (one, two) = (answers().listing(&["a", "vendor/both"]), answers().listing(&["vendor/both", "b"]));
    let (db, server, _, client) = start(&[&one.url, &two.url], &[]);
    for _ in 0..4 {
        client.post(CHAT, &chat("a")).expect(200);
        client.post(CHAT, &chat("b")).expect(200);
        client.post(CHAT, &chat("vendor/both")).expect(200);
    }
    client.post(CHAT, &json!({"messages": []})).expect(200);
    for name in ["A", "c", "default", "both"] {
        let reply = client.post(CHAT, &chat(name)).expect(404);
        assert_eq!(reply.json()["error"]["code"], "model_not_found");
    }
    let count = |upstream: &Upstream, name: &str| asked(upstream).iter().filter(|model| *model == name).count();
    assert_eq!((count(&one, "a"), count(&one, "b"), count(&two, "a"), count(&two, "b")), (5, 0, 0, 4));
    assert_eq!(count(&one, "vendor/both") + count(&two, "vendor/both"), 4);
    assert!(count(&one, "vendor/both") > 0 && count(&two, "vendor/both") > 0, "both are used");
    assert_eq!(ids(&client), ["a", "vendor/both", "b"]);
    assert_eq!(client.get("/v1/models/vendor/both").expect(200).json()["id"], "vendor/both");
    client.get("/v1/models/both").expect(404);
    assert_eq!(final_charges(&db, server).len(), 13);
}

#[test]
fn the_list_of_a_server_that_is_down_is_kept_and_one_that_comes_back_is_read() {
    // One that is down from the beginning.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed_url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let one = answers().listing(&["a"]);
    let (_db, server, _, client) = start(&[&one.url, &closed_url], &[]);
    client.post(CHAT, &chat("a")).expect(200);
    assert_eq!(ids(&client), ["a"], "what is known");
    client.get("/v1/models/a").expect(200);
    // It may be a model of the other server.
    client.post(CHAT, &chat("b")).expect(502);
    assert_eq!(one.seen().len(), 1);
    assert!(server.log().contains("does not list its models"), "{}", server.log());
    let place = closed_url.strip_prefix("http://").unwrap();
    let back = Upstream::start_at(place, &["b"], |_, wire| wire.json(200, &answer()));
    server.wait_until("the list", || client.post(CHAT, &chat("b")).status == 200);
    assert_eq!((asked(&back), ids(&client)), (vec![json!("b")], vec!["a".to_owned(), "b".to_owned()]));
    client.post(CHAT, &chat("c")).expect(404);
}

#[test]
fn the_model_of_the_settings_is_the_default_and_the_only_one_of_servers_without_a_list() {
    let upstream = answers().without_list();
    let (db, server, _, client) = start(&[&upstream.url], &[("INFERENCE_MODEL", "mine")]);
    client.post(CHAT, &chat("mine")).expect(200);
    client.post(CHAT, &json!({"messages": []})).expect(200);
    client.post(CHAT, &chat("other")).expect(404);
    assert_eq!(asked(&upstream), ["mine", "mine"]);
    assert_eq!(ids(&client), ["mine"]);
    assert_eq!(charged(&final_charges(&db, server)), ["mine", "mine"]);
    // One that is not listed, beside those that are.
    let upstream = answers().listing(&["listed"]);
    let (db, server, _, client) = start(&[&upstream.url], &[("INFERENCE_MODEL", "mine")]);
    client.post(CHAT, &json!({"messages": []})).expect(200);
    client.post(CHAT, &chat("listed")).expect(200);
    client.post(CHAT, &chat("other")).expect(404);
    assert_eq!(asked(&upstream), ["mine", "listed"]);
    assert_eq!(charged(&final_charges(&db, server)), ["mine", "listed"]);
}

#[test]
fn a_server_without_a_list_takes_every_name_at_one_price() {
    let upstream = answers().without_list();
    let (db, server, user, client) = start(&[&upstream.url], &[("SPEECH_URL", &upstream.url)]);
    for name in ["gpt-x", "free", "default"] {
        client.post(CHAT, &chat(name)).expect(200);
    }
    client.post(CHAT, &json!({"messages": []})).expect(200);
    client.post("/api/v1/generate", &json!({"text": "a", "model": "best"})).expect(200);
    // The older routes pass names on too.
    client.post("/api/v1/generate", &json!({"text": "a", "model": "gpt-y"})).expect(200);
    client.post("/api/v1/generate-bulk", &json!([{"text": "a", "model": "gpt-z"}])).expect(200);
    client.post("/v1/engines/davinci/completions", &json!({"prompt": "a"})).expect(200);
    let names = ["gpt-x", "free", "default", "default", "default", "gpt-y", "gpt-z", "davinci"];
    assert_eq!(asked(&upstream), names);
    user.program(&server.audio).post("/v1/audio/speech", &json!({"model": "s", "input": "a"})).expect(502);
    assert_eq!(charged(&final_charges(&db, server)), ["default"; 8]);
}

#[test]
fn the_demo_engine_has_one_model() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let client = server.sign_up("ann@example.com").program(&server.inference);
    client.post(CHAT, &chat("demo")).expect(200);
    client.post(CHAT, &chat("gpt-x")).expect(404);
    assert_eq!(charged(&final_charges(&db, server)), ["demo"]);
}

#[test]
fn a_server_that_does_not_send_its_list_holds_nobody_up() {
    let two = answers().listing(&["b"]);
    // It takes connections, and does not answer.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let (_db, server, user, client) = start(&[&silent_url, &two.url], &[("EMBEDDINGS_URL", &silent_url)]);
    let began = Instant::now();
    client.post(CHAT, &chat("b")).expect(200);
    assert_eq!(ids(&client), ["b"]);
    // Whether these are models of the first server is not known yet.
    for body in [chat("a"), json!({"messages": []})] {
        let refused = client.post(CHAT, &body).expect(503);
        assert!(refused.header("retry-after").is_some());
    }
    user.browser.get("/playground").expect(200);
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(asked(&two), ["b"]);
    drop(server);
}

#[test]
fn the_default_model_is_that_of_the_first_server_though_it_is_the_last_to_answer() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = closed.local_addr().unwrap().to_string();
    drop(closed);
    let two = answers().listing(&["b"]);
    let (db, server, _, client) = start(&[&format!("http://{place}"), &two.url], &[]);
    client.post(CHAT, &chat("b")).expect(200);
    client.post(CHAT, &json!({"messages": []})).expect(502);
    let one = Upstream::start_at(&place, &["a"], |_, wire| wire.json(200, &answer()));
    server.wait_until("the list", || client.post(CHAT, &json!({"messages": []})).status == 200);
    assert_eq!((asked(&one), asked(&two)), (vec![json!("a")], vec![json!("b")]));
    assert_eq!(charged(&final_charges(&db, server)), ["b", "a"]);
}

#[test]
fn administrators_see_why_there_is_no_model() {
    let failing = Upstream::start_at("127.0.0.1:0", &[], |_, wire| wire.json(500, &json!({})));
    let (lists, has_none) = (answers().listing(&["a", "b"]), answers().without_list());
    let db = TestDb::new();
    let failing_list = format!("{}/v1/failing", failing.url);
    let text = format!("{},{},http://127.0.0.1:1", lists.url, has_none.url);
    let settings = [("INFERENCE_URL", text.as_str()), ("SPEECH_URL", &failing_list)];
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("root@example.com");
    done(run(&["user", "promote", "root@example.com"], &[("DATABASE_URL", &db.url())], ""));
    let page = || user.browser.header("accept", "text/html").get("/admin").text();
    server.wait_until("the lists", || page().contains("2 models, 1 servers without a list; http://127.0.0.1:1: "));
    let page = page();
    assert!(page.contains("The model server cannot be reached"), "{page}");
    assert!(page.contains("The model server does not list its models"), "{page}");
    assert_eq!(page.matches("Not configured").count(), 5, "{page}");
}
