//! Images, reranking and moderation: what is passed on, what is charged, and what a budget sets aside.

use serde_json::{Value, json};

use crate::budgets::key_with;
use crate::harness::{
    Client, Raw, Reply, Server, TestDb, Upstream, User, charges, done, final_charges, only_charge, run, soon,
};
use crate::recordings::multipart;

const GENERATIONS: &str = "/v1/images/generations";
const EDITS: &str = "/v1/images/edits";
const RERANK: &str = "/v1/rerank";
const MODERATIONS: &str = "/v1/moderations";

/// The fields of a form; the names of files end with a star.
type Form<'a> = &'a [(&'a str, &'a [u8])];

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nand so on";

fn start(upstream: &Upstream) -> (TestDb, Server, User) {
    let db = TestDb::new();
    let settings = ["IMAGES_URL", "RERANK_URL", "MODERATIONS_URL"].map(|name| (name, upstream.url.as_str()));
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@example.com");
    (db, server, user)
}

/// As many images as were asked for, and what else is known of a reply.
fn images(count: usize, usage: &Value) -> Value {
    let image = json!({"b64_json": "aGk="});
    json!({"created": 1, "data": vec![image; count], "usage": usage})
}

fn edit(client: &Client, fields: Form<'_>) -> Reply {
    client.send("POST", EDITS, Some("multipart/form-data; boundary=bnd"), &multipart(fields))
}

#[test]
fn images_are_charged_by_number_and_by_the_tokens_that_are_reported() {
    let usage = json!({"input_tokens": 50, "output_tokens": 196, "total_tokens": 246});
    let upstream = Upstream::constant(200, images(2, &usage));
    let (db, server, user) = start(&upstream);
    let asked = json!({"model": "m", "prompt": "a cat", "n": 2, "size": "256x256", "anything": {"else": 1}});
    let reply = user.program(&server.inference).post(GENERATIONS, &asked).expect(200);
    assert_eq!(reply.json(), images(2, &usage), "it is passed on unchanged");
    assert_eq!((upstream.only().path, upstream.only().json()), (GENERATIONS.to_owned(), asked));
    let charge = only_charge(&db, &server);
    let units = ["images", "prompt_tokens", "completion_tokens", "requests"].map(|unit| charge[unit].as_i64().unwrap());
    assert_eq!((units, &charge["estimated"]), ([2, 50, 196, 1], &json!(false)));
}

#[test]
fn images_to_change_arrive_as_what_they_are() {
    let upstream = Upstream::constant(200, images(1, &Value::Null));
    let (db, server, user) = start(&upstream);
    let program = user.program(&server.inference);
    let jpeg = b"\xff\xd8\xff\xe0 and so on";
    let fields: [(&str, &[u8]); 5] =
        [("model", b"m"), ("prompt", b"a hat"), ("image[]*", PNG), ("image[]*", jpeg), ("mask*", PNG)];
    edit(&program, &fields).expect(200);
    let seen = upstream.only();
    let body = String::from_utf8_lossy(&seen.body).into_owned();
    for part in [
        "name=\"image[]\"; filename=\"image.png\"\r\nContent-Type: image/png",
        "name=\"image[]\"; filename=\"image.jpg\"\r\nContent-Type: image/jpeg",
        "name=\"mask\"; filename=\"mask.png\"\r\nContent-Type: image/png",
        "name=\"prompt\"\r\n\r\na hat\r\n",
        "name=\"model\"\r\n\r\nm\r\n",
    ] {
        assert!(body.contains(part), "{part}: {body}");
    }
    assert!(seen.body.windows(PNG.len()).any(|bytes| bytes == PNG), "bytes are passed on as they are");
    let charge = only_charge(&db, &server);
    assert_eq!((&charge["images"], &charge["model"]), (&json!(1), &json!("m")));
}

#[test]
fn forms_that_are_not_as_they_should_be_are_refused_and_not_charged() {
    let upstream = Upstream::constant(200, images(1, &Value::Null));
    let (db, server, user) = start(&upstream);
    let program = user.program(&server.inference);
    let cases: [(Form<'_>, &str); 9] = [
        (&[("prompt", b"a")], "image is required"),
        (&[("image*", PNG)], "prompt is required"),
        (&[("prompt", b"a"), ("image*", b"GIF89a")], "must be a PNG, JPEG or WebP"),
        (&[("prompt", b"a"), ("image*", PNG), ("image*", PNG)], "a field twice"),
        (&[("prompt", b"a"), ("image*", PNG), ("other*", PNG)], "Images must be in"),
        (&[("prompt", b"a"), ("image*", PNG), ("n", b"0")], "n must be"),
        (&[("prompt", b"a"), ("image*", PNG), ("n", b"two")], "n must be"),
        (&[("prompt", b"a"), ("image*", PNG), ("stream", b"true")], "stream is not supported"),
        (&[("prompt", b"a"), ("image*", PNG), ("Model", b"dear")], "Model"),
    ];
    for (fields, words) in cases {
        let reply = edit(&program, fields).expect(400);
        assert!(reply.json()["error"]["message"].as_str().unwrap().contains(words), "{words}: {}", reply.text());
    }
    program.post(EDITS, &json!({"prompt": "a"})).expect(400);
    assert!(upstream.seen().is_empty() && final_charges(&db, server).is_empty());
}

#[test]
fn reranking_is_charged_by_the_tokens_that_are_reported_or_by_searches() {
    let upstream = Upstream::start(|seen, wire| {
        let numbers = match seen.json()["model"].as_str() {
            Some("tokens") => json!({"usage": {"total_tokens": 30}}),
            Some("searches") => json!({"meta": {"billed_units": {"search_units": 3}}}),
            _ => json!({}),
        };
        let mut reply =
            json!({"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]});
        reply.as_object_mut().unwrap().extend(numbers.as_object().unwrap().clone());
        wire.json(200, &reply);
    })
    .listing(&["tokens", "searches", "silent"]);
    let (db, server, user) = start(&upstream);
    for model in ["tokens", "searches", "silent"] {
        let asked = json!({"model": model, "query": "one two", "documents": ["one", {"text": "two"}], "top_n": 2});
        let reply = user.program(&server.inference).post(RERANK, &asked).expect(200);
        assert_eq!(reply.json()["results"][0]["index"], 1);
    }
    assert!(upstream.seen().iter().all(|seen| seen.path == RERANK));
    let charges = final_charges(&db, server);
    let of = |model: &str| charges.iter().find(|charge| charge["model"] == model).unwrap().clone();
    assert_eq!((&of("tokens")["prompt_tokens"], &of("tokens")["estimated"]), (&json!(30), &json!(false)));
    assert_eq!((&of("searches")["requests"], &of("searches")["estimated"]), (&json!(3), &json!(false)));
    let silent = of("silent");
    // The query is read with each document.
    assert!(silent["prompt_tokens"].as_i64().unwrap() >= 6 && silent["estimated"] == true, "{silent}");
}

#[test]
fn moderation_is_charged_by_an_estimate_that_says_so() {
    let upstream = Upstream::constant(200, json!({"id": "x", "results": [{"flagged": false}]}));
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    client.post(MODERATIONS, &json!({"input": ["one two three", "four"]})).expect(200);
    client.post(MODERATIONS, &json!({"input": 5})).expect(400);
    client.post(MODERATIONS, &json!({})).expect(400);
    let charge = only_charge(&db, &server);
    assert!(charge["prompt_tokens"].as_i64().unwrap() >= 4 && charge["estimated"] == true, "{charge}");
}

#[test]
fn failures_are_not_charged_and_a_client_that_leaves_is() {
    let upstream = Upstream::start(|seen, wire| match seen.json()["prompt"].as_str() {
        Some("refused") => wire.json(400, &json!({"error": {"message": "no such size"}})),
        Some("failed") => wire.json(200, &json!({"error": {"message": "out of memory"}})),
        Some("streamed") => {
            wire.start("text/event-stream");
            wire.end();
        }
        _ => {
            // The client is gone by the time of the reply.
            wire.is_left_within(1);
            wire.json(200, &images(1, &Value::Null));
        }
    });
    let (db, server, user) = start(&upstream);
    let client = user.program(&server.inference);
    let refused = client.post(GENERATIONS, &json!({"prompt": "refused"})).expect(400);
    assert!(refused.text().contains("no such size"), "{}", refused.text());
    client.post(GENERATIONS, &json!({"prompt": "failed"})).expect(502);
    client.post(GENERATIONS, &json!({"prompt": "streamed"})).expect(502);
    client.post(GENERATIONS, &json!({"prompt": "a", "stream": true})).expect(400);
    let raw = Raw::post(&server.inference, &user.secret, GENERATIONS, &json!({"prompt": "left"}));
    soon("the call", || upstream.seen().len() == 4);
    drop(raw);
    assert_eq!(only_charge(&db, &server)["images"], 1);
}

#[test]
fn a_budget_sets_aside_what_images_can_cost() {
    let upstream = Upstream::constant(200, images(2, &Value::Null));
    let (db, server, user) = start(&upstream);
    let price = ["price", "set", "m", "--prompt", "0", "--completion", "0", "--image", "0.04"];
    done(run(&price, &[("DATABASE_URL", &db.url())], ""));
    let client = user.program(&server.inference);
    soon("the price", || {
        client.post(GENERATIONS, &json!({"model": "m", "prompt": "a"})).expect(200);
        charges(&db).iter().any(|charge| charge["cost_micros"] == 80_000)
    });
    let (_, limited) = key_with(&user, &server, 100_000);
    let seen = upstream.seen().len();
    limited.post(GENERATIONS, &json!({"model": "m", "prompt": "a", "n": 3})).expect(402);
    assert_eq!(upstream.seen().len(), seen, "the model is not called");
    limited.post(GENERATIONS, &json!({"model": "m", "prompt": "a", "n": 2})).expect(200);
    limited.post(GENERATIONS, &json!({"model": "m", "prompt": "a", "n": 1})).expect(402);
}

#[test]
fn what_is_not_configured_is_said_and_the_demo_engine_has_all() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let user = server.sign_up("ann@example.com");
    // One base address: each server has these routes.
    for server in [&server.inference, &server.audio] {
        let client = user.program(server);
        let image = client.post(GENERATIONS, &json!({"prompt": "a", "n": 2})).expect(200).json();
        assert_eq!(image["data"].as_array().unwrap().len(), 2);
        assert!(image["data"][0]["b64_json"].as_str().unwrap().starts_with("iVBORw0KGgo"), "it is a PNG");
        edit(&client, &[("prompt", b"a"), ("image*", PNG)]).expect(200);
        let ranked = json!({"query": "b", "documents": ["a", "b c"], "top_n": 1});
        assert_eq!(client.post(RERANK, &ranked).expect(200).json()["results"][0]["index"], 1);
        let judged = client.post(MODERATIONS, &json!({"input": ["a", "b"]})).expect(200).json();
        assert_eq!((judged["results"].as_array().unwrap().len(), &judged["results"][1]["flagged"]), (2, &json!(false)));
    }
}
