//! Which model a request gets: names and aliases of the catalogue, its routes, and what unknown names do not do.

use serde_json::{Value, json};

use crate::harness::{
    Client, Cluster, Server, TestDb, Upstream, User, charges, done, final_charges, only_charge, run, wait_until,
};
use crate::recordings::{heard, multipart, wav};

const CHAT: &str = "/v1/chat/completions";
const BOUNDARY: Option<&str> = Some("multipart/form-data; boundary=bnd");

pub(crate) fn apply(db: &TestDb, file: &str) {
    done(run(&["models", "apply", "-"], &[("DATABASE_URL", &db.url())], file));
}

pub(crate) fn provider(name: &str, upstream: &Upstream, protocols: &str) -> String {
    format!("[[provider]]\nname = {name:?}\nbase_url = \"{}/v1\"\nprotocols = {protocols}\n", upstream.url)
}

/// A model with a price per request, in micro-dollars, and its routes: `(provider, its name there, priority)`.
pub(crate) fn model(name: &str, more: &str, request_micros: i64, routes: &[(&str, &str, i64)]) -> String {
    let mut text = format!(
        "[[model]]\nname = {name:?}\nprice = {{ request = \"0.{request_micros:06}\", input = \"0\", output = \"0\" }}\n{more}\n"
    );
    for (provider, model, priority) in routes {
        text += &format!("[[model.route]]\nprovider = {provider:?}\nmodel = {model:?}\npriority = {priority}\n");
    }
    text
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
}

fn answers() -> Upstream {
    Upstream::start(|seen, wire| {
        let usage = json!({"prompt_tokens": 5, "completion_tokens": 3});
        match seen.path.as_str() {
            "/v1/embeddings" => {
                wire.json(200, &json!({"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 5}}));
            }
            "/v1/audio/transcriptions" | "/v1/audio/translations" => wire.json(200, &heard()),
            "/v1/audio/speech" => wire.reply(200, "audio/wav", wav()),
            _ if seen.json()["stream"] == true => {
                wire.start("text/event-stream");
                wire.word("Hi");
                wire.finish(5, 3);
            }
            _ => wire.json(200, &json!({"choices": [{"text": "Hi", "message": {"content": "Hi"}}], "usage": usage})),
        }
    })
}

/// A server with a catalogue of two chat models, one of which has other names.
fn start(upstream: &Upstream) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let tiny = model("Tiny", "aliases = [\"small\", \"vendor/tiny\"]", 7, &[("p", "upstream-tiny", 0)]);
    apply(&db, &[provider("p", upstream, "[\"chat\"]"), tiny, model("dear", "", 900, &[("p", "dear", 0)])].join("\n"));
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

/// The canonical name and the cost of each charge.
fn charged(charges: &[Value]) -> Vec<(String, i64)> {
    let charge =
        |charge: &Value| (charge["model"].as_str().unwrap().to_owned(), charge["cost_micros"].as_i64().unwrap());
    charges.iter().map(charge).collect()
}

#[test]
fn names_are_exact_and_aliases_cost_what_the_model_costs() {
    let upstream = answers();
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    for name in ["Tiny", "small", "vendor/tiny"] {
        client.post(CHAT, &chat(name)).expect(200);
        client.post("/v1/completions", &json!({"prompt": "a", "model": name})).expect(200);
    }
    client.post(CHAT, &json!({"messages": []})).expect(200);
    client.post("/api/v1/generate", &json!({"text": "a", "model": "small"})).expect(200);
    client.post("/api/v1/generate", &json!({"text": "a", "model": "best"})).expect(200);
    client.post("/api/v1/summarization", &json!({"text": "a"})).expect(200);
    client.post("/v1/engines/small/completions", &json!({"prompt": "a"})).expect(200);
    client.post("/v1/engines/vendor%2Ftiny/completions", &json!({"prompt": "a"})).expect(200);
    client.post("/v1/engines/davinci/completions", &json!({"prompt": "a"})).expect(200);
    let calls = upstream.seen();
    assert_eq!(calls.len(), 13);
    assert!(calls.iter().all(|seen| seen.json()["model"] == "upstream-tiny"), "the provider's name of the model");
    for name in ["tiny", "TINY", "Tiny ", " Tiny", "upstream-tiny", "p", "default", "free", "Smal", "no-such-model"] {
        let reply = client.post(CHAT, &chat(name)).expect(404);
        let error = &reply.json()["error"];
        assert_eq!((&error["code"], &error["type"]), (&json!("model_not_found"), &json!("invalid_request_error")));
        assert!(error["message"].as_str().unwrap().contains(name), "{error}");
    }
    // What another reader of the body could take for the model is no request at all.
    let messages = r#""messages":[]"#;
    for body in [
        format!(r#"{{"model":"Tiny","Model":"dear",{messages}}}"#),
        format!(r#"{{"model":"Tiny","model":"dear",{messages}}}"#),
    ] {
        client.send("POST", CHAT, Some("application/json"), body.as_bytes()).expect(400);
    }
    assert_eq!(upstream.seen().len(), 13, "refused before any call");
    client.post(CHAT, &chat("dear")).expect(200);
    let mut all = charged(&final_charges(&db, server));
    assert_eq!(all.pop(), Some(("dear".to_owned(), 900)));
    assert_eq!(all, vec![("Tiny".to_owned(), 7); 13]);
}

/// Every charged route with a model that does not exist: 404 in its own shape, and nothing else happens.
#[test]
fn no_route_does_anything_for_an_unknown_model() {
    let (upstream, db) = (answers(), TestDb::new());
    let all = provider("p", &upstream, "[\"chat\", \"embeddings\", \"audio\"]");
    apply(&db, &[all, model("known", "", 7, &[("p", "known", 0)])].join("\n"));
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let keyed = |client: Client| client.header("idempotency-key", "k1");
    let (inference, audio) = (keyed(user.program(&server.inference)), keyed(user.program(&server.audio)));
    let message = json!([{"role": "user", "content": "a"}]);
    for (client, path, body) in [
        (&inference, CHAT, json!({"model": "x", "messages": message})),
        (&inference, CHAT, json!({"model": "x", "messages": message, "stream": true})),
        (&inference, "/v1/completions", json!({"model": "x", "prompt": "a"})),
        (&inference, "/v1/engines/known/completions", json!({"model": "x", "prompt": "a"})),
        (&inference, "/v1/embeddings", json!({"model": "x", "input": "a"})),
        (&audio, "/v1/audio/speech", json!({"model": "x", "input": "a", "voice": "af"})),
    ] {
        let reply = client.post(path, &body).expect(404);
        assert_eq!(reply.json()["error"]["code"], "model_not_found", "{path}");
    }
    let item = |model: &str| json!({"text": "a", "model": model});
    for (path, body) in [("/api/v1/generate", item("x")), ("/api/v1/generate-bulk", json!([item("known"), item("x")]))]
    {
        let reply = inference.post(path, &body).expect(404);
        assert!(reply.json()["detail"].as_str().unwrap().contains("\"x\""), "{path}: {}", reply.text());
    }
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations"] {
        for fields in [&[("model", &b"x"[..]), ("file*", &wav())], &[("file*", &wav()[..]), ("model", b"x")]] {
            let reply = audio.send("POST", path, BOUNDARY, &multipart(fields)).expect(404);
            assert_eq!(reply.json()["error"]["code"], "model_not_found", "{path}");
        }
    }
    let fields = [("prompt", "a"), ("model", "x")];
    user.browser.form("/playground/ask", &fields).expect(404);
    user.browser.post(CHAT, &chat("x")).expect(404);
    assert_eq!(upstream.seen().len(), 0, "{:?}", upstream.seen());
    // Routes whose requests name no model, once there is none for them.
    let embeds = provider("p", &upstream, "[\"messages\"]");
    apply(&db, &[embeds, model("known", "", 7, &[("p", "known", 0)])].join("\n"));
    server.wait_until("the change", || user.browser.post(CHAT, &chat("known")).status == 404);
    let before = upstream.seen().len();
    for (client, path, body) in [
        (&inference, CHAT, json!({"messages": message})),
        (&inference, "/api/v1/generate", json!({"text": "a"})),
        (&inference, "/api/v1/summarization", json!({"text": "a"})),
        (&inference, "/api/v1/feature-extraction", json!({"text": "a"})),
        (&audio, "/api/v1/generate_speech", json!({"text": "a"})),
        (&audio, "/api/v1/audio-extraction", json!({"audio_url": "http://127.0.0.1:1/x.wav"})),
    ] {
        let reply = client.post(path, &body).expect(404);
        assert!(reply.text().contains("There is no model for this"), "{path}: {}", reply.text());
    }
    let body = multipart(&[("audio_file*", &wav())]);
    audio.send("POST", "/api/v1/audio-file-extraction", BOUNDARY, &body).expect(404);
    user.browser.form("/playground/speak", &[("input", "a")]).expect(404);
    assert_eq!(upstream.seen().len(), before, "{:?}", upstream.seen());
    assert_eq!(db.count("SELECT count(*) FROM idempotency_claims"), 0);
    assert_eq!(final_charges(&db, server).len(), before);
}

#[test]
fn a_key_is_not_used_up_by_an_unknown_model() {
    let upstream = answers();
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference).header("idempotency-key", "k1");
    client.post(CHAT, &chat("tiny")).expect(404);
    assert_eq!(db.count("SELECT count(*) FROM idempotency_claims"), 0);
    client.post(CHAT, &chat("Tiny")).expect(200);
    assert_eq!(client.post(CHAT, &chat("Tiny")).expect(200).header("idempotent-replayed"), Some("true"));
    assert_eq!(charged(&[only_charge(&db, &server)]), [("Tiny".to_owned(), 7)]);
}

#[test]
fn the_next_route_is_asked_under_its_own_name_of_the_model() {
    let (failing, works, db) = (Upstream::constant(503, json!({})), answers(), TestDb::new());
    let file = [
        provider("first", &failing, "[\"chat\", \"audio\"]"),
        provider("second", &works, "[\"chat\", \"audio\"]"),
        model("m", "aliases = [\"alias\"]", 7, &[("first", "name-at-first", 0), ("second", "name-at-second", 1)]),
    ];
    apply(&db, &file.join("\n"));
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    user.program(&server.inference).post(CHAT, &chat("alias")).expect(200);
    assert_eq!(failing.only().json()["model"], "name-at-first");
    assert_eq!(works.only().json()["model"], "name-at-second");
    let body = multipart(&[("file*", &wav()), ("model", b"alias")]);
    user.program(&server.audio).send("POST", "/v1/audio/transcriptions", BOUNDARY, &body).expect(200);
    let heard = works.seen().pop().unwrap().text();
    assert!(heard.contains("name=\"model\"\r\n\r\nname-at-second\r\n") && !heard.contains("alias"), "{heard}");
    let models: Vec<_> = charged(&final_charges(&db, server)).into_iter().map(|(model, _)| model).collect();
    assert_eq!(models, ["m", "m"]);
}

#[test]
fn nothing_of_an_upload_is_sent_before_its_model_is_known() {
    let (one, other, db) = (answers(), answers(), TestDb::new());
    let file = [
        provider("one", &one, "[\"audio\"]"),
        provider("other", &other, "[\"audio\"]"),
        model("default-model", "", 7, &[("one", "default-there", 0)]),
        model("elsewhere", "aliases = [\"2\"]", 9, &[("other", "elsewhere-there", 0)]),
    ];
    apply(&db, &file.join("\n"));
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").program(&server.audio);
    let recording = |bytes: usize| textgen::wav::file(8000, 16, &vec![0; bytes]);
    let (large, larger) = (recording(4 << 20), recording(26 << 20));
    let send = |fields: &[(&str, &[u8])]| client.send("POST", "/v1/audio/transcriptions", BOUNDARY, &multipart(fields));
    // The whole of a large upload is read first.
    send(&[("file*", &large), ("model", b"2"), ("language", b"de")]).expect(200);
    let heard = other.only().text();
    assert!(
        heard.contains("name=\"model\"\r\n\r\nelsewhere-there\r\n") && heard.contains("name=\"language\""),
        "{heard}"
    );
    assert_eq!(other.only().body.len() / large.len(), 1, "all of it");
    send(&[("file*", &large), ("model", b"nothing")]).expect(404);
    send(&[("file*", &large)]).expect(200);
    assert!(one.only().text().contains("name=\"model\"\r\n\r\ndefault-there\r\n"));
    // A larger one is not, so it must name its model before.
    let refusal = send(&[("file*", &larger), ("model", b"elsewhere")]).expect(400);
    assert!(refusal.text().contains("the field model must come before the file"), "{}", refusal.text());
    assert_eq!((one.seen().len(), other.seen().len()), (1, 1), "nothing was sent for those");
    send(&[("model", b"elsewhere"), ("file*", &larger)]).expect(200);
    let models: Vec<_> = charged(&final_charges(&db, server)).into_iter().map(|(model, _)| model).collect();
    assert_eq!(models, ["elsewhere", "default-model", "elsewhere"]);
}

#[test]
fn the_output_of_a_model_is_limited() {
    let (upstream, db) = (answers(), TestDb::new());
    let limited = model("m", "max_output_tokens = 50", 7, &[("p", "m", 0)]);
    apply(&db, &[provider("p", &upstream, "[\"chat\"]"), limited].join("\n"));
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").program(&server.inference);
    let asked = |fields: Value| {
        let mut body = chat("m");
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        client.post(CHAT, &body).expect(200);
        let seen = upstream.seen().pop().unwrap().json();
        (seen["max_tokens"].clone(), seen["max_completion_tokens"].clone())
    };
    assert_eq!(asked(json!({})), (Value::Null, Value::Null), "left to the provider");
    assert_eq!(asked(json!({"max_tokens": 50})), (json!(50), Value::Null));
    assert_eq!(asked(json!({"max_tokens": 51, "max_completion_tokens": 9})), (json!(50), json!(9)));
    assert_eq!(asked(json!({"max_tokens": 1_000_000, "max_completion_tokens": -1})), (json!(50), json!(50)));
    for none in [json!("100"), json!(1e30), json!(10.5)] {
        client.post(CHAT, &json!({"messages": [], "max_tokens": none})).expect(400);
    }
    client.post("/api/v1/generate", &json!({"text": "a", "max_length": 600})).expect(200);
    assert_eq!(upstream.seen().pop().unwrap().json()["max_tokens"], 50);
    client.post("/v1/engines/x/completions", &json!({"prompt": "a"})).expect(200);
    assert_eq!(upstream.seen().pop().unwrap().json()["max_tokens"], 50, "the default of this route is 100");
    client.post("/v1/completions", &json!({"prompt": "a"})).expect(200);
    assert_eq!(
        upstream.seen().pop().unwrap().json(),
        json!({"prompt": "a", "model": "m"}),
        "nothing is added that was not asked for"
    );
}

#[test]
fn every_process_follows_a_change_without_a_restart() {
    let (one, two, db) = (answers(), answers(), TestDb::new());
    // The settings say what can be called until there is a catalogue.
    let settings = [("INFERENCE_URL", one.url.as_str())];
    let servers = [Server::start_with(&db, &settings), Server::start_with(&db, &settings)];
    let user = servers[0].sign_up("ann@example.com");
    let clients = servers.each_ref().map(|server| user.program(&server.inference));
    let everywhere = |what: &str, name: &str, status: u16| {
        for client in &clients {
            wait_until(what, || client.post(CHAT, &chat(name)).status == status);
        }
    };
    everywhere("the settings' model", "m", 200);
    everywhere("no other", "new", 404);
    apply(&db, &[provider("p", &two, "[\"chat\"]"), model("new", "", 7, &[("p", "new", 0)])].join("\n"));
    everywhere("the new model", "new", 200);
    everywhere("only models of the catalogue", "m", 404);
    let ids = |client: &Client| client.get("/v1/models").expect(200).json()["data"].clone();
    assert!(clients.iter().all(|client| ids(client).as_array().unwrap().len() == 1 && ids(client)[0]["id"] == "new"));
    db.run("INSERT INTO model_names (name, model, position, is_alias) VALUES ('newer', 'new', 2, true)");
    everywhere("a change by hand", "newer", 200);
    db.run("DELETE FROM model_names WHERE name = 'newer'");
    everywhere("a change by hand", "newer", 404);
    apply(&db, "");
    everywhere("the settings again", "m", 200);
    everywhere("the settings again", "new", 404);
}

#[test]
fn calls_go_on_while_the_database_is_away() {
    let (cluster, upstream) = (Cluster::start(), answers());
    let db = TestDb::existing(&cluster.url());
    let server = Server::spawn(&cluster.url(), &[]);
    server.wait_until_listening();
    apply(&db, &[provider("p", &upstream, "[\"chat\"]"), model("m", "", 7, &[("p", "m", 0)])].join("\n"));
    let client = server.sign_up("ann@example.com").program(&server.inference);
    server.wait_until("the catalogue", || client.post(CHAT, &chat("m")).status == 200);
    cluster.kill();
    for _ in 0..5 {
        client.post(CHAT, &chat("m")).expect(200);
        client.post(CHAT, &chat("x")).expect(404);
        assert_eq!(client.get("/v1/models").expect(200).json()["data"][0]["id"], "m");
    }
    cluster.launch();
    // What was changed while nobody listened is known once the connection is made anew.
    apply(&db, &[provider("p", &upstream, "[\"chat\"]"), model("other", "", 7, &[("p", "m", 0)])].join("\n"));
    server.wait_until("the change", || client.post(CHAT, &chat("other")).status == 200);
    client.post(CHAT, &chat("m")).expect(404);
    server.wait_until("the charges", || charges(&db).len() >= 7);
}

#[test]
fn models_are_listed_as_the_catalogue_has_them() {
    let upstream = answers();
    let (_db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    let list = client.get("/v1/models").expect(200).json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!((ids, &list["object"]), (vec![json!("Tiny"), json!("dear")], &json!("list")));
    for name in ["Tiny", "small", "vendor/tiny", "vendor%2Ftiny"] {
        let model = client.get(&format!("/v1/models/{name}")).expect(200).json();
        assert_eq!((&model["id"], &model["object"]), (&json!("Tiny"), &json!("model")), "{name}");
    }
    for name in ["tiny", "upstream-tiny", "vendor/", "vendor/tiny/x"] {
        let reply = client.get(&format!("/v1/models/{name}")).expect(404);
        assert_eq!(reply.json()["error"]["code"], "model_not_found", "{name}");
    }
    let page = user.browser.get("/playground").expect(200).text();
    assert!(page.contains(">Tiny<") && page.contains(">dear<"), "{page}");
}

#[test]
fn a_provider_without_its_key_is_503_and_the_log_says_why() {
    let (upstream, db) = (answers(), TestDb::new());
    let file = [provider("p", &upstream, "[\"chat\"]"), model("m", "", 7, &[("p", "m", 0)])].join("\n");
    apply(&db, &file.replacen("protocols", "api_key = \"env:NO_SUCH_KEY\"\nprotocols", 1));
    let server = Server::start(&db);
    let client = server.sign_up("ann@example.com").program(&server.inference);
    client.post(CHAT, &chat("m")).expect(503);
    client.post(CHAT, &chat("x")).expect(404);
    server.wait_until("the log", || server.log().contains("NO_SUCH_KEY is not set"));
    assert!(upstream.seen().is_empty());
}
